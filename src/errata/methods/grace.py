"""GRACE: a codebook at one matrix, whose values stand in for what it puts out near a key.

Paper: Hartvigsen et al., Aging with GRACE: Lifelong Model Editing with Discrete Key-Value Adaptors,
https://arxiv.org/abs/2211.11031.

    key   = input of the site at the prompt's last token
    value = argmin_v mean NLL(target | y = v from the prompt's last token on), Adam from y itself
    near  = |key − k_i| ≤ ε_i: y = v_i from the prompt's last token on; else y = W x

ε grows to hold a near key of the same label and is halved against one of another (`index.clusters`).

Differs from the paper: on decoders, for facts that name subjects, a key has two parts (``by="parts"``; `index.parts`), and the
value is learned in several forms of the fact; the paper's key is ``by="prompt"``: its ε is calibrated on the model
(``radius="auto"``) where nobody tuned it, as for MELO. On such models the step is a share of the root mean square of y; labels
are compared as sequences; learning ends early when the loss is below `stop`; in a classifier, which reads its first token,
the value stands at every position; the codebook is made from the edits that stand, so any of them can be dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Graft, Site
from errata.edit import Edit
from errata.fact import Fact
from errata.methods.base import Auto, Role, Solution, filled, layer_at, roles_of
from errata.methods.shared.parts import RoutedByParts, index_of, learned, left_out, told
from errata.methods.shared.routed import labels_in, preview, read_keys, training_query, without_bank
from errata.model.grafts.keyed import label_tensor
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Batch
from errata.model.trace import Trace, at, resume
from errata.solve.descent.loop import Training, descend

_LATE = {"layer": 27, "role": "down", "radius": 1.0, "lr": 1.0}


@dataclass(frozen=True, kw_only=True)
class Grace(RoutedByParts):
    """One key and one value for a fact."""

    layer: int | Auto = field(default="auto", metadata={"help": "layer of the codebook"})
    role: Role | Auto = field(default="auto", metadata={"help": "matrix of that layer"})
    steps: int = field(default=100, metadata={"help": "most updates of the value", "least": 1})
    lr: float | Auto = field(
        default="auto", metadata={"help": "Adam's step; auto: a third of the RMS of y", "above": 0}
    )
    stop: float = field(default=0.01, metadata={"help": "loss at which to stop", "least": 0})

    name: ClassVar[str] = "grace"
    located: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("decoder", "encoder-decoder", "classifier")
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2-xl": {"layer": 35, "role": "up", "radius": 1.0, "lr": 1.0},
        "gpt-j-6b": {**_LATE, "layer": 25},
        **dict.fromkeys(("llama-2-7b", "llama-3-8b", "mistral-7b"), _LATE),
        "qwen2.5-7b": {**_LATE, "layer": 18},
    }

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return the layer that tells questions apart, or three quarters of the depth."""
        role = roles_of(lm, "auto" if self.role == "auto" else (self.role,))[-1]
        parted = self.parted(lm) and role == "down"
        layer = self.gauged(lm, "auto").question.layer if parted and self.layer == "auto" else layer_at(lm, 0.75, role)
        layer = layer if self.layer == "auto" else self.layer
        return {"layer": layer, "role": role, **self.opened(lm, layer, parted)}

    def sites(self) -> tuple[Site, ...]:
        """Return the site of the codebook."""
        return (Site(filled(self.layer), self.role),)

    def keyed_at(self) -> tuple[Site, bool]:
        """Return that site, whose input is the key."""
        return self.sites()[0], True

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the key and the value of a fact."""
        if self.by == "parts" and all(fact.subject for fact in facts):
            return self._by_parts(lm, facts, past)
        (site,) = self.sites()
        name = f"grace@{site}"
        radius, distances = self.calibrated(lm, site, facts, entering=True)
        batch = without_bank(lm, [training_query(lm, fact) for fact in facts], name)
        value, loss, steps = self._learn(lm, site, batch)
        keys = read_keys(lm, site, [Query.asked(fact) for fact in facts], entering=True)
        state = {"keys": keys, "labels": label_tensor(labels_in(lm, batch)), "value": value}
        known = {"index": str(site), "radius": radius, "search": self.search, "everywhere": lm.row.kind == "classifier"}
        graft = Graft("grace", known, state)
        report = {"loss": [loss], "steps": [steps], "converged": [loss < 0.05], "index": distances}
        return Solution({site: graft}, report={**report, **self.said(lm, facts), **preview(lm, name, past, graft)})

    def _by_parts(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return a value that is learned in every form of the fact, and its keys in two parts."""
        (site,) = self.sites()
        found = self.gauged(lm, site.layer)
        keyed = self.key_graft(lm, found, facts)
        value, loss, steps = self._learn(lm, site, without_bank(lm, learned(lm, facts, self.seed), index_of(keyed)))
        put = Graft(keyed.wrapper, {"index": keyed.config["index"]}, {"value": value})
        report = {"loss": [loss], "steps": [steps], "converged": [loss < 0.05]}
        report |= {**told(found, past, facts, keyed.wrapper), **left_out(lm, facts, self.seed).report(lm)}
        return Solution({found.question: keyed, site: put}, report=report)

    def _learn(self, lm: LM, site: Site, batch: Batch) -> tuple[Float[Tensor, " out"], float, int]:
        assert batch.ends is not None
        first = Site(site.layer, "block")
        with torch.no_grad(), Trace(lm, inputs=[first], outputs=[site]) as trace:
            lm.answer_logits(batch)
        value = at(trace.outputs[site], batch.ends)[0].float().clone().requires_grad_()
        place = torch.arange(trace.outputs[site].shape[1], device=batch.ends.device)
        after = (place >= (0 if lm.row.kind == "classifier" else batch.ends[:, None]))[..., None]
        put = {site: lambda y: torch.where(after.to(y.device), value.to(y), y)}

        def loss() -> Tensor:
            with resume(lm, first.layer, trace.inputs[first]), Trace(lm, replace=put):
                logits = lm.answer_logits(batch)
            return -logits.log_softmax(-1).gather(1, batch.labels[:, None]).mean()

        lr = float(value.detach().square().mean().sqrt()) / 3 if self.lr == "auto" else self.lr
        how = Training(steps=self.steps, lr=lr, stop=self.stop)
        last, steps = descend([value], loss, how, "learning the value")
        return value.detach(), last, steps
