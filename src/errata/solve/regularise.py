"""What is done to a finished update, or to a value, so that many in a row do less harm. Tensors in, tensors out, float64.

anchored    v* ← a · v*/‖v*‖                                NAS,    https://arxiv.org/abs/2602.02543
largest     entries of ΔW largest against W's               RECT,   https://arxiv.org/abs/2401.04700
compressed  U f(Σ) Vᵀ of the whole change                   PRUNE,  https://arxiv.org/abs/2405.16821
beside      ΔW (I − α U Uᵀ), U the main rows of W           SPHERE, https://arxiv.org/abs/2510.01172
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import LowRank

_Matrix = Float[Tensor, "out in"]


def with_norm(values: Float[Tensor, "n out"], norms: Float[Tensor, " n"]) -> Float[Tensor, "n out"]:
    """Return each value with its direction kept and the given norm (NAS)."""
    size = values.norm(dim=1).clamp(min=torch.finfo(values.dtype).tiny)
    moved: Tensor = values * (norms / size)[:, None]
    return moved


def largest(change: _Matrix, matrix: _Matrix, share: float) -> _Matrix:
    """Return `change` with only the `share` of entries kept that are largest relative to the matrix' own (RECT)."""
    change, matrix = change.double().cpu(), matrix.detach().double().cpu()
    relative = (change / matrix.where(matrix != 0, torch.finfo(matrix.dtype).tiny)).abs().flatten()
    count = max(1, round(share * relative.numel()))
    kept = torch.zeros_like(relative).index_fill(0, relative.topk(count).indices, 1.0)
    return change * kept.reshape(change.shape)


def compressed(change: _Matrix, base: _Matrix, alpha: float) -> _Matrix:
    """Return the whole change with its singular values above the base's largest pressed together (PRUNE).

    ``f(σ) = log_α σ − log_α σ_max + σ_max`` for σ above σ_max, the base's largest; what lies below is left.
    """
    u, values, v = torch.linalg.svd(change.double().cpu(), full_matrices=False)
    most = float(torch.linalg.matrix_norm(base.detach().double().cpu(), ord=2))
    pressed = (values.clamp(min=most).log() - math.log(most)) / math.log(alpha) + most
    result: Tensor = (u * torch.minimum(values, pressed)) @ v
    return result


def beside(change: LowRank, matrix: _Matrix, share: float, alpha: float) -> LowRank:
    """Return the change with its part along the matrix' main input directions weakened by `alpha` (SPHERE).

    Args:
        share: of ‖W‖² that the main directions hold together.
    """
    values, vectors = torch.linalg.eigh((m := matrix.detach().double().cpu()) @ m.T)  # of W Wᵀ, ascending
    held = values.flip(0).clamp(min=0).cumsum(0)
    count = int((held < share * held[-1]).sum()) + 1
    main = m.T @ vectors.flip(1)[:, :count]  # (in, r), the right singular vectors, to be given length 1
    main = main / main.norm(dim=0)
    right = change.right.double().cpu()
    return LowRank(change.left, right - alpha * main @ (main.T @ right))
