"""Fine-tuning of one matrix: the baseline every editor is compared with.

Papers: Zhu et al., Modifying Memories in Transformer Models, https://arxiv.org/abs/2012.00363 (the L∞ bound); FT-L as in ROME,
https://arxiv.org/abs/2202.05262, and FT-M as in EasyEdit, Wang et al., https://arxiv.org/abs/2308.07269.

    masked (FT-M):  min_Δ  mean_facts mean_j −log P(target_j | prompt, target_<j)
    last   (FT-L):  min_Δ  mean_facts mean_j −log P(target_j | prompt),  ‖Δ‖∞ ≤ bound

Differs from the paper: the change is a tensor of its own, so the model is never written to and the lower layers run once;
learning stops when the mean loss falls below `stop`; on models nobody tuned, the step is a fiftieth of the root mean
square of the weights. FT-L asks the last prompt position for every target token, which cannot make a model say a target
of several tokens; it is kept because the literature compares with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from errata.edit import Edit
from errata.fact import Fact
from errata.methods.base import Auto, Solution, filled
from errata.methods.shared.fine_tuned import OneTuned
from errata.model.lm import LM
from errata.solve import keys
from errata.solve.descent.matrix import MatrixTraining


@dataclass(frozen=True, kw_only=True)
class FineTune(OneTuned):
    """Adam on one `down` matrix."""

    variant: Literal["masked", "last"] = field(default="masked", metadata={"help": "FT-M or FT-L"})
    steps: int = field(default=50, metadata={"help": "most updates", "least": 1})
    bound: float | Auto | None = field(
        default="auto", metadata={"help": "largest change of an entry; auto: none, FT-L 5e-4", "above": 0}
    )
    stop: float = field(default=0.01, metadata={"help": "mean loss at which to stop", "least": 0})

    name: ClassVar[str] = "ft"

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return two thirds of the depth, a step to match the weights, and FT-L's bound."""
        return {**super().automatic(lm), "bound": 5e-4 if self.variant == "last" else None}

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the trained change."""
        masked = self.variant == "masked"
        forms = ["", *keys.forms(lm)]
        batch = lm.tokens.batch(keys.queries(lm, facts, forms, answers=True))
        labels = None if masked else [batch.labels[batch.rows == i].tolist() for i in range(len(batch))]
        schedule = MatrixTraining(steps=self.steps, lr=filled(self.lr), stop=self.stop, bound=filled(self.bound))
        return self.trained(lm, keys.queries(lm, facts, forms, answers=masked), schedule, past, labels)
