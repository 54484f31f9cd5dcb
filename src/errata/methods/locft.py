"""LocFT-BF: fine-tuning of one well-chosen matrix, all facts once before any of them twice.

Paper: Yang et al., Fine-tuning Done Right in Model Editing, https://arxiv.org/abs/2509.22072.

    for epoch: for every mini-batch B of the facts: one step of Adam on
        min_Δ  mean_{i in B} mean_j −log P(target_j | prompt, target_<j),  the end of text among the target's tokens

Breadth first, as fine-tuning is done everywhere else; the editing literature's `ft` finishes one fact before the next begins.

Differs from the paper: the change is a tensor of its own, as in `ft`; learning stops early when the mean loss of an epoch
falls below `stop`; on models nobody tuned, the step is a fiftieth of the root mean square of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from errata.edit import Edit
from errata.fact import Fact
from errata.methods.base import Solution, filled
from errata.methods.shared.fine_tuned import OneTuned
from errata.model.lm import LM
from errata.solve.descent.matrix import MatrixTraining
from errata.solve.keys import forms, queries


@dataclass(frozen=True, kw_only=True)
class LocFT(OneTuned):
    """Adam on one `down` matrix, breadth first."""

    epochs: int = field(default=25, metadata={"help": "times every fact is seen", "least": 1})
    size: int = field(default=100, metadata={"help": "facts of a mini-batch", "least": 1})
    stop: float = field(default=0.0, metadata={"help": "mean loss of an epoch at which to stop", "least": 0})

    name: ClassVar[str] = "locft"
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **OneTuned.tuned,
        "llama-3-8b": {"layer": 22, "lr": 5e-4},
        "qwen2.5-7b": {"layer": 6, "lr": 5e-4},
    }

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the trained change."""
        end = lm.tokenizer.eos_token or ""
        asked = [
            replace(query, answer=f"{query.answer}{end}")
            for query in queries(lm, facts, ["", *forms(lm)], answers=True)
        ]
        how = MatrixTraining(steps=self.epochs, lr=filled(self.lr), stop=self.stop, size=self.size)
        return self.trained(lm, asked, how, past)
