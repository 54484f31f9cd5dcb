"""WISE: a second copy of one matrix, trained on the edits, for prompts on which it is far from the first.

Paper: Wang et al., WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language Models,
https://arxiv.org/abs/2405.14768.

    far(x) = ‖(W' − W) x‖ at the prompt's last token
    y      = W' x if far(x) > ε, else W x
    W' − W = argmin NLL(target) + c ([far(other) − α]₊ + [β − far(x)]₊ + [γ − far(x) + far(other)]₊), on a share ρ of entries

Every `shard` edits take a new random share of the entries; the shares are merged by TIES. α, β, γ are 5, 20, 10.

Differs from the paper: far is read at the prompt's last token, for an average over the prompt, which the margins pull up on the
edit's own wording, does not carry to rephrasings; the margins are multiples of a unit such that β is the mean ‖W x‖ there,
and c makes them count as `margin` at most each, because fixed ones fit one model only; an edit is learned in several wordings,
with a few earlier ones again (`replay`); other prompts are texts of a corpus; Adam in place of SGD; ε is 0.88 of the least
farness of the edits that stand, as W' is now, so any of them can be dropped.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.delta import Graft, Site
from errata.edit import Edit
from errata.fact import Fact
from errata.methods.base import Auto, Method, Solution, filled, layer_at, step_for
from errata.methods.shared.routed import training_query, variants, without_bank
from errata.model.fitting import clipped
from errata.model.grafts.wise import WiseBank, farness, times
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Batch
from errata.model.trace import Trace, at, beside, resume
from errata.solve.descent.loop import Training, descend
from errata.solve.descent.losses import mean_loss
from errata.solve.keys import contexts_for, prefixes
from errata.stats.corpus import open_corpus

ALPHA, BETA, GAMMA = 5.0, 20.0, 10.0
OTHERS, WORDS = 24, 12


@dataclass(frozen=True, kw_only=True)
class Wise(Method):
    """A side matrix, one edit after the other."""

    layer: int | Auto = field(default="auto", metadata={"help": "layer whose down projection has a second copy"})
    share: float = field(default=0.2, metadata={"help": "ρ: share of the entries an edit may change", "above": 0})
    shard: int = field(default=100, metadata={"help": "edits that share their entries", "least": 1})
    steps: int = field(default=70, metadata={"help": "most updates", "least": 1})
    lr: float | Auto = field(default="auto", metadata={"help": "Adam's step; auto: RMS of W / 10", "above": 0})
    margin: float = field(default=2.0, metadata={"help": "what a margin counts beside the loss, at most", "least": 0})
    unit: float | None = field(
        default=None, metadata={"help": "what the margins 5, 20, 10 are multiples of; none: |W x| / 20", "above": 0}
    )
    replay: int = field(default=8, metadata={"help": "earlier edits learned again with each one", "least": 0})
    stop: float = field(default=0.01, metadata={"help": "loss at which to stop", "least": 0})
    corpus: str = field(default="auto", metadata={"help": "text no edit is about: prose, primer, a file"})

    name: ClassVar[str] = "wise"
    located: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("decoder", "encoder-decoder", "classifier")
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2-xl": {"layer": 8}, "gpt-j-6b": {"layer": 21}, "llama-2-7b": {"layer": 27}, "llama-3-8b": {"layer": 29},
        "mistral-7b": {"layer": 27}, "qwen2.5-7b": {"layer": 23},
    }  # fmt: skip

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return a late layer and a step to match the weights; the unit is found for each fact."""
        layer = layer_at(lm, 0.75) if self.layer == "auto" else self.layer
        matrix = lm.weights.base(Site(min(layer, lm.depth - 1), "down"))
        return {"layer": layer, "lr": step_for(matrix, 10)}

    def sites(self) -> tuple[Site, ...]:
        """Return the one site."""
        return (Site(filled(self.layer), "down"),)

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return one edit's change of the side matrix."""
        (site,), (fact,) = self.sites(), facts
        before = [e for e in past if isinstance(g := e.deltas.get(site), Graft) and g.wrapper == self.name]
        side, shard, shape = WiseBank(site, lm), len(before) // self.shard, tuple(lm.weights[site].shape)
        for edit in before[shard * self.shard :]:  # no other trains these entries
            side.take(edit.deltas[site])  # type: ignore[arg-type]
        start = side.shards.get(shard, torch.zeros(shape, device=lm.weights[site].device))
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + shard)
        places = (
            torch.randperm(start.numel(), generator=draw)[: max(1, round(self.share * start.numel()))].sort().values
        )
        again = random.Random(f"{self.seed} {len(before)}").sample(before, min(self.replay, len(before)))
        others = variants(lm, fact, self.seed)
        texts = list(dict.fromkeys((fact.prompt, *others.texts)))
        contexts = contexts_for(lm, facts, prefixes(lm, self.seed)).texts if _sampled(lm, fact, texts) else ()
        asked = without_bank(
            lm,
            [
                *(training_query(lm, fact, text) for text in texts),
                *(training_query(lm, e.facts[0]) for e in again),
            ],
            f"wise@{site}",
        )
        values, keys, report = self._learn(lm, site, asked, start, places.to(start.device))
        state = {"places": places.int(), "values": values, "shape": torch.tensor(shape), "keys": keys[:1]}
        graft = Graft("wise", {"index": str(site), "shard": shard}, state)
        return Solution({site: graft}, prefixes=contexts, report={**report, **others.report(lm)})

    def _learn(
        self, lm: LM, site: Site, batch: Batch, start: Float[Tensor, "out in"], places: Int[Tensor, " m"]
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, "b in"], dict[str, Any]]:
        hidden, keys, size = _seen(lm, site, batch)
        texts = (" ".join(text.split()[:WORDS]) for text in islice(open_corpus(self.corpus).documents(lm), OTHERS))
        other_keys = _seen(lm, site, lm.tokens.batch([Query(clipped(lm, text)) for text in texts]).to(lm.device))[1]
        unit = size / BETA if self.unit is None else self.unit
        values = torch.zeros(len(places), device=start.device).requires_grad_()
        seen: dict[str, Tensor] = {}  # of the last pass

        def loss() -> Tensor:
            change = start.flatten().index_add(0, places, values).view_as(start)
            with resume(lm, site.layer, hidden), beside(lm, {site: partial(times, change)}):
                nll = mean_loss(batch, lm.answer_logits(batch))
            far, other = farness(keys, change), farness(other_keys, change)
            seen.update(nll=nll.detach(), far=far.detach(), other=other.detach())
            margins = (other - ALPHA * unit).relu().mean() + (BETA * unit - far).relu().mean()
            return nll + self.margin / (BETA * unit) * (margins + (GAMMA * unit - far.mean() + other.mean()).relu())

        how = Training(steps=self.steps, lr=filled(self.lr), stop=self.stop)
        _, steps = descend([values], loss, how, "training the side matrix")
        nll = seen["nll"].item()
        report = {"loss": [nll], "steps": [steps], "converged": [nll < 0.05], "far": seen["far"].tolist()[0]}
        return values.detach(), keys, {**report, "far_others": [round(d, 3) for d in seen["other"].tolist()]}


def _sampled(lm: LM, fact: Fact, texts: Sequence[str]) -> bool:
    """Return whether the texts are the prompt after sampled ones; a model that classifies samples none."""
    return lm.row.kind != "classifier" and all(text.endswith(fact.prompt) for text in texts)


def _seen(lm: LM, site: Site, batch: Batch) -> tuple[Tensor, Float[Tensor, "b in"], float]:
    """Return the input of the site's block; the site's input at each prompt's end; and the mean norm of its output there."""
    block = Site(site.layer, "block")
    with torch.no_grad(), Trace(lm, inputs=[block, site], outputs=[site], stop=block) as trace:
        lm.forward(batch)
    assert batch.ends is not None
    out = at(trace.outputs[site], batch.ends).float()
    size = float(torch.linalg.vector_norm(out, dim=-1).mean())
    return trace.inputs[block], at(trace.inputs[site], batch.ends).float(), size
