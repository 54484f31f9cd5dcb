"""How well the methods edit the primer, one fact at a time and a hundred at once, and what a batch saves.

    python benchmarks/primer.py [--edits 100] [--methods rome,memit,ft] [--out benchmarks/results]

Every edit is written alone, asked about in all its probes in free generation and by probabilities, and taken back. Then the
same facts are written as one memit batch, and batch and singles are timed alternately, five times each, in one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from errata import methods
from errata.data.case import Case
from errata.data.cases import parse
from errata.evaluate.rows import About, score
from errata.evaluate.scorer import Scorer
from errata.evaluate.summary import Estimate, dump_row, estimate, summarize
from errata.fact import Fact
from errata.methods.base import Method
from errata.model.lm import LM
from errata.model.loading import load

METRICS = (
    "said",
    "said_paraphrase",
    "efficacy",
    "paraphrase",
    "neighborhood",
    "portability_said",
    "locality_unchanged",
)


def independent(lm: LM, method: Method, cases: Sequence[Case], base: list[dict]) -> tuple[list[dict], list[float]]:
    """Return rows of every case after its edit alone, and the seconds each edit took to compute."""
    scorer, rows, seconds = Scorer(lm), [], []
    method.prepare(lm)
    for case in cases:
        started = time.perf_counter()
        edit = method.solve(lm, case.facts)
        seconds.append(time.perf_counter() - started)
        about = About(checkpoint=1, method=method.name, model=lm.fingerprint)
        mine = [row for row in base if row["case"] == case.id]
        with lm.weights.trial([edit.deltas]):
            rows += score(lm, [case], base=mine, about=about, scorer=scorer)
    return rows, seconds


def table(rows: dict[str, list[dict]]) -> str:
    """Return a Markdown table: one line a method, one column a metric, with the 95 % half-width."""
    found = {name: summarize(r) for name, r in rows.items()}
    columns = [m for m in METRICS if any(m in f for f in found.values())]
    lines = ["| method | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, estimates in found.items():
        cells = [_cell(estimates.get(column)) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(found: Estimate | None) -> str:
    return "–" if found is None or not found.n else f"{found.mean:.3f} ± {found.half_width:.3f}"


def timed(lm: LM, facts: Sequence[Fact], repeats: int = 5) -> tuple[float, float]:
    """Return median seconds of one memit batch of all facts and of as many single edits, measured alternately."""
    method, batch, single = methods.make("memit", {}), [], []
    for _ in range(repeats):
        started = time.perf_counter()
        method.solve(lm, facts)
        batch.append(time.perf_counter() - started)
        started = time.perf_counter()
        for fact in facts:
            method.solve(lm, [fact])
        single.append(time.perf_counter() - started)
    return statistics.median(batch), statistics.median(single)


def main(count: int, names: Sequence[str], out: Path, repeats: int) -> None:
    """Run everything and write rows and the page."""
    out.mkdir(parents=True, exist_ok=True)
    lm, cases = load("primer"), list(parse(f"primer:{count}", seed=1))
    base = score(lm, cases)
    rows = {"unedited": base}
    for name in names:
        rows[name], seconds = independent(lm, methods.make(name, {}), cases, base)
        print(f"{name}: {statistics.median(seconds):.3f} s per edit (median)", flush=True)
        print(table({name: rows[name]}), flush=True)
    facts = [fact for case in cases for fact in case.facts]
    edit = methods.make("memit", {}).solve(lm, facts)
    with lm.weights.trial([edit.deltas]):
        together = score(lm, cases, base=base, about=About(checkpoint=count, method="memit"))
    rows[f"memit, {count} at once"] = together
    batch, single = timed(lm, facts, repeats)
    with (out / "primer.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(dump_row(row) + "\n" for part in rows.values() for row in part)
    ratio = f"{batch:.2f} s as one batch, {single:.2f} s one by one: {single / batch:.1f} ×"
    page = f"{table(rows)}\n\nmemit, {count} facts: {ratio}\n"
    (out / "primer.md").write_text(page, encoding="utf-8")
    print(page)
    print(json.dumps({"batch_said": estimate(together, "said").to_dict(), "ratio": single / batch}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--methods", default="rome,memit,ft")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    main(args.edits, args.methods.split(","), args.out, args.repeats)
