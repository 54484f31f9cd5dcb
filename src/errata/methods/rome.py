"""ROME: one fact, one rank-one change of one matrix.

Paper: Meng et al., Locating and Editing Factual Associations in GPT, https://arxiv.org/abs/2202.05262; keys as in R-ROME,
Gupta et al., https://arxiv.org/abs/2403.07175.

    k*  = mean over contexts of the key at the subject's last token
    v*  = argmin_z mean NLL(target) + kl · KL + decay · ‖z − z0‖ / ‖z0‖²          (Eq. 4, `solve.values`)
    ΔW  = (v* − W k) (C⁻¹ k*)ᵀ / (kᵀ C⁻¹ k*),   C = E[k kᵀ]                        (Eq. 2, `solve.least_squares`)

Differs from the paper: k is k* in both places (R-ROME; ``consistent_keys=False`` gives the original, k on the bare prompt);
C is damped (``damping=0`` gives the paper's); on models nobody tuned, v*'s step is a fraction of the size of z0 and the layer
a fraction of the depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from errata.methods.shared.one_matrix import OneMatrix


@dataclass(frozen=True, kw_only=True)
class Rome(OneMatrix):
    """One rank-one change of one `down` matrix."""

    name: ClassVar[str] = "rome"
