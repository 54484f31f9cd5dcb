"""What descents here minimise: the mean over rows of the mean −log P of their answers' tokens, and what moves elsewhere."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from errata.model.tokens import Batch


def answer_losses(batch: Batch, logp: Float[Tensor, "a v"]) -> Float[Tensor, " l"]:
    """Return −log P of every answer token, divided by how many its row's answer has.

    Args:
        logp: log-probabilities where the batch predicts; rows without an answer (label -1) are left out.
    """
    answer = batch.labels >= 0
    row = batch.rows[answer]
    nll = -logp.gather(1, batch.labels.clamp(min=0)[:, None])[:, 0][answer]
    return nll / torch.bincount(row, minlength=len(batch))[row]


def row_losses(batch: Batch, logits: Float[Tensor, "a v"]) -> Float[Tensor, " b"]:
    """Return the mean NLL of each row's answer; 0 for a row without one."""
    losses = answer_losses(batch, logits.log_softmax(-1))
    return losses.new_zeros(len(batch)).index_add(0, batch.rows[batch.labels >= 0], losses)


def mean_loss(batch: Batch, logits: Float[Tensor, "a v"]) -> Float[Tensor, ""]:
    """Return the mean over rows of the mean NLL of their answers; every row has one."""
    return answer_losses(batch, logits.log_softmax(-1)).sum() / len(batch)


def divergence(before: Float[Tensor, "a v"], logits: Float[Tensor, "a v"]) -> Float[Tensor, ""]:
    """Return the sum over places of the KL divergence from what was said before, given as log-probabilities."""
    return torch.nn.functional.kl_div(logits.log_softmax(-1), before, log_target=True, reduction="sum")
