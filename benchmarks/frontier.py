"""Old methods and new ones in one table: what is said, in other words too, what is left alone, and what it costs.

    python benchmarks/frontier.py --cases counterfact:FILE --edits 30 --out DIR              # SmolLM2, all edits standing
    python benchmarks/frontier.py --model primer --cases primer:20 --edits 20 --text primer --recipes rlsedit,ledger --out DIR
    python benchmarks/frontier.py … --independent                                            # each fact alone, taken back after

Every recipe is a run of `errata bench` in a directory of its own: interrupted, it goes on, and a second call with more
recipes adds rows. Each number is a mean over facts with half the width of its 95 % interval (bootstrap over facts). Written
are `frontier.md`, `frontier.jsonl` and `report.html`. Recipes marked * put text before prompts and change no weight.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from errata import methods
from errata.bench.run import CONTROL, Plan, Run
from errata.data.cases import Cases, parse
from errata.errors import ErrataError
from errata.evaluate.summary import Estimate
from errata.model.lm import LM
from errata.model.loading import load
from errata.report import write

# Name: (method, settings).
RECIPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    CONTROL: (CONTROL, {}),
    "rome": ("rome", {}),
    "rome NAS": ("rome", {"anchor": 1.0}),
    "memit": ("memit", {}),
    "memit history": ("memit", {"history": True}),
    "alphaedit": ("alphaedit", {}),
    "ledger": ("ledger", {}),
    "ultraedit": ("ultraedit", {}),
    "locft": ("locft", {}),
    "rlsedit": ("rlsedit", {}),
    "crispedit": ("crispedit", {}),
    "mend": ("mend", {}),
    "ike": ("ike", {}),
    "ike bare": ("ike", {"demonstrations": 0}),
    "scr": ("scr", {}),
}
METRICS = {
    "said": "said", "said_paraphrase": "paraphrase said", "neighborhood": "neighbours", "locality_unchanged": "unchanged",
    "portability_said": "follows", "drift": "KL", "perplexity": "perplexity",
}  # fmt: skip


def plan_of(plan: Plan, name: str, corpus: str) -> Plan:
    """Return the plan of one recipe; `corpus` where its method reads statistics."""
    method, settings = RECIPES[name]
    known = () if method == CONTROL else methods.get(method).__dataclass_fields__
    read = {"corpus": corpus} if corpus and "corpus" in known else {}
    return replace(plan, method=method, options={**read, **settings})


def row_of(name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured of a recipe when its last edit stood."""
    last = summary["checkpoints"][-1]
    found = {metric: last["metrics"][metric] for metric in METRICS if metric in last["metrics"]}
    return {"recipe": name, "edits": last["edits"], "seconds": last.get("seconds_per_edit"), "metrics": found}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [["recipe", *METRICS.values(), "s an edit"], ["---"] * (len(METRICS) + 2)]
    for row in rows:
        method = RECIPES[row["recipe"]][0]
        mark = " *" if method != CONTROL and methods.get(method).in_context else ""
        seconds = "–" if row["seconds"] is None else f"{row['seconds']:.1f}"
        lines.append([f"{row['recipe']}{mark}", *(cell(row["metrics"].get(metric)) for metric in METRICS), seconds])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(found: Mapping[str, Any] | None) -> str:
    """Return a number with its interval, as `Estimate` writes it, without the count, which is the table's."""
    if found is None or found["mean"] is None:
        return "–"
    half = float("nan") if found["half_width"] is None else found["half_width"]
    if 0 < found["mean"] < 0.005:
        return f"{found['mean']:.1e}"
    return str(Estimate(found["mean"], half, found["n"])).partition(" (n")[0]


def go(plan: Plan, lm: LM, cases: Cases, out: Path, name: str) -> dict[str, Any] | None:
    """Run one recipe and return its row; None, said on the terminal, where the method does not fit the model."""
    try:
        return row_of(name, Run(plan, lm, list(cases), out / name.replace(" ", "-")).go())
    except ErrataError as error:
        print(f"{name}: {error}", flush=True)
        return None


def main(args: argparse.Namespace) -> None:
    """Run every recipe and write rows, table and page."""
    lm, cases, out = load(args.model), parse(args.cases), Path(args.out)
    plan = Plan(
        method="", cases=args.cases, edits=args.edits, checkpoints=(args.edits,), text=args.text,
        independent=args.independent,
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    for name in args.recipes.split(","):
        row = go(plan_of(plan, name, args.corpus), lm, cases, out, name)
        rows += [row] if row else []
        (out / "frontier.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (out / "frontier.md").write_text(table(rows), encoding="utf-8")
        print(table(rows[-1:]), flush=True)
    print(table(rows))
    write([out / row["recipe"].replace(" ", "-") for row in rows], out / "report.html")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--cases", default="primer:20")
    parser.add_argument("--corpus", default="", help="text of the statistics; what suits the model unless given")
    parser.add_argument("--text", default="auto", help="text of the perplexity")
    parser.add_argument("--edits", type=int, default=20)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--independent", action="store_true")
    parser.add_argument("--out", default="benchmarks/results/frontier")
    main(parser.parse_args())
