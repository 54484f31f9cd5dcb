"""Gradient descent on one matrix, without touching it: the change is a tensor of its own, added by a hook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Site
from errata.errors import NotFinite
from errata.model.lm import LM
from errata.model.tokens import Batch, Query
from errata.model.trace import Trace, resume


@dataclass(frozen=True, slots=True)
class Schedule:
    """Settings of the descent.

    Args:
        bound: largest change of any entry (FT-L's L∞ constraint); None for no bound.
        stop: mean loss at which to stop.
    """

    steps: int
    lr: float
    stop: float
    bound: float | None = None


def fit(
    lm: LM, site: Site, asked: Sequence[Query], schedule: Schedule, labels: Sequence[Sequence[int]] | None = None
) -> tuple[Float[Tensor, "out in"], float, int]:
    """Minimise the mean over queries of the mean NLL of their answers, by Adam on a change of the matrix at `site`.

    Args:
        labels: token ids to be predicted at each query's *last* position, in place of its answer (FT-L).

    Returns:
        the change (out, in), the last loss, and the updates taken.

    Raises:
        NotFinite: the loss is not finite.
    """
    batch = lm.routed(_labelled(lm.tokens.batch(asked), labels).to(lm.device))
    with torch.no_grad(), Trace(lm, inputs=[Site(site.layer, "block")]) as trace:
        lm.answer_logits(batch)
    hidden = trace.inputs[Site(site.layer, "block")]
    matrix = lm.weights[site]
    change = torch.zeros(matrix.shape, dtype=torch.promote_types(matrix.dtype, torch.float32), device=matrix.device)
    change.requires_grad_()
    optimizer = torch.optim.Adam([change], lr=schedule.lr)
    for step in range(schedule.steps + 1):
        with torch.enable_grad():
            loss = _loss(lm, site, batch, hidden, change)
        if not bool(loss.isfinite()):
            raise NotFinite("fine-tuning diverged; lower lr with --set lr=…")
        if loss.item() < schedule.stop or step == schedule.steps:
            break
        (change.grad,) = torch.autograd.grad(loss, change)
        optimizer.step()
        if schedule.bound is not None:
            with torch.no_grad():
                change.clamp_(-schedule.bound, schedule.bound)
    return change.detach(), loss.item(), step


def _loss(lm: LM, site: Site, batch: Batch, hidden: Float[Tensor, "b t d"], change: Float[Tensor, "out in"]) -> Tensor:
    inputs: list[Tensor] = []
    add = partial(_changed, change, inputs)
    with Trace(lm, tap={site: inputs.append}, replace={site: add}), resume(lm, site.layer, hidden):
        logp = lm.answer_logits(batch).log_softmax(-1)
    nll = -logp.gather(1, batch.labels[:, None])[:, 0]
    length = torch.bincount(batch.rows, minlength=len(batch))[batch.rows]
    return (nll / length).sum() / len(batch)


def _changed(change: Float[Tensor, "out in"], inputs: Sequence[Tensor], output: Float[Tensor, "b t out"]) -> Tensor:
    """Return what the matrix would put out with the change, given what it puts out and its last input."""
    return output + (inputs[-1].to(change.dtype) @ change.T).to(output.dtype)


def _labelled(batch: Batch, labels: Sequence[Sequence[int]] | None) -> Batch:
    """Put every row's labels at the one position it predicts from."""
    if labels is None:
        return batch
    rows = torch.tensor([i for i, ids in enumerate(labels) for _ in ids])
    wanted = torch.tensor([t for ids in labels for t in ids])
    return Batch(batch.inputs, batch.lookup, rows, batch.cols[rows], wanted, batch.ends)
