"""DeltaEdit: learn v* off the directions of the updates that stand, but only for a fact whose key they stir unusually.

Paper: Cao and Cai, DeltaEdit: Enhancing Sequential Editing in Large Language Models by Controlling Superimposed Noise,
https://arxiv.org/abs/2505.07899; what it leaves open is as in its released code.

    noise = ‖ΔW k‖,  ΔW the sum of the updates that stand at the matrix v* is written to last, k the fact's key there
    unusual: from the 21st edit on, |noise − m| > strays · √s,  m and s the running mean and variance of usual noise, decay .9
    P = I − U Uᵀ,  U the left singular vectors of [ΔW k, ΔW] with squared values above `floor`, a quarter of the width at most
    δ ← P δ after each of Adam's steps where the noise is unusual; else δ is free, and m and s take the noise in

What stands says what m and s are, so dropping an edit takes its noise back as well. The update itself is written as it is: of
it nothing is projected. Differs from the paper: the facts of a batch are judged by their mean noise, and all of it is in U; the
gradient is projected too, so that Adam's steps do not wait for what is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from errata.edit import Edit
from errata.solve.subspace import Basis, Span

FIRST: Final = 20  # edits before any is held
DECAY: Final = 0.9
SHARE: Final = 4  # of the width, at most one of so many directions
ROUNDING: Final = 1e-10  # a singular value below this share of the largest is none
NOISE, HELD = "noise", "held_off"  # in an edit's report: what was found, and whether δ was held


@dataclass(frozen=True, slots=True)
class UsualNoise:
    """Mean and variance of the noise of edits that stand, the newest weighing most."""

    mean: float = 0.0
    variance: float = 0.0
    seen: int = 0

    @classmethod
    def of(cls, past: Sequence[Edit]) -> UsualNoise:
        """Return what the reports of edits come to, oldest first; unusual ones say nothing of what is usual."""
        found = cls()
        for edit in past:
            noise = edit.report.get(NOISE)
            if isinstance(noise, float | int) and not edit.report.get(HELD):
                found = found.add(float(noise))
        return found

    def add(self, noise: float) -> UsualNoise:
        """Return it with one more."""
        mean = DECAY * self.mean + (1 - DECAY) * noise if self.seen else noise
        return UsualNoise(mean, DECAY * self.variance + (1 - DECAY) * (noise - mean) ** 2, self.seen + 1)

    def strays(self, noise: float, by: float) -> bool:
        """Say whether a noise is unusual: further from the mean than `by` standard deviations."""
        return self.variance > 0 and abs(noise - self.mean) > by * sqrt(self.variance)


def stirred(span: Span, keys: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
    """Return ΔW k for each key, float64, ΔW being what is decomposed."""
    return (keys.double().cpu() @ span.right * span.values) @ span.left.T


def directions(span: Span, noise: Float[Tensor, "n out"], floor: float) -> Basis:
    """Return U: the leading left singular vectors of ``[noiseᵀ, ΔW]`` whose squared values are above `floor`, (out, k)."""
    u, values, _ = torch.linalg.svd(torch.cat([noise.T.double(), span.left * span.values], 1), full_matrices=False)
    real = (values.square() > floor) & (values > ROUNDING * values.max())  # the noise lies in what ΔW can give
    count = min(int(real.sum()), noise.shape[1] // SHARE)
    basis: Basis = u[:, :count]
    return basis
