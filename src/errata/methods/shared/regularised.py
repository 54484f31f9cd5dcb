"""NAS, RECT, PRUNE and SPHERE as settings of any method with a closed form; the mathematics is `solve.regularise`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from errata.delta import Change, Dense, Graft, LowRank, Site
from errata.edit import Edit
from errata.fact import Fact
from errata.methods.base import filled
from errata.methods.shared.orthogonal import Constrained
from errata.model.lm import LM
from errata.model.received import received
from errata.solve import keys
from errata.solve.regularise import beside, compressed, largest, with_norm
from errata.solve.values import Values, leads

ANCHOR = {"help": "NAS: norm of v* as a multiple of the base's there; none: as learned", "above": 0}
LEAD = {"help": "with anchor: nats a fact leads by, or its multiple is raised by halves; none: never"}
RECT = 0.4  # share of entries kept
PRUNE = 1.2  # base of the logarithm
SPHERE = (0.5, 0.5)  # share of W's energy that is main, and how much of the update along it is taken away


@dataclass(frozen=True, kw_only=True)
class Regularised(Constrained):
    """A method whose values may be anchored and whose updates may be restrained, for long sequences."""

    anchor: float | None = field(default=None, metadata=ANCHOR)
    anchor_lead: float | None = field(default=None, metadata=LEAD)
    restrain: Literal["none", "rect", "prune", "sphere"] = field(
        default="none",
        metadata={"help": "keep the largest entries, press singular values, or leave W's main directions"},
    )

    def anchored(
        self, lm: LM, facts: Sequence[Fact], site: Site, values: Values, contexts: Sequence[str] = ("",)
    ) -> Values:
        """Return the values with the norm the base model has there, times `anchor`; as they are without one.

        Where a fact does not lead by `anchor_lead` nats with that in every context, the multiple is raised by halves until it
        does, or the value is as it was learned.
        """
        anchor, wanted = filled(self.anchor), filled(self.anchor_lead)
        if anchor is None or (site.role != "block" and received(lm, site).normed):  # there lengths say nothing
            return values
        with lm.weights.at_base():
            _, base = keys.gather(lm, keys.queries(lm, facts, [""], answers=False), outputs=[site])
        unit = base[site].to(values.delta).norm(dim=1)
        norms, learned = anchor * unit, values.target.norm(dim=1)
        held = replace(values, delta=with_norm(values.target, norms) - values.start)
        if wanted is None:
            return held
        short = torch.nonzero(norms < learned)[:, 0]
        while len(short):
            lead = leads(lm, [facts[int(i)] for i in short], site, contexts, held.delta[short])
            short = short[lead < wanted]
            norms[short] = torch.minimum(norms[short] + unit[short] / 2, learned[short])
            held = replace(values, delta=with_norm(values.target, norms) - values.start)
            short = short[norms[short] < learned[short]]
        return held

    def regularised(self, lm: LM, site: Site, delta: LowRank, past: Sequence[Edit]) -> Change:
        """Return what is written of `delta` on top of `past`."""
        if self.restrain == "rect":
            return Dense(largest(delta.dense(), lm.weights[site], RECT))
        if self.restrain == "sphere":
            return beside(delta, lm.weights[site], *SPHERE)
        if self.restrain == "none":
            return delta
        # PRUNE's is a rule for the whole change: what is added is what leads to it from what stands.
        standing = torch.zeros(lm.weights[site].shape, dtype=torch.float64)
        for edit in past:
            change = edit.deltas.get(site)
            if change is not None and not isinstance(change, Graft):
                change.add_to(standing)
        return Dense(compressed(standing + delta.dense().double(), lm.weights.base(site), PRUNE) - standing)
