"""Sums over a corpus that add up, over batches, shards and machines, and their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar

from jaxtyping import Float
from torch import Tensor

from errata.errors import StatsMissing

Same = TypeVar("Same", bound="Sum")


@dataclass(frozen=True, eq=False, slots=True)
class Sum:
    """A sum of matrices and how many there were.

    Args:
        total: (out, in) float64. count: what it is a sum of.
    """

    total: Float[Tensor, "out in"]
    count: int
    _nothing: ClassVar[str] = "nothing was read"

    def __add__(self: Same, other: Same) -> Same:
        return type(self)(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> Float[Tensor, "out in"]:
        """The mean, float64.

        Raises:
            StatsMissing: nothing was summed; the mean of nothing is not zero.
        """
        if not self.count:
            raise StatsMissing(f"{self._nothing}: the corpus is empty; name one with text in it.")
        return self.total / self.count
