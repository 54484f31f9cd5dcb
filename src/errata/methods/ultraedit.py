"""UltraEdit: a few gradients, put on one scale, and a linear solve: nothing is learned step by step.

Paper: Gu et al., UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Language Models,
https://arxiv.org/abs/2505.14679.

    h, g  = what the matrix is given, and the gradient of −Σ log P(target) at what it puts out, at each token looked at
    h̃, g̃  = (h − μ) / σ, coordinate by coordinate; μ and σ of all tokens looked at so far                 (lifelong)
    V     = −η ‖h̃‖² g̃
    ΔWᵀ   = (HᵀH + I)⁻¹ Hᵀ V                                                       (`solve.ultraedit`)

Differs from the paper: what is lifelong begins with ordinary text, because the tokens of one fact have no spread, and goes
with an edit that is dropped; gradients keep their mean, or what is written need not descend (``centred=True`` takes it off);
η is the smallest on a scale of ratios that brings the loss below `stop`, found by forward passes, because 1e-6 suits models
of one size; where one gradient does not suffice, the next is taken on the model so changed; and the tokens looked at are the
subject's last (``where=everywhere``: all), which leaves other subjects alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from errata.methods.shared.lifelong import LifelongNormalised
from errata.solve.ultraedit import Scale, Signal, Spread


@dataclass(frozen=True, kw_only=True)
class UltraEdit(LifelongNormalised):
    """A change of `down` matrices from the gradients of a batch of facts."""

    name: ClassVar[str] = "ultraedit"

    def kept(self, seen: Signal) -> Tensor:
        """Return the sums of each coordinate."""
        return Spread.of(seen.gradients).sums

    def scale_of(self, kept: Tensor) -> Scale:
        """Return a spread of each coordinate."""
        return Spread(kept)
