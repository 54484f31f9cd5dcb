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

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from errata.delta import LowRank, Site
from errata.edit import Edit
from errata.fact import Fact
from errata.methods.base import Auto, Method, Solution, filled, layer_at
from errata.model.fold import fold
from errata.model.lm import LM
from errata.model.tokens import Batch
from errata.model.trace import at
from errata.solve import keys
from errata.solve.descent.losses import row_losses
from errata.solve.ultraedit import Spread, joined, ordinary, shift, signals
from errata.stats.store import Progress

_Scale = tuple[Spread, Spread]
SIZES = tuple(0.01 * 1.5**power for power in range(10))  # of the largest ‖ΔW‖/‖W‖, tried in this order


@dataclass(frozen=True, kw_only=True)
class UltraEdit(Method):
    """A change of `down` matrices from the gradients of a batch of facts."""

    layers: tuple[int, ...] | Auto = field(default="auto", metadata={"help": "layers edited; auto: one"})
    lr: float | Auto = field(default="auto", metadata={"help": "η; auto: found by forward passes", "above": 0})
    rounds: int = field(default=5, metadata={"help": "most gradients taken, one after another", "least": 1})
    stop: float = field(default=0.2, metadata={"help": "mean loss at which to stop", "least": 0})
    where: Literal["subject", "everywhere"] = field(
        default="subject", metadata={"help": "tokens looked at: the subject's last, or all of prompt and target"}
    )
    centred: bool = field(default=False, metadata={"help": "take the mean off gradients, too (the paper's)"})
    contexts: int = field(default=0, metadata={"help": "texts put before the prompt, beside none", "least": 0})
    corpus: str = field(
        default="auto", metadata={"help": "text that gives the scale to begin with: prose, primer, a file"}
    )
    tokens: int = field(default=1000, metadata={"help": "tokens of it to read", "least": 1})

    name: ClassVar[str] = "ultraedit"
    batched: ClassVar[bool] = True
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {"primer": {"layers": (2,)}}

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return one layer at a quarter of the depth."""
        return {"layers": (layer_at(lm, 0.25),)}

    def sites(self) -> tuple[Site, ...]:
        """Return the sites written to."""
        return tuple(Site(layer, "down") for layer in sorted(filled(self.layers)))

    def prepare(self, lm: LM, progress: Progress | None = None) -> None:
        """Read the text the scale begins with."""
        self.resolve(lm)._ordinary(lm)

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the change of a batch of facts."""
        every = (*keys.prefixes(lm, self.seed)[: self.contexts + 1], *keys.forms(lm))
        contexts = keys.contexts_for(lm, facts, every)
        batch = lm.routed(lm.tokens.batch(keys.queries(lm, facts, contexts.texts, answers=True)).to(lm.device))
        scale, own = self._scale(lm, past), dict[Site, _Scale]()
        deltas, before = dict[Site, LowRank](), _now(lm, batch)
        run = lambda: row_losses(batch, lm.answer_logits(batch)).sum()  # noqa: E731
        with ExitStack() as stack:
            for number in range(self.rounds):
                _, seen = signals(lm, self.sites(), run, lambda x: self._pick(batch, x))
                if not number:  # later ones are our own doing
                    own = {site: (Spread.of(s.inputs), Spread.of(s.gradients)) for site, s in seen.items()}
                    scale = {s: (scale[s][0] + own[s][0], scale[s][1] + own[s][1]) for s in scale}
                step = self._sized(
                    lm, batch, {site: shift(seen[site], scale[site], self.centred) for site in seen}, before
                )
                deltas = joined(deltas, step)
                stack.enter_context(lm.weights.trial([step]))
                loss = float(_now(lm, batch).mean())
                if loss < self.stop:
                    break
        carry = {f"{name}/{s}": part.sums for s, pair in own.items() for name, part in zip("hg", pair, strict=True)}
        report = {"loss": [round(loss, 6)], "steps": [number + 1], "converged": [loss < self.stop]}
        return Solution(deltas, carry, contexts.texts, {**report, **contexts.report(lm)})

    def _scale(self, lm: LM, past: Sequence[Edit]) -> dict[Site, _Scale]:
        """Return how large inputs and gradients are on ordinary text and in the edits that stand."""

        def entered(sums: dict[Site, _Scale], edit: Edit) -> dict[Site, _Scale]:
            known = {s: pair for s, pair in sums.items() if edit.method == self.name and f"h/{s}" in edit.carry}
            new = {
                s: (h + Spread(edit.carry[f"h/{s}"]), g + Spread(edit.carry[f"g/{s}"])) for s, (h, g) in known.items()
            }
            return {**sums, **new}

        key = ("scale", self.sites(), self.corpus, self.tokens)
        return fold(lm, key, past, lambda: self._ordinary(lm), entered)

    def _ordinary(self, lm: LM) -> dict[Site, _Scale]:
        key = ("ordinary", self.sites(), self.corpus, self.tokens)
        if key not in lm.memory:
            with lm.weights.at_base():
                lm.memory[key] = ordinary(lm, self.sites(), self.corpus, self.tokens)
        found: dict[Site, _Scale] = lm.memory[key]
        return found

    def _pick(self, batch: Batch, hidden: Tensor) -> Tensor:
        """Return the hidden states at the tokens looked at, (n, d)."""
        real = batch.inputs["attention_mask"].bool().to(hidden.device)
        return at(hidden, batch.lookup) if self.where == "subject" else hidden[real]

    def _sized(self, lm: LM, batch: Batch, change: Mapping[Site, LowRank], before: Tensor) -> dict[Site, LowRank]:
        """Return the change times η: one after which no row is worse than `before`, if there is any."""
        if self.lr != "auto":
            return {site: delta * self.lr for site, delta in change.items()}
        largest = max(d.norm() / float(lm.weights.base(s).detach().double().norm()) for s, d in change.items())
        best, found = (True, float("inf")), change
        for size in SIZES:
            step = {site: delta * (size / max(largest, 1e-300)) for site, delta in change.items()}
            with lm.weights.trial([step]):
                loss = _now(lm, batch)
            if (rank := (bool((loss > before).any()), float(loss.mean()))) < best:
                best, found = rank, step
            if best[1] < self.stop:
                break
        return dict(found)


@torch.no_grad()
def _now(lm: LM, batch: Batch) -> Tensor:
    return row_losses(batch, lm.answer_logits(batch))
