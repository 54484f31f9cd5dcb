"""What metrics have in common: a score or None, and how rows become one number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Score: TypeAlias = float | None  # None: not scored, and counted
Array: TypeAlias = NDArray[np.float64]
Row: TypeAlias = Mapping[str, Any]  # one line of rows.jsonl


def first(means: Array) -> Array:
    """Return the only column (…, 1) -> (…,)."""
    return means[..., 0]


@dataclass(frozen=True, slots=True)
class Metric:
    """How a number of the table comes from rows.

    Each column is taken from the rows of one probe, pooled within a fact, averaged over facts; `combine` makes one
    number of the columns' means.

    Args:
        name: what the table calls it.
        about: the function that defines it; its docstring says definition, range and source.
        columns: (probe, score) pairs; a probe "portability." stands for all its kinds.
        combine: from the means of the columns (…, k) to the number (…,).
        pool: how the rows of one fact become one value: "mean", "any" (the largest) or "sum".
    """

    name: str
    about: Callable[..., Any]
    columns: tuple[tuple[str, str], ...]
    combine: Callable[[Array], Array] = first
    pool: Literal["mean", "any", "sum"] = "mean"
