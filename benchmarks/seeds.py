"""KNE, O-Edit and MELO beside what they are compared with, on a model nobody here made: tables with intervals, from rows.

    python benchmarks/seeds.py --cases counterfact:FILE --out DIR               # SmolLM2, everything: days of a core
    python benchmarks/seeds.py --cases counterfact:FILE --out DIR --parts sequences --recipes "rome,o-edit+ (paper)"
    python benchmarks/seeds.py --model primer --cases primer:400 --out DIR --edits 10 --seeds 1   # a look at all of it

Parts: `single` (each fact alone), `sequences` (one edit at a time, all standing) and `routed` (the same, for edits that
open for their inputs). Every cell is a run of `errata bench` in a directory of its own, DIR/PART/RECIPE/SEED: interrupted,
it goes on, and what is asked for later is added to what is there. A seed draws which facts and in which order; a run draws
its own numbers from it, too. `seeds.md` has a table for each part: means over the facts of all seeds with half of their
95 % interval, the difference to the part's baseline, paired by fact, and how many facts there are, those of each seed
counted. Facts whose true answer the model does not find likelier than the new one are left out: of others nothing can be
said about neighbours.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from errata import methods
from errata.bench.run import CONTROL, Plan, Run
from errata.data.case import Case
from errata.data.cases import parse
from errata.errors import ErrataError
from errata.evaluate.summary import at, compare, estimate, read_rows
from errata.model.lm import LM
from errata.model.loading import load

Recipe = tuple[str, Mapping[str, Any]]  # a method or a preset, and settings in place of its own
Rows = list[dict[str, Any]]
UNCOVERED: Mapping[str, Any] = {"damping": 1e6}  # as good as no covariance, as released code of ROME is run


@dataclass(frozen=True, slots=True)
class Part:
    """One table.

    Args:
        recipes: by the name they have in it. against: the one that the others are compared with.
        edits: of each seed. marks: shares of these at which everything is measured besides the end.
    """

    recipes: Mapping[str, Recipe]
    against: str
    edits: int
    independent: bool = False
    marks: tuple[float, ...] = ()


def of(*names: str) -> dict[str, Recipe]:
    """Return methods and presets with the settings they have."""
    return {name: (name, {}) for name in names}


PARTS: Mapping[str, Part] = {
    "single": Part(
        {
            "unedited": (CONTROL, {}),
            **of("kne", "kne-paper", "rome", "memit", "ledger", "ft", "lora", "melo", "grace"),
        },
        "rome",
        100,
        independent=True,
    ),
    "sequences": Part(
        {
            "unedited": (CONTROL, {}),
            **of("rome", "memit", "ledger", "alphaedit"),
            "o-edit (ours)": ("oedit", {"full": "leading"}),
            "o-edit (paper)": ("o-edit", {}),
            "o-edit+ (paper)": ("o-edit+", {"full": "leading"}),
            "deltaedit": ("rome", {"constraint": "deltaedit"}),
            "rome without covariance": ("rome", UNCOVERED),
            "o-edit (paper) without covariance": ("o-edit", UNCOVERED),
            "o-edit+ (paper) without covariance": ("o-edit+", {**UNCOVERED, "full": "leading"}),
            "deltaedit without covariance": ("rome", {**UNCOVERED, "constraint": "deltaedit"}),
        },
        "rome",
        213,
        marks=(0.25, 0.5, 0.75),
    ),
    "routed": Part({"unedited": (CONTROL, {}), **of("melo", "grace", "lora", "wise")}, "lora", 300, marks=(0.33,)),
}
OLDEST = "oldest"
METRICS: Mapping[str, str] = {
    "said": "said", "said_chat": "in chat", "said_paraphrase": "other wording", "paraphrase": "PS", "neighborhood": "NS",
    "locality_unchanged": "unchanged", OLDEST: "said of the older half", "perplexity": "perplexity",
}  # fmt: skip


def drawn(cases: Sequence[Case], seed: int, count: int) -> list[Case]:
    """Return the cases of a seed: as many as are edited, in an order of its own, no subject twice."""
    order = list(cases)
    random.Random(seed).shuffle(order)
    found: dict[str, Case] = {}
    for case in order:
        found.setdefault(case.subject or case.id, case)
    return list(found.values())[:count]


def cell(lm: LM, part: Part, recipe: Recipe, cases: Sequence[Case], where: Path, plan: Plan) -> Rows:
    """Return the rows of a recipe when its last edit of a seed stood; their cases are named with the seed."""
    name, settings = recipe
    made = None if name == CONTROL else methods.make(name, settings)
    options = {} if made is None else {**_preset(name), **settings}
    marks = tuple(sorted({max(1, round(share * len(cases))) for share in part.marks}))
    run = replace(
        plan, method=CONTROL if made is None else made.name, options=options, edits=len(cases), checkpoints=marks,
        independent=part.independent,
    )  # fmt: skip
    Run(run, lm, list(cases), where).go()
    rows = read_rows(where / "rows.jsonl")
    last = max(row["checkpoint"] for row in rows)
    older = {case.id for case in cases[: len(cases) // 2]}
    return [
        {**row, "case": f"{plan.seed}/{row['case']}", OLDEST: row["case"] in older} for row in at(rows, checkpoint=last)
    ]


def _preset(name: str) -> dict[str, Any]:
    found = methods.presets().get(name)
    return {} if found is None else dict(found.settings)


def table(part: Part, found: Mapping[str, Rows]) -> str:
    """Return a part as Markdown: a line a recipe, each number with its interval and its difference to the baseline."""
    lines = [["recipe", *METRICS.values(), "facts"], ["---"] * (len(METRICS) + 2)]
    for name, rows in found.items():
        facts = len({row["case"] for row in rows if row["probe"] == "edit"})
        lines.append([name, *(_number(metric, rows, found.get(part.against, [])) for metric in METRICS), str(facts)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _number(metric: str, rows: Rows, baseline: Rows) -> str:
    if metric == OLDEST:
        metric, rows, baseline = "said", at(rows, **{OLDEST: True}), at(baseline, **{OLDEST: True})
    try:
        own = str(estimate(rows, metric)).partition(" (n")[0]
    except ErrataError:  # the rows have no such number
        return "–"
    try:
        apart = compare(rows, baseline, metric).difference if baseline and rows != baseline else None
    except ErrataError:
        apart = None
    return own if apart is None else f"{own} ({apart.mean:+.2f} ± {apart.half_width:.2f})"


def main(args: argparse.Namespace) -> None:
    """Run what is left to run and write the tables, each time a cell is done."""
    from references import known

    lm, out = load(args.model, dtype=args.dtype), Path(args.out)
    every = known(lm, list(parse(args.cases, skip_bad=True)), args.most)
    tables: dict[str, str] = {}
    for title in args.parts.split(","):
        part, found = PARTS[title], dict[str, Rows]()
        if args.marks is not None:
            part = replace(part, marks=tuple(float(share) for share in args.marks.split(",") if share))
        names = args.recipes.split(",") if args.recipes else list(part.recipes)
        for seed in range(args.seeds):  # a seed of all before the next of any
            cases = drawn(every, seed, args.edits or part.edits)
            for name in (name for name in names if name in part.recipes):
                plan = Plan(method="", cases=args.cases, seed=seed, text=args.text)
                where = (
                    out / title / "-".join([*name.replace(",", "").split(" "), *filter(None, [args.dtype])]) / str(seed)
                )
                try:
                    found.setdefault(name, []).extend(cell(lm, part, part.recipes[name], cases, where, plan))
                except ErrataError as error:
                    print(f"{title}: {name}: {error}", flush=True)
                    continue
                tables[title] = f"## {title}, against {part.against}\n\n{table(part, found)}"
                (out / "seeds.md").write_text("\n".join(tables.values()), encoding="utf-8")
                print(f"{title}: {name}, seed {seed}, of {len(cases)} facts", flush=True)
    print("\n".join(tables.values()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", help="what the model is read in; as it is saved unless given")
    parser.add_argument("--cases", required=True)
    parser.add_argument("--text", default="auto", help="text of the perplexity")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--recipes", default="", help="some of a part's; all unless given")
    parser.add_argument("--edits", type=int, default=0, help="of each seed; what a part has unless given")
    parser.add_argument(
        "--marks", help="shares of the edits at which everything is measured besides; a part's unless given"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--most", type=int, default=600, help="facts the model knows that seeds draw from")
    parser.add_argument("--out", required=True)
    main(parser.parse_args())
