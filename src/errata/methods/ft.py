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

from errata.delta import Dense, Site
from errata.edit import Edit
from errata.fact import Fact
from errata.methods.base import Method, Solution, layer_at
from errata.model.lm import LM
from errata.solve.descent import Schedule, fit
from errata.solve.keys import queries

Auto = Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class FineTune(Method):
    """Adam on one `down` matrix."""

    variant: Literal["masked", "last"] = field(default="masked", metadata={"help": "FT-M or FT-L"})
    layer: int | Auto = field(default="auto", metadata={"help": "layer whose down projection is trained"})
    steps: int = field(default=50, metadata={"help": "most updates", "least": 1})
    lr: float | Auto = field(
        default="auto", metadata={"help": "Adam's step; auto: a fiftieth of the RMS of W", "above": 0}
    )
    bound: float | Auto | None = field(
        default="auto", metadata={"help": "largest change of an entry; auto: none, FT-L 5e-4", "above": 0}
    )
    stop: float = field(default=0.01, metadata={"help": "mean loss at which to stop", "least": 0})

    name: ClassVar[str] = "ft"
    batched: ClassVar[bool] = True
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2-xl": {"layer": 0, "lr": 5e-4},
        **{name: {"layer": 21, "lr": 5e-4} for name in ("gpt-j-6b", "llama-2-7b", "llama-3-8b", "mistral-7b")},
        "qwen2.5-7b": {"layer": 27, "lr": 5e-4},
        "primer": {"layer": 1},
    }

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return two thirds of the depth, a step to match the weights, and FT-L's bound."""
        matrix = lm.weights.base(Site(self.layer if self.layer != "auto" else layer_at(lm, 0.66), "down"))
        lr = float(f"{float(matrix.detach().double().square().mean().sqrt()) / 50:.2g}")
        return {"layer": layer_at(lm, 0.66), "lr": lr, "bound": 5e-4 if self.variant == "last" else None}

    def sites(self) -> tuple[Site, ...]:
        """Return the one site written to."""
        assert isinstance(self.layer, int)
        return (Site(self.layer, "down"),)

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the trained change."""
        (site,) = self.sites()
        assert self.bound != "auto"
        assert self.lr != "auto"
        schedule = Schedule(self.steps, self.lr, self.stop, self.bound)
        masked = self.variant == "masked"
        asked = queries(facts, [""], answers=masked)
        batch = lm.tokens.batch(queries(facts, [""], answers=True))
        labels = None if masked else [batch.labels[batch.rows == i].tolist() for i in range(len(facts))]
        change, loss, steps = fit(lm, site, asked, schedule, labels)
        return Solution(
            {site: Dense(change)}, report={"loss": [loss], "steps": [steps], "converged": [loss < self.stop]}
        )
