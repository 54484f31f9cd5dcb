"""AlphaEdit: MEMIT's update kept to the directions of the keys that ordinary text does not use.

Paper: Fang et al., AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models, https://arxiv.org/abs/2410.02355.

    Û = eigenvectors of C = E[k kᵀ] with eigenvalues below a threshold                (`solve.least_squares`)
    Δ = R K̂ᵀ (K̂ K̂ᵀ + K̂_p K̂_pᵀ + λI)⁻¹ Ûᵀ,   K̂ = Ûᵀ K                            (Eq. 14, in reduced form)

z, keys and the spread over layers are MEMIT's (`memit`); K_p are the keys of the edits that stand.

Differs from the paper: the threshold of 2e-2 suits keys of one size; unless `threshold` is given, the directions with
the smallest eigenvalues are taken, `fraction` of them, and λ is a share of the energy ordinary keys have in all
directions. On published models both are the paper's.
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
from errata.methods.shared.many_matrices import ManyMatrices, Wanted, shielded
from errata.model.lm import LM
from errata.solve.least_squares import Ridge, batch, null_space
from errata.stats.store import take

_PAPER = {"penalty": 10.0, "threshold": 2e-2}
_SHARE = 0.1  # of the energy of ordinary keys, as λ


@dataclass(frozen=True, kw_only=True)
class AlphaEdit(ManyMatrices):
    """A least-squares change of several `down` matrices, in the null space of ordinary keys."""

    penalty: float | Auto | None = field(
        default="auto", metadata={"help": "λ; none: a tenth of the energy of ordinary keys", "above": 0}
    )
    threshold: float | Auto | None = field(
        default="auto",
        metadata={"help": "eigenvalue of C below which a direction is free; none: by fraction", "above": 0},
    )
    fraction: float = field(default=0.8, metadata={"help": "share of the directions that is free", "above": 0})

    name: ClassVar[str] = "alphaedit"
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        model: {**settings, **({} if model == "primer" else _PAPER)} for model, settings in ManyMatrices.tuned.items()
    }

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return settings for a model nobody tuned: a fraction of the directions, λ by the energy of ordinary keys."""
        return {**super().automatic(lm), "threshold": None, "penalty": None}

    def update(self, lm: LM, site: Site, wanted: Wanted, past: Sequence[Edit]) -> tuple[LowRank, dict[str, Tensor]]:
        """Return the change, which is zero on all keys outside the null space."""
        free, weight = self._free(lm, site)
        held = shielded(lm, self._key(site), past, site, weight, free)
        inside = batch(wanted.residual, wanted.keys.double().cpu() @ free, held)
        return LowRank(inside.left, free @ inside.right), {}

    def _key(self, site: Site) -> tuple[object, ...]:
        return ("null space", site, self.corpus, self.tokens, self.threshold, self.fraction, self.penalty)

    def _free(self, lm: LM, site: Site) -> tuple[Tensor, Ridge]:
        """Return Û (in, p) and λI in its coordinates, computed once while the model lives."""
        key = self._key(site)
        if key not in lm.memory:
            second = take(lm, site, self.corpus, self.tokens)
            free = null_space(second, filled(self.threshold), self.fraction)
            weight = _SHARE * float(second.trace()) if self.penalty is None else float(self.penalty)
            lm.memory[key] = free, Ridge(torch.eye(free.shape[1], dtype=torch.float64), weight)
        found: tuple[Tensor, Ridge] = lm.memory[key]
        return found
