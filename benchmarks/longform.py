"""Long answers, each written alone: how much of them is said, asked as written and in other words, and what else changes.

    python benchmarks/longform.py --cases unke:FILE --model smollm2 --dtype bfloat16 --out DIR
    python benchmarks/longform.py --cases unke:FILE --out DIR --recipes anyedit,ft-uke --set window=5 --first 6 --facts 6

Facts are those of the set whose answer has `--shortest` to `--longest` tokens, from the `--first` on. Each is asked by its own
question and by the first in other words, as plain text and as a message to a chat model, with room for the whole answer. The
questions of `UNRELATED` others of the set are asked, too: how many tokens of the unedited answer are still the likeliest.
A method that looks a fact up at its subject is told the longest run of capitalised words that question and answer share; where
there is none, the fact is left out. One line a fact in DIR/RECIPE.jsonl: interrupted, it goes on. The table has means with
half of their 95 % interval (Student's t over facts).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from errata import methods
from errata.config import parse_flags
from errata.data.case import Case
from errata.data.cases import parse
from errata.editing.writing import solve
from errata.errors import ErrataError
from errata.evaluate.metrics import rouge_l, said_in_part, sentences_said
from errata.evaluate.scorer import Scorer
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.loading import load
from errata.model.query import Query

UNRELATED = 8  # questions of others
LENGTH = 24  # tokens of the unedited model's answer to them
NAMES = re.compile(r"[A-Z][\w'’.-]*(?: (?:of|the|and|de|von|van|[A-Z][\w'’.-]*))* [A-Z][\w'’.-]*|[A-Z][\w'’.-]+")
T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26, 12: 2.20, 15: 2.14, 20: 2.09}
COLUMNS = {
    "rouge_l": "ROUGE-L", "rouge_l_other": "in other words", "rouge_l_chat": "ROUGE-L in chat",
    "rouge_l_chat_other": "in other words, in chat", "part": "said in part", "part_chat": "said in part, in chat",
    "sentences": "sentences", "sentences_chat": "sentences, in chat", "kept": "others kept",
    "kept_chat": "others kept, in chat", "seconds": "processor seconds",
}  # fmt: skip


def subject_of(fact: Fact) -> str:
    """Return the longest run of capitalised words of the question, not its first word, that the answer has too; "" for none."""
    found = [name.removesuffix("'s").removesuffix("’s") for name in NAMES.findall(fact.prompt.partition(" ")[2])]
    return max((name for name in found if name in fact.target), key=len, default="")


class Asked:
    """A model, and what it said of others before anything was written."""

    def __init__(self, lm: LM, others: Sequence[Case]) -> None:
        self.lm, self._scorer = lm, Scorer(lm)
        asked = [Query(case.prompt, role=role) for case in others for role in ("", "user")]
        said = zip(asked, lm.generate(asked, LENGTH), strict=True)
        self._others = [(query, text) for query, text in said if text.strip()]
        self._before = self._scorer.answers(self._others)

    def row(self, case: Case) -> dict[str, Any]:
        """Return what is found of a case as the model stands."""
        told = [text for text in (case.prompt, *case.rephrases[:1])]
        asked = [Query(text, role=role) for role in ("", "user") for text in told]
        said = dict(zip(asked, self.lm.generate(asked, self.lm.room([case.target])), strict=True))
        row: dict[str, Any] = {"case": case.id, "tokens": len(self.lm.tokens.ids(case.target))}
        for role, end in (("", ""), ("user", "_chat")):
            own, *other = (said[Query(text, role=role)] for text in told)
            row |= {
                f"said{end}": own,
                f"rouge_l{end}": rouge_l(own, case.target),
                f"part{end}": said_in_part(own, case.target),
            }
            row |= {f"sentences{end}": sentences_said(own, case.target)}
            row |= {f"rouge_l{end}_other": rouge_l(text, case.target) for text in other}
            row[f"kept{end}"] = self._kept(role)
        return row

    def _kept(self, role: str) -> float:
        pairs = [pair for pair in self._others if pair[0].role == role]
        now = self._scorer.answers(pairs)
        shares = []
        for pair in pairs:
            old, new = self._before[pair].top, now[pair].top
            shares.append(mean(a == b for a, b in zip(old, new, strict=True)))
        return mean(shares)


def rows_of(
    asked: Asked, recipe: str, options: dict[str, Any], cases: Sequence[Case], path: Path
) -> list[dict[str, Any]]:
    """Return a row for each case, those that were there already and those found now."""
    known = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    done = {row["case"] for row in known}
    how = None if recipe == "none" else methods.make(recipe, options)
    for case in cases:
        if case.id in done or case.fact is None:
            continue
        fact = case.fact
        if how is not None and how.located:
            fact = replace(fact, subject=subject_of(fact))
        if how is not None and how.located and not fact.subject:
            continue
        started, deltas, told = time.process_time(), [], {}
        if how is not None:
            edit, _ = solve(asked.lm, how, [fact], [], None)
            deltas, told = [edit.deltas], {"norm": edit.report.norm_ratio, "loss": edit.report.get("loss")}
        spent = time.process_time() - started
        asked.lm.weights.stand(deltas)
        row = {**asked.row(case), **told, "seconds": spent}
        asked.lm.weights.stand([])
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        known.append(row)
    wanted = {case.id for case in cases}
    return [row for row in known if row["case"] in wanted]


def line(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return a recipe's means as a line of a table."""
    cells = [name]
    for column in COLUMNS:
        found = [float(row[column]) for row in rows if row.get(column) is not None]
        n = len(found)
        times = next((t for most, t in T95.items() if n <= most), 1.96)
        half = times * stdev(found) / math.sqrt(n) if n > 1 else float("nan")
        digits = 0 if column == "seconds" else 2
        cells.append(f"{mean(found):.{digits}f} ± {half:.{digits}f}" if found else "–")
    return f"| {' | '.join([*cells, str(len(rows))])} |"


def fitting(lm: LM, cases: Sequence[Case], least: int, most: int) -> Iterator[Case]:
    """Yield the cases whose answers are so many tokens long."""
    return (case for case in cases if least <= len(lm.tokens.ids(case.target)) <= most)


def main(args: argparse.Namespace) -> None:
    """Run what is left to run and print the table."""
    lm, out = load(args.model, dtype=args.dtype), Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    every = list(fitting(lm, list(parse(args.cases, skip_bad=True)), args.shortest, args.longest))
    cases, asked = every[args.first : args.first + args.facts], Asked(lm, every[-UNRELATED:])
    heads = ["recipe", *COLUMNS.values(), "facts"]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}", flush=True)
    for recipe in args.recipes.split(","):
        kind = None if recipe == "none" else methods.get(recipe)
        options = {} if kind is None else parse_flags(kind, args.set)
        named = "-".join([recipe, *args.set]) if kind else recipe
        try:
            print(line(named, rows_of(asked, recipe, options, cases, out / f"{named}.jsonl")), flush=True)
        except ErrataError as error:
            print(f"{named}: {error}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", help="what the model is read in; as it is saved unless given")
    parser.add_argument("--cases", required=True)
    parser.add_argument("--recipes", default="none,anyedit,memit,ft,ft-uke,lora,melo")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--facts", type=int, default=10)
    parser.add_argument("--shortest", type=int, default=50)
    parser.add_argument("--longest", type=int, default=200)
    parser.add_argument("--out", required=True)
    main(parser.parse_args())
