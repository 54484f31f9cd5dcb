"""Which changes of a matrix bend the loss on ordinary text least: Kronecker factors of its curvature, and a projection.

found = of_text(lm, sites, "primer", 4000)                # one forward and one backward pass for all sites
flat = Flat(found[site], energy=0.99)
flat.project(gradient)                                    # what of it lies where the loss is flat

The curvature of a matrix is taken as A ⊗ B (K-FAC, arXiv 1503.05671), A = E[x xᵀ] of what it is given and B = E[g gᵀ] of the
loss's gradient at what it puts out: of eigenvectors a_i of A and b_j of B, the change b_j a_iᵀ bends it by α_i β_j. The
largest of these that make up `energy` of their sum are held (CrispEdit, arXiv 2602.15823); in two small bases that is a mask,
and no matrix of size (in · out)² is ever formed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from errata.delta import Site
from errata.errors import NotFinite, StatsMissing
from errata.model.lm import LM
from errata.solve.ultraedit import Signal, signals
from errata.stats.corpus import open_corpus
from errata.stats.gradients import task, text_loss


@dataclass(frozen=True, eq=False, slots=True)
class KroneckerFactors:
    """Sums over tokens, which add up: Σ x xᵀ and Σ g gᵀ, and of how many tokens."""

    inputs: Float[Tensor, "in in"]
    outputs: Float[Tensor, "out out"]
    count: int

    @classmethod
    def of(cls, signal: Signal) -> KroneckerFactors:
        """Return those of some tokens."""
        return cls(signal.inputs.T @ signal.inputs, signal.gradients.T @ signal.gradients, len(signal.inputs))

    def __add__(self, other: KroneckerFactors) -> KroneckerFactors:
        return KroneckerFactors(self.inputs + other.inputs, self.outputs + other.outputs, self.count + other.count)


class Flat:
    """The changes of a matrix along which the loss is flat.

    Args:
        factors: of the curvature. energy: share of the whole curvature that is held, from 0, nothing, to 1, all there is.

    Raises:
        NotFinite: the curvature is zero or not finite.
    """

    def __init__(self, factors: KroneckerFactors, energy: float) -> None:
        (alpha, self._a), (beta, self._b) = (
            torch.linalg.eigh((m + m.T) / (2 * factors.count)) for m in (factors.inputs, factors.outputs)
        )
        curvature = torch.outer(beta.clamp(min=0), alpha.clamp(min=0))  # (out, in)
        total = float(curvature.sum())
        if not 0 < total < float("inf"):
            raise NotFinite(
                "the loss on ordinary text is flat or not finite; load the model in float32, or name a corpus."
            )
        ordered = curvature.flatten().sort(descending=True).values
        held = int(torch.searchsorted(ordered.cumsum(0), energy * total)) + 1
        least = ordered[min(held, len(ordered)) - 1]
        self.free: Bool[Tensor, "out in"] = (curvature < least) if energy > 0 else torch.ones_like(curvature).bool()

    @property
    def share(self) -> float:
        """The share of all directions that is free."""
        return float(self.free.double().mean())

    def project(self, change: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """Return what of a change lies in free directions: ``B ((Bᵀ Δ A) ⊙ M) Aᵀ``, in its own precision."""
        a, b = (basis.to(change) for basis in (self._a, self._b))
        found: Tensor = b @ ((b.T @ change @ a) * self.free.to(change.device)) @ a.T
        return found


def of_text(lm: LM, sites: Sequence[Site], corpus: str, tokens: int) -> Mapping[Site, KroneckerFactors]:
    """Return the factors of the loss on ordinary text, over the tokens that predict another.

    Raises:
        BadFile: the corpus cannot be read. StatsMissing: it has no text. NotFinite: the loss is not.
    """
    found: dict[Site, KroneckerFactors] = {}
    for ids, real in open_corpus(corpus).batches(lm, tokens):
        inputs, labels, asked = task(lm, ids, real)
        counted = asked if lm.row.kind == "decoder" else real[:, : inputs["input_ids"].shape[1]]
        if not bool(asked.any()):
            continue
        pick = partial(_chosen, counted)
        seen = signals(lm, sites, partial(text_loss, lm, inputs, labels, asked), pick)[1]
        found = {
            s: found[s] + KroneckerFactors.of(one) if s in found else KroneckerFactors.of(one)
            for s, one in seen.items()
        }
    if not found:
        raise StatsMissing(f"the corpus {corpus} has no text to read; name another with corpus=FILE.")
    return found


def _chosen(counted: Bool[Tensor, "b t"], hidden: Float[Tensor, "b t d"]) -> Float[Tensor, "n d"]:
    return hidden[counted.to(hidden.device)]
