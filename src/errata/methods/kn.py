"""KN: the few neurons that say the old answer are made to say the new one.

Paper: Dai et al., Knowledge Neurons in Pretrained Transformers, https://arxiv.org/abs/2104.08696.

    Attr(a_k) = (a_k / m) Σ_{i=1..m} ∂P(old | x) / ∂a_k at (i/m) a_k, for several prompts x of the fact       (Eq. 2)
    kept for x:         Attr > t · max Attr
    knowledge neurons:  kept for a share p of the prompts at least, from `fewest` to `most` of them
    value of neuron k:  v_k ← v_k - λ1 e(old) + λ2 e(new)                                                     (§5.1)

Differs from the paper: the prompts are the fact's own after sampled contexts, since other phrasings are what an edit is
judged by; a neuron is scored at every position, not at a [MASK] alone, and P is summed over the answer's tokens. Where the
paper moves p until two to five neurons are left, the best two to five by share, then by score, are taken. e is the answer's
mean row of the output embedding at the length of v_k (in BERT, for which λ1 = 1 and λ2 = 8 were chosen, both are about 1
long), with the sign of the neuron's activation where the answer is predicted: gated neurons can be negative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from errata.delta import Columns, Site
from errata.edit import Edit
from errata.fact import Fact
from errata.methods.base import Solution
from errata.methods.shared.neurons import Neuronal, old_answers
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Batch
from errata.model.trace import Trace
from errata.solve import keys
from errata.solve.attribution import Measure, _Route, attribute

_Score = Callable[[Batch, Tensor], Tensor]
HALVINGS = 6  # how often a change that made the target less likely is halved


@dataclass(frozen=True, kw_only=True)
class KnowledgeNeurons(Neuronal):
    """A change of the value vectors of two to five neurons."""

    m: int = field(default=20, metadata={"help": "points of the attribution's path", "least": 1})
    path: _Route = field(default="layer", metadata={"help": "what the path scales together"})
    t: float = field(default=0.2, metadata={"help": "share of the best score a neuron must reach", "least": 0})
    p: float = field(default=0.7, metadata={"help": "share of the contexts it must do so in", "least": 0})
    fewest: int = field(default=2, metadata={"help": "neurons taken at least", "least": 1})
    most: int = field(default=5, metadata={"help": "neurons taken at most", "least": 1})
    remove: float = field(default=1.0, metadata={"help": "λ1: how much of the old answer is taken out"})
    insert: float = field(default=8.0, metadata={"help": "λ2: how much of the new answer is put in"})

    name: ClassVar[str] = "kn"

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the change of one fact's knowledge neurons."""
        (fact,) = facts
        (old,) = old_answers(lm, facts)
        contexts, sites = keys.contexts_for(lm, facts, keys.contexts(lm, self.seed), [old]), self.sites()
        asked = [replace(query, answer=old) for query in keys.queries(lm, facts, contexts.texts, answers=False)]
        found = attribute(lm, asked, sites, Measure(self.m, self.path, where=self.where))
        scores = torch.cat([found[site].double().cpu() for site in sites], 1)  # (contexts, candidates)
        chosen = self._chosen(scores)
        masks = dict(zip(sites, chosen.split([found[site].shape[1] for site in sites]), strict=True))
        target = replace(Query.of(fact), span=None)
        push = self.insert * _direction(lm, target) - self.remove * _direction(
            lm, replace(Query.of(fact, old), span=None)
        )
        wanted = keys.queries(lm, facts, contexts.texts, answers=True)
        deltas = _moved(lm, wanted, masks, push)
        before, halvings = _mean_logp(lm, wanted), 0
        while halvings < HALVINGS and not _likelier(lm, wanted, deltas, before):
            deltas, halvings = {site: delta * 0.5 for site, delta in deltas.items()}, halvings + 1
        neurons = {str(site): delta.index.tolist() for site, delta in deltas.items()}
        report = {"ensemble": int(chosen.sum()), "neurons": neurons, "halvings": halvings}
        return Solution(deltas, prefixes=contexts.texts, report={**report, **contexts.report(lm)})

    def _chosen(self, scores: Float[Tensor, "c in"]) -> Bool[Tensor, " in"]:
        """Return which neurons many contexts share, from their scores in each."""
        best = scores.max(1, keepdim=True).values.clamp(min=1e-300)
        share = (scores > self.t * best).double().mean(0)
        # One number to sort by: the share first (steps of 1/contexts), then the mean score, kept below such a step.
        rank = share + (scores / best).mean(0).clamp(-0.49, 0.49) / len(scores)
        count = max(self.fewest, min(self.most, int((share >= self.p).sum())))
        chosen = torch.zeros(len(share), dtype=torch.bool)
        chosen[rank.argsort(descending=True, stable=True)[:count]] = True
        return chosen


