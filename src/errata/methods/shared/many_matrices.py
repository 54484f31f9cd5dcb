"""z written over several matrices, for the methods that do so: `memit`, which has the equations, `alphaedit`, `ledger`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Change, Dense, LowRank, Site
from errata.edit import Edit
from errata.fact import Fact
from errata.methods.base import Auto, Solution, filled, layer_at, with_role
from errata.methods.shared.locate_then_edit import PUBLISHED, LocateThenEdit, home
from errata.model.fold import fold_in_blocks
from errata.model.lm import LM
from errata.model.received import received
from errata.solve import keys
from errata.solve.least_squares import Ridge, Shield
from errata.solve.values import optimise


class Wanted(NamedTuple):
    """What one matrix is to give in addition.

    Args:
        facts: n of them. residual: (n, out) what to add to its output. keys: (n, in) at which.
    """

    facts: Sequence[Fact]
    residual: Float[Tensor, "n out"]
    keys: Float[Tensor, "n in"]


class ResidualShares(NamedTuple):
    """How what one layer's output is to gain is shared out among the matrices that add to it.

    Args:
        top: where it is learned. multiples: of each matrix, what its output is multiplied by on its way to the stream.
    """

    top: Site
    multiples: tuple[float, ...]


def spread_over(lm: LM, sites: Sequence[Site]) -> ResidualShares | None:
    """Return how a change of the stream is shared out among matrices; None where a norm stands between them and it.

    Nothing adds up behind norms: half of a vector, written below one, is not half of what that vector is above it.
    """
    multiples = [received(lm, site).multiple for site in sites]
    if any(multiple is None for multiple in multiples):
        return None
    return ResidualShares(
        Site(sites[-1].layer, "block"), tuple(float(multiple) for multiple in multiples if multiple is not None)
    )


@dataclass(frozen=True, kw_only=True)
class ManyMatrices(LocateThenEdit):
    """A closed-form change of several `down` matrices for a batch of facts."""

    layers: tuple[int, ...] | Auto = field(default="auto", metadata={"help": "layers edited, ascending"})

    batched: ClassVar[bool] = True
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{name: {**values, "layers": (4, 5, 6, 7, 8)} for name, values in PUBLISHED.items()},
        "gpt2-xl": {**PUBLISHED["gpt2-xl"], "layers": (13, 14, 15, 16, 17)},
        "gpt-j-6b": {**PUBLISHED["gpt-j-6b"], "layers": (3, 4, 5, 6, 7, 8)},
        "primer": {"layers": (0, 1)},
    }

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return settings for a model nobody tuned: early layers, or those up to the traced one."""
        last = home(lm, 0.25)
        first = max(0, last + layer_at(lm, 0.12) - layer_at(lm, 0.25))
        return {**super().automatic(lm), "layers": with_role(lm, range(first, last + 1), "down") or (last,)}

    def sites(self) -> tuple[Site, ...]:
        """Return the sites written to, ascending."""
        return tuple(Site(layer, "down") for layer in sorted(filled(self.layers)))

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the update of a batch of facts."""
        sites, own = self.sites(), {}
        spread = spread_over(lm, sites)
        contexts, hold = keys.contexts_for(lm, facts, keys.contexts(lm, self.seed)), self.hold_for(lm, facts, past)
        with ExitStack() as stack:
            deltas: dict[Site, Change] = dict(self.first(lm, facts, past))
            carry: dict[str, Tensor] = {}
            stack.enter_context(lm.weights.trial([deltas]))
            for place, site in enumerate(sites):
                top = spread.top if spread else site
                if top not in own:
                    values = optimise(lm, facts, top, contexts.texts, self.goal(), hold.restraint())
                    own[top] = self.anchored(lm, facts, top, values, contexts.texts)
                    carry[f"delta/{top}"] = own[top].delta
                averaged = keys.mean_keys(lm, [site], facts, contexts.texts)[site]
                _, now = keys.gather(lm, keys.queries(lm, facts, [""], answers=False), outputs=[top])
                residual = (own[top].target - now[top].to(own[top].target.dtype)) / (len(sites) - place)
                residual = residual / spread.multiples[place] if spread else residual
                carry[f"key/{site}"] = averaged
                delta, more = self.update(lm, site, Wanted(facts, hold.fit(site, residual), averaged), past)
                carry |= more
                written = self.regularised(lm, site, delta, past)
                both = deltas[site] + written if site in deltas else written
                assert isinstance(both, LowRank | Dense)
                deltas[site] = both
                stack.enter_context(lm.weights.trial([{site: written}]))
        report = {**self.learned(own[top]), **hold.report(), **contexts.report(lm)}
        return Solution(deltas, carry, contexts.texts, report)

    def first(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> dict[Site, LowRank]:
        """Return changes to make before anything is learned: none, unless a method takes something back."""
        return {}

    @abstractmethod
    def update(self, lm: LM, site: Site, wanted: Wanted, past: Sequence[Edit]) -> tuple[LowRank, dict[str, Tensor]]:
        """Return the change of a site, and what more the edit is to carry."""


@dataclass(frozen=True, kw_only=True)
class Weighted(ManyMatrices):
    """One in which ordinary keys hold the change back by their covariance times λ."""

    weight: float | Auto = field(default="auto", metadata={"help": "λ: how much ordinary keys weigh", "above": 0})

    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {**settings, **({} if name == "primer" else {"weight": 20000.0 if name == "gpt2-xl" else 15000.0})}
        for name, settings in ManyMatrices.tuned.items()
    }

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return settings for a model nobody tuned: λ by the size of k."""
        return {**super().automatic(lm), "weight": float(lm.inner)}


def shielded(lm: LM, key: object, past: Sequence[Edit], site: Site, ridge: Ridge, free: Tensor | None = None) -> Shield:
    """Return `ridge` with the keys the standing edits wrote at a site, whatever method they are by.

    Args:
        key: what the ridge is kept under. free: (in, p) an orthonormal basis in whose coordinates everything is.
    """

    def add(shield: Shield, edits: Sequence[Edit]) -> Shield:
        kept = [edit.carry[f"key/{site}"].double() for edit in edits if f"key/{site}" in edit.carry]
        if not kept:
            return shield
        keys = torch.cat(kept)
        return shield.add(keys if free is None else keys @ free)

    return fold_in_blocks(lm, ("shield", key), past, lambda: Shield(ridge), add)
