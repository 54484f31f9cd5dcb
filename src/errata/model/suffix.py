"""KV-cached suffix of a batch: run only the positions from each row's lookup token on, keep keys and values of those before.

What stands before a token does not depend on it, so while something is learned at the lookup token only the positions from
there on change. Prompts put a context and most of the subject before that token: what is left is a third of the tokens or
less. Not every architecture takes a mask of four dimensions, explicit positions and a cache that begins at a later layer; so
the cut batch is run once against the whole one, and `suffix_of` gives None where the two disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.model.lm import LM
from errata.model.tokens import Batch
from errata.model.trace import resume

_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError)


@dataclass(frozen=True, eq=False, slots=True)
class Suffix:
    """Rows from their lookup token on.

    Args:
        batch: its `lookup` is 0 everywhere; masks are (b, 1, w, h + w) over what is kept and what is left.
        hidden: (b, w, d), the input of the first layer that runs.
        kept: by layer, keys and values of the h positions before, (b, heads, h, size) each.
    """

    batch: Batch
    hidden: Float[Tensor, "b w d"]
    kept: Mapping[int, tuple[Tensor, Tensor]]

    def take(self, rows: Int[Tensor, " s"]) -> Suffix:
        """Return some rows."""
        kept = {layer: (k[rows], v[rows]) for layer, (k, v) in self.kept.items()}
        return Suffix(self.batch.take(rows), self.hidden[rows], kept)

    def cache(self, lm: LM) -> Any:
        """Return a cache that begins with what is kept; see `reused_cache`."""
        cache = lm.cache()
        for layer, (keys, values) in self.kept.items():
            cache.update(keys, values, layer)
        return cache


def reused_cache(cache: Any) -> Any:
    """Return a cache that begins with what another holds: a forward pass adds to the one it is given, not to the other."""
    made = copy(cache)
    made.layers = [copy(layer) for layer in cache.layers]  # a layer replaces its tensors, it does not write to them
    return made


@torch.no_grad()
def suffix_of(
    lm: LM, batch: Batch, hidden: Float[Tensor, "b t d"], layer: int, whole: tuple[Float[Tensor, "a v"], Any]
) -> Suffix | None:
    """Return the tail of `batch` for passes that begin at `layer`, or None where the architecture does not allow it.

    Args:
        hidden: the input of `layer`.
        whole: the logits of a full pass, which the tail's are compared with, and the cache it filled.
    """
    if not lm.row.skips:
        return None
    expected, cache = whole
    try:
        tail = _tail(batch, hidden, {i: (cache.layers[i].keys, cache.layers[i].values) for i in range(layer, lm.depth)})
        with resume(lm, layer, tail.hidden):
            logits = lm.answer_logits(tail.batch, tail.cache(lm))
    except _REFUSALS:
        return None
    exact = next(lm.model.parameters()).dtype in (torch.float32, torch.float64)
    agrees = (logits - expected).abs().max() <= (1e-4 if exact else 3e-2) * expected.abs().max()
    return tail if bool(agrees) else None


def _tail(batch: Batch, hidden: Tensor, kept: Mapping[int, tuple[Tensor, Tensor]]) -> Suffix:
    lookup = batch.lookup
    length = batch.inputs["attention_mask"].sum(1)
    h, w = int(lookup.max()), int((length - lookup).max())
    step = torch.arange(w, device=lookup.device)
    place = (lookup[:, None] + step).clamp(max=hidden.shape[1] - 1)  # (b, w)
    before = torch.arange(h, device=lookup.device)[None] < lookup[:, None]  # (b, h)
    real = step[None] < (length - lookup)[:, None]  # (b, w)
    back = (step[:, None] >= step[None])[None] & real[:, None]  # (b, w, w)
    seen = torch.cat([before[:, None].expand(-1, w, -1), back], -1)[:, None]
    mask = torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device)
    mask = mask.masked_fill(~seen, torch.finfo(hidden.dtype).min)
    inputs = {"input_ids": batch.inputs["input_ids"].gather(1, place), "attention_mask": mask, "position_ids": place}
    rows = torch.arange(len(batch), device=lookup.device)[:, None]
    assert batch.ends is not None
    return Suffix(
        Batch(
            inputs,
            torch.zeros_like(lookup),
            batch.rows,
            batch.cols - lookup[batch.rows],
            batch.labels,
            batch.ends - lookup,
            batch.routes,
        ),
        hidden[rows, place],
        {layer: (k[:, :, :h].contiguous(), v[:, :, :h].contiguous()) for layer, (k, v) in kept.items()},
    )