def _gradients(lm: LM, query: Query, at: Sequence[Site], score: _Score) -> tuple[Batch, dict[Site, Tensor]]:
    """Return ∂ score(batch, logits) / ∂(what each site puts out), in float32 or better."""
    batch = lm.tokens.batch([query]).to(lm.device)
    added: dict[Site, Tensor] = {}

    def add(site: Site) -> Callable[[Tensor], Tensor]:
        def replace(output: Tensor) -> Tensor:
            added[site] = torch.zeros_like(output, requires_grad=True)
            return output + added[site]

        return replace

    with torch.enable_grad(), Trace(lm, replace={site: add(site) for site in at}):
        found = torch.autograd.grad(score(batch, lm.answer_logits(batch)), [added[site] for site in at])
    return batch, {s: g.to(torch.promote_types(g.dtype, torch.float32)) for s, g in zip(at, found, strict=True)}


def _direction(lm: LM, query: Query) -> Float[Tensor, " out"]:
    """Return e: the unit vector that, added to the last layer's output, raises the logits of the answer's tokens most."""

    def score(batch: Batch, logits: Tensor) -> Tensor:
        return logits[0, batch.labels].mean()

    last = Site(lm.depth - 1, "block")
    batch, found = _gradients(lm, query, [last], score)
    direction = found[last][0, batch.cols[0]]
    return direction / direction.norm()


def _moved(
    lm: LM, asked: Sequence[Query], masks: Mapping[Site, Tensor], push: Float[Tensor, " out"]
) -> dict[Site, Columns]:
    """Return ±push at the length of each chosen neuron's value, with the sign that makes the answers likelier."""
    sites = [site for site, mask in masks.items() if bool(mask.any())]

    def score(batch: Batch, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(1, batch.labels[:, None]).sum()

    slope: dict[Site, Tensor] = {}
    for query in asked:
        with torch.no_grad(), Trace(lm, inputs=sites) as trace:
            lm.answer_logits(lm.routed(lm.tokens.batch([query])))
        _, gradients = _gradients(lm, query, sites, score)
        for site in sites:
            along = (gradients[site] @ push.to(gradients[site]))[0] @ trace.inputs[site][0].to(gradients[site])
            slope[site] = slope[site] + along if site in slope else along
    deltas = {}
    for site in sites:
        index = torch.nonzero(masks[site])[:, 0].to(push.device)
        length = lm.weights[site][:, index].to(push).norm(dim=0)
        deltas[site] = Columns(index, push[:, None] * length * torch.where(slope[site][index] < 0, -1.0, 1.0).to(push))
    return deltas


def _mean_logp(lm: LM, asked: Sequence[Query]) -> Tensor:
    return torch.stack([logp.mean() for logp in lm.logprobs(asked)]).mean()


def _likelier(lm: LM, asked: Sequence[Query], deltas: Mapping[Site, Columns], before: Tensor) -> bool:
    with lm.weights.trial([deltas]):
        return bool(_mean_logp(lm, asked) > before)
