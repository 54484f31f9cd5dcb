"""Which neurons hold an answer: integrated gradients of every neuron of every layer at once.

A neuron is a column k of a `down` matrix W. Along the path from 0 to its value (KNE, arXiv 2412.20637)

    Attr(w) = w Σ_j ∫_0^1 ∂P(y_j | x, y_<j) / ∂w |_{αW} dα  ≈  (w / m) Σ_j Σ_{i=1..m} ∂P(y_j | x, y_<j) / ∂w |_{(i/m)W}

for every entry w of W, summed over the answer's tokens; the score of a column is the sum over its entries. Scaling the
column by α scales what it writes by α at every position, as scaling its activation a_k by α would, so

    Σ_r W[r,k] ∂P/∂W[r,k] = Σ_positions a_k (Wᵀ g)_k,      g = ∂P / ∂(what `down` puts out)

and one backward pass scores every neuron of every layer. Nothing is scaled but the output of `down`, less its bias, so
the weights are never touched. Two paths:

    joint   all layers are scaled together: m passes for all of them; m = 1 is gradient × value.
    layer   each layer is scaled alone, the others whole: (m - 1)·layers + 1 passes, each from that layer on.

Along either path the scores of what was scaled add up to P(whole) - P(scaled to nothing), as m grows.

Differs from the paper: it scores each entry; here that is ``element``, and columns are the default. ``where="subject"``
scales, and scores, a neuron at the last token of the subject only, ``everywhere`` is the formula above. `log` takes log P
in place of P: tokens that are already likely do not then drown those that are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from errata.delta import Site
from errata.model.fitting import fits
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.storage import bias_of
from errata.model.tokens import Batch
from errata.model.trace import Trace, no_grads_kept, plain_attention, resume
from errata.solve.keys import prefixes

_Route = Literal["joint", "layer"]
Granularity = Literal["column", "element"]
Where = Literal["subject", "everywhere"]
Select = Literal["attributed", "random", "lowest", "faintest", "strongest"]
_Hidden = Float[Tensor, "b t d"]
ROWS = 32  # queries of one pass: activations of every layer are kept for them
TEXTS, LENGTH = 24, 16  # what a neuron usually puts out is measured on so many texts of so many tokens


@dataclass(frozen=True, slots=True)
class Measure:
    """How neurons are scored.

    Args:
        steps: m, points of the path.
        route: which weights are scaled together.
        granularity: a score for every column, or for every entry of the matrix.
        where: at the last token of the subject (of the prompt, in queries without one; a decoder that is given the prompt
            by an encoder has no such token, and scores 0), or at every position.
        log: gradients of log P in place of P.
    """

    steps: int = 1
    route: _Route = "joint"
    granularity: Granularity = "column"
    where: Where = "everywhere"
    log: bool = False


def attribute(
    lm: LM, asked: Sequence[Query], sites: Sequence[Site], measure: Measure
) -> dict[Site, Float[Tensor, ...]]:
    """Return the scores of the `down` matrices at `sites`, in float32 or better on each site's device.

    Args:
        asked: prompts with the answers whose probability is attributed.

    Returns:
        by site, (q, in) scores of every query's neurons; for ``element`` (out, in), summed over the queries.
    """
    parts = []
    with no_grads_kept(lm.model), torch.enable_grad(), plain_attention(lm.device):
        for start in range(0, len(asked), ROWS):
            parts.append(
                _attribute(lm, lm.routed(lm.tokens.batch(asked[start : start + ROWS]).to(lm.device)), sites, measure)
            )
    if measure.granularity == "element":
        return {site: torch.stack([p[site] for p in parts]).sum(0) for site in sites}
    return {site: torch.cat([p[site] for p in parts]) for site in sites}


def _attribute(lm: LM, batch: Batch, sites: Sequence[Site], measure: Measure) -> dict[Site, Tensor]:
    total = _Pass(lm, batch, measure)(sites, 1.0)  # the whole model: the end of every path
    paths = list(_paths(lm, batch, sites, measure)) if measure.steps > 1 else []
    for step in range(1, measure.steps):
        for group, run in paths:
            for site, score in run(group, step / measure.steps).items():
                total[site] += score
    return {site: score / measure.steps for site, score in total.items()}


def _paths(lm: LM, batch: Batch, sites: Sequence[Site], measure: Measure) -> Iterator[tuple[Sequence[Site], _Pass]]:
    """Yield what is scaled together, and how to run it."""
    if measure.route == "joint":
        yield sites, _Pass(lm, batch, measure)
        return
    blocks = {site: Site(site.layer, "block") for site in sites}
    with torch.no_grad(), Trace(lm, inputs=blocks.values()) as trace:
        lm.answer_logits(batch)
    for site, block in blocks.items():
        yield [site], _Pass(lm, batch, measure, (site.layer, trace.inputs[block]))


class _Pass:
    """One forward and one backward pass, with some sites' weights scaled.

    Args:
        start: a layer and its input, if the layers below need not run.
    """

    def __init__(self, lm: LM, batch: Batch, measure: Measure, start: tuple[int, _Hidden] | None = None) -> None:
        self._lm, self._batch, self._measure, self._start = lm, batch, measure, start

    def __call__(self, sites: Sequence[Site], alpha: float) -> dict[Site, Tensor]:
        """Return w · ∂P/∂w at weights α·W of `sites`, by site."""
        inputs: dict[Site, _Hidden] = {}
        changes: dict[Site, _Hidden] = {}  # zeros added to what `down` puts out, to take gradients at

        def keep(site: Site) -> Callable[[_Hidden], None]:
            return lambda hidden: inputs.update({site: hidden.detach()})

        def scale(site: Site) -> Callable[[_Hidden], _Hidden]:
            bias = bias_of(self._lm.module(site))

            def replace(output: _Hidden) -> _Hidden:
                changes[site] = torch.zeros_like(output, requires_grad=True)
                written = output if bias is None else output - bias
                return output - (1 - alpha) * written * self._places(site, output) + changes[site]

            return replace

        with Trace(self._lm, tap={s: keep(s) for s in sites}, replace={s: scale(s) for s in sites}):
            value = self._value()
            gradients = torch.autograd.grad(value, [changes[s] for s in sites])
        return {
            s: self._score(s, inputs[s] * self._places(s, inputs[s]), g) for s, g in zip(sites, gradients, strict=True)
        }

    def _places(self, site: Site, like: _Hidden) -> Float[Tensor, "b t 1"]:
        """Return 1 at the positions that are scaled and scored, else 0."""
        places = like.new_zeros(*like.shape[:2], 1)
        if self._measure.where == "everywhere":
            return places + 1
        if site.layer < self._lm.reachable:
            rows = torch.arange(len(places), device=places.device)
            places[rows, self._batch.lookup.to(places.device)] = 1
        return places

    def _value(self) -> Float[Tensor, ""]:
        """Return Σ P(y_j | x, y_<j) over the answers' tokens, of all queries."""
        if self._start is None:
            logits = self._lm.answer_logits(self._batch)
        else:
            with resume(self._lm, *self._start):
                logits = self._lm.answer_logits(self._batch)
        logp = logits.log_softmax(-1).gather(1, self._batch.labels[:, None])
        return (logp if self._measure.log else logp.exp()).sum()

    def _score(self, site: Site, inputs: Float[Tensor, "b t in"], gradient: Float[Tensor, "b t out"]) -> Tensor:
        weight = self._lm.weights[site].detach()
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        inputs, gradient = inputs.to(weight.dtype), gradient.to(weight.dtype)
        if self._measure.granularity == "element":
            return weight * torch.einsum("bto,bti->oi", gradient, inputs)
        return (inputs * (gradient @ weight)).sum(1)  # (q, in)


