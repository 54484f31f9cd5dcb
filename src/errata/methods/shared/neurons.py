"""What the methods that edit single neurons share: candidate layers in every stack, and the answer an edit replaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from errata.delta import Site
from errata.errors import BadConfig
from errata.fact import Fact
from errata.methods.base import Method, with_role
from errata.model.fitting import fits
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.trace import Trace
from errata.solve.attribution import Where
from errata.solve.keys import prefixes

EARLY = (0.1, 0.35)  # shares of the depth
TEXTS, LENGTH = 24, 16  # what a neuron usually puts out is measured on so many texts of so many tokens


@dataclass(frozen=True, kw_only=True)
class Neuronal(Method):
    """A method that changes columns of `down` matrices, of an encoder and a decoder alike."""

    layers: tuple[int, ...] | Literal["all", "early"] = field(
        default="all", metadata={"help": "layers with candidates; early: from .1 to .35 of the depth"}
    )
    where: Where = field(
        default="subject", metadata={"help": "score neurons at the subject's last token, or everywhere"}
    )

    def resolve(self, lm: LM) -> Self:
        """Return the method with its layers named and every "auto" filled in.

        Raises:
            BadConfig: a share above 1. UnsupportedModel, UnknownSite: as `Method.resolve`; a decoder that is given the prompt
                by an encoder has layers only if ``where="everywhere"``.
        """
        for share in ("p", "t"):
            if getattr(self, share, 0) > 1:
                raise BadConfig(f"{share} = {getattr(self, share):g} makes no sense; it is a share, at most 1.")
        reached = lm.reachable if self.where == "subject" else lm.depth
        every = with_role(lm, range(reached), "down") or tuple(range(reached))
        layers = tuple(sorted(self.layers)) if isinstance(self.layers, tuple) else every
        if self.layers == "early":
            first, last = (int(share * lm.reachable) for share in EARLY)
            layers = tuple(layer for layer in every if first <= layer <= last) or every
        if self.where == "subject":
            return super(Neuronal, replace(self, layers=layers)).resolve(lm)
        # Under "all" a method has no sites yet, so nothing is refused for lying in a decoder.
        found = replace(super(Neuronal, replace(self, layers="all")).resolve(lm), layers=layers)
        for site in found.sites():
            lm.module(site)
        return found

    def sites(self) -> tuple[Site, ...]:
        """Return the sites that may be written to; none before `resolve` has named the layers."""
        return tuple(Site(layer, "down") for layer in self.layers) if isinstance(self.layers, tuple) else ()


def old_answers(lm: LM, facts: Sequence[Fact]) -> list[str]:
    """Return what each fact's answer was before: its `truth` if it fits, or what the model says, as long as the target is.

    A model that says nothing gives the target itself, so that there is always something to attribute.
    """
    found = [fact.truth for fact in facts]
    for place, fact in enumerate(facts):
        if not found[place] or not fits(lm, Query.of(fact, found[place])):
            length = int((lm.tokens.batch([Query.of(fact)]).labels >= 0).sum())
            said = lm.generate([Query.asked(fact)], length)[0].strip(" .,:;\"'")
            heard = any(map(str.isalnum, said)) and fits(lm, Query.of(fact, said))
            found[place] = said if heard else fact.target
    return found


@torch.no_grad()
def usual(lm: LM, sites: Sequence[Site], seed: int) -> dict[Site, Float[Tensor, " in"]]:
    """Return the size of what enters each site in texts the base says by itself, neuron by neuron.

    The square of it is the mean square at the first token of a text, where a few neurons put out what all later tokens rest on
    (attention sinks), and that at the others. A thousandth of the largest is added, so that a neuron that was never seen to
    fire is not taken for one that never does.
    """
    key = ("usual", tuple(sites), seed)
    if key not in lm.memory:
        with lm.weights.at_base():
            asked = [Query(text) for text in prefixes(lm, seed, TEXTS, LENGTH) if text]
            batch = lm.tokens.batch(asked).to(lm.device)
            with Trace(lm, inputs=sites) as trace:
                lm.answer_logits(batch)
        seen = batch.inputs["attention_mask"].bool()
        lm.memory[key] = {site: _size(trace.inputs[site], seen) for site in sites}
    found: dict[Site, Tensor] = lm.memory[key]
    return found


def _size(inputs: Float[Tensor, "b t in"], seen: Bool[Tensor, "b s"]) -> Float[Tensor, " in"]:
    square = inputs.float().square()
    later = square[:, 1:][seen[:, 1:]] if seen.shape == square.shape[:2] else square[:, 1:].flatten(0, 1)
    size = square[:, 0].mean(0) + (later.mean(0) if len(later) else 0)
    return size.sqrt() + 1e-3 * size.sqrt().max()
