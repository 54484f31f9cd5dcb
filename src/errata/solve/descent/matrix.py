"""Gradient descent on one matrix, without touching it: the change is a tensor of its own, added by a hook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Site
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Batch
from errata.model.trace import Trace, beside, resume
from errata.solve.descent.loop import MiniBatch, Training, descend
from errata.solve.descent.losses import mean_loss
from errata.solve.values import Constraint


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixTraining(Training):
    """Settings of the descent on a matrix.

    Args:
        bound: largest change of any entry (FT-L's L∞ constraint); None for no bound.
        size: queries of a mini-batch; `steps` then counts rounds through all of them. None takes all at once.
    """

    bound: float | None = None
    size: int | None = None


def fit(
    lm: LM,
    site: Site,
    asked: Sequence[Query],
    how: MatrixTraining,
    labels: Sequence[Sequence[int]] | None = None,
    restraint: Constraint | None = None,
) -> tuple[Float[Tensor, "out in"], float, int]:
    """Minimise the mean over queries of the mean NLL of their answers, by Adam on a change of the matrix at `site`.

    Args:
        labels: token ids to be predicted at each query's *last* position, in place of its answer (FT-L).
        restraint: penalty on the whole change (1, in, out), not looked at by the stop rule, and projection of its columns.

    Returns:
        the change (out, in), the last loss (of the last round), and the updates (rounds) taken.

    Raises:
        NotFinite: the loss is not finite.
    """
    held, matrix = restraint or Constraint(), lm.weights[site].detach()
    change = torch.zeros_like(matrix, dtype=torch.promote_types(matrix.dtype, torch.float32)).requires_grad_()
    penalty = None if held.penalty is None else partial(_penalty, held.penalty, change)
    parts = [
        MiniBatch(partial(_loss, lm, site, batch, hidden, change), share, penalty)
        for batch, hidden, share in _batches(lm, site, asked, how, labels)
    ]

    hold = partial(_hold, change, how.bound, held)
    loss, steps = descend([change], parts, how, "fine-tuning", hold)
    return change.detach(), loss, steps


def _hold(change: Float[Tensor, "out in"], bound: float | None, held: Constraint, step: Callable[[], None]) -> None:
    """Take one step inside the bound and then inside what is free."""
    if held.project is not None and change.grad is not None:
        change.grad = held.project(change.grad.T).T
    step()
    with torch.no_grad():
        if bound is not None:
            change.clamp_(-bound, bound)
        if held.project is not None:
            change.copy_(held.project(change.T).T)


def _penalty(penalty: Callable[[Tensor], Tensor], change: Float[Tensor, "out in"]) -> Tensor:
    return penalty(change.T[None]).sum()


def _batches(
    lm: LM, site: Site, asked: Sequence[Query], how: MatrixTraining, labels: Sequence[Sequence[int]] | None
) -> Iterator[tuple[Batch, Tensor, float]]:
    """Yield each mini-batch, what enters the site's block in it, and its share of all queries."""
    block, size = Site(site.layer, "block"), how.size or len(asked)
    for start in range(0, len(asked), size):
        part = slice(start, start + size)
        batch = _labelled(lm.tokens.batch(asked[part]), labels if labels is None else labels[part])
        batch = lm.routed(batch.to(lm.device))
        with torch.no_grad(), Trace(lm, inputs=[block]) as trace:
            lm.answer_logits(batch)
        yield batch, trace.inputs[block], len(asked[part]) / len(asked)


def _loss(lm: LM, site: Site, batch: Batch, hidden: Float[Tensor, "b t d"], change: Float[Tensor, "out in"]) -> Tensor:
    with beside(lm, {site: lambda x: x.to(change.dtype) @ change.T}), resume(lm, site.layer, hidden):
        return mean_loss(batch, lm.answer_logits(batch))


def _labelled(batch: Batch, labels: Sequence[Sequence[int]] | None) -> Batch:
    """Put every row's labels at the one position it predicts from."""
    if labels is None:
        return batch
    rows = torch.tensor([i for i, ids in enumerate(labels) for _ in ids])
    wanted = torch.tensor([t for ids in labels for t in ids])
    return Batch(batch.inputs, batch.lookup, rows, batch.cols[rows], wanted, batch.ends)
