"""How fast errata is, each part with what it is compared with: one JSON line a row.

    python benchmarks/speed.py vstar --models primer,128x4,512x8     # one edit against the textbook loop
    python benchmarks/speed.py batch --models 128x4 --edits 100      # many edits at once against one by one
    python benchmarks/speed.py statistics --models primer            # against the forward pass
    python benchmarks/speed.py solves                                # kept factors against dense systems
    python benchmarks/speed.py growth --methods ledger,melo --numbers 1,10,100,1000,10000
    python benchmarks/speed.py kne --models primer,512x8             # attribution in one pass against one a layer, a fact
    python benchmarks/speed.py replay | startup | evaluation | melo | memory

Both sides run in turn, at least five times; rows hold medians, their ratio, and exact counts of passes, tokens and
floating-point operations. A model is the primer, a directory, or WIDTHxLAYERS with random weights. With --device cuda the
parts vstar and batch run there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from speeds import growth, locating, memory, reading, routed, solving, startup, vstar


def evaluation() -> Iterator[dict[str, Any]]:
    """Yield what `evaluation.py` beside this file finds."""
    found = [sys.executable, str(Path(__file__).with_name("evaluation.py")), "--cases", "primer:200", "--repeats", "5"]
    yield json.loads(subprocess.run(found, check=True, capture_output=True, text=True).stdout)


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows of one part."""
    models, numbers = options.models.split(","), [int(n) for n in options.numbers.split(",")]
    parts: dict[str, Any] = {
        "vstar": lambda: vstar.vstar(models, options.edits, options.device),
        "batch": lambda: vstar.batch(models, options.edits, options.device, options.repeats),
        "statistics": lambda: reading.statistics(models, options.repeats),
        "solves": solving.solves,
        "growth": lambda: growth.growth(options.methods.split(","), numbers, options.repeats),
        "replay": solving.replay,
        "startup": startup.startup,
        "evaluation": evaluation,
        "kne": lambda: locating.kne(models),
        "melo": routed.melo,
        "memory": memory.memory,
    }
    yield from parts[options.part]()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "part",
        choices="vstar batch statistics solves growth replay startup evaluation kne melo memory".split(),
    )
    parser.add_argument("--models", default="primer,128x4")
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--methods", default="ledger,oedit,alphaedit,melo,memit,rome")
    parser.add_argument("--numbers", default="1,10,100,1000,10000", help="numbers of edits that stand, plus one")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for row in rows(arguments):
        print(json.dumps(row), flush=True)
