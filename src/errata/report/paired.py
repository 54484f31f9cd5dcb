"""Two methods on the same cases: the difference of a metric fact by fact, finer than two separate intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from errata.errors import ErrataError
from errata.report.names import sign
from errata.report.read import Checkpoint, Measured, RunReport
from errata.report.rows import lines, scores
from errata.report.verdict import above, writes

_Scored = list[dict[str, Any]]  # rows cut down to case, probe and scores


@dataclass(frozen=True, slots=True)
class Field:
    """Runs side by side, each at one of its checkpoints, with their rows there."""

    runs: Sequence[RunReport]
    at: Sequence[Checkpoint | None]
    rows: Sequence[_Scored] = ()  # empty where only the summaries' intervals are to be compared

    def values(self, name: str) -> list[Measured | None]:
        """Return the metric of each run, None where it was not measured."""
        return [checkpoint.metrics.get(name) if checkpoint else None for checkpoint in self.at]

    def best(self, name: str) -> int | None:
        """Return which run is better than every other, beyond the interval of the difference; None if none is.

        A run that writes nothing does not compete: it keeps its neighbours for free.
        """
        direction, values = sign(name), self.values(name)
        field = [
            (direction * value.mean, index)
            for index, value in enumerate(values)
            if direction and value is not None and value.mean is not None and writes(self.runs[index])
        ]
        if len(field) < 2:
            return None
        (_, first), *others = sorted(field, reverse=True)
        return first if all(self._beats(name, first, other) for _, other in others) else None

    def _beats(self, name: str, one: int, other: int) -> bool:
        values = self.values(name)
        a, b = values[one], values[other]
        if a is None or b is None or a.mean == b.mean:
            return False
        apart = above(a, b) or above(b, a)
        # Separate intervals that do not touch settle it; the slower paired one is asked only where they do.
        difference = None if apart else self.difference(name, one, other)
        return apart or (difference is not None and abs(difference.mean or 0.0) > (difference.half or 0.0))

    def difference(self, name: str, one: int, other: int) -> Measured | None:
        """Return the metric of run `one` minus run `other`, paired by fact; None where their rows do not allow it."""
        if not self.rows or not self.rows[one] or not self.rows[other]:
            return None
        from errata.evaluate.summary import compare

        try:
            found = compare(self.rows[one], self.rows[other], name).difference
        except (ErrataError, KeyError, TypeError):  # not a metric of rows, or rows of another shape
            return None
        usable = isfinite(found.mean) and isfinite(found.half_width)
        return Measured(found.mean, found.half_width, found.n) if usable else None


def scored(run: RunReport, checkpoint: Checkpoint | None) -> _Scored:
    """Return the rows of one checkpoint, cut down to what is compared."""
    if checkpoint is None:
        return []
    found: list[Mapping[str, Any]] = [
        row
        for row in lines(run.directory / "rows.jsonl")
        if row and row.get("checkpoint") == checkpoint.edits and "case" in row and "probe" in row
    ]
    return [{"case": str(row["case"]), "probe": str(row["probe"]), "scores": scores(row)} for row in found]