def ensemble(
    scores: Mapping[Site, Float[Tensor, ...]],
    share: float,
    select: Select = "attributed",
    seed: int = 0,
    least: int = 1,
) -> dict[Site, Bool[Tensor, ...]]:
    """Return which of the scored candidates are in the ensemble, by site: one quantile over all sites together.

    Args:
        scores: by site, all of one number of dimensions.
        share: p; round(p · candidates) are chosen, but not fewer than `least`.
        select: the highest scores ("attributed"), as many at random, drawn from `seed`, or the lowest: those that most
            oppose the answer. "faintest" and "strongest" go by the size of the score. Ties go to the earlier candidate.
    """
    flat = torch.cat([s.detach().double().cpu().flatten() for s in scores.values()])
    count = max(least, round(share * len(flat)))
    rank = {"lowest": -flat, "faintest": -flat.abs(), "strongest": flat.abs()}.get(select, flat)
    if select == "random":
        rank = torch.rand(len(flat), generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[rank.argsort(descending=True, stable=True)[:count]] = True
    parts = torch.split(chosen, [s.numel() for s in scores.values()])
    return {site: part.reshape(s.shape) for (site, s), part in zip(scores.items(), parts, strict=True)}


@torch.no_grad()
def usual(lm: LM, sites: Sequence[Site], seed: int) -> dict[Site, Float[Tensor, " in"]]:
    """Return the size of what enters each site in texts the base says by itself, neuron by neuron.

    The square of it is the mean square at the first token of a text, where a few neurons put out what all later tokens rest on
    (attention sinks), and that at the others. The mean over neurons is added, so that one that was never seen to fire is not
    taken for one that never does.
    """
    key = ("usual", tuple(sites), seed)
    if key not in lm.memory:
        with lm.weights.at_base():
            texts = [Query(text) for text in prefixes(lm, seed, TEXTS, LENGTH) if text]
            asked = [query for query in texts if fits(lm, query)]
            batch = lm.tokens.batch(asked).to(lm.device)
            with Trace(lm, inputs=sites) as trace:
                lm.answer_logits(batch)
        seen = batch.inputs["attention_mask"].bool()
        lm.memory[key] = {site: _size(trace.inputs[site], seen) for site in sites}
    found: dict[Site, Tensor] = lm.memory[key]
    return found


def _size(inputs: Float[Tensor, "b t in"], seen: Bool[Tensor, "b s"]) -> Float[Tensor, " in"]:
    square = inputs.float().square()
    later = square[:, 1:][seen[:, 1:]] if seen.shape == square.shape[:2] else square[:, 1:].flatten(0, 1)
    size = (square[:, 0].mean(0) + (later.mean(0) if len(later) else 0)).sqrt()
    return size + size.mean()
