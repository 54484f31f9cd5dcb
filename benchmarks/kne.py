"""KNE beside its baselines and its own ablations, on facts of the primer's world.

    python benchmarks/kne.py --out results/kne                       # single edits, every variant, about 40 s each
    python benchmarks/kne.py --out results/kne --only kne rome       # some of them
    python benchmarks/kne.py --out results/kne --sequential 1 10 100 # edits on top of each other

Each probe asked is one row of rows.jsonl; a run that is interrupted goes on where it stopped. table.md is made from the rows
alone: means over facts with the half-width of the 95 % interval (bootstrap over facts), and the paired difference to ``kne``.
A fact takes part if the model knows it; of neighbours and unrelated questions, those it answered right before the edit do.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from errata import methods
from errata.delta import Site
from errata.fact import Fact, says
from errata.model.lm import LM, load
from errata.model.tokens import Query
from errata.primer.probes import edits

Row = dict[str, Any]
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ft (masked)": ("ft", {}),
    "ft (masked), lr 5e-3": ("ft", {"lr": 5e-3}),
    "ft (last)": ("ft", {"variant": "last"}),
    "rome": ("rome", {}),
    "memit": ("memit", {}),
    "memit, λ 1": ("memit", {"weight": 1.0}),
    "kn": ("kn", {}),
    "kne": ("kne", {}),
    "kne, adam": ("kne", {"optimizer": "adam"}),
    "kne, hits 2": ("kne", {"hits": 2, "stop": 0.01}),
    "kne, p 0.1 %": ("kne", {"p": 0.001}),
    "kne, p 0.5 %": ("kne", {"p": 0.005}),
    "kne, p 2 %": ("kne", {"p": 0.02}),
    "kne, p 5 %": ("kne", {"p": 0.05}),
    "kne, m 5": ("kne", {"m": 5}),
    "kne, m 20": ("kne", {"m": 20}),
    "kne, m 20, path layer": ("kne", {"m": 20, "path": "layer"}),
    "kne, random": ("kne", {"select": "random"}),
    "kne, lowest": ("kne", {"select": "lowest"}),
    "kne, faintest": ("kne", {"select": "faintest"}),
    "kne, strongest": ("kne", {"select": "strongest"}),
    "kne, everywhere": ("kne", {"where": "everywhere"}),
    "kne, everywhere, faintest": ("kne", {"where": "everywhere", "select": "faintest"}),
    "kne, everywhere, lowest": ("kne", {"where": "everywhere", "select": "lowest"}),
    "kne, everywhere, hits 2, adam": (
        "kne",
        {"where": "everywhere", "hits": 2, "stop": 0.01, "optimizer": "adam"},
    ),
    "kne, element": ("kne", {"granularity": "element"}),
    "kne, old answer": ("kne", {"answer": "old"}),
    "kne, log P": ("kne", {"log": True}),
    "kne, first layer only": ("kne", {"layers": (0,)}),
    "kne, middle layer only": ("kne", {"layers": (3,)}),
    "kne, last layer only": ("kne", {"layers": (6,)}),
    "kne, key layers 0-2": ("kne", {"layers": (0, 1, 2)}),
    "kne, no contexts": ("kne", {"contexts": 0}),
    "kne, kl 1": ("kne", {"kl": 1.0}),
    "kne, lr 0.3": ("kne", {"lr": 0.3}),
    "kne, lr 0.3, p 5 %": ("kne", {"lr": 0.3, "p": 0.05}),
    "kne, lr 0.3, without √n": ("kne", {"lr": 0.3, "sqrt_n": False}),
    "kne, lr 0.3, p 5 %, without √n": ("kne", {"lr": 0.3, "p": 0.05, "sqrt_n": False}),
}
KINDS = ("edit", "efficacy", "paraphrase", "neighborhood", "unrelated", "portability", "alias")
KEPT = ("neighborhood", "unrelated")  # what is to stay as it was
RESAMPLES = 1000


def questions(fact: Fact) -> list[tuple[str, str, str]]:
    """Return (kind, prompt, expected) of a fact's edit prompt and all its probes."""
    return [("edit", fact.prompt, fact.target), *((p.kind, p.prompt, p.answer) for p in fact.probes)]


def known(lm: LM, count: int, seed: int) -> list[Fact]:
    """Return `count` edits of facts the model knows."""
    found = edits(2 * count, seed=seed)
    said = lm.generate([f.prompt for f in found], 8)
    return [f for f, text in zip(found, said, strict=True) if says(text, f.truth)][:count]


def asked(lm: LM, facts: Sequence[Fact]) -> Iterator[tuple[Fact, str, str, str, str]]:
    """Yield (fact, kind, prompt, expected, what the model says) for every question about the facts."""
    every = [(fact, *question) for fact in facts for question in questions(fact)]
    said = lm.generate([prompt for _, _, prompt, _ in every], 8)
    yield from ((*question, text) for question, text in zip(every, said, strict=True))


def efficacy(lm: LM, fact: Fact) -> bool:
    """Say whether the target is likelier than the truth, by mean log-probability of their tokens."""
    new, old = lm.logprobs([Query(fact.prompt, fact.target), Query(fact.prompt, fact.truth)])
    return bool(new.mean() > old.mean())


