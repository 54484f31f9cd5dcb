"""`rows.jsonl`, one probe a line: counted, and searched for what went most wrong."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What decides whether a probe went well: the first of these that was scored.
FLAGS = ("said", "portability_said", "said_contains", "neighborhood", "efficacy", "exact", "locality_unchanged")
KEEP_WORST = 40  # a checkpoint's worst rows kept while reading; a few of them are shown


@dataclass(frozen=True, slots=True)
class Wrong:
    """One probe that went wrong: what was asked, what was wanted, what was said; the lower `margin`, the worse."""

    case: str
    probe: str
    prompt: str
    wanted: str
    said: str | None
    margin: float


@dataclass(frozen=True, slots=True)
class ProbeRows:
    """What a pass over `rows.jsonl` found: counts, the worst rows by checkpoint, and torn lines."""

    total: int = 0
    torn: int = 0
    unscored: int = 0
    known_before: int = 0  # cases whose old answer the unedited model said, of those where that was asked
    asked_before: int = 0
    worst: Mapping[int, Sequence[Wrong]] = field(default_factory=dict)


def as_float(value: object) -> float | None:
    """Return a finite number, None for anything else: NaN is written as null, and by some as NaN."""
    number = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if number else None  # type: ignore[arg-type]


def read_rows(path: Path) -> ProbeRows:
    """Return what a pass over the file finds. Read line by line: there may be millions, and the last may be torn."""
    counts: dict[str, int] = defaultdict(int)
    worst: dict[int, list[Wrong]] = defaultdict(list)
    knew: dict[str, bool] = {}
    for row in lines(path):
        counts["torn" if row is None else "total"] += 1
        if row is None:
            continue
        found = scores(row)
        counts["unscored"] += bool(found) and all(score is None for score in found.values())
        if row.get("probe") == "edit" and row.get("known_before") is not None:
            knew[str(row.get("case"))] = bool(row["known_before"])
        if wrong := _wrong(row, found):
            _keep(worst[int(as_float(row.get("checkpoint")) or 0)], wrong)
    lists = {edits: _settle(wrongs) for edits, wrongs in worst.items()}
    return ProbeRows(counts["total"], counts["torn"], counts["unscored"], sum(knew.values()), len(knew), lists)


def lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of a file, None for a torn line; nothing if there is no such file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as written:
        for line in filter(str.strip, written):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            yield row if isinstance(row, dict) else None


def scores(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Return a row's scores by name, None for one that could not be computed."""
    given = row.get("scores")
    if isinstance(given, dict):
        return {name: as_float(score) for name, score in given.items()}
    flat = {"said": "said_ok"} | {name: name for name in FLAGS[1:]}
    return {name: as_float(row[key]) for name, key in flat.items() if key in row}


def _wrong(row: Mapping[str, Any], found: Mapping[str, float | None]) -> Wrong | None:
    """Return the row as a worst-case candidate: a probe asked of an edited model that was answered wrongly."""
    probe, said = str(row.get("probe", "")), row.get("said")
    flags = FLAGS[1:] if probe.startswith("portability") else FLAGS  # what follows may be said anywhere in the answer
    flag = next((found[name] for name in flags if found.get(name) is not None), None)
    if flag is None or flag >= 1 or not as_float(row.get("checkpoint")) or not row.get("prompt"):
        return None
    new, true = (as_float(row.get(name, found.get(name))) for name in ("lp_new", "lp_true"))
    margin = 0.0 if new is None or true is None else new - true
    # A neighbour should keep its old answer, so there a likely new answer is what is bad.
    margin = -margin if probe in ("neighborhood", "unrelated") else margin
    heard = None if said is None else str(said)
    return Wrong(str(row.get("case")), probe, str(row["prompt"]), _one(row.get("expected")), heard, margin)


def _one(expected: object) -> str:
    """Return the expected answer, the first of several spellings."""
    return str(expected[0]) if isinstance(expected, list) and expected else str("" if expected is None else expected)


def _keep(found: list[Wrong], wrong: Wrong) -> None:
    found.append(wrong)
    if len(found) > 10 * KEEP_WORST:
        found[:] = _settle(found)


def _settle(found: Sequence[Wrong]) -> list[Wrong]:
    """Return the worst, one probe a case and what was said first: ten prompts about one fact teach one thing."""
    by_case: dict[str, Wrong] = {}
    for wrong in sorted(found, key=lambda w: (w.said is None, w.margin)):
        by_case.setdefault(wrong.case, wrong)
    return list(by_case.values())[:KEEP_WORST]
