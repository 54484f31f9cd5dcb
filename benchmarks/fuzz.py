"""Fuzz every reader, and say what came of it.

python benchmarks/fuzz.py --count 100000 --seed 0           # in all; add --only jsonl,csv for some of them
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fuzzing import fuzz, readers

SHARES = {
    "jsonl": 25,
    "json": 10,
    "csv": 20,
    "gz": 8,
    "gates": 10,
    "toml": 12,
    "safetensors": 11,
    "book": 2,
    "pages": 2,
}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(SHARES))
    given = parser.parse_args()
    for name in given.only.split(","):
        with tempfile.TemporaryDirectory() as directory:
            started, count = time.perf_counter(), given.count * SHARES[name] // 100
            found = fuzz(readers(Path(directory))[name], count, given.seed, Path(directory))
        row = {"reader": name, "inputs": count, "seconds": round(time.perf_counter() - started, 1), **found}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
