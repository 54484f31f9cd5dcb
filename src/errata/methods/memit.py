"""MEMIT: many facts at once, spread over several layers.

Paper: Meng et al., Mass-Editing Memory in a Transformer, https://arxiv.org/abs/2210.07229; the history term as in
https://arxiv.org/abs/2605.26670.

    z_i = h_i^L + δ_i, learned at the output of block L                            (Eq. 16, `solve.values`)
    for l in layers, ascending, with keys and h^L recomputed after each:
        R = (z − h^L) / (L − l + 1)                                                (Eq. 20)
        Δ^l = R Kᵀ (λC + K_p K_pᵀ + K Kᵀ)⁻¹                                        (Eq. 14, `solve.least_squares`)

K_p, the keys of the edits that stand, is zero unless ``history=True``. Keys are averaged over contexts.

Differs from the paper: C is damped (``damping=0`` gives the paper's). Where the architecture multiplies the MLP's output before
it adds it (Granite, MiniCPM), R is divided by that. Where it norms it (Gemma-2, OLMo-2, GLM-4), what lower layers write does
not add up to what is missing above: each layer learns a z of its own at the output of its `down`, on top of what those below
have written, and goes 1 / (L − l + 1) of the way to it. On models nobody tuned, v*'s step is a fraction of the size of z0, λ is
the size of k, the mean of kᵀC⁻¹k (published values are 0.9 to 3 times that), and z has the norm the base has there (NAS,
https://arxiv.org/abs/2602.02543; ``anchor=none`` leaves it as learned) or as many halves of it more as a fact needs to lead by
four nats in every context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from errata.delta import LowRank, Site
from errata.edit import Edit
from errata.methods.base import Auto, filled
from errata.methods.shared.many_matrices import Wanted, Weighted, shielded
from errata.methods.shared.regularised import ANCHOR, LEAD
from errata.model.lm import LM
from errata.solve.least_squares import batch


@dataclass(frozen=True, kw_only=True)
class Memit(Weighted):
    """A least-squares change of several `down` matrices for a batch of facts."""

    # Anchor: chosen on the GPT-2-type CounterFact reference, confirmed on the primer and SmolLM2; lead: chosen on the primer:
    # LOG.md, 2026-11-28.
    anchor: float | Auto | None = field(default="auto", metadata=ANCHOR)  # type: ignore[assignment]  # one more
    anchor_lead: float | Auto | None = field(default="auto", metadata=LEAD)  # type: ignore[assignment]  # one more
    history: bool = field(default=False, metadata={"help": "also keep what earlier edits' keys give"})

    name: ClassVar[str] = "memit"

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return the norm the base has there, as far as a fact leads with it, for a model nobody tuned."""
        return {**super().automatic(lm), "anchor": 1.0, "anchor_lead": 4.0}

    def update(self, lm: LM, site: Site, wanted: Wanted, past: Sequence[Edit]) -> tuple[LowRank, dict[str, Tensor]]:
        """Return the least-squares change, which ordinary keys and, with history, earlier ones hold back."""
        ridge = self.ridge(lm, site, filled(self.weight))
        key = (site, self.corpus, self.tokens, self.damping, filled(self.weight))
        return batch(wanted.residual, wanted.keys, shielded(lm, key, past, site, ridge) if self.history else ridge), {}
