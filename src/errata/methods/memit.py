"""MEMIT: many facts at once, spread over several layers.

Paper: Meng et al., Mass-Editing Memory in a Transformer, https://arxiv.org/abs/2210.07229; the history term as in
https://arxiv.org/abs/2605.26670.

    z_i = h_i^L + δ_i, learned at the output of block L                            (Eq. 16, `solve.values`)
    for l in layers, ascending, with keys and h^L recomputed after each:
        R = (z − h^L) / (L − l + 1)                                                (Eq. 20)
        Δ^l = R Kᵀ (λC + K_p K_pᵀ + K Kᵀ)⁻¹                                        (Eq. 14, `solve.least_squares`)

K_p, the keys of the edits that stand, is zero unless ``history=True``. Keys are averaged over contexts.

Differs from the paper: C is damped (``damping=0`` gives the paper's). Where the architecture norms the MLP's output before
adding it (Gemma-2, Gemma-3, OLMo-2), what is written is not what the stream receives; z is then learned at the output of
`down` of layer L. On models nobody tuned, v*'s step is a fraction of the size of z0 and λ is the size of k, the mean of
kᵀC⁻¹k: published values are 0.9 to 3 times that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import LowRank, Site
from errata.edit import Edit
from errata.fact import Fact
from errata.methods._locate import Auto, LocateThenEdit, home
from errata.methods.base import Solution, layer_at
from errata.model.lm import LM
from errata.solve import keys
from errata.solve.least_squares import batch
from errata.solve.values import optimise

_LLAMA2 = {"layers": (4, 5, 6, 7, 8), "steps": 25, "lr": 0.5, "decay": 1e-3, "clamp": 4.0, "weight": 15000.0}
_LLAMA3 = {"layers": (4, 5, 6, 7, 8), "steps": 25, "lr": 0.1, "decay": 0.5, "clamp": 0.75, "weight": 15000.0}


@dataclass(frozen=True, kw_only=True)
class Memit(LocateThenEdit):
    """A least-squares change of several `down` matrices for a batch of facts."""

    layers: tuple[int, ...] | Auto = field(default="auto", metadata={"help": "layers edited, ascending"})
    weight: float | Auto = field(default="auto", metadata={"help": "λ: how much ordinary keys weigh", "above": 0})
    history: bool = field(default=False, metadata={"help": "also keep what earlier edits' keys give"})

    name: ClassVar[str] = "memit"
    batched: ClassVar[bool] = True
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2-xl": {
            "layers": (13, 14, 15, 16, 17),
            "steps": 20,
            "lr": 0.5,
            "decay": 0.5,
            "clamp": 0.75,
            "weight": 20000.0,
        },
        "gpt-j-6b": {
            "layers": (3, 4, 5, 6, 7, 8),
            "steps": 25,
            "lr": 0.5,
            "decay": 0.5,
            "clamp": 0.75,
            "weight": 15000.0,
        },
        "llama-2-7b": _LLAMA2,
        "mistral-7b": _LLAMA2,
        "llama-3-8b": _LLAMA3,
        "qwen2.5-7b": _LLAMA3,
        "primer": {"layers": (0, 1)},
    }

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return settings for a model nobody tuned: early layers, or those up to the traced one; λ by the size of k."""
        last = home(lm, 0.25)
        first = max(0, last + layer_at(lm, 0.12) - layer_at(lm, 0.25))
        return {
            "layers": tuple(range(first, last + 1)),
            "steps": 25,
            "decay": 0.5,
            "clamp": 4.0,
            "weight": float(lm.inner),
        }

    def sites(self) -> tuple[Site, ...]:
        """Return the sites written to, ascending."""
        assert isinstance(self.layers, tuple)
        return tuple(Site(layer, "down") for layer in sorted(self.layers))

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the update of a batch of facts."""
        assert isinstance(self.weight, float)
        sites = self.sites()
        top = Site(sites[-1].layer, "down" if lm.row.post_norm else "block")
        contexts = keys.prefixes(lm, self.seed)
        hold = self.hold(lm, past)
        values = optimise(lm, facts, top, contexts, self.goal(), hold.restraint())
        deltas: dict[Site, LowRank] = {}
        carry: dict[str, Tensor] = {f"delta/{top}": values.delta}
        asked = keys.queries(facts, [""], answers=False)
        with ExitStack() as stack:
            for place, site in enumerate(sites):
                averaged = keys.mean_keys(lm, [site], facts, contexts)[site]
                _, now = keys.gather(lm, asked, outputs=[top])
                residual = (values.target - now[top].to(values.target.dtype)) / (len(sites) - place)
                residual = hold.fit(site, residual)
                kept = self._past_keys(past, site) if self.history else None
                deltas[site] = batch(residual, averaged, self.ridge(lm, site, self.weight), kept)
                carry[f"key/{site}"] = averaged
                stack.enter_context(lm.weights.trial([{site: deltas[site]}]))
        return Solution(deltas, carry, contexts, {**self.learned(values), **hold.report()})

    def _past_keys(self, past: Sequence[Edit], site: Site) -> Float[Tensor, "m in"] | None:
        found = [edit.carry[f"key/{site}"] for edit in past if f"key/{site}" in edit.carry]
        return torch.cat(found) if found else None
