"""AnyEdit: long answers, cut into windows, each written at the last token of the text before it.

Paper: Jiang et al., AnyEdit: Edit Any Knowledge Encoded in Language Models, https://arxiv.org/abs/2502.05628; its code,
github.com/jianghoucheng/AnyEdit, over MEMIT (https://arxiv.org/abs/2210.07229).

    y = Y_1 … Y_M, windows of w tokens;  p_m the token before Y_m;  L the last of the layers
    δ_m = argmin_δ −log P(Y_m | x, Y_<m; δ_1 … δ_{m−1}, δ at h^L[p_m]) / |Y_m| + decay · ‖δ‖/‖h‖²    (`solve.windows`)
    z_m = h^L[p_m] + δ_m
    for l in layers, ascending, with K (inputs of `down` at all p_m) and h^L read anew after each:
        Δ^l = R Kᵀ (λC + K_o K_oᵀ + K Kᵀ)⁻¹,   R = (z − h^L[p]) / (L − l + 1)                   (`solve.least_squares`)

K_o are the inputs at all other tokens of question and answer, which the code holds and the paper does not have
(``others=False``). Nothing is looked up at a subject: a question and its answer are enough.

Differs from the paper: the answer is written in every form a model reads it in, besides the plain prompt after its chat
template, where the first window's place is the prompt's last token and not the template's, which stands before every reply;
each form has keys of its own and all share δ. The answer ends with the token that ends a text (``ends=False``). C is damped.
On models nobody tuned, v*'s step is a fraction of the size of h, λ is the size of k, windows are shorter, because one vector of
a narrow model does not hold forty tokens, and a window is learned once each of its tokens leads by `margin` nats. Behind an
encoder, which reads no answer, the answer is one window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from errata.delta import LowRank, Site
from errata.edit import Edit
from errata.errors import BadConfig
from errata.fact import Fact
from errata.methods.base import Auto, Solution, filled, layer_at, with_role
from errata.methods.shared.locate_then_edit import factored
from errata.methods.shared.orthogonal import Constrained, OrthogonalRoom
from errata.model.lm import LM
from errata.solve.keys import forms
from errata.solve.least_squares import Shield, batch
from errata.solve.value_rows import Constraint, ValueTraining
from errata.solve.windows import WindowKeys, Windows, WindowValues, asked_in, groups, learn_windows, seen_at
from errata.stats.store import Key, described, keys

_CODE = {
    "layers": (4, 5, 6, 7, 8), "steps": 25, "lr": 0.5, "decay": 1e-3, "clamp": 4.0, "stop": 0.01, "margin": None,
    "weight": 15000.0,
}  # fmt: skip

Part = tuple[Windows, WindowValues]


@dataclass(frozen=True, kw_only=True)
class AnyEdit(Constrained):
    """A least-squares change of several `down` matrices for all windows of long answers."""

    layers: tuple[int, ...] | Auto = field(default="auto", metadata={"help": "layers edited, ascending"})
    window: int | Auto = field(
        default="auto", metadata={"help": "tokens of the answer that one value holds", "least": 1}
    )
    overlap: int = field(
        default=0, metadata={"help": "tokens of the window before that a window learns again", "least": 0}
    )
    ends: bool = field(default=True, metadata={"help": "learn that the text ends after the answer"})
    others: bool = field(
        default=True, metadata={"help": "hold what is given at all other tokens of question and answer"}
    )
    weight: float | Auto = field(default="auto", metadata={"help": "λ: how much ordinary keys weigh", "above": 0})
    steps: int | Auto = field(default="auto", metadata={"help": "steps of a window's value", "least": 1})
    lr: float | Auto = field(
        default="auto", metadata={"help": "step size of a value; auto: a fraction of the size of h", "above": 0}
    )
    decay: float = field(default=1e-3, metadata={"help": "weight of ‖δ‖/‖h‖²", "least": 0})
    clamp: float = field(default=4.0, metadata={"help": "largest ‖δ‖ as a multiple of ‖h‖", "above": 0})
    stop: float | Auto = field(default="auto", metadata={"help": "loss at which a value is good enough", "least": 0})
    margin: float | Auto | None = field(
        default="auto", metadata={"help": "or how many nats each token of a window leads by in every form", "least": 0}
    )
    damping: float = field(default=1e-3, metadata={"help": "share of C's mean diagonal added to it; 0: the papers' C"})

    name: ClassVar[str] = "anyedit"
    batched: ClassVar[bool] = True
    located: ClassVar[bool] = False
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "llama-3-8b": {**_CODE, "window": 40},
        "qwen2.5-7b": {**_CODE, "window": 50},
        "primer": {"layers": (0, 1)},
    }

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return settings for a model nobody tuned: layers up to the middle, where most of the windows could be learned.

        SmolLM2, two answers: LOG.md, 2026-11-28.
        """
        last, first = layer_at(lm, 0.48), layer_at(lm, 0.33)
        layers = with_role(lm, range(first, last + 1), "down") or (last,)
        how = {"layers": layers, "window": 10, "steps": 50, "stop": 0.01, "margin": 2.0}
        return {**super().automatic(lm), **how, "weight": float(lm.inner)}

    def resolve(self, lm: LM) -> Self:
        """Return the method with every "auto" filled in; raises what `Method.resolve` raises.

        Raises:
            BadConfig: windows overlap by as much as they hold.
        """
        found = super().resolve(lm)
        if found.overlap >= filled(found.window):
            raise BadConfig(
                f"overlap = {found.overlap} makes no sense with window = {found.window}; it is less than the window."
            )
        return found

    def sites(self) -> tuple[Site, ...]:
        """Return the sites written to, ascending."""
        return tuple(Site(layer, "down") for layer in sorted(filled(self.layers)))

    def wanted(self, lm: LM) -> list[Mapping[Site, Key]]:
        """Return by what the covariance of every site written to is known, and what a constraint asks for."""
        return [*super().wanted(lm), keys(lm, self.sites(), self.corpus, self.tokens)]

    def statistics(self, lm: LM) -> dict[str, dict[str, Any]]:
        """Return the name of the covariance of every site written to, how many tokens it is of and why no more."""
        return described(lm, keys(lm, self.sites(), self.corpus, self.tokens))

    def goal(self) -> ValueTraining:
        """Return the settings of a window's value, of a resolved method."""
        how = ValueTraining(steps=filled(self.steps), lr=self.lr, kl=0.0, decay=self.decay, clamp=self.clamp)
        return replace(how, stop=filled(self.stop), margin=filled(self.margin))

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the update of a batch of facts."""
        hold = self.hold(lm, past)
        parts = [self.learned(lm, facts[part], hold.restraint()) for part in groups(len(facts))]
        deltas, carry = self.written(lm, parts, hold)
        carry[f"delta/{self.top(lm)}"] = torch.cat([learned.delta for _, learned in parts])
        return Solution(deltas, carry, report={**_report(parts), **hold.report()})

    def top(self, lm: LM) -> Site:
        """Return where values are learned: what the last block written to puts out, or its matrix where that is normed."""
        return Site(self.sites()[-1].layer, "down" if lm.row.post_norm else "block")

    def learned(self, lm: LM, facts: Sequence[Fact], restraint: Constraint | None = None) -> Part:
        """Return the windows of some facts, and what was learned for them."""
        end = lm.tokens.end if self.ends and lm.row.kind == "decoder" else ""
        asked, count = asked_in(lm, facts, ["", *forms(lm)], end)
        windows = Windows(lm, asked, count, filled(self.window), self.overlap)
        return windows, learn_windows(windows, self.top(lm), self.goal(), restraint)

    def written(
        self, lm: LM, parts: Sequence[Part], hold: OrthogonalRoom
    ) -> tuple[dict[Site, LowRank], dict[str, Tensor]]:
        """Return the updates that write what was learned, and the keys they write it at."""
        sites, top = self.sites(), self.top(lm)
        target = torch.cat([learned.pairs.target for _, learned in parts])
        deltas, carry = dict[Site, LowRank](), dict[str, Tensor]()
        with ExitStack() as stack:
            for place, site in enumerate(sites):
                seen = WindowKeys(
                    *map(torch.cat, zip(*(seen_at(w, m.pairs, site, top) for w, m in parts), strict=True))
                )
                residual = (target - seen.now.to(target)) / (len(sites) - place)
                deltas[site] = self.update(lm, site, hold.fit(site, residual), seen)
                carry[f"key/{site}"] = seen.keys
                stack.enter_context(lm.weights.trial([{site: deltas[site]}]))
        return deltas, carry

    def update(self, lm: LM, site: Site, residual: Tensor, seen: WindowKeys) -> LowRank:
        """Return the least-squares change of one matrix, which ordinary keys and those of the other tokens hold back."""
        ridge = factored(lm, site, (self.corpus, self.tokens), self.damping, filled(self.weight))
        return batch(residual, seen.keys, Shield(ridge).add(seen.others) if self.others else ridge)


def _report(parts: Sequence[Part]) -> dict[str, Any]:
    """Report of each fact the mean loss of its windows, their steps, and whether all of them are good enough."""
    report: dict[str, Any] = {"loss": [], "steps": [], "converged": [], "windows": []}
    for _, learned in parts:
        for fact in learned.fact.unique():
            mine = learned.fact == fact
            report["loss"].append(round(float(learned.loss[mine].mean()), 6))
            report["steps"].append(int(learned.steps[mine].sum()))
            report["converged"].append(bool(learned.done[mine].all()))
            report["windows"].append(int(mine.sum()))
    return report
