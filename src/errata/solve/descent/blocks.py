"""Gradient descent on low-rank blocks beside several matrices, without touching these: blocks are added by hooks.

y = W x + s · B (A x),   A (p, in) uniform within 1/√in, B (out, p) zero
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Site
from errata.model.lm import LM
from errata.model.tokens import Batch
from errata.model.trace import Hidden, Trace, beside, resume
from errata.solve.descent.loop import Training, descend
from errata.solve.descent.losses import divergence, mean_loss

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
    lm: LM,
    batches: Sequence[Batch],
    blocks: Mapping[Site, Factors],
    scale: float,
    how: Training,
    kept: Sequence[Batch] = (),
) -> tuple[dict[Site, Factors], float, int]:
    """Minimise the mean over rows of the mean NLL of their answers, by Adam on the blocks.

    Args:
        batches: their routes say what else is open meanwhile; see `LM.routed`.
        kept: rows after which the model is to say what it says without the blocks: the mean KL divergence from that is
            minimised as well.

    Returns:
        the blocks, the last loss, and the updates taken.

    Raises:
        NotFinite: the loss is not finite.
    """
    first = Site(min(site.layer for site in blocks), "block")
    learned, held = ([_Rows.of(lm, batch, first) for batch in given] for given in (batches, kept))
    before = [_said(lm, rows) for rows in held]
    count, places = sum(len(rows.batch) for rows in learned), sum(len(said) for said in before)
    leaves = {site: (a.clone().requires_grad_(), b.clone().requires_grad_()) for site, (a, b) in blocks.items()}

    def loss() -> Tensor:
        with beside(lm, _all_added(leaves, scale)):
            found = sum(mean_loss(rows.batch, rows.logits(lm)) * (len(rows.batch) / count) for rows in learned)
            moved = sum(divergence(said, rows.logits(lm)) / places for rows, said in zip(held, before, strict=True))
        return torch.as_tensor(found + moved)

    last, steps = descend([leaf for pair in leaves.values() for leaf in pair], loss, how, "training the block")
    return {site: (a.detach(), b.detach()) for site, (a, b) in leaves.items()}, last, steps


@dataclass(frozen=True, eq=False, slots=True)
class _Rows:
    """Rows, and what they put into the first block that may change."""

    batch: Batch
    first: Site
    hidden: Hidden

    @classmethod
    @torch.no_grad()
    def of(cls, lm: LM, batch: Batch, first: Site) -> _Rows:
        with Trace(lm, inputs=[first]) as trace:
            lm.answer_logits(batch)
        return cls(batch, first, trace.inputs[first])

    def logits(self, lm: LM) -> Float[Tensor, "a v"]:
        with resume(lm, self.first.layer, self.hidden):
            return lm.answer_logits(self.batch)


@torch.no_grad()
def _said(lm: LM, rows: _Rows) -> Float[Tensor, "a v"]:
    return rows.logits(lm).log_softmax(-1)


def answer_loss(lm: LM, batch: Batch, blocks: Mapping[Site, Factors], scale: float) -> Float[Tensor, ""]:
    """Return the mean over rows of the mean NLL of their answers, with the blocks beside their matrices."""
    with beside(lm, _all_added(blocks, scale)):
        return mean_loss(batch, lm.answer_logits(batch))


def _all_added(blocks: Mapping[Site, Factors], scale: float) -> dict[Site, Callable[[Tensor], Tensor]]:
    return {site: partial(_added, pair, scale) for site, pair in blocks.items()}


def _added(pair: Factors, scale: float, x: Float[Tensor, "b t in"]) -> Float[Tensor, "b t out"]:
    """Return what a block adds to what its matrix puts out."""
    a, b = pair
    return scale * (x.to(a.dtype) @ a.T @ b.T)
