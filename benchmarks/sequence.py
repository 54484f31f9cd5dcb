"""Many edits in a row, one fact each: when does each recipe ruin the model, and what does it still say of the oldest facts?

    python benchmarks/sequence.py --model DIR --cases counterfact:FILE --corpus FILE --text FILE --out DIR
    python benchmarks/sequence.py --cases primer:300 --recipes rome,o-edit,ledger --edits 300 --out DIR

Every recipe is a run of `errata bench` in a directory of its own: interrupted, it goes on. The table (`sequence.md`, also as
rows and, where matplotlib is installed, as a picture) adds what a run does not know: T/out and T/in, `held` (the mean of
what is said of the facts, said of their paraphrases, and unchanged elsewhere) and the mean |cos(δ_i, δ_j)| of the updates'
output directions. The page is `report.html`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from errata import methods
from errata.bench.run import Plan, Run
from errata.book.book import Book
from errata.data.cases import parse
from errata.delta import Graft, LowRank
from errata.edit import Edit
from errata.model.lm import LM
from errata.model.loading import load
from errata.report import write

PLAIN = {
    "damping": 1e6
}  # as good as no covariance: how released ROME code is shipped, and what the papers saw collapse
CHEAP = {"full": "leading"}  # go on when the directions run out
# Name: (method, settings).
RECIPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "none": ("none", {}),
    "plain rome": ("rome", PLAIN),
    "plain o-edit": ("rome", {**PLAIN, "constraint": "o-edit"}),
    "plain o-edit+": ("oedit", {**PLAIN, **CHEAP, "projection": "project"}),
    "plain o-edit+ inside": ("oedit", {**PLAIN, **CHEAP, "projection": "inside"}),
    "plain o-edit+ history": ("oedit", {**PLAIN, **CHEAP, "projection": "project", "protect": "history"}),
    "plain o-edit+ implicit": ("oedit", {**PLAIN, **CHEAP, "projection": "project", "protect": "implicit"}),
    "rome": ("rome", {}),
    "o-edit": ("rome", {"constraint": "o-edit"}),
    "o-edit+": ("oedit", CHEAP),
    "o-edit+ history": ("oedit", {**CHEAP, "protect": "history"}),
    "o-edit+ implicit": ("oedit", {**CHEAP, "protect": "implicit"}),
    "memit": ("memit", {}),
    "memit o-edit": ("memit", {"constraint": "o-edit"}),
    "memit o-edit+": ("memit", {"constraint": "o-edit+", **CHEAP}),
    "memit history": ("memit", {"history": True}),
    "memit norm": ("memit", {"anchor": 1.0}),
    "ledger": ("ledger", {}),
    "ledger o-edit": ("ledger", {"constraint": "o-edit"}),
    "ledger implicit": ("ledger", {"constraint": "o-edit+", "protect": "implicit"}),
    "alphaedit": ("alphaedit", {}),
    "emmet": ("emmet", {}),
    "ft": ("ft", {}),
    "locft": ("locft", {}),
}
HELD = ("said", "said_paraphrase", "locality_unchanged")  # reliability, generality and locality, each by what is said
METRICS = ("efficacy", *HELD, "retention_oldest", "neighborhood", "perplexity", "drift", "norm_ratio")
Row = dict[str, Any]


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


def rows_of(name: str, summary: Mapping[str, Any], lm: LM, cos: Mapping[int, float]) -> list[Row]:
    """Return what was measured of one recipe, a row a checkpoint; `held` is the mean of HELD."""
    rows = []
    for point in summary["checkpoints"]:
        edits = point["edits"]
        row: Row = {"recipe": name, "T": edits, "T/out": edits / lm.width, "T/in": edits / lm.inner}
        row |= {metric: point["metrics"].get(metric, {}).get("mean") for metric in METRICS}
        known = [row[metric] for metric in HELD if row[metric] is not None]
        row["held"] = sum(known) / len(known) if known and edits else None
        rows.append({**row, "cosine": cos.get(edits), "seconds": point.get("seconds_per_edit")})
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    for row in rows:
        lines.append([_cell(value) for value in row.values()])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"
    return "–" if value is None else str(value)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw every number over T/out, a line a recipe; nothing without matplotlib."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        return
    names = ["held", *METRICS, "cosine"]
    figure, axes = plt.subplots(-(-len(names) // 3), 3, figsize=(13, 13), sharex=True)
    recipes = [r for r in dict.fromkeys(row["recipe"] for row in rows) if r != "none"]
    for axis, name in zip(axes.flat, names, strict=False):
        for number, recipe in enumerate(recipes):
            mine = [row for row in rows if row["recipe"] == recipe and row[name] is not None and row["T"]]
            style = "-" if number < 10 else "--"
            axis.plot([r["T/out"] for r in mine], [r[name] for r in mine], style, marker="o", ms=3, label=recipe)
        axis.set_title(name)
        if name in ("perplexity", "drift", "norm_ratio"):
            axis.set_yscale("log")
        axis.axvline(0.37, color="grey", lw=0.7, ls=":")  # the paper's 1,500 edits of a 4,096-wide model
    for axis in axes[-1]:
        axis.set_xlabel("edits / out")
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="lower right", ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(args: argparse.Namespace) -> None:
    """Run every recipe and write rows, table, picture and page."""
    lm, cases, out = load(args.model), list(parse(args.cases)), Path(args.out)
    checkpoints = tuple(int(word) for word in args.checkpoints.split(","))
    plan = Plan(
        method="", cases=args.cases, edits=args.edits, batch=args.batch, checkpoints=checkpoints, text=args.text
    )
    rows: list[Row] = []
    directories = []
    for name in args.recipes.split(","):
        directories.append(out / name.replace(" ", "-"))
        summary = Run(recipe(plan, name, args.corpus), lm, cases, directories[-1]).go()
        cos = {} if name == "none" else cosines(directories[-1], [*checkpoints, args.edits])
        rows += (found := rows_of(name, summary, lm, cos))
        print(table(found), flush=True)
        (out / "sequence.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (out / "sequence.md").write_text(table(rows), encoding="utf-8")
        draw(rows, out / "sequence.png")
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
