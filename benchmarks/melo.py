"""MELO's ablations, and what its index costs.

    python benchmarks/melo.py radius --out DIR [--edits 100]                      # R against clusters, conflicts, success
    python benchmarks/melo.py index  --out DIR [--edits 100]                      # where keys are read
    python benchmarks/melo.py radius --out DIR --model T5 --cases zsre:FILE --set corpus=FILE --edits 1000
    python benchmarks/melo.py lookup --out DIR [--keys 100000] [--width 1024]     # the search alone, exact and FAISS

A block does not depend on the radius nor on where keys are read, so all are trained once. Each part appends its rows to
DIR/rows.jsonl and, where matplotlib is installed, draws DIR/PART.png. Success is said freely; unchanged is the share of
neighbouring and unrelated prompts after which the model says what it said before any edit. The radius is a multiple of
the mean of those calibrated for the first edits.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from errata.answers import says
from errata.config import from_flags
from errata.data.cases import Case, parse
from errata.delta import Graft, Site
from errata.edit import Edit
from errata.index.search import Exact, Faiss
from errata.methods.melo import Melo
from errata.methods.shared.routed import read_keys
from errata.model.grafts.keyed import Keyed
from errata.model.lm import LM
from errata.model.loading import load
from errata.model.query import Query

Row = dict[str, Any]
SHARES = (0.05, 0.25, 0.5, 1.0, 2.0, 4.0)  # of the calibrated radius


class Bench:
    """Edits of cases, trained once, to be stood up with other keys and radii."""

    def __init__(self, lm: LM, cases: Sequence[Case], settings: Sequence[str]) -> None:
        chosen = [case for case in cases if case.fact]
        self.lm, self.facts = lm, [case.fact for case in chosen if case.fact]
        self.method = from_flags(Melo, settings).resolve(lm)
        self.edits = [self.method.solve(lm, [fact]) for fact in self.facts]
        calibrated = [self.method.calibrated(lm, self.method.at(), [fact])[0] for fact in self.facts[:100]]
        self.radius = sum(calibrated) / len(calibrated)
        self.other = [(prompt, case.target) for case in chosen for prompt in case.rephrases]
        kept = [prompt for case in chosen for prompt, _ in (*case.neighborhood, *case.unrelated)]
        self.kept = kept[:: max(1, len(kept) // 300)]
        self.longest = max(len(lm.tokens.ids(case.target)) for case in chosen) + 2
        self.before = self.generate(self.kept)

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """Return what is said, long enough for any of the answers."""
        return self.lm.generate(prompts, max_new_tokens=self.longest)

    def at(self, index: Site, radius: float | None) -> list[dict[Site, Graft]]:
        """Return the edits' grafts with keys of another site, and one radius for all, or a calibrated one for each."""
        keys = read_keys(self.lm, index, [Query(fact.prompt) for fact in self.facts])
        return [self._moved(edit, index, key, radius) for edit, key in zip(self.edits, keys, strict=True)]

    def _moved(self, edit: Edit, index: Site, key: torch.Tensor, radius: float | None) -> dict[Site, Graft]:
        found: dict[Site, Graft] = {}
        for site, graft in edit.deltas.items():
            assert isinstance(graft, Graft)
            if "keys" in graft.state:
                reach = self.method.calibrated(self.lm, index, edit.facts)[0] if radius is None else radius
                config = {**graft.config, "index": str(index), "radius": reach}
                found[index] = replace(graft, config=config, state={**graft.state, "keys": key[None].cpu()})
            else:
                found[site] = replace(graft, config={**graft.config, "index": str(index)})
        return found

    def measure(self, grafts: Sequence[dict[Site, Graft]], index: Site) -> Row:
        """Return what the index holds and what the model says with these edits standing."""
        self.lm.weights.stand(grafts)
        bank = self.lm.weights.grafts.bank(f"melo@{index}")
        assert isinstance(bank, Keyed)
        assert bank.clusters is not None
        said = self.generate([f.prompt for f in self.facts])
        other = self.generate([prompt for prompt, _ in self.other])
        now = self.generate(self.kept)
        self.lm.weights.stand([])
        kinds = [event.kind for event in bank.events]
        return {
            "edits": len(self.facts), "clusters": len(bank.clusters), "conflicts": kinds.count("conflict"),
            "forgotten": sum(len(event.forgotten) for event in bank.events),
            "success": share(says(s, f.target) for s, f in zip(said, self.facts, strict=True)),
            "paraphrase": share(says(s, t) for s, (_, t) in zip(other, self.other, strict=True)),
            "unchanged": share(a == b for a, b in zip(now, self.before, strict=True)),
        }  # fmt: skip


