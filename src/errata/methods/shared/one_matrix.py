"""v* written at one matrix, for the methods that do so: `rome`, which has the equations, `oedit` and `emmet`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from errata.delta import LowRank, Site
from errata.edit import Edit
from errata.fact import Fact
from errata.methods.base import Auto, Solution, filled
from errata.methods.shared.locate_then_edit import PUBLISHED, LocateThenEdit, home
from errata.model.lm import LM
from errata.solve import keys
from errata.solve.least_squares import Ridge, rank_one
from errata.solve.values import optimise


@dataclass(frozen=True, kw_only=True)
class OneMatrix(LocateThenEdit):
    """A closed-form change of one `down` matrix."""

    layer: int | Auto = field(default="auto", metadata={"help": "layer whose down projection is edited"})
    consistent_keys: bool = field(default=True, metadata={"help": "the averaged key in both places (R-ROME)"})

    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{name: {**values, "layer": 5} for name, values in PUBLISHED.items()},
        "gpt2-xl": {**PUBLISHED["gpt2-xl"], "layer": 17, "clamp": 4.0},
        "primer": {"layer": 0},
    }

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return settings for a model nobody tuned: an early layer."""
        return {**super().automatic(lm), "layer": home(lm, 0.17)}

    def sites(self) -> tuple[Site, ...]:
        """Return the one site written to."""
        return (Site(filled(self.layer), "down"),)

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the update."""
        (site,) = self.sites()
        contexts = keys.contexts_for(lm, facts, keys.contexts(lm, self.seed))
        hold = self.hold_for(lm, facts, past)
        values = optimise(lm, facts, site, contexts.texts, self.goal(), hold.restraint())
        values = self.anchored(lm, facts, site, values, contexts.texts)
        averaged = keys.mean_keys(lm, [site], facts, contexts.texts)[site]
        bare, out = keys.gather(lm, keys.queries(lm, facts, [""], answers=False), inputs=[site], outputs=[site])
        current = averaged if self.consistent_keys else bare[site]
        # W k through the module's own output at the bare prompt, plus what the averaged key changes: biases cancel.
        weight = lm.weights[site].to(values.target.dtype)
        written = out[site].to(values.target.dtype) + (current - bare[site]).to(weight.dtype) @ weight.T
        residual = hold.fit(site, values.target - written)
        delta = self.closed_form(residual, averaged, current, self.ridge(lm, site))
        carry = {f"key/{site}": averaged, f"delta/{site}": values.delta}
        report = {**self.learned(values), **hold.report(), **contexts.report(lm)}
        return Solution({site: self.regularised(lm, site, delta, past)}, carry, contexts.texts, report)

    def closed_form(self, residual: Tensor, averaged: Tensor, current: Tensor, ridge: Ridge) -> LowRank:
        """Return the update from v* − W k (n, out), k* (n, in) and k (n, in)."""
        return rank_one(residual[0], averaged[0], current[0], ridge)
