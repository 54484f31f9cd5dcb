"""Gradient descent on low-rank blocks beside several matrices, without touching these: blocks are added by hooks.

y = W x + s · B (A x),   A (p, in) uniform within 1/√in, B (out, p) zero
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Site
from errata.errors import NotFinite
from errata.model.lm import LM
from errata.model.tokens import Batch
from errata.model.trace import Trace, beside, resume
from errata.solve.descent.losses import mean_loss

Factors = tuple[Float[Tensor, "p in"], Float[Tensor, "out p"]]


@dataclass(frozen=True, slots=True)
class Descent:
    """Settings of Adam.

    Args:
        every, gamma: the step size is multiplied by `gamma` after each `every` steps.
        stop: mean loss at which to stop.
    """

    steps: int
    lr: float
    every: int = 1_000_000
    gamma: float = 1.0
    stop: float = 0.0


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
    lm: LM, batch: Batch, blocks: Mapping[Site, Factors], scale: float, descent: Descent
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
    flat = [leaf for pair in leaves.values() for leaf in pair]
    optimizer = torch.optim.Adam(flat, lr=descent.lr)
    for step in range(descent.steps + 1):
        with torch.enable_grad(), resume(lm, first.layer, hidden):
            loss = answer_loss(lm, batch, leaves, scale)
        if not bool(loss.isfinite()):
            raise NotFinite("training the block diverged; lower lr with --set lr=…")
        if loss.item() <= descent.stop or step == descent.steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = descent.lr * descent.gamma ** (step // descent.every)
        for leaf, gradient in zip(flat, torch.autograd.grad(loss, flat), strict=True):
            leaf.grad = gradient
        optimizer.step()
    return {site: (a.detach(), b.detach()) for site, (a, b) in leaves.items()}, loss.item(), step


def answer_loss(lm: LM, batch: Batch, blocks: Mapping[Site, Factors], scale: float) -> Float[Tensor, ""]:
    """Return the mean over rows of the mean NLL of their answers, with the blocks beside their matrices."""
    with beside(lm, {site: partial(_added, pair, scale) for site, pair in blocks.items()}):
        return mean_loss(batch, lm.answer_logits(batch))


def _added(pair: Factors, scale: float, x: Float[Tensor, "b t in"]) -> Float[Tensor, "b t out"]:
    """Return what a block adds to what its matrix puts out."""
    a, b = pair
    return scale * (x.to(a.dtype) @ a.T @ b.T)
