"""Gradient descent on low-rank blocks beside several matrices, without touching these: blocks are added by hooks.

y = W x + s · B (A x),   A (p, in) uniform within 1/√in, B (out, p) zero
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Site
from errata.model.lm import LM
from errata.model.tokens import Batch
from errata.model.trace import Trace, beside, resume
from errata.solve.descent.loop import Training, descend
from errata.solve.descent.losses import mean_loss

Factors = tuple[Float[Tensor, "p in"], Float[Tensor, "out p"]]


def begin(lm: LM, sites: Sequence[Site], rank: int, seed: int) -> dict[Site, Factors]:
    """Return blocks that change nothing yet, drawn from a seed alone."""
    made: dict[Site, Factors] = {}
    for place, site in enumerate(sites):
        matrix = lm.weights[site]
        out, width = matrix.shape
        draw = torch.Generator().manual_seed(seed * 1_000_003 + place)
        a = (torch.rand(rank, width, generator=draw) * 2 - 1) * width**-0.5
        made[site] = a.to(matrix.device), torch.zeros(out, rank, device=matrix.device)
    return made


def fit(
    lm: LM, batch: Batch, blocks: Mapping[Site, Factors], scale: float, how: Training
) -> tuple[dict[Site, Factors], float, int]:
    """Minimise the mean over rows of the mean NLL of their answers, by Adam on the blocks.

    Args:
        batch: its routes say what else is open meanwhile; see `LM.routed`.

    Returns:
        the blocks, the last loss, and the updates taken.

    Raises:
        NotFinite: the loss is not finite.
    """
    first = Site(min(site.layer for site in blocks), "block")
    with torch.no_grad(), Trace(lm, inputs=[first]) as trace:
        lm.answer_logits(batch)
    hidden = trace.inputs[first]
    leaves = {site: (a.clone().requires_grad_(), b.clone().requires_grad_()) for site, (a, b) in blocks.items()}

    def loss() -> Tensor:
        with resume(lm, first.layer, hidden):
            return answer_loss(lm, batch, leaves, scale)

    last, steps = descend([leaf for pair in leaves.values() for leaf in pair], loss, how, "training the block")
    return {site: (a.detach(), b.detach()) for site, (a, b) in leaves.items()}, last, steps


def answer_loss(lm: LM, batch: Batch, blocks: Mapping[Site, Factors], scale: float) -> Float[Tensor, ""]:
    """Return the mean over rows of the mean NLL of their answers, with the blocks beside their matrices."""
    with beside(lm, {site: partial(_added, pair, scale) for site, pair in blocks.items()}):
        return mean_loss(batch, lm.answer_logits(batch))


def _added(pair: Factors, scale: float, x: Float[Tensor, "b t in"]) -> Float[Tensor, "b t out"]:
    """Return what a block adds to what its matrix puts out."""
    a, b = pair
    return scale * (x.to(a.dtype) @ a.T @ b.T)
