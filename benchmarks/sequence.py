"""Many edits in a row, one fact each: when does each recipe ruin the model, and what does it still say of the oldest facts?

    python benchmarks/sequence.py --model DIR --cases counterfact:FILE --corpus FILE --text FILE --out DIR
    python benchmarks/sequence.py --cases primer:300 --recipes rome,o-edit,ledger --edits 300 --out DIR

Every recipe is a run of `errata bench` in a directory of its own: interrupted, it goes on. The table adds what a run does not
know: T/out and T/in, and the mean |cos(δ_i, δ_j)| of the updates' output directions. The page is `report.html`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from errata import methods
from errata.delta import Graft, LowRank
from errata.edit import Edit
from errata.evaluate.cases import parse
from errata.evaluate.runner import Plan, Run
from errata.model.lm import LM, load
from errata.registry.log import Book
from errata.report import write

# Name: (method, settings).
RECIPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "none": ("none", {}),
    "rome": ("rome", {}),
    "o-edit": ("rome", {"constraint": "o-edit"}),
    "o-edit+": ("oedit", {"full": "leading"}),
    "o-edit+ history": ("oedit", {"full": "leading", "protect": "history"}),
    "o-edit+ implicit": ("oedit", {"protect": "implicit"}),
    "memit": ("memit", {}),
    "memit o-edit": ("memit", {"constraint": "o-edit"}),
    "memit o-edit+": ("memit", {"constraint": "o-edit+", "full": "leading"}),
    "memit history": ("memit", {"history": True}),
    "ledger": ("ledger", {}),
    "ledger o-edit": ("ledger", {"constraint": "o-edit"}),
    "ledger implicit": ("ledger", {"constraint": "o-edit+", "protect": "implicit"}),
    "alphaedit": ("alphaedit", {}),
    "emmet": ("emmet", {}),
    "ft": ("ft", {}),
    "locft": ("locft", {}),
}
METRICS = ("efficacy", "said", "retention_oldest", "neighborhood", "perplexity", "norm_ratio")


def recipe(plan: Plan, name: str, corpus: str) -> Plan:
    """Return the plan of one recipe."""
    method, settings = RECIPES[name]
    known = () if method == "none" else methods.get(method).__dataclass_fields__
    return replace(plan, method=method, options={**({"corpus": corpus} if "corpus" in known else {}), **settings})


def cosines(directory: Path, counts: Sequence[int]) -> dict[int, float]:
    """Return the mean |cos| between the output directions of the first T updates, at the deepest edited site."""
    with Book.open(directory / "book", create=False) as book:
        edits = [Edit.from_bytes(book.read(record)) for record in book.stand()]
    rows = []
    for edit in edits:
        *_, change = edit.deltas.values()
        assert not isinstance(change, Graft)
        left = change.left.double() if isinstance(change, LowRank) else change.dense().double()
        rows.append(torch.linalg.svd(left, full_matrices=False).U[:, 0])  # the leading direction of what is written
    unit, found = torch.stack(rows), {}
    for count in counts:
        if 1 < count <= len(unit):
            cos = (unit[:count] @ unit[:count].T).abs()
            found[count] = float((cos.sum() - count) / (count * (count - 1)))
    return found


def table(name: str, summary: Mapping[str, Any], lm: LM, cos: Mapping[int, float]) -> list[str]:
    """Return the lines of one recipe, one a checkpoint."""
    lines = []
    for point in summary["checkpoints"]:
        edits, metrics = point["edits"], point["metrics"]
        means = [metrics.get(metric, {}).get("mean") for metric in METRICS]
        cells = ["–" if mean is None else f"{mean:.3f}" if mean < 100 else f"{mean:.0f}" for mean in means]
        share = [f"{edits / lm.width:.2f}", f"{edits / lm.inner:.2f}"]
        cells += [f"{cos[edits]:.3f}" if edits in cos else "–", f"{point.get('seconds_per_edit', 0):.2f}"]
        lines.append(f"| {name} | {edits} | {' | '.join([*share, *cells])} |")
    return lines


def main(args: argparse.Namespace) -> None:
    """Run every recipe and write table and page."""
    lm, cases, out = load(args.model), list(parse(args.cases)), Path(args.out)
    checkpoints = tuple(int(word) for word in args.checkpoints.split(","))
    plan = Plan(
        method="", cases=args.cases, edits=args.edits, batch=args.batch, checkpoints=checkpoints, text=args.text
    )
    heads = ("recipe", "T", "T/out", "T/in", *METRICS, "mean |cos|", "s/edit")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    directories = []
    for name in args.recipes.split(","):
        directories.append(out / name.replace(" ", "-"))
        summary = Run(recipe(plan, name, args.corpus), lm, cases, directories[-1]).go()
        lines += table(name, summary, lm, {} if name == "none" else cosines(directories[-1], checkpoints))
        (out / "sequence.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines[-len(summary["checkpoints"]) :]), flush=True)
    write(directories, out / "report.html")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="primer")
    parser.add_argument("--cases", default="primer:300")
    parser.add_argument("--corpus", default="primer")
    parser.add_argument("--text", default="primer")
    parser.add_argument("--edits", type=int, default=300)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--checkpoints", default="10,30,70,100,144,190,240,300")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--out", default="benchmarks/results/sequence")
    main(parser.parse_args())
