"""The gradient of the language-modelling loss on ordinary text, for every wanted matrix in one pass.

Its leading left singular vectors are the output directions along which the base model's implicit knowledge moves most
(O-Edit, https://arxiv.org/abs/2410.11469). Sums are float64 and add up like those of `stats.moments`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from errata.delta import Site
from errata.errors import NotFinite
from errata.model.lm import LM
from errata.model.storage import device_of
from errata.model.tokens import Batch
from errata.model.trace import beside, no_grads_kept
from errata.stats.sums import Sum


@dataclass(frozen=True, eq=False, slots=True)
class GradientSum(Sum):
    """A sum of gradients and the number of predicted tokens it is over; its mean is the gradient per token.

    Args:
        total: (out, in) float64, Σ ∂(−log p(token)) / ∂W. count: tokens predicted.
    """

    _nothing = "no text was read"


def of_batch(
    lm: LM, sites: Sequence[Site], ids: Int[Tensor, "b t"], real: Bool[Tensor, "b t"]
) -> Mapping[Site, GradientSum]:
    """Return each site's gradient over the tokens of one batch: one forward and one backward pass for all of them.

    A decoder predicts every token from those before it. An encoder-decoder reads the first half of the columns and is
    asked for the second.

    Raises:
        UnknownSite: a site without a weight. NotFinite: the loss or a gradient is not.
    """
    # A matrix that cannot be written has no gradient of its own: a matrix of zeros beside it has the same.
    zeros = {s: torch.zeros(lm.shape(s), device=device_of(lm.module(s))) for s in sites if not lm.writable(s)}
    weights = [zeros[site] if site in zeros else lm.stored(site) for site in sites]
    inputs, labels, asked = task(lm, ids, real)
    with (
        no_grads_kept(lm.model),
        torch.enable_grad(),
        beside(lm, {site: partial(_product, zero) for site, zero in zeros.items()}),
    ):
        for weight in weights:
            weight.requires_grad_(True)
        loss = text_loss(lm, inputs, labels, asked)
        found = torch.autograd.grad(loss, weights)
    if not bool(loss.isfinite()) or not all(bool(g.isfinite().all()) for g in found):
        raise NotFinite("the loss on ordinary text is not finite; load the model in float32 or bfloat16.")
    count = int(asked.sum())
    pairs = zip(sites, found, strict=True)
    turned = {site: g.T if lm.row.transposed and site not in zeros else g for site, g in pairs}
    return {site: GradientSum(g.contiguous().double().cpu(), count) for site, g in turned.items()}


def _product(matrix: Float[Tensor, "out in"], x: Float[Tensor, "b t in"]) -> Float[Tensor, "b t out"]:
    return x.to(matrix) @ matrix.T


def text_loss(
    lm: LM, inputs: dict[str, Tensor], labels: Int[Tensor, "b s"], asked: Bool[Tensor, "b s"]
) -> Float[Tensor, ""]:
    """Return Σ −log p of the tokens a text is to be predicted with, as `task` gives them; in float32 or finer."""
    logits = lm.forward(Batch.unlabelled(inputs))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))[asked.to(logits.device)]
    return torch.nn.functional.cross_entropy(logits, labels[asked].to(logits.device), reduction="sum")


def task(
    lm: LM, ids: Int[Tensor, "b t"], real: Bool[Tensor, "b t"]
) -> tuple[dict[str, Tensor], Int[Tensor, "b s"], Bool[Tensor, "b s"]]:
    """Return (model inputs, the token each position is to predict, whether there is one)."""
    if lm.row.kind == "encoder-decoder":
        half = max(1, ids.shape[1] // 2)
        labels, asked = ids[:, half:], real[:, half:] & real[:, :1]
        start = torch.full_like(ids[:, :1], lm.tokens.start)
        given = {"input_ids": ids[:, :half], "attention_mask": real[:, :half].long()}
        return {**given, "decoder_input_ids": torch.cat([start, labels[:, :-1]], 1)}, labels, asked
    inputs = {"input_ids": ids, "attention_mask": real.long()}
    labels = ids.roll(-1, 1)
    asked = real & real.roll(-1, 1)
    asked[:, -1] = False
    return inputs, labels, asked
