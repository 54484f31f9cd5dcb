"""An edit beside matrices of few bits: said, exported, read by peft, dropped to the bit; and what it takes of memory.

    python benchmarks/packed.py DIRECTORY float32 int8 nf4 [--method rome] [--set KEY=VALUE …]

DIRECTORY is a model with safetensors in full precision that knows capitals, such as SmolLM2-135M-Instruct. Each kind is packed
and saved first, and then runs in a process of its own. *Model* is the sum of its tensors' bytes, *resident* how much more
memory the process holds once it has answered, mapped files included; *beside* what stands beside its matrices, *set aside* the
copies of plain matrices that an edit is undone from. Needs errata-lm[quantized,lora].
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch

import errata
from errata.fact import Fact
from errata.model import storage
from errata.model.lm import LM
from errata.model.query import Query

FACT: Final = Fact(prompt="The capital of France is", subject="France", target=" Lyon")
ASKED: Final = ("The capital of France is", "France's capital city is", "The capital of Spain is")
MIB: Final = 1 << 20


def main() -> int:
    """Run each kind in a process of its own, or the one that was asked for."""
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("directory")
    read.add_argument("kinds", nargs="+")
    read.add_argument("--method", default="rome")
    read.add_argument("--set", action="append", default=[])
    read.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = read.parse_args()
    if given.one:
        settings: dict[str, Any] = {name: int(value) for name, value in (one.split("=") for one in given.set)}
        return one(given.directory, given.kinds[0], given.method, settings)
    more = ["--one", "--method", given.method, *(f"--set={one}" for one in given.set)]
    codes = []
    for kind in given.kinds:
        with tempfile.TemporaryDirectory() as room:
            made = [f"{room}/{kind}", "--book", f"{room}/book", "--model", given.directory, "--dtype", kind]
            subprocess.run([sys.executable, "-m", "errata", "save", *made], check=True, stdout=subprocess.DEVNULL)
            codes.append(subprocess.run([sys.executable, __file__, f"{room}/{kind}", kind, *more]).returncode)
    return max(codes)


def one(directory: str, kind: str, method: str, settings: dict[str, Any]) -> int:
    """Print what an edit of one kind of base does and takes; return 1 if it is not dropped to the bit."""
    storage.hush()
    before = resident()
    with tempfile.TemporaryDirectory() as room, errata.open(directory, book=f"{room}/book") as editor:
        lm = editor.lm
        base, said = logits(lm), lm.generate(ASKED, 6)
        size, held = tensors(lm), resident() - before
        started = time.perf_counter()
        editor.write([FACT], method=method, **settings)
        took = time.perf_counter() - started
        edited, then = logits(lm), lm.generate(ASKED, 6)
        aside = sum(lm.weights.base(site).nbytes for site in lm.weights.touched() if lm.writable(site))
        print(f"{kind}: model {size / MIB:.0f} MiB, resident {held / MIB:.0f} MiB; {method} in {took:.0f} s takes "
              f"{lm.weights.additions.nbytes / 1024:.0f} KiB beside, {aside / 1024:.0f} KiB set aside")  # fmt: skip
        editor.export(f"{room}/adapter")
        editor.drop(*editor.standing)
        same = torch.equal(logits(lm), base)
        gap = float((by_peft(lm, Path(room, "adapter")) - edited).abs().max() / edited.abs().max())
        for asked, *answers in zip(ASKED, said, then, strict=True):
            print(f"  {asked} … {' → '.join(map(repr, answers))}")
        print(f"  dropped {'to the bit' if same else 'NOT to the bit'}; the adapter in peft: off by {gap:.1g}")
    return int(not same)


@torch.no_grad()
def logits(lm: LM) -> torch.Tensor:
    """Return what the model gives for the prompts."""
    return lm.forward(lm.tokens.batch([Query(text) for text in ASKED]))


def by_peft(lm: LM, adapter: Path) -> torch.Tensor:
    """Return what the same base gives with the exported adapter as peft applies it."""
    lm.model = import_module("peft").PeftModel.from_pretrained(lm.model, str(adapter)).eval()
    return logits(lm)


def tensors(lm: LM) -> int:
    """Return the bytes of a model's tensors, shared ones once."""
    found = {tensor.data_ptr(): tensor.nbytes for tensor in lm.model.state_dict().values()}
    return sum(found.values())


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    gc.collect()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


if __name__ == "__main__":
    sys.exit(main())
