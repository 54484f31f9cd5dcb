"""One matrix trained by Adam, for the methods that do so: `ft`, which has the equations, and `locft`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from errata.delta import Dense, Site
from errata.edit import Edit
from errata.methods.base import Auto, Solution, filled, layer_at, step_for
from errata.methods.shared.orthogonal import Constrained
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve.descent.matrix import MatrixTraining, fit


@dataclass(frozen=True, kw_only=True)
class OneTuned(Constrained):
    """Adam on one `down` matrix."""

    layer: int | Auto = field(default="auto", metadata={"help": "layer whose down projection is trained"})
    lr: float | Auto = field(
        default="auto", metadata={"help": "Adam's step; auto: a fiftieth of the RMS of W", "above": 0}
    )
    energy: float = field(  # a trained change is of full rank: all of it protected would leave nothing free
        default=0.9, metadata={"help": "share of the earlier updates' energy that is protected", "above": 0}
    )

    batched: ClassVar[bool] = True
    located: ClassVar[bool] = False
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2-xl": {"layer": 0, "lr": 5e-4},
        **{name: {"layer": 21, "lr": 5e-4} for name in ("gpt-j-6b", "llama-2-7b", "llama-3-8b", "mistral-7b")},
        "qwen2.5-7b": {"layer": 27, "lr": 5e-4},
        "primer": {"layer": 1},
    }

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return an early layer and a step to match the weights.

        On SmolLM2 (8 CounterFact records) two thirds of the depth left .20 of the neighbours, a sixth .83 of them; the primer's
        own layer, found before, is its second of seven.
        """
        early = layer_at(lm, 0.17)
        matrix = lm.weights.base(Site(self.layer if self.layer != "auto" else early, "down"))
        return {"layer": early, "lr": step_for(matrix, 50)}

    def sites(self) -> tuple[Site, ...]:
        """Return the one site written to."""
        return (Site(filled(self.layer), "down"),)

    def trained(
        self,
        lm: LM,
        asked: Sequence[Query],
        schedule: MatrixTraining,
        past: Sequence[Edit],
        labels: Sequence[Sequence[int]] | None = None,
    ) -> Solution:
        """Return the change that `solve.descent.matrix.fit` learns, held to what a constraint allows."""
        (site,) = self.sites()
        hold = self.hold(lm, past)
        change, loss, steps = fit(lm, site, asked, schedule, labels, hold.restraint())
        change = hold.fit(site, change.T).T
        report = {"loss": [loss], "steps": [steps], "converged": [loss < schedule.stop] if schedule.stop else []}
        return Solution({site: Dense(change)}, report={**report, **hold.report()})
