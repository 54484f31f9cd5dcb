"""Uncentred second moments of keys, ``C = E[k kᵀ]``, for every wanted layer in one pass.

Sums are float64 and add up: over batches, shards and machines (``a + b``). Products are symmetric rank-k updates in
float32: only blocks on and above the diagonal are computed, of the keys of several batches at once, and mirrored when the
sum is complete. A key in half precision is exact in float32, so what is rounded is the sum of one such product: the whole
is within 1e-6 of a sum in float64, and each entry within 1e-5 on the scale of its two neurons. Float64 models keep float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from errata.delta import Site
from errata.model.experts import EXPERTS, Routing, expert_sites, is_expert, opened_keys, routing_at
from errata.model.lm import LM
from errata.model.tokens import Batch
from errata.model.trace import Trace
from errata.stats.sums import Sum

GATHERED = 2048  # keys multiplied at once, or a few more: fewer make thin products
_BLOCK = 128, 512  # rows of a block of a small and of a large matrix: what smaller ones save, thinner products cost


@dataclass(frozen=True, eq=False, slots=True)
class SecondMoment(Sum):
    """A sum of outer products and how many there were; its mean is E[k kᵀ].

    Args:
        total: (in, in) float64, Σ k kᵀ.
        count: number of keys summed.
    """

    total: Float[Tensor, "in in"]
    _nothing = "no keys were collected"


class Growing:
    """A second moment while it is summed: the one place where a sum changes.

    Args:
        upper: (in, in) float64 on the CPU, Σ k kᵀ in the blocks on and above the diagonal, zero below them; taken over.
        count: number of keys summed.
    """

    def __init__(self, upper: Float[Tensor, "in in"], count: int = 0) -> None:
        self.upper, self.count = upper, count

    @classmethod
    def empty(cls, width: int) -> Growing:
        """Return the sum of no keys."""
        return cls(torch.zeros(width, width, dtype=torch.float64))

    def add(self, keys: Float[Tensor, "t in"]) -> None:
        """Add the outer products of keys."""
        keys = keys.to(torch.promote_types(keys.dtype, torch.float32))
        for start, end in _blocks(keys.shape[1]):
            self.upper[start:end, start:] += (keys[:, start:end].T @ keys[:, start:]).cpu()
        self.count += len(keys)

    def moment(self) -> SecondMoment:
        """Return the whole sum as it is now."""
        return Growing(self.upper.clone(), self.count).finished()

    def finished(self) -> SecondMoment:
        """Return the whole sum in the same memory; nothing can be added after that."""
        total = self.upper
        for start, end in _blocks(len(total)):
            square = total[start:end, start:end]
            square.copy_((square + square.T) / 2)  # a product's two halves may be rounded differently
            total[end:, start:end] = total[start:end, end:].T
        return SecondMoment(total, self.count)


def _blocks(width: int) -> list[tuple[int, int]]:
    step = min(max(width // 8, _BLOCK[0]), _BLOCK[1])
    return [(start, min(start + step, width)) for start in range(0, width, step)]


@torch.no_grad()
def keys_of(
    lm: LM, sites: Sequence[Site], ids: Int[Tensor, "b t"], real: Bool[Tensor, "b t"]
) -> dict[Site, Float[Tensor, "n in"]]:
    """Return what each site is given at the real tokens of one batch; the pass ends after the deepest block.

    An expert is given g k, by its gate, at the tokens that open it; where none does, it has no entry. Sites are all experts, or
    none is.
    """
    inputs = {"input_ids": ids, "attention_mask": real.long()}
    if lm.row.kind == "encoder-decoder":
        inputs["decoder_input_ids"] = ids[:, :1]
    if is_expert(sites[0]):
        return _opened(lm, sites, inputs)
    found: dict[Site, Tensor] = {}
    place = real.flatten().nonzero()[:, 0]

    def keep(site: Site, hidden: Tensor) -> None:
        found[site] = hidden.flatten(0, 1).index_select(0, place.to(hidden.device))

    deepest = Site(max(site.layer for site in sites), "block")
    with Trace(lm, tap={site: partial(keep, site) for site in sites}, stop=deepest):
        lm.forward(Batch.unlabelled(inputs))
    return found


def _opened(lm: LM, sites: Sequence[Site], inputs: Mapping[str, Tensor]) -> dict[Site, Float[Tensor, "n in"]]:
    """Return what experts are given, in one pass for each layer."""
    found: dict[Site, Tensor] = {}
    for layer in sorted({site.layer for site in sites}):
        routing = routing_at(lm, Site(layer, EXPERTS), inputs)
        real = inputs["attention_mask"].flatten().bool().to(routing.x.device)
        mine = {number: site for number, site in enumerate(expert_sites(lm, layer)) if site in sites}
        seen = Routing(*(tensor[real] for tensor in routing))
        found |= {mine[number]: keys for number, (_, keys) in opened_keys(lm.experts[layer], seen, mine).items()}
    return found


def of_batch(
    lm: LM, sites: Sequence[Site], ids: Int[Tensor, "b t"], real: Bool[Tensor, "b t"]
) -> Mapping[Site, SecondMoment]:
    """Return each site's moment over the real tokens of one batch."""
    moments = {}
    for site, keys in keys_of(lm, sites, ids, real).items():
        growing = Growing.empty(keys.shape[1])
        growing.add(keys)
        moments[site] = growing.moment()
    return moments
