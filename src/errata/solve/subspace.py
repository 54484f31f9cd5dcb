"""Directions of a matrix's output that an update is to stay out of: those earlier edits took, and those the model uses.

    taken = Span.none(out, in_).add(left, right).leading()      # U, of the sum of updates so far as a thin SVD
    room = Room(taken, without(G, taken))
    room.project(delta)                                         # (I − QQᵀ) δ, Q = orth[U, Ĝ]

A rank-one update is δuᵀ, and ``ΔW_iᵀΔW_j = u_i (δ_iᵀδ_j) u_jᵀ``: updates are orthogonal exactly if their δ are, so all of this
lives in the output space. Everything is float64 on the CPU; no dense matrix is ever decomposed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Change, Columns, Dense, Graft, LowRank

Basis = Float[Tensor, "out _"]
Similarity = Literal["absolute", "squared", "signed"]
Over = Literal["mean", "sum"]
_NOTHING = 1e-10  # a singular value below this share of what was summed is rounding
_AT_ONCE = 512  # columns that are added together
_VANISHED = 1e-6  # a unit direction of which less than this is left, once an overlap is removed, lies in it


@dataclass(frozen=True, eq=False)
class Span:
    """The thin SVD of a sum of updates, ``left · diag(values) · rightᵀ``.

    Args:
        left: (out, k) orthonormal. values: (k,) descending. right: (in, k) orthonormal.
    """

    left: Float[Tensor, "out k"]
    values: Float[Tensor, " k"]
    right: Float[Tensor, "in k"]

    @classmethod
    def none(cls, out: int, in_: int) -> Span:
        """Return the decomposition of no updates at all."""
        empty = [torch.zeros(size, 0, dtype=torch.float64) for size in (out, in_)]
        return cls(empty[0], torch.zeros(0, dtype=torch.float64), empty[1])

    def add(self, left: Float[Tensor, "out r"], right: Float[Tensor, "in r"]) -> Span:
        """Return the decomposition with ``left rightᵀ`` added: two thin QRs and the SVD of a (k + r)-sized core."""
        left, right = left.double().cpu(), right.double().cpu()
        if not left.shape[1]:
            return self
        # A term's size tells what of the result is rounding: the sum itself may vanish.
        size = self.values[:1].sum() + (left.norm(dim=0) * right.norm(dim=0)).max()
        if left.shape[1] > len(left):  # more terms than directions: summed first, it is Σ = I · Σ
            left, right = torch.eye(len(left), dtype=left.dtype), right @ left.T
        out, a = torch.linalg.qr(torch.cat([self.left, left], 1))
        in_, b = torch.linalg.qr(torch.cat([self.right, right], 1))
        k = len(self.values)
        core = (a[:, :k] * self.values) @ b[:, :k].T + a[:, k:] @ b[:, k:].T
        u, values, v = torch.linalg.svd(core, full_matrices=False)
        kept = values > _NOTHING * size
        return Span(out @ u[:, kept], values[kept], in_ @ v.T[:, kept])

    def add_changes(self, changes: Iterable[Change]) -> Span:
        """Return the decomposition with stored changes added, many at once; a graft is no sum and adds nothing."""
        span, waiting, columns = self, list[LowRank](), 0
        for change in changes:
            if isinstance(change, Graft):
                continue
            waiting.append(self._factors(change))
            columns += waiting[-1].left.shape[1]
            if columns >= _AT_ONCE:
                span, waiting, columns = span._with(waiting), [], 0
        return span._with(waiting)

    def _factors(self, change: LowRank | Columns | Dense) -> LowRank:
        if isinstance(change, Columns):
            return change.factors(len(self.right))
        return change if isinstance(change, LowRank) else LowRank(torch.eye(len(self.left)), change.matrix.T)

    def _with(self, changes: Sequence[LowRank]) -> Span:
        if not changes:
            return self
        left, right = (torch.cat([part.double().cpu() for part in parts], 1) for parts in
                       ([c.left for c in changes], [c.right for c in changes]))  # fmt: skip
        return self.add(left, right)

    def leading(self, energy: float = 1.0, most: int | None = None) -> Basis:
        """Return the leading left singular vectors.

        Args:
            energy: share of Σ values² they hold together. most: how many at most.
        """
        share = self.values.square().cumsum(0)
        count = len(share)
        if energy < 1 and count:
            count = int((share < energy * share[-1] * (1 - 1e-12)).sum()) + 1
        basis: Basis = self.left[:, : count if most is None else min(count, max(0, most))]
        return basis


def left_vectors(matrix: Float[Tensor, "out in"]) -> Float[Tensor, "out out"]:
    """Return all left singular vectors of a matrix, leading first, from its Gram matrix (out, out)."""
    matrix = matrix.double().cpu()
    vectors: Tensor = torch.linalg.eigh(matrix @ matrix.T).eigenvectors.flip(1)
    return vectors


def without(basis: Basis, taken: Basis) -> Basis:
    """Return ``Ĝ = G − U Uᵀ G`` with unit columns, those that vanish left out (arXiv 2410.11469, Eq. 12)."""
    rest = basis - taken @ (taken.T @ basis)
    rest = rest - taken @ (taken.T @ rest)  # twice is enough: what rounding left of U is gone
    size = rest.norm(dim=0)
    kept = size > _VANISHED
    found: Basis = rest[:, kept] / size[kept]
    return found


def orthonormal(*bases: Basis) -> Basis:
    """Return an orthonormal basis of all the columns together."""
    columns = torch.cat(bases, 1)
    u, values, _ = torch.linalg.svd(columns, full_matrices=False)
    basis: Basis = u[:, values > _VANISHED]
    return basis


def similarity(delta: Tensor, basis: Basis, kind: Similarity = "absolute", over: Over = "mean") -> Float[Tensor, " n"]:
    """Return the mean or sum over the basis' vectors of how much each δ looks their way; 0 for none or a δ of zero.

    Args:
        delta: (n, out); or (n, m, out), whole updates: |cos| is then ‖U_jᵀΔ‖ / ‖Δ‖, the same for rank one.
        kind: |cos|, cos² or cos. over: what is taken of the vectors.
    """
    if not basis.shape[1]:
        return delta.flatten(1).sum(1) * 0
    inner = delta @ basis.to(delta)
    inner = inner if delta.ndim == 2 else inner.norm(dim=1)  # (n, k)
    cos = inner / (delta.flatten(1).norm(dim=1, keepdim=True) + torch.finfo(delta.dtype).tiny)
    seen: Tensor = cos.abs() if kind == "absolute" else cos.square() if kind == "squared" else cos
    return seen.mean(1) if over == "mean" else seen.sum(1)


@dataclass(frozen=True, eq=False)
class FreeSpace:
    """What is taken at one site, and with it what is free.

    Args:
        history: (out, k) U, directions of the edits that stand.
        implicit: (out, q) Ĝ, directions of implicit knowledge without those of U.
    """

    history: Basis
    implicit: Basis

    @cached_property
    def taken(self) -> Basis:
        """Q, an orthonormal basis of everything taken, (out, k + q)."""
        return orthonormal(self.history, self.implicit)

    @property
    def free(self) -> int:
        """Number of directions left."""
        return int(self.taken.shape[0] - self.taken.shape[1])

    def to(self, like: Tensor) -> FreeSpace:
        """Return the same room in the dtype and on the device of a tensor."""
        made = FreeSpace(self.history.to(like), self.implicit.to(like))
        made.__dict__["taken"] = self.taken.to(like)
        return made

    def project(self, delta: Float[Tensor, "n out"]) -> Float[Tensor, "n out"]:
        """Return ``(I − QQᵀ) δ`` for each row, in its own dtype."""
        taken = self.taken.to(delta)
        return delta - (delta @ taken) @ taken.T