def share(found: Iterator[bool]) -> float:
    """Return the share that is true."""
    held = list(found)
    return round(sum(held) / len(held), 4)


def radius(bench: Bench) -> Iterator[Row]:
    """Yield a row for each multiple of the calibrated radius."""
    for factor in SHARES:
        row = bench.measure(bench.at(bench.method.at(), factor * bench.radius), bench.method.at())
        yield {"part": "radius", "x": round(factor * bench.radius, 4), "of calibrated": factor, **row}


def index(bench: Bench) -> Iterator[Row]:
    """Yield a row for each layer before the blocks, with the radius calibrated there."""
    for layer in range(min(site.layer for site in bench.method.sites())):
        site = Site(layer, bench.method.key)
        yield {"part": "index", "x": layer, **bench.measure(bench.at(site, None), site)}


def lookup(keys: int, width: int) -> Iterator[Row]:
    """Yield the milliseconds one batch of 8 prompts takes to be looked up, exact and by FAISS, and the share of a pass."""
    draw = torch.Generator().manual_seed(0)
    centres, radii = torch.randn(keys, width, generator=draw), torch.full((keys,), 1.0)
    asked = centres[:8] + 0.01
    passed = forward(width)
    for name, search in (("exact", Exact()), ("faiss", Faiss(width))):
        search.pairs(asked, centres, radii, set(range(keys)))
        times = []
        for _ in range(5):
            start = time.perf_counter()
            rows, _ = search.pairs(asked, centres, radii, set())
            times.append(time.perf_counter() - start)
        spent = 1000 * min(times)
        yield {"part": "lookup", "search": name, "of a forward pass": round(spent / passed, 4),
               "keys": keys, "width": width, "found": len(rows),
               "milliseconds": round(spent, 2)}  # fmt: skip


def forward(width: int) -> float:
    """Return the milliseconds a random decoder of 24 layers takes to read 8 prompts of 20 tokens."""
    config = GPT2Config(n_embd=width, n_layer=24, n_head=width // 64, vocab_size=50257)
    model = GPT2LMHeadModel(config).eval()
    ids = torch.arange(160).reshape(8, 20)
    times = []
    with torch.no_grad():
        for _ in range(3):
            start = time.perf_counter()
            model(input_ids=ids)
            times.append(time.perf_counter() - start)
    return 1000 * min(times)


def draw(rows: Sequence[Row], part: str, out: Path) -> None:
    """Draw success, paraphrase and unchanged, and below them what the index holds."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        return
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(6, 6))
    x = [row["x"] for row in rows]
    for axis, names in (
        (upper, ("success", "paraphrase", "unchanged")),
        (lower, ("clusters", "conflicts", "forgotten")),
    ):
        for name in names:
            axis.plot(x, [row[name] for row in rows], marker="o", label=name)
        axis.legend()
    lower.set_xlabel("initial radius R" if part == "radius" else "layer at which keys are read")
    if part == "radius":
        lower.set_xscale("log")
    else:
        lower.set_xticks(x)
    figure.tight_layout()
    figure.savefig(out / f"{part}.png", dpi=120)


def main(part: str, out: Path, keys: int, width: int, bench: Callable[[], Bench]) -> None:
    """Run one part, print and keep its rows."""
    out.mkdir(parents=True, exist_ok=True)
    parts = {"radius": radius, "index": index}
    found = []
    for row in lookup(keys, width) if part == "lookup" else parts[part](bench()):
        print(json.dumps(row), flush=True)
        found.append(row)
    with (out / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in found)
    if part in parts:
        draw(found, part, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=("radius", "index", "lookup"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="primer")
    parser.add_argument("--cases", help="as for errata bench; else as many of the primer's as --edits")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=1024)
    given = parser.parse_args()

    def bench() -> Bench:
        cases = parse(given.cases or f"primer:{given.edits}", seed=5).cases[: given.edits]
        return Bench(load(given.model), cases, given.settings)

    main(given.part, given.out, given.keys, given.width, bench)
