"""EMMET: ROME for many facts at once, each held exactly.

Paper: Gupta, Sajnani and Anumanchipalli, A Unified Framework for Model Editing, https://arxiv.org/abs/2403.14236.

    minimise ‖ΔW C^½‖  subject to  (W + ΔW) k_i = v*_i for every fact i
    ΔW = R (Kᵀ C⁻¹ K + εI)⁻¹ Kᵀ C⁻¹,   R = V* − W K                               (Eq. 8, `solve.least_squares`)

With one fact and ε = 0 it is ROME (`rome`), which v* and keys are learned as.

Differs from the paper: C is damped as for ROME; facts about one subject, which share a key, share a value too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from errata.delta import LowRank
from errata.methods.shared.one_matrix import OneMatrix
from errata.solve.least_squares import Ridge, equality


@dataclass(frozen=True, kw_only=True)
class Emmet(OneMatrix):
    """A change of one `down` matrix for a batch of facts."""

    epsilon: float = field(default=0.1, metadata={"help": "ε: how far facts may be missed for the others", "least": 0})

    name: ClassVar[str] = "emmet"
    batched: ClassVar[bool] = True

    def closed_form(self, residual: Tensor, averaged: Tensor, current: Tensor, ridge: Ridge) -> LowRank:
        """Return the update from v* − W k (n, out) and k* (n, in); `current` is not asked for."""
        return equality(residual, averaged, ridge, self.epsilon)
