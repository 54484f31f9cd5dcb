"""What the methods that edit single neurons share: candidate layers in every stack, and the answer an edit replaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from errata.delta import Site
from errata.errors import BadConfig
from errata.fact import Fact
from errata.methods.base import Method, with_role
from errata.model.fitting import fits
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve.attribution import Where

EARLY = (0.1, 0.35)  # shares of the depth


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
