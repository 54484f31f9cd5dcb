"""StableEdit: UltraEdit with gradients that are whitened as a whole, and a scale that is warm before the first edit.

Paper: More Edits, More Stable: Understanding the Lifelong Normalization in Sequential Model Editing,
https://arxiv.org/abs/2605.11836; its code, github.com/MINE-USTC/StableEdit.

    h, g  = what the matrix is given, and the gradient of −Σ log P(target) at what it puts out, at each token looked at
    h̃     = (h − μ) / σ, coordinate by coordinate
    ĝ     = Σ^(−1/2) (g − m),   Σ = Σ_i (g_i − m)(g_i − m)ᵀ / (n − out − 1),  of all n tokens looked at so far  (lifelong)
    ΔWᵀ   = (HᵀH + I)⁻¹ Hᵀ V,   V = −η ‖h̃‖² ĝ                                      (`solve.ultraedit`)

As long as n ≤ out + 1, ĝ is divided coordinate by coordinate, as h̃ is.

Differs from the paper: the warm-up reads ordinary text in place of facts of the set that is edited next, and the mean stays
on, so that what is written descends (``centred=True`` takes it off); η, rounds and tokens looked at are as for `ultraedit`,
whose docstring says why; eigenvalues of Σ below a millionth of their mean count as that much (the code: below 1e-6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from errata.methods.base import Auto
from errata.methods.shared.lifelong import LifelongNormalised
from errata.model.lm import LM
from errata.solve.ultraedit import Cloud, Scale, Signal

_LEAST, _TIMES = 2000, 4  # tokens of the warm-up, and how many a direction of the output: fewer tell little of Σ


@dataclass(frozen=True, kw_only=True)
class StableEdit(LifelongNormalised):
    """A change of `down` matrices from whitened gradients of a batch of facts."""

    tokens: int | Auto = field(  # type: ignore[assignment]  # one more
        default="auto", metadata={"help": "tokens of the warm-up; auto: four a direction of the output", "least": 1}
    )

    name: ClassVar[str] = "stableedit"

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return one layer at a quarter of the depth, and enough tokens for a covariance."""
        return {**super().automatic(lm), "tokens": max(_LEAST, _TIMES * lm.width)}

    def kept(self, seen: Signal) -> Tensor:
        """Return the gradients themselves: a covariance is larger than those of a few tokens."""
        return seen.gradients.float()

    def scale_of(self, kept: Tensor) -> Scale:
        """Return a covariance."""
        return Cloud.of(kept.double())
