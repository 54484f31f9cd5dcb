"""Ridge regression over a set of rows that come and go: a table of (key, value), of which the change is the view.

    ledger, delta = Ledger.open(ridge, out).add(names, keys, values)
    ledger, delta = ledger.drop(names)                          # as had they never been there

The change of a matrix is the ridge solution over the rows that stand,

    ΔW = V Kᵀ G⁻¹,   G = λC + K Kᵀ

so it depends neither on their order nor on how they came. G⁻¹ is kept and moved by rank-n updates (Woodbury): adding or
dropping n rows costs O(in² n), however many stand.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import LowRank
from errata.solve.least_squares import Ridge

_WORN = 1e-6  # below this 1 − leverage, taking a row out of G⁻¹ loses too many digits: G is inverted anew


@dataclass(frozen=True, eq=False)
class Ledger:
    """The rows that stand, and what follows from them.

    Args:
        ridge: λC, factored.
        inverse: (in, in) G⁻¹. change: (out, in) ΔW.
        names: of the rows; dropping goes by name. keys: (m, in). values: (m, out), what ΔW is to give at each key.
    """

    ridge: Ridge
    inverse: Float[Tensor, "in in"]
    change: Float[Tensor, "out in"]
    names: tuple[str, ...]
    keys: Float[Tensor, "m in"]
    values: Float[Tensor, "m out"]

    @classmethod
    def open(cls, ridge: Ridge, out: int) -> Ledger:
        """Return a ledger without rows, for a matrix with `out` outputs."""
        inverse = ridge.inverse()
        none = inverse.new_zeros(0, len(inverse)), inverse.new_zeros(0, out)
        return cls(ridge, inverse, inverse.new_zeros(out, len(inverse)), (), *none)

    def add(
        self, names: Sequence[str], keys: Float[Tensor, "n in"], values: Float[Tensor, "n out"]
    ) -> tuple[Ledger, LowRank]:
        """Return the ledger with these rows too, and by how much ΔW changes: ``(V − ΔW K) Kᵀ G⁻¹`` with the new G."""
        keys, values = keys.double().cpu(), values.double().cpu()
        solved = keys @ self.inverse  # G⁻¹K as rows, (n, in)
        inner = torch.eye(len(keys), dtype=keys.dtype) + solved @ keys.T
        right = torch.linalg.solve(inner, solved)  # (n, in)
        delta = LowRank((values - keys @ self.change.T).T.contiguous(), right.T.contiguous())
        rows = torch.cat([self.keys, keys]), torch.cat([self.values, values])
        return self._moved(delta, self.inverse - solved.T @ right, (*self.names, *names), *rows), delta

    def drop(self, names: Collection[str]) -> tuple[Ledger, LowRank]:
        """Return the ledger without the rows of these names, and by how much ΔW changes.

        In closed form, ``−(v − ΔW k) kᵀ (G − k kᵀ)⁻¹``; where a row is all that holds its direction, G is inverted anew.
        """
        gone = torch.tensor([name in names for name in self.names], dtype=torch.bool)
        keys, values = self.keys[gone], self.values[gone]
        left = tuple(name for name in self.names if name not in names)
        solved = keys @ self.inverse
        inner = torch.eye(len(keys), dtype=keys.dtype) - solved @ keys.T
        if len(keys) and float(torch.linalg.eigvalsh((inner + inner.T) / 2)[0]) < _WORN:
            anew = replace(self, names=left, keys=self.keys[~gone], values=self.values[~gone]).solved()
            difference = anew.change - self.change
            return anew, LowRank(difference, torch.eye(difference.shape[1], dtype=difference.dtype))
        right = torch.linalg.solve(inner, solved)
        delta = LowRank(-(values - keys @ self.change.T).T.contiguous(), right.T.contiguous())
        rows = self.keys[~gone], self.values[~gone]
        return self._moved(delta, self.inverse + solved.T @ right, left, *rows), delta

    def solved(self) -> Ledger:
        """Return the same rows solved from nothing: what all the others must equal."""
        gram = torch.linalg.inv(self.ridge.inverse()) + self.keys.T @ self.keys
        inverse = torch.cholesky_inverse(torch.linalg.cholesky((gram + gram.T) / 2))
        return replace(self, inverse=inverse, change=self.values.T @ self.keys @ inverse)

    def _moved(self, delta: LowRank, inverse: Tensor, names: tuple[str, ...], keys: Tensor, values: Tensor) -> Ledger:
        symmetric = (inverse + inverse.T) / 2  # or rounding makes it drift
        return Ledger(self.ridge, symmetric, self.change + delta.dense(), names, keys, values)
