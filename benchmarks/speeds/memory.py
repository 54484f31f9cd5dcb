"""What an edit holds beside the model: counted by tensor for a shape of eight billion, measured on a model that fits here."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from errata.model.loading import load
from errata.primer.probes import edits
from speeds.measure import Row, random_lm

GIB = 2**30
HERE = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}
ROWS, TAIL, BEFORE = 7, 8, 24  # of one fact: contexts and essence; positions run in each step, and kept before them
EIGHT = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip


def counted(layers: int = 5, facts: int = 1) -> Mapping[str, int]:
    """Return bytes by what they are, for MEMIT on `layers` matrices of a model of EIGHT's shape in bfloat16.

    On the card: the model, the rows of v* with their graph, one float32 sum of a matrix. On the host: the rest, in float64.
    """
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**EIGHT))
    width, inner, depth = EIGHT["hidden_size"], EIGHT["intermediate_size"], EIGHT["num_hidden_layers"]
    heads = EIGHT["num_key_value_heads"] * width // EIGHT["num_attention_heads"]
    rows, above = ROWS * facts, depth - 8
    return {
        "card: weights": 2 * sum(p.numel() for p in model.parameters()),
        "card: first pass, one block": 2 * rows * (TAIL + BEFORE) * (4 * width + 3 * inner),
        "card: kept keys and values": 2 * 2 * rows * BEFORE * heads * above,
        "card: graph of a step": 2 * rows * TAIL * above * (8 * width + 2 * heads + 4 * inner),
        "card: logits and their gradient": 3 * 4 * rows * 3 * EIGHT["vocab_size"],
        "card: float32 sum of one matrix": 4 * width * inner,
        "host: base of the matrices": 2 * layers * width * inner,
        "host: float32 sums of a long log": 4 * layers * width * inner,
        "host: factors of the covariances": 8 * layers * inner * inner,
        "file: one edit's factors": 4 * layers * (width + inner) * facts,
    }


def memory() -> Iterator[Row]:
    """Yield the bytes of the large shape, and what a process with a middle-sized model grows by."""
    for facts in (1, 16):
        found = counted(facts=facts)
        card = sum(size for name, size in found.items() if name.startswith("card"))
        yield {"part": "memory", "shape": "8B bfloat16", "facts": facts, "card_gib": round(card / GIB, 2),
               **{name: f"{size / GIB:.3f} GiB" for name, size in found.items()}}  # fmt: skip
    for model in ("float32", "bfloat16"):
        for asked in ("float32", "bfloat16"):
            yield _measured(model, asked)


def _measured(kept: str, asked: str) -> Row:
    """Return what one process holds while it loads a model kept as one dtype as another, asks it, and writes a fact."""
    with tempfile.TemporaryDirectory() as room:
        random_lm(768, 12, dtype=getattr(torch, kept)).save(room)
        found = subprocess.run([sys.executable, "-m", "speeds.memory", room, asked], cwd=HERE,
                               env={**ENVIRONMENT, "ERRATA_CACHE": room},
                               check=True, capture_output=True, text=True).stdout  # fmt: skip
    weights, *phases = (int(n) for n in found.split())
    row: Row = {"part": "memory", "shape": f"12x768 kept as {kept}, loaded as {asked}", "weights_mib": weights >> 20}
    for name, (peak, after) in zip(
        ("load", "ask", "statistics", "edit"), zip(*2 * [iter(phases)], strict=True), strict=True
    ):
        row |= {
            f"{name}_peak_mib": peak >> 20,
            f"{name}_after_mib": after >> 20,
            f"{name}_peak": round(peak / weights, 2),
        }
    return row


def _held(name: str) -> int:
    """Return bytes of this process that are in memory now (VmRSS), or were at most since the peak was begun anew (VmHWM).

    Not getrusage: its peak survives the start of a new program, so a child begins with its parent's.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _child(directory: str, dtype: str) -> None:
    """Print the model's bytes and, for each of four phases, the peak and what stays, beyond what libraries hold."""
    from errata import methods

    load("primer").generate(["a"])  # libraries, and what they allocate once
    torch.linalg.cholesky(torch.eye(64, dtype=torch.float64))
    how, facts, begun = (
        methods.make("memit", {"tokens": 2000, "steps": 3, "layers": (2, 3)}),
        edits(1, seed=3),
        _held("VmRSS"),
    )
    lm, phases = None, list[int]()
    for phase in range(4):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
        if phase == 0:
            lm = load(directory, dtype=dtype)
        assert lm is not None
        if phase == 1:
            lm.generate(["a"])
        if phase == 2:
            how.prepare(lm)
        if phase == 3:
            how.solve(lm, facts)
        phases += [_held("VmHWM") - begun, _held("VmRSS") - begun]
    assert lm is not None
    print(sum(p.numel() * p.element_size() for p in lm.model.parameters()), *phases)


if __name__ == "__main__":
    _child(*sys.argv[1:])
