"""What metrics have in common: a score or None, and how rows become one number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from errata.errors import ErrataError

Score: TypeAlias = float | None  # None: not scored, and counted
Array: TypeAlias = NDArray[np.float64]
Row: TypeAlias = Mapping[str, Any]  # one line of rows.jsonl
Section: TypeAlias = Literal[
    "Written", "Carried over", "Left alone", "All three", "In the wild", "Kept", "Language", "Size", "General ability"
]


def first(means: Array) -> Array:
    """Return the only column (…, 1) -> (…,)."""
    return means[..., 0]


@dataclass(frozen=True, slots=True)
class Metric:
    """How a number of the table comes from rows, and how it is shown.

    Each column is taken from the rows of one probe, pooled within a fact, averaged over facts; `combine` makes one
    number of the columns' means.

    Args:
        name: what summaries call it.
        about: the function that defines it; its docstring says definition, range and source.
        columns: (probe, score) pairs; a probe "portability." stands for all its kinds.
        section: the part of the report's table it stands in.
        better: whether more ("up") or less ("down") is good; "" where neither can be said.
        meaning: what it measures, in the report's words; "" where its name says it.
        short: the terminal's heading; the name unless given.
        combine: from the means of the columns (…, k) to the number (…,).
        pool: how the rows of one fact become one value: "mean", "any" (the largest) or "sum".
        share: whether it lies between 0 and 1.
        group: the group of `retention` whose facts alone it is averaged over; all facts where it is "".
        score: of a plugin's number, what gives it from a row of one of its probes; the row itself holds it where this is None.
    """

    name: str
    about: Callable[..., Any]
    columns: tuple[tuple[str, str], ...]
    section: Section
    better: Literal["up", "down", ""]
    meaning: str
    short: str = ""
    combine: Callable[[Array], Array] = first
    pool: Literal["mean", "any", "sum"] = "mean"
    share: bool = True
    group: str = ""
    score: Callable[[Row], Score] | None = None

    def of(self, row: Row, score: str) -> Score:
        """Return what a row says of a column.

        Raises:
            ErrataError: a plugin's number cannot be made of the row.
        """
        if self.score is None:
            found: Score = row["scores"][score]
            return found
        try:
            value = self.score(row)
            return None if value is None else float(value)
        except Exception as error:  # a stranger's function may raise anything
            raise ErrataError(
                f"the plugin's number {self.name!r} fails on case {row['case']!r} ({type(error).__name__}: {error}): mend "
                "it, or leave it out with ERRATA_PLUGINS=none; rows.jsonl is whole."
            ) from error
