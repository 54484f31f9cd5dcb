"""CrispEdit: fine-tuning in the directions along which the loss on ordinary text is flat.

Paper: Ikram et al., CrispEdit: Low-Curvature Projections for Scalable Non-Destructive LLM Editing,
https://arxiv.org/abs/2602.15823; its code, github.com/zarifikram/CrispEdit.

    H ≈ A ⊗ B,   A = E[x xᵀ],  B = E[g gᵀ]  of what a matrix is given, and of the loss's gradient at what it puts out
    A = U diag(α) Uᵀ,  B = V diag(β) Vᵀ,   M_ji = 1 where β_j α_i < τ;  those from τ on are γ of Σ β_j α_i  (`solve.curvature`)
    P(G) = V ((Vᵀ G U) ⊙ M) Uᵀ;   for each mini-batch: a step of Adam on P(∇_Δ −log P(target | prompt))

With edits that stand, A and B are those of the text and of their facts together, token by token, each looked at when it was
written (the paper's sequential variant).

Differs from the paper: Adam scales each entry by itself, which leads out of the flat directions; the change is projected again
after every step, so that all of it lies there. A and B are of the base, not renewed while the weights move; the change is a
tensor of its own, as in `ft`; learning stops when the mean loss is below `stop`; on models nobody tuned there are three
layers at a sixth of the depth, where fine-tuning disturbed least (LOG.md), and the step is a fiftieth of the RMS of W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from errata.delta import Dense, Site
from errata.edit import Edit
from errata.fact import Fact
from errata.methods.base import Auto, Method, Solution, filled, layer_at, step_for, with_role
from errata.model.fold import fold
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Batch
from errata.model.trace import Trace, beside, resume
from errata.solve.curvature import Flat, KroneckerFactors, of_text
from errata.solve.descent.loop import MiniBatch, Training, descend
from errata.solve.descent.losses import mean_loss
from errata.solve.keys import forms, queries
from errata.solve.ultraedit import Signal, signals
from errata.stats.store import Progress

_PAPER = {"layers": (19, 20, 21, 22, 23), "lr": 5e-4}
Changes = Mapping[Site, Tensor]


@dataclass(frozen=True, kw_only=True)
class CrispEdit(Method):
    """Adam on several `down` matrices, in directions of low curvature."""

    layers: tuple[int, ...] | Auto = field(default="auto", metadata={"help": "layers trained"})
    energy: float = field(
        default=0.99, metadata={"help": "γ: share of the curvature that is held; 0: plain fine-tuning", "least": 0}
    )
    steps: int = field(default=25, metadata={"help": "most rounds through all facts", "least": 1})
    size: int = field(default=32, metadata={"help": "prompts of a mini-batch", "least": 1})
    lr: float | Auto = field(
        default="auto", metadata={"help": "Adam's step; auto: a fiftieth of the RMS of W", "above": 0}
    )
    stop: float = field(default=0.01, metadata={"help": "mean loss at which to stop", "least": 0})
    history: bool = field(default=True, metadata={"help": "also hold what earlier edits of this method look at"})
    corpus: str = field(default="auto", metadata={"help": "text whose loss is held: prose, primer, a file"})
    tokens: int = field(default=20000, metadata={"help": "tokens of it to read", "least": 1})

    name: ClassVar[str] = "crispedit"
    batched: ClassVar[bool] = True
    located: ClassVar[bool] = False
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **dict.fromkeys(("llama-3-8b", "mistral-7b"), _PAPER),
        "qwen2.5-7b": {**_PAPER, "layers": (15, 16, 17, 18, 19)},
        "primer": {"layers": (1, 2, 3)},
    }

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return three early layers and a step to match the weights."""
        first = layer_at(lm, 0.17)
        layers = with_role(lm, range(first, min(first + 3, lm.reachable)), "down") or (first,)
        return {"layers": layers, "lr": step_for(lm.weights.base(Site(layers[0], "down")), 50)}

    def sites(self) -> tuple[Site, ...]:
        """Return the sites written to, ascending."""
        return tuple(Site(layer, "down") for layer in sorted(filled(self.layers)))

    def prepare(self, lm: LM, progress: Progress | None = None) -> None:
        """Compute the curvature of the loss on ordinary text."""
        self.resolve(lm)._ordinary(lm)

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the trained changes."""
        flat = {site: Flat(factors, self.energy) for site, factors in self._curvature(lm, past).items()}
        asked = queries(lm, facts, ["", *forms(lm)], answers=True)
        changes = {site: _zeros(lm, site) for site in self.sites()}
        parts = [
            self._part(lm, asked[at : at + self.size], changes, len(asked)) for at in range(0, len(asked), self.size)
        ]
        how = Training(steps=self.steps, lr=filled(self.lr), stop=self.stop)
        loss, steps = descend(list(changes.values()), parts, how, "fine-tuning", partial(_held, changes, flat))
        deltas = {site: Dense(change.detach()) for site, change in changes.items()}
        with lm.weights.trial([deltas]):
            seen = self._seen(lm, queries(lm, facts, [""], answers=True))
        carry = {
            f"{name}/{s}": t.float() for s, one in seen.items() for name, t in (("x", one.inputs), ("g", one.gradients))
        }
        free = {str(site): round(one.share, 6) for site, one in flat.items()}
        report = {"loss": [loss], "steps": [steps], "converged": [loss < self.stop] if self.stop else []}
        return Solution(deltas, carry, report={**report, "free": free})

    def _part(self, lm: LM, asked: Sequence[Query], changes: Changes, of: int) -> MiniBatch:
        """Return a mini-batch, whose loss begins at the first layer that is written to."""
        first = Site(self.sites()[0].layer, "block")
        batch = lm.routed(lm.tokens.batch(asked).to(lm.device))
        with torch.no_grad(), Trace(lm, inputs=[first]) as trace:
            lm.answer_logits(batch)

        def loss() -> Tensor:
            added = {site: partial(_applied, change) for site, change in changes.items()}
            with beside(lm, added), resume(lm, first.layer, trace.inputs[first]):
                return mean_loss(batch, lm.answer_logits(batch))

        return MiniBatch(loss, len(asked) / of)

    def _seen(self, lm: LM, asked: Sequence[Query]) -> dict[Site, Signal]:
        """Return what each matrix is given, and the loss's gradient at what it puts out, where the answer is predicted."""
        batch = lm.routed(lm.tokens.batch(asked).to(lm.device))
        rows, cols = _places(lm, batch)
        return signals(lm, self.sites(), lambda: _summed(lm, batch), lambda x: x[rows.to(x.device), cols.to(x.device)])[
            1
        ]

    def _curvature(self, lm: LM, past: Sequence[Edit]) -> Mapping[Site, KroneckerFactors]:
        def entered(found: Mapping[Site, KroneckerFactors], edit: Edit) -> Mapping[Site, KroneckerFactors]:
            known = [s for s in found if self.history and edit.method == self.name and f"x/{s}" in edit.carry]
            new = {
                s: KroneckerFactors.of(Signal(edit.carry[f"x/{s}"].double(), edit.carry[f"g/{s}"].double()))
                for s in known
            }
            return {**found, **{s: found[s] + new[s] for s in known}}

        key = ("curvature", self.sites(), self.corpus, self.tokens, self.history)
        return fold(lm, key, past, lambda: self._ordinary(lm), entered)

    def _ordinary(self, lm: LM) -> Mapping[Site, KroneckerFactors]:
        key = ("flat", self.sites(), self.corpus, self.tokens)
        if key not in lm.memory:
            with lm.weights.at_base():
                lm.memory[key] = of_text(lm, self.sites(), self.corpus, self.tokens)
        found: Mapping[Site, KroneckerFactors] = lm.memory[key]
        return found


def _zeros(lm: LM, site: Site) -> Tensor:
    matrix = lm.weights[site].detach()
    return torch.zeros_like(matrix, dtype=torch.promote_types(matrix.dtype, torch.float32)).requires_grad_()


def _applied(change: Tensor, x: Tensor) -> Tensor:
    return x.to(change.dtype) @ change.T


def _held(changes: Changes, flat: Mapping[Site, Flat], step: Any) -> None:
    """Take one step inside the flat directions, and back into them after Adam has scaled it."""
    for site, change in changes.items():
        assert change.grad is not None
        change.grad = flat[site].project(change.grad)
    step()
    with torch.no_grad():
        for site, change in changes.items():
            change.copy_(flat[site].project(change))


def _summed(lm: LM, batch: Batch) -> Tensor:
    return -lm.answer_logits(batch).log_softmax(-1).gather(1, batch.labels[:, None]).sum()


def _places(lm: LM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the rows and columns of the first stack at which an answer is predicted, or what is read for it."""
    if lm.row.kind == "decoder":
        return batch.rows, batch.cols
    found = batch.inputs["attention_mask"].bool().nonzero()
    return found[:, 0], found[:, 1]
