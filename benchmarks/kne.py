"""KNE's ablations: which neurons, how many, from how many points, which layers, which step.

    python benchmarks/kne.py --out results/kne                                    # the primer, 60 facts, every variant
    python benchmarks/kne.py --out results/kne --only default random p0.5         # some of them
    python benchmarks/kne.py --model DIR --cases counterfact:FILE --out results   # another model

Every variant is a run of `errata bench --independent`, in a directory of its own: interrupted, it goes on where it stopped.
table.md holds each variant's means with half of the 95 % interval, and the difference to the default paired by fact.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from errata import methods
from errata.bench.run import Plan, Run
from errata.config import parse_flags
from errata.data.cases import parse
from errata.delta import Site
from errata.evaluate.summary import Estimate, at, compare, estimate, read_rows
from errata.methods.kne import Kne
from errata.model.lm import LM
from errata.model.loading import load

VARIANTS: dict[str, str] = {
    "default": "",
    "random": "select=random",
    "lowest": "select=lowest",
    "faintest": "select=faintest",
    "strongest": "select=strongest",
    "p0.1": "p=0.001",
    "p0.5": "p=0.005",
    "p2": "p=0.02",
    "p5": "p=0.05",
    "random-p0.1": "p=0.001 select=random",
    "random-p5": "p=0.05 select=random",
    "layer0": "layers=0",
    "layer3": "layers=3",
    "layers012": "layers=0,1,2",
    "m5": "m=5",
    "m20": "m=20",
    "m20-layer": "m=20 path=layer",
    "everywhere": "where=everywhere",
    "everywhere-lowest": "where=everywhere select=lowest",
    "everywhere-faintest": "where=everywhere select=faintest",
    "element": "granularity=element",
    "old": "answer=old",
    "log": "log=true",
    "hits2": "hits=2",
    "adam": "optimizer=adam",
    "kl": "kl=1.0",
    "bare": "contexts=0",
    "lr0.3": "lr=0.3",
    "lr0.3-noroot": "lr=0.3 sqrt_n=false",
}
METRICS = ("said", "said_paraphrase", "efficacy", "neighborhood", "locality_unchanged", "portability_said")
PAIRED = ("said_paraphrase", "neighborhood", "locality_unchanged")
Rows = Sequence[Mapping[str, Any]]


def share(lm: LM, variant: Kne) -> float:
    """Return which share of the feed-forward parameters an edit of one fact changes, by counting its columns."""
    fact = next(iter(parse("primer:1"))).facts[0]
    asked, chosen = variant.resolve(lm), 0
    _, masks = asked.locate(lm, [fact])
    for site, mask in masks.items():
        chosen += int(mask.sum()) * (lm.weights[site].shape[0] if mask.ndim == 1 else 1)
    gated = len(lm.row.stacks[0].up) + 1
    return chosen / (lm.depth * lm.weights[Site(0, "down")].numel() * gated)


def table(lm: LM, done: Mapping[str, tuple[Rows, float]]) -> str:
    """Return the Markdown page."""
    head = ["variant", *METRICS, *(f"Δ {name}" for name in PAIRED), "s/edit", "share of FFN"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    base = done["default"][0] if "default" in done else None
    for name, (rows, seconds) in done.items():
        cells = [_cell(estimate(rows, metric)) for metric in METRICS]
        other = base if rows is not base else None
        cells += [_cell(compare(rows, other, metric).difference) if other else "" for metric in PAIRED]
        part = 100 * share(lm, _method(name))
        lines.append(f"| {' | '.join([name, *cells, f'{seconds:.2f}', f'{part:.2f} %'])} |")
    return "\n".join([*lines, ""])


def _cell(found: Estimate) -> str:
    return f"{found.mean:.3f} ± {found.half_width:.3f}"


def _method(name: str) -> Kne:
    made = methods.make("kne", _options(name))
    assert isinstance(made, Kne)
    return made


def _options(name: str) -> dict[str, Any]:
    return parse_flags(Kne, VARIANTS[name].split())


def main(model: str, plan: Plan, only: Sequence[str], out: Path) -> None:
    """Run what is missing and write the table."""
    lm, cases, done = load(model), list(parse(plan.cases)), {}
    for name in only:
        summary = Run(replace(plan, options=_options(name)), lm, cases, out / name / "kne").go()
        rows = at(read_rows(out / name / "kne" / "rows.jsonl"), checkpoint=1)
        done[name] = rows, summary["checkpoints"][-1]["seconds_per_edit"]
        print(f"{name}: said {estimate(rows, 'said')}, neighbourhood {estimate(rows, 'neighborhood')}", flush=True)
    page = table(lm, done)
    (out / "table.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="primer")
    parser.add_argument("--cases", default="primer:60")
    parser.add_argument("--edits", type=int, default=60)
    parser.add_argument("--text", default="primer", help="text of the perplexity: primer, or a file")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS), help="names of variants")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    asked = Plan(method="kne", cases=args.cases, edits=args.edits, independent=True, text=args.text)
    main(args.model, asked, args.only, args.out)