def rows_of(lm: LM, facts: Sequence[Fact], before: dict[tuple[str, str], str], common: Row) -> Iterator[Row]:
    """Yield one row for every question about the facts that counts."""
    for fact, kind, prompt, expected, said in asked(lm, facts):
        if kind not in KEPT or says(before[fact.id, prompt], expected):
            row = {"fact": fact.id, "kind": kind, "prompt": prompt, "expected": expected, "said": said}
            yield {**common, **row, "right": says(said, expected)}
    for fact in facts:
        yield {**common, "fact": fact.id, "kind": "efficacy", "right": efficacy(lm, fact)}


def single(lm: LM, facts: Sequence[Fact], name: str, before: dict[tuple[str, str], str]) -> Iterator[Row]:
    """Yield the rows of each fact written alone."""
    method = methods.make(*VARIANTS[name])
    method.prepare(lm)
    total = lm.depth * lm.weights[Site(0, "down")].numel() * 3 if lm.row.kind == "decoder" else 0
    for fact in facts:
        started = time.perf_counter()
        edit = method.solve(lm, [fact])
        seconds = time.perf_counter() - started
        steps = edit.report.get("steps", [0])
        lm.weights.stand([edit.deltas])
        changed = sum(int((d.dense() != 0).sum()) for d in edit.deltas.values())
        cost = {"seconds": round(seconds, 4), "steps": steps[0], "share": changed / total, "bytes": edit.nbytes}  # type: ignore[index]
        yield from rows_of(lm, [fact], before, {"variant": name, "edits": 1, **cost})
        lm.weights.stand([])


def sequential(
    lm: LM, facts: Sequence[Fact], name: str, before: dict[tuple[str, str], str], stops: Sequence[int]
) -> Iterator[Row]:
    """Yield the rows of all facts written so far, at each checkpoint of edits on top of each other."""
    method = methods.make(*VARIANTS[name])
    method.prepare(lm)
    past: list[Any] = []
    started = time.perf_counter()
    for fact in facts[: max(stops)]:
        past.append(method.solve(lm, [fact], past))
        lm.weights.stand([edit.deltas for edit in past])
        if len(past) in stops:
            cost = {"seconds": round((time.perf_counter() - started) / len(past), 4)}
            written = facts[: len(past)]
            sample = written if len(written) <= 50 else [*written[:25], *written[-25:]]  # the oldest and the newest
            yield from rows_of(lm, sample, before, {"variant": name, "edits": len(past), **cost})
    lm.weights.stand([])


# ------------------------------------------------------------------------------------------------ from rows to a table


def by_fact(rows: Iterable[Row], kind: str) -> dict[str, float]:
    """Return each fact's share of right answers to questions of one kind."""
    found: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        if row["kind"] == kind:
            found[row["fact"]].append(row["right"])
    return {fact: statistics.fmean(right) for fact, right in found.items()}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % bootstrap interval."""
    rng = random.Random(0)
    means = sorted(statistics.fmean(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return statistics.fmean(values), (means[int(0.975 * RESAMPLES)] - means[int(0.025 * RESAMPLES)]) / 2


def shown(values: Sequence[float]) -> str:
    """Return "mean ± half-width", or a dash for no values."""
    return "{:.3f} ± {:.3f}".format(*interval(values)) if values else "–"


def table(rows: Sequence[Row]) -> str:
    """Return the Markdown tables: every variant, and its paired difference to kne."""
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["variant"], row["edits"]].append(row)
    head = ("variant", "edits", "n", *KINDS, "s/edit", "steps", "share of FFN")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    paired = [f"| {' | '.join(('variant − kne', 'edits', *KINDS))} |", "|" + "---|" * (len(KINDS) + 2)]
    for (name, count), group in groups.items():
        first = {row["fact"]: row for row in group}.values()
        cost = [f"{statistics.fmean(row.get(k, 0) for row in first):.{d}f}" for k, d in (("seconds", 3), ("steps", 1))]
        share = f"{100 * statistics.fmean(row.get('share', 0) for row in first):.3f} %"
        cells = [shown(list(by_fact(group, kind).values())) for kind in KINDS]
        lines.append(f"| {' | '.join([name, str(count), str(len(first)), *cells, *cost, share])} |")
        other = groups.get(("kne", count), [])
        if other and name != "kne":
            cells = [shown(differences(by_fact(group, k), by_fact(other, k))) for k in KINDS]
            paired.append(f"| {' | '.join([name, str(count), *cells])} |")
    return "\n".join([*lines, "", *paired, ""])


def differences(one: dict[str, float], other: dict[str, float]) -> list[float]:
    """Return one - other for every fact both have."""
    return [value - other[fact] for fact, value in one.items() if fact in other]


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="primer")
    parser.add_argument("--facts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="which facts are drawn")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), help="names of variants")
    parser.add_argument("--sequential", nargs="*", type=int, default=[], help="checkpoints, in edits")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    lm = load(given.model, dtype="float32")
    facts = known(lm, max([given.facts, *given.sequential]), given.seed)
    before = {(fact.id, prompt): said for fact, _, prompt, _, said in asked(lm, facts)}
    stops = given.sequential
    done = {(row["variant"], row["edits"]) for row in rows}
    for name in given.only:
        if (name, max(stops, default=1)) in done:
            continue
        made = sequential(lm, facts, name, before, stops) if stops else single(lm, facts[: given.facts], name, before)
        new = list(made)  # a variant's rows are written together, so that a torn run leaves none of its own
        with path.open("a") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in new)
        rows += new
        text = table([row for row in rows if row["variant"] == name])
        sys.stdout.write("\n".join(text.splitlines()[2 : 2 + max(1, len(stops))]) + "\n")
        sys.stdout.flush()
    (given.out / "table.md").write_text(table(rows))


if __name__ == "__main__":
    main()
