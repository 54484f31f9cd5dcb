"""Closed forms: which change of a matrix sends keys to values and disturbs ordinary keys least.

Tensors in, tensors out, float64 inside. No ``in × in`` system is solved per edit: C is factored once, and a batch of n
keys costs an n × n system (Woodbury).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import LowRank
from errata.errors import NotFinite

Keys = Float[Tensor, "n in"]
Outputs = Float[Tensor, "n out"]
AT_ONCE: Final = 512  # keys of a long list that are entered together: one system of that size
FACTORS: Final = 1024  # at most so many factors wait to be multiplied out; a quarter of `in` if that is fewer
_JITTER = (0.0, *(10.0**-power for power in range(10, 1, -1)))


class Ridge:
    """The factored matrix λC, and solves with it.

    Args:
        second: C = E[k kᵀ], (in, in), symmetric positive semi-definite.
        weight: λ.
        damping: share of C's mean diagonal added to it first.

    A covariance estimated from few tokens can be singular; then the smallest multiple of its mean diagonal that lets
    the factorisation through, from 1e-10 up, is added to the diagonal and kept in `jitter`.

    Raises:
        NotFinite: it is zero, not finite, or no covariance.
    """

    def __init__(self, second: Float[Tensor, "in in"], weight: float = 1.0, damping: float = 0.0) -> None:
        matrix = second.double() * weight  # this and the factor: of a large model there is no room for more copies
        diagonal = matrix.diagonal()
        if damping:
            diagonal.add_(damping * diagonal.mean())
        mean, whole = float(diagonal.mean()), diagonal.clone()
        for share in _JITTER:
            self.jitter = share * mean
            diagonal.copy_(whole + self.jitter)
            self._factor, failed = torch.linalg.cholesky_ex(matrix)
            if not bool(failed) and bool(self._factor.isfinite().all()):
                return
        raise NotFinite(
            "the covariance of the keys is zero or not finite: the model gives nothing usable on the corpus; "
            "load it in float32 or bfloat16, or name another corpus."
        )

    def solve(self, keys: Keys) -> Keys:
        """Return (λC)⁻¹ k for each key, (n, in) float64."""
        return torch.cholesky_solve(keys.double().cpu().T, self._factor).T

    def whiten(self, keys: Keys) -> Keys:
        """Return L⁻¹ k for each key, (n, in) float64, where λC = LLᵀ: ordinary keys are as likely in every direction then."""
        found: Tensor = torch.linalg.solve_triangular(self._factor, keys.double().cpu().T, upper=False).T
        return found

    def inverse(self) -> Float[Tensor, "in in"]:
        """Return (λC)⁻¹, (in, in) float64."""
        found: Tensor = torch.cholesky_inverse(self._factor)
        return found


def rank_one(
    residual: Float[Tensor, " out"], key: Float[Tensor, " in"], current: Float[Tensor, " in"], ridge: Ridge
) -> LowRank:
    """ROME's update: ``ΔW = (v* − W k)(C⁻¹ k*)ᵀ / (kᵀ C⁻¹ k*)`` (arXiv 2202.05262, Eq. 2).

    Args:
        residual: v* − W k.
        key: k*, averaged over contexts. current: k, the key on the bare prompt (R-ROME: k* again).
    """
    direction = ridge.solve(key[None])[0]
    denominator = current.double().cpu() @ direction
    return LowRank((residual.double().cpu() / denominator)[:, None], direction[:, None])


def equality(residuals: Outputs, keys: Keys, ridge: Ridge, epsilon: float) -> LowRank:
    """EMMET's update: ``Δ = R (Kᵀ C⁻¹ K + εI)⁻¹ Kᵀ C⁻¹`` (arXiv 2403.14236, Eq. 8), as factors of rank n.

    With one key and ε = 0 it is ROME's. Keys that depend on one another share what their system can give (pseudo-inverse).

    Args:
        residuals: R, one row a fact. keys: K, one row a fact. epsilon: ε.
    """
    keys, residuals = keys.double().cpu(), residuals.double().cpu()
    solved = ridge.solve(keys)  # C⁻¹K as rows, (n, in)
    inner = keys @ solved.T + epsilon * torch.eye(len(keys), dtype=torch.float64)
    left = torch.linalg.pinv((inner + inner.T) / 2, hermitian=True) @ residuals
    return LowRank(left.T.contiguous(), solved.T.contiguous())


def null_space(second: Float[Tensor, "in in"], threshold: float | None, fraction: float) -> Float[Tensor, "in p"]:
    """Return the eigenvectors of C along which ordinary keys hardly vary (AlphaEdit, arXiv 2410.02355).

    Args:
        threshold: eigenvalues below it count as none; None takes the smallest `fraction` of them instead.
    """
    values, vectors = torch.linalg.eigh(second.double().cpu())  # ascending
    count = int((values < threshold).sum()) if threshold is not None else round(fraction * len(values))
    if not count:
        raise NotFinite("no direction of the keys is free under this threshold; raise it, or set fraction.")
    found: Tensor = vectors[:, :count]
    return found


def batch(residuals: Outputs, keys: Keys, ridge: Ridge | Shield) -> LowRank:
    """MEMIT's update: ``Δ = R Kᵀ (λC + K_p K_pᵀ + K Kᵀ)⁻¹`` (arXiv 2210.07229, Eq. 14), as factors of rank n.

    With A = λC + K_p K_pᵀ, Woodbury gives ``Δ = R (I + Kᵀ A⁻¹ K)⁻¹ (A⁻¹ K)ᵀ``.

    Args:
        residuals: R, one row a fact. keys: K, one row a fact.
        ridge: λC; or A, with the keys of earlier edits whose outputs are to stay (``history``).
    """
    keys, residuals = keys.double().cpu(), residuals.double().cpu()
    solved = ridge.solve(keys)  # A⁻¹K as rows, (n, in)
    inner = torch.eye(len(keys), dtype=torch.float64) + keys @ solved.T
    left = torch.linalg.solve(inner.T, residuals)  # (I + KᵀA⁻¹K)⁻ᵀ R, (n, out); the matrix is symmetric up to rounding
    return LowRank(left.T.contiguous(), solved.T.contiguous())


@dataclass(frozen=True, eq=False)
class Shield:
    """The matrix A = λC + K_p K_pᵀ, and solves with it; K_p grows key by key at a cost that does not grow with it.

    ``A⁻¹ = B − GᵀG`` with a row of G for each key. B is (λC)⁻¹, which its factor stands for, until G has a quarter of the
    rows the matrix has; then what A⁻¹ is so far is multiplied out and kept as B.

    Args:
        ridge: λC, factored. rows: G. inverse: B, once it is another.
    """

    ridge: Ridge
    rows: Float[Tensor, "m in"] | None = None
    inverse: Float[Tensor, "in in"] | None = None

    def solve(self, keys: Keys) -> Keys:
        """Return A⁻¹ k for each key, (n, in) float64."""
        keys = keys.double().cpu()
        solved = self.ridge.solve(keys) if self.inverse is None else keys @ self.inverse
        return solved if self.rows is None else solved - (keys @ self.rows.T) @ self.rows

    def add(self, keys: Keys) -> Shield:
        """Return the matrix with these keys among K_p too."""
        found = self
        for part in keys.double().cpu().split(AT_ONCE):
            found = found._with(part) if len(part) else found
        return found

    def _with(self, keys: Keys) -> Shield:
        solved = self.solve(keys)
        inner = torch.eye(len(keys), dtype=torch.float64) + solved @ keys.T
        factor = torch.linalg.cholesky((inner + inner.T) / 2)
        new = torch.linalg.solve_triangular(factor, solved, upper=False)  # (n, in)
        rows = new if self.rows is None else torch.cat([self.rows, new])
        if len(rows) <= min(FACTORS, keys.shape[1] // 4):
            return replace(self, rows=rows)
        inverse = self.ridge.inverse() if self.inverse is None else self.inverse
        inverse = inverse - rows.T @ rows
        return replace(self, rows=None, inverse=(inverse + inverse.T) / 2)
