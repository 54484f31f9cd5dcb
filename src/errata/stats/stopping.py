"""When enough has been read for a covariance: the rule for who names no number of tokens.

C decides along which direction u a fact is written. Of all u with uᵀk = 1 the closed forms take the one that disturbs
ordinary text least, E‖rᵀ‖² ∝ uᵀAu with A = C + damping: u = A⁻¹k / kᵀA⁻¹k. An estimate Â that is off gives another û, and
disturbs more than need be by

    excess(û) = (ûᵀAû)(kᵀA⁻¹k) / (ûᵀk)² − 1  ≥ 0        (Cauchy and Schwarz; 0 only along u)

which is what an error of C costs, in the metric an edit is judged by: a plain norm of C − Ĉ sees the few large directions
only. Whenever the tokens read have about doubled, m → n, the directions A_m gave are judged by A_n. Errors of means of
m and n tokens of which the first are shared differ by a variance ∝ 1/m − 1/n, and that of the new one is ∝ 1/n: what is
left is the excess found / (n/m − 1). Below `TOLERANCE` it is small enough, and reading ends.

The k are keys of the text itself; Â carries the damping that methods add by default. Everything follows from what was
read, in order, so the same tokens end it again, and a site ends alone: its C does not depend on which others were read
with it, which is what lets one be looked up without them.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

PROBES = 256  # keys the directions are asked for
DAMPING = 1e-3  # share of the mean diagonal; the methods' default
FIRST = 4  # keys a dimension before the first look: with fewer C has no full rank
TOLERANCE = 0.05
RULE = f"excess<{TOLERANCE},{PROBES},{DAMPING},{FIRST}"  # what a statistic that ended by the rule depends on


class Settling:
    """How far the directions of one site have settled.

    Args:
        probes: (p, in) float32, keys the directions are of. directions: (p, in) float64, A⁻¹k when last looked at, or None.
        seen: keys read then. excess: what was left then; not a number before a second look.
    """

    def __init__(
        self,
        probes: Float[Tensor, "p in"],
        directions: Float[Tensor, "p in"] | None = None,
        seen: int = 0,
        excess: float = math.nan,
    ) -> None:
        self.probes, self.directions, self.seen, self.excess = probes, directions, seen, excess

    def due(self, count: int) -> bool:
        """Say whether it is time to look again."""
        return count >= (2 * self.seen or FIRST * self.probes.shape[1])

    def look(self, second: Float[Tensor, "in in"], count: int) -> bool:
        """Judge the last directions by C of `count` keys, and remember the new ones; say whether they have settled.

        Args:
            second: C, taken over: at this size no second copy of it is made.
        """
        second.diagonal().add_(DAMPING * second.diagonal().mean())
        factor, failed = torch.linalg.cholesky_ex(second)
        if bool(failed):
            return False
        keys = self.probes.double()
        new = torch.cholesky_solve(keys.T, factor).T
        if self.directions is not None:
            self.excess = excess(self.directions, keys, new, factor) / (count / self.seen - 1)
        self.directions, self.seen = new, count
        return self.excess < TOLERANCE


def excess(
    used: Float[Tensor, "p in"],
    keys: Float[Tensor, "p in"],
    best: Float[Tensor, "p in"],
    factor: Float[Tensor, "in in"],
) -> float:
    """Return by what share directions disturb more than the best ones do, over all probes; a probe that is zero has none.

    Args:
        used: û. keys: k. best: A⁻¹k. factor: of A, lower.
    """
    reached, along = (used @ factor).square().sum(1), (used * keys).sum(1)  # ûᵀAû, ûᵀk
    ratio = reached * (best * keys).sum(1) / along.square()
    return float(ratio[ratio.isfinite()].clamp(min=1).mean() - 1)
