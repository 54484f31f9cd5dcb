"""O-Edit+: ROME's update, orthogonal to earlier edits and to what the model knows implicitly.

Paper: Cai and Cao, O-Edit: Orthogonal Subspace Editing for Language Model Sequential Editing, https://arxiv.org/abs/2410.11469.

    U  = leading left singular vectors of the sum of the updates that stand          (`solve.subspace`)
    G  = leading left singular vectors of the base model's gradient on text          (`stats.gradients`)
    Ĝ  = G − U Uᵀ G, columns renormalised                                            (Eq. 12)
    δ  = argmin L(δ) + λ1 · mean_j |cos(δ, U_j)| + λ2 · mean_j |cos(δ, Ĝ_j)|          O-Edit
    ΔW ← (I − Q Qᵀ) ΔW,   Q = orth[U, Ĝ]                                             O-Edit+

ΔW is ROME's (see `rome`). Any method that has a setting `constraint` takes the same part: memit gets a pair of bases for
each layer, fine-tuning projects its gradient.

Differs from the paper: the paper's O-Edit is ``constraint=o-edit``; here the hard form is the default, and δ is learned
inside the free space (δ = (I − Q Qᵀ) z), so that nothing of it is lost by projecting; ``projection=project`` and
``projection=rescaled`` project afterwards, with λ = 5. What is best depends on the base (LOG.md, 2026-11-20). On ROME with
its covariance ``inside`` says more of the facts until three quarters of the directions are taken. On ROME without one
(``damping=1e6``), which collapses here, only ``project`` holds: what is never compensated does not grow. That the paper's base
had none is said nowhere; the authors' successor (DeltaEdit, arXiv 2505.07899) has one.

U holds every direction of the standing updates (``energy`` below 1 keeps the leading ones), is derived from the log, and so
is free again when an edit is dropped. When the directions run out, the edit is refused, or, under ``full=leading``, only the
leading ones stay protected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from errata.methods.shared.one_matrix import OneMatrix


@dataclass(frozen=True, kw_only=True)
class OEdit(OneMatrix):
    """One rank-one change of one `down` matrix, in directions nobody uses."""

    constraint: Literal["none", "o-edit", "o-edit+"] = field(
        default="o-edit+", metadata={"help": "keep updates off earlier ones: by a penalty, or by projection too"}
    )

    name: ClassVar[str] = "oedit"
