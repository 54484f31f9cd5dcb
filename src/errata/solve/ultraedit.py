"""UltraEdit's arithmetic: what a layer sees and is asked for at some tokens, put on one scale, and one linear solve.

seen = signals(lm, batch, sites, places)                  # one forward and one backward pass
shift(seen[site], scale)                                  # ΔW for η = 1, of rank n

h̃ = (h − μ_h) / σ_h,  g̃ = (g − μ_g) / σ_g,  V = −‖h̃‖² g̃,  ΔWᵀ = (HᵀH + I)⁻¹ Hᵀ V   (arXiv 2505.14679)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from errata.delta import LowRank, Site
from errata.errors import NotFinite
from errata.model.lm import LM
from errata.model.trace import Replace, Trace, no_grads_kept
from errata.stats.corpus import open_corpus
from errata.stats.gradients import task, text_loss

_Pick = Callable[[Tensor], Float[Tensor, "n d"]]


@dataclass(frozen=True, eq=False, slots=True)
class Signal:
    """What a matrix was given at n tokens, and the gradient of the loss with regard to what it put out there, in float64."""

    inputs: Float[Tensor, "n in"]
    gradients: Float[Tensor, "n out"]


@dataclass(frozen=True, eq=False, slots=True)
class Spread:
    """How large numbers are in each coordinate: sums that add up over edits, and go when an edit is dropped.

    Args:
        sums: (3, d) float64: how many, Σ x, Σ x².
    """

    sums: Float[Tensor, "3 d"]

    @classmethod
    def of(cls, rows: Float[Tensor, "n d"]) -> Spread:
        """Return that of some rows."""
        rows = rows.double().cpu()
        return cls(torch.stack([torch.full_like(rows[0], len(rows)), rows.sum(0), rows.square().sum(0)]))

    def __add__(self, other: Spread) -> Spread:
        return Spread(self.sums + other.sums)

    def normed(self, rows: Float[Tensor, "n d"], centred: bool = True) -> Float[Tensor, "n d"]:
        """Return rows with mean 0, if `centred`, and variance 1 in each coordinate; one that is constant gives 0."""
        count, total, squares = self.sums
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        kept = variance > 1e-12 * (mean.square() + variance.mean())  # below, it is rounding
        found: Tensor = torch.where(kept, (rows - mean * centred) / variance.clamp(min=1e-300).sqrt(), 0.0)
        return found


def signals(lm: LM, sites: Sequence[Site], run: Callable[[], Tensor], pick: _Pick) -> tuple[float, dict[Site, Signal]]:
    """Return a loss and each site's signal, from one forward and one backward pass.

    Args:
        run: runs the model and returns the loss. pick: the tokens looked at, from (b, t, d) to (n, d).

    Raises:
        NotFinite: the loss or a gradient is not.
    """
    leaves: dict[Site, Tensor] = {}

    def open_at(site: Site) -> Replace:
        def leaf(output: Tensor) -> Tensor:
            leaves[site] = torch.zeros_like(output, requires_grad=True)
            return output + leaves[site]

        return leaf

    with no_grads_kept(lm.model), torch.enable_grad():
        with Trace(lm, inputs=sites, replace={site: open_at(site) for site in sites}) as trace:
            loss = run()
        found = torch.autograd.grad(loss, [leaves[site] for site in sites])
    if not bool(loss.isfinite()) or not all(bool(g.isfinite().all()) for g in found):
        raise NotFinite("the loss of an edit is not finite: the model overflows; load it in float32 or bfloat16.")
    picked = {s: (pick(trace.inputs[s]), pick(g)) for s, g in zip(sites, found, strict=True)}
    return float(loss.detach()), {s: Signal(h.double().cpu(), g.double().cpu()) for s, (h, g) in picked.items()}


def ordinary(lm: LM, sites: Sequence[Site], corpus: str, tokens: int) -> dict[Site, tuple[Spread, Spread]]:
    """Return how large inputs and gradients are on ordinary text; raises BadFile as `open_corpus`."""
    sums: dict[Site, tuple[Spread, Spread]] = {}
    for ids, real in open_corpus(corpus).batches(lm, tokens):
        inputs, labels, asked = task(lm, ids, real)
        seen = real[:, : inputs["input_ids"].shape[1]]

        def pick(hidden: Tensor, seen: Bool[Tensor, "b t"] = seen) -> Tensor:
            return hidden[seen.to(hidden.device)]

        for site, signal in signals(lm, sites, partial(text_loss, lm, inputs, labels, asked), pick)[1].items():
            new = Spread.of(signal.inputs), Spread.of(signal.gradients)
            sums[site] = (sums[site][0] + new[0], sums[site][1] + new[1]) if site in sums else new
    return sums


def shift(signal: Signal, scale: tuple[Spread, Spread], centred: bool = True) -> LowRank:
    """Return ΔW for η = 1, as factors of rank n: ``Hᵀ (H Hᵀ + I)⁻¹ V`` is ``(HᵀH + I)⁻¹ Hᵀ V`` without a system of size in.

    Args:
        scale: of inputs and of gradients. centred: whether the gradients' mean is taken off; without it each descends.
    """
    inputs, size = signal.inputs, scale[0].normed(signal.inputs).square().sum(1, keepdim=True)
    wanted = -size * scale[1].normed(signal.gradients, centred)  # V, (n, out)
    inner = inputs @ inputs.T + torch.eye(len(inputs), dtype=inputs.dtype)
    left = torch.cholesky_solve(wanted, torch.linalg.cholesky(inner))
    return LowRank(left.T.contiguous(), inputs.T.contiguous())


def joined(one: Mapping[Site, LowRank], other: Mapping[Site, LowRank]) -> dict[Site, LowRank]:
    """Return the sum of changes; where they look at the same inputs, it is of no higher rank."""
    made = dict(one)
    for site, new in other.items():
        old = made.get(site)
        if old is not None and old.right.shape == new.right.shape and torch.equal(old.right, new.right):
            new = LowRank(old.left + new.left, new.right)
        elif old is not None:
            new = LowRank(torch.cat([old.left, new.left], 1), torch.cat([old.right, new.right], 1))
        made[site] = new
    return made
