"""Closed forms: which change of a matrix sends keys to values and disturbs ordinary keys least.

Tensors in, tensors out, float64 inside. No ``in × in`` system is solved per edit: C is factored once, and a batch of n
keys costs an n × n system (Woodbury).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import LowRank
from errata.errors import NotFinite

Keys = Float[Tensor, "n in"]
Past = Float[Tensor, "m in"]
Rows = Float[Tensor, "n out"]
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
        matrix = second.double() * weight
        if damping:
            matrix = matrix + damping * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)
        mean, eye = float(matrix.diagonal().mean()), torch.eye(len(matrix), dtype=matrix.dtype)
        for share in _JITTER:
            self.jitter = share * mean
            self._factor, failed = torch.linalg.cholesky_ex(matrix + self.jitter * eye)
            if not bool(failed) and bool(self._factor.isfinite().all()):
                return
        raise NotFinite(
            "the covariance of the keys is zero or not finite: the model gives nothing usable on the corpus; "
            "load it in float32 or bfloat16, or name another corpus."
        )

    def solve(self, keys: Keys) -> Keys:
        """Return (λC)⁻¹ k for each key, (n, in) float64."""
        return torch.cholesky_solve(keys.double().cpu().T, self._factor).T

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


def equality(residuals: Rows, keys: Keys, ridge: Ridge, epsilon: float) -> LowRank:
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


def batch(residuals: Rows, keys: Keys, ridge: Ridge, past: Past | None = None) -> LowRank:
    """MEMIT's update: ``Δ = R Kᵀ (λC + K_p K_pᵀ + K Kᵀ)⁻¹`` (arXiv 2210.07229, Eq. 14), as factors of rank n.

    With A = λC + K_p K_pᵀ, Woodbury gives ``Δ = R (I + Kᵀ A⁻¹ K)⁻¹ (A⁻¹ K)ᵀ``.

    Args:
        residuals: R, one row a fact. keys: K, one row a fact.
        past: keys of earlier edits, (m, in), whose outputs are to stay (``history``); None or no rows: no such term.
    """
    keys, residuals = keys.double().cpu(), residuals.double().cpu()
    solved = _shielded(keys, ridge, past)  # A⁻¹K as rows, (n, in)
    inner = torch.eye(len(keys), dtype=torch.float64) + keys @ solved.T
    left = torch.linalg.solve(inner.T, residuals)  # (I + KᵀA⁻¹K)⁻ᵀ R, (n, out); the matrix is symmetric up to rounding
    return LowRank(left.T.contiguous(), solved.T.contiguous())


def _shielded(keys: Keys, ridge: Ridge, past: Past | None) -> Keys:
    """Return (λC + K_p K_pᵀ)⁻¹ k for each key."""
    solved = ridge.solve(keys)
    if past is None or not len(past):
        return solved
    past = past.double().cpu()
    shield = ridge.solve(past)  # (m, in)
    inner = torch.eye(len(past), dtype=torch.float64) + past @ shield.T
    factor = torch.linalg.cholesky((inner + inner.T) / 2)
    return solved - torch.cholesky_solve(past @ solved.T, factor).T @ shield
