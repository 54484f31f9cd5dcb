"""Ridge regression over a set of rows that come and go: a table of (key, value), of which the change is the view.

    ledger, delta = Ledger.open(ridge, out).add(names, keys, values)
    ledger, delta = ledger.drop(names)                          # as had they never been there

The change of a matrix is the ridge solution over the rows that stand,

    ΔW = V Kᵀ G⁻¹,   G = λC + K Kᵀ

so it depends neither on their order nor on how they came. G⁻¹ is kept and moved by rank-n updates (Woodbury): adding or
dropping n rows costs O(in² n), however many stand. The updates are kept as factors, and multiplied out when there are many.

Taking a row out subtracts what it had put in, and loses what cancels: with the leverage h = kᵀG⁻¹k, what is left of 1 is
1 − h, known to no better than eps · kᵀ(λC)⁻¹k. That ratio is the relative error of one removal. The ledger adds these up as
its `wear` and solves anew from the rows that stand before they reach the tenth digit; ordinary rows (h ≤ ½) wear it by one
unit in the last place each, so that the cost of a removal stays what it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import LowRank
from errata.solve.least_squares import AT_ONCE, FACTORS, Ridge

Pair: TypeAlias = tuple[Tensor, Tensor]
_EPS: Final = torch.finfo(torch.float64).eps
_WORN: Final = 1e-10  # relative error that removals may come to, before all is solved anew: nine digits are promised


class _Factors(NamedTuple):
    """Updates not multiplied out yet: G⁻¹ has moved by ``movedᵀ right``, ΔW by ``leftᵀ right``."""

    moved: Float[Tensor, "m in"]
    right: Float[Tensor, "m in"]
    left: Float[Tensor, "m out"]


@dataclass(frozen=True, eq=False)
class Ledger:
    """The rows that stand, and what follows from them.

    Args:
        ridge: λC, factored.
        past: (in, in) G⁻¹ and (out, in) ΔW before the updates that wait in `factors`.
        rows: (key, value) of each by its name; the value is what ΔW is to give at the key.
        wear: relative error that the removals so far can have come to.
    """

    ridge: Ridge
    past: tuple[Float[Tensor, "in in"], Float[Tensor, "out in"]]
    factors: _Factors
    rows: Mapping[str, Pair]
    wear: float = 0.0

    @classmethod
    def open(cls, ridge: Ridge, out: int) -> Ledger:
        """Return a ledger without rows, for a matrix with `out` outputs."""
        inverse = _symmetric(ridge.inverse())
        return cls._of(ridge, (inverse, inverse.new_zeros(out, len(inverse))), {})

    @classmethod
    def _of(cls, ridge: Ridge, past: tuple[Tensor, Tensor], rows: Mapping[str, Pair], wear: float = 0.0) -> Ledger:
        out, in_ = past[1].shape
        none = _Factors(*(past[0].new_zeros(0, size) for size in (in_, in_, out)))
        return cls(ridge, past, none, rows, wear)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the rows, in order."""
        return tuple(self.rows)

    @property
    def inverse(self) -> Float[Tensor, "in in"]:
        """G⁻¹, multiplied out."""
        return _symmetric(self.past[0] + self.factors.moved.T @ self.factors.right)

    @property
    def change(self) -> Float[Tensor, "out in"]:
        """ΔW, multiplied out."""
        return self.past[1] + self.factors.left.T @ self.factors.right

    def gives(self, keys: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        """Return ``ΔW k`` for each key."""
        keys = keys.double().cpu()
        return keys @ self.past[1].T + (keys @ self.factors.right.T) @ self.factors.left

    def _solve(self, keys: Tensor) -> Tensor:
        """Return ``G⁻¹ k`` for each key."""
        return keys @ self.past[0] + (keys @ self.factors.moved.T) @ self.factors.right

    def gain(self, keys: Float[Tensor, "n in"], values: Float[Tensor, "n out"]) -> LowRank:
        """Return by how much ΔW changes with rows more: ``(V − ΔW K) Kᵀ G⁻¹`` with the new G."""
        return self._gained(keys.double().cpu(), values.double().cpu())[0]

    def _gained(self, keys: Tensor, values: Tensor) -> tuple[LowRank, Tensor]:
        """Return the change of ΔW, and what its right factor is to be multiplied with for the change of G⁻¹."""
        solved = self._solve(keys)  # G⁻¹K as rows, (n, in)
        inner = torch.eye(len(keys), dtype=keys.dtype) + solved @ keys.T
        right = torch.linalg.solve(inner, solved)  # (n, in)
        return LowRank((values - self.gives(keys)).T.contiguous(), right.T.contiguous()), -solved

    def add(
        self, names: Sequence[str], keys: Float[Tensor, "n in"], values: Float[Tensor, "n out"]
    ) -> tuple[Ledger, LowRank]:
        """Return the ledger with these rows too, of names that have none yet, and by how much ΔW changes."""
        assert not self.rows.keys() & set(names)
        keys, values = keys.double().cpu(), values.double().cpu()
        delta, moved = self._gained(keys, values)
        new = dict(zip(names, zip(keys, values, strict=True), strict=True))
        return self._moved(delta, moved, {**self.rows, **new}), delta

    def put(self, names: Sequence[str], keys: Float[Tensor, "n in"], values: Float[Tensor, "n out"]) -> Ledger:
        """Return the ledger with many rows, each in place of the one of its name: the last, if one comes several times."""
        ledger, _ = self.drop(names)
        last = sorted({name: place for place, name in enumerate(names)}.values())
        for start in range(0, len(last), AT_ONCE):
            places = last[start : start + AT_ONCE]
            ledger, _ = ledger.add([names[place] for place in places], keys[places], values[places])
        return ledger

    def drop(self, names: Collection[str]) -> tuple[Ledger, LowRank]:
        """Return the ledger without the rows of these names, and by how much ΔW changes.

        In closed form, ``−(v − ΔW k) kᵀ (G − k kᵀ)⁻¹``; where too many digits would cancel, from the rows that are left.
        """
        gone = [self.rows[name] for name in dict.fromkeys(names) if name in self.rows]
        if not gone:
            return self, LowRank(self.past[1][:, :0], self.past[0][:, :0])
        wanted = set(names)
        left = {name: row for name, row in self.rows.items() if name not in wanted}
        keys, values = _stacked(gone)
        solved = self._solve(keys)
        inner = torch.eye(len(keys), dtype=keys.dtype) - solved @ keys.T
        wear = self.wear + self._cancelled(keys, inner)
        if not wear < _WORN:
            anew = replace(self, rows=left).solved()
            return anew, anew.gain(keys, values) * -1.0
        right = torch.linalg.solve(inner, solved)
        delta = LowRank(-(values - self.gives(keys)).T.contiguous(), right.T.contiguous())
        return replace(self._moved(delta, solved, left), wear=wear), delta

    def _cancelled(self, keys: Tensor, inner: Float[Tensor, "n n"]) -> float:
        """Return the relative error of taking rows out, whose ``I − KᵀG⁻¹K`` is `inner`; infinite where nothing is left."""
        most = float(torch.linalg.matrix_norm(keys @ self.ridge.solve(keys).T, 2))  # of Kᵀ(λC)⁻¹K: what is subtracted
        least = float(torch.linalg.eigvalsh((inner + inner.T) / 2)[0])
        return _EPS * (1 + most) / least if least > 0 else float("inf")

    def solved(self) -> Ledger:
        """Return the same rows solved from nothing: what all the others must equal.

        As a least-squares problem, ``min ‖ΔW K − V‖² + ‖ΔW L‖²`` with λC = LLᵀ, by the QR factorisation of ``[KᵀL⁻ᵀ; I]``
        with the heaviest rows first: G itself is never formed, so that a row heavier than all others together, which would
        leave no digit of theirs in G, costs none.
        """
        if not self.rows:
            return self.open(self.ridge, len(self.past[1]))
        keys, values = _stacked(list(self.rows.values()))
        white = self.ridge.whiten(keys)  # KᵀL⁻ᵀ, (n, in)
        order = white.square().sum(1).argsort(descending=True)
        white, values = white[order], values[order]
        q, r = torch.linalg.qr(torch.cat([white, torch.eye(white.shape[1], dtype=white.dtype)]))
        root = torch.linalg.solve_triangular(r.T, self.ridge.whiten(torch.eye(white.shape[1])).T, upper=False)
        return self._of(self.ridge, (root.T @ root, values.T @ q[: len(white)] @ root), self.rows)

    def _moved(self, delta: LowRank, moved: Tensor, rows: Mapping[str, Pair]) -> Ledger:
        new = (moved, delta.right.T, delta.left.T)
        found = replace(self, factors=_Factors(*map(torch.cat, zip(self.factors, new, strict=True))), rows=rows)
        if len(found.factors.right) <= min(FACTORS, moved.shape[1] // 4):
            return found
        return self._of(self.ridge, (found.inverse, found.change), rows, self.wear)


def _stacked(rows: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])


def _symmetric(inverse: Tensor) -> Tensor:
    return (inverse + inverse.T) / 2  # or rounding makes it drift
