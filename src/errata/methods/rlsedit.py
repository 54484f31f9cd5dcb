"""RLSEdit: recursive least squares over all edits so far, held softly to the base's weights and to what they give.

Paper: Wang et al., Beyond Hard Writes and Rigid Preservation: Soft Recursive Least-Squares for Lifelong LLM Editing,
https://arxiv.org/abs/2601.15686; its code, github.com/Euphoria040201/RLSEdit.

    W_t = argmin_W  Σ_{i ≤ t} ‖W K_i − V_i‖² + λ² ‖W − W_0‖² + μ² ‖(W − W_0) K_0‖²,   K_0 K_0ᵀ: C times so many keys
    A_t = λ² I + μ² K_0 K_0ᵀ + Σ_{i ≤ t} K_i K_iᵀ,   A_t⁻¹ from A_{t−1}⁻¹ by Woodbury's identity
    W_t = W_{t−1} + (V_t − W_{t−1} K_t) K_tᵀ A_t⁻¹                                     (`solve.least_squares`)

V_t is what W gives at K_t and MEMIT's share of the rest. With λ = 0, as the code's settings have it, this is `memit` with
``history=True``, and on a log without drops and without a fact asked twice the weights are `ledger`'s without its norm: there
a fact asked again takes its old row out, here both stay and are averaged; and one dropped is taken out of the later ones, too.

Differs from the paper: λ² on models nobody tuned is a thousandth of the mean of μ² K_0 K_0ᵀ's diagonal, which keeps
directions without any ordinary key out of the update (``deviation=0``: λ = 0); the code's V_t, by which W is to give the
rest alone in place of what it gave and the rest, is taken for a slip; keys of edits by other methods count as earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from errata.delta import LowRank, Site
from errata.edit import Edit
from errata.methods.base import Auto, filled
from errata.methods.shared.many_matrices import Wanted, Weighted, shielded
from errata.model.lm import LM
from errata.solve.least_squares import Ridge, batch
from errata.stats.store import take

_SHARE = 1e-3  # of the mean diagonal of μ² K_0 K_0ᵀ, as λ²


@dataclass(frozen=True, kw_only=True)
class RLSEdit(Weighted):
    """A recursive least-squares change of several `down` matrices for a batch of facts."""

    deviation: float | Auto | None = field(
        default="auto",
        metadata={"help": "λ²: what W's distance from the base costs; none: a thousandth of C's share", "least": 0},
    )
    damping: float = field(
        default=0.0, metadata={"help": "share of C's mean diagonal added to it; λ² does the same", "least": 0}
    )

    name: ClassVar[str] = "rlsedit"
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        model: {**settings, **({} if model == "primer" else {"deviation": 0.0})}
        for model, settings in Weighted.tuned.items()
    }

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return settings for a model nobody tuned: λ² by the energy of ordinary keys."""
        return {**super().automatic(lm), "deviation": None}

    def update(self, lm: LM, site: Site, wanted: Wanted, past: Sequence[Edit]) -> tuple[LowRank, dict[str, Tensor]]:
        """Return the step of the recursion, which all earlier keys hold back."""
        key = (site, self.corpus, self.tokens, self.damping, filled(self.weight), self.deviation)
        return batch(wanted.residual, wanted.keys, shielded(lm, key, past, site, self._anchor(lm, site, key))), {}

    def _anchor(self, lm: LM, site: Site, key: object) -> Ridge:
        """Return A_0 = λ²I + μ²K_0K_0ᵀ, factored once while the model lives."""
        if ("anchor", key) not in lm.memory:
            second = filled(self.weight) * take(lm, site, self.corpus, self.tokens).double()
            mean = float(second.diagonal().mean())
            square = _SHARE * mean if self.deviation is None else float(filled(self.deviation))
            anchor = second + square * torch.eye(len(second), dtype=second.dtype)
            lm.memory["anchor", key] = Ridge(anchor, damping=self.damping)
        found: Ridge = lm.memory["anchor", key]
        return found
