"""ROME: one fact, one rank-one change of one matrix.

Paper: Meng et al., Locating and Editing Factual Associations in GPT, https://arxiv.org/abs/2202.05262; keys as in R-ROME,
Gupta et al., https://arxiv.org/abs/2403.07175.

    k*  = mean over contexts of the key at the subject's last token
    v*  = argmin_z mean NLL(target) + kl · KL + decay · ‖z − z0‖ / ‖z0‖²          (Eq. 4, `solve.values`)
    ΔW  = (v* − W k) (C⁻¹ k*)ᵀ / (kᵀ C⁻¹ k*),   C = E[k kᵀ]                        (Eq. 2, `solve.least_squares`)

Differs from the paper: k is k* in both places (R-ROME; ``consistent_keys=False`` gives the original, k on the bare prompt);
C is damped (``damping=0`` gives the paper's); on models nobody tuned, v*'s step is a fraction of the size of z0, its steps end
when the answer leads, what follows the answer is learned too (`solve.values`), and the layer is a fraction of the depth. Where
a block has experts in place of one matrix, those that are opened share the change by their gates (`methods.shared.experts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from errata.delta import Site
from errata.edit import Edit
from errata.fact import Fact
from errata.methods.base import Auto, Solution, filled, layer_at, with_role
from errata.methods.shared import experts
from errata.methods.shared.one_matrix import OneMatrix
from errata.model.experts import EXPERTS
from errata.model.lm import LM
from errata.stats.store import Key


@dataclass(frozen=True, kw_only=True)
class Rome(OneMatrix):
    """One rank-one change of one `down` matrix, or of the experts opened in its place."""

    role: Literal["down", "experts"] | Auto = field(
        default="auto", metadata={"help": "the dense down projection, or the experts in its place"}
    )

    name: ClassVar[str] = "rome"

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return experts where no block has a dense matrix, and an early layer."""
        dense = with_role(lm, range(lm.reachable), "down") or not lm.experts
        role = ("down" if dense else EXPERTS) if self.role == "auto" else self.role
        found = {**super().automatic(lm), "role": role}
        return found if role == "down" else {**found, "layer": layer_at(lm, 0.17, EXPERTS)}

    def sites(self) -> tuple[Site, ...]:
        """Return the one site written to; the change of experts is of those that are opened there."""
        return (Site(filled(self.layer), filled(self.role)),)

    def wanted(self, lm: LM) -> list[Mapping[Site, Key]]:
        """Return by what the covariance, or those of the experts, and what a constraint asks for are known."""
        return super().wanted(lm) if self.role == "down" else [experts.wanted(self, lm, self.sites()[0])]

    def statistics(self, lm: LM) -> dict[str, dict[str, Any]]:
        """Return the name of the covariance; which experts' were read is known when some were opened."""
        return super().statistics(lm) if self.role == "down" else {}

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the update."""
        if self.role == "down":
            return super().compute(lm, facts, past)
        return experts.solve(self, lm, self.sites()[0], facts)
