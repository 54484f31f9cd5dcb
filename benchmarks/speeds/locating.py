"""KNE's attribution: every neuron of every layer from one pass, against a pass for each layer and for each fact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, cat

from errata.delta import Site
from errata.model.lm import LM
from errata.model.query import Query
from errata.primer.probes import edits
from errata.solve.attribution import Measure, attribute
from speeds.measure import Row, alternately, counted, rounded
from speeds.vstar import shapes

Scores = Mapping[Site, Tensor]


def kne(models: Sequence[str], facts: int = 32) -> Iterator[Row]:
    """Yield passes, tokens, operations and seconds of both ways, and how far apart the scores are."""
    asked = [Query(fact.prompt, fact.target, fact.span) for fact in edits(facts, seed=5)]
    for lm in shapes(models):
        sites = [Site(layer, "down") for layer in range(lm.reachable)]
        yield _layers(lm, asked[:1], sites)
        yield _facts(lm, asked, sites)


def _layers(lm: LM, asked: Sequence[Query], sites: Sequence[Site]) -> Row:
    def together() -> Scores:
        return attribute(lm, asked, sites, Measure())

    def each() -> Scores:
        return {site: attribute(lm, asked, [site], Measure())[site] for site in sites}

    row = {"part": "kne", "model": lm.name, "facts": 1, "neurons": len(sites) * lm.inner, "against": "a pass a layer"}
    return row | _both(lm, together, each)


def _facts(lm: LM, asked: Sequence[Query], sites: Sequence[Site]) -> Row:
    def together() -> Scores:
        return attribute(lm, asked, sites, Measure())

    def each() -> Scores:
        found = [attribute(lm, [one], sites, Measure()) for one in asked]
        return {site: cat([scores[site] for scores in found]) for site in sites}

    row = {"part": "kne", "model": lm.name, "facts": len(asked), "neurons": len(sites) * lm.inner,
           "against": "a pass a fact"}  # fmt: skip
    return row | _both(lm, together, each)


def _both(lm: LM, together: Callable[[], Scores], each: Callable[[], Scores]) -> Row:
    one, other = together(), each()
    apart = max(float((one[site] - other[site]).norm() / other[site].norm()) for site in one)
    seconds = alternately({"one": together, "each": each})
    return {
        **counted(lm.model, together).row("one"), **counted(lm.model, each).row("each"), "apart": float(f"{apart:.1g}"),
        **rounded(seconds), "faster": round(seconds["each"] / seconds["one"], 2),
    }  # fmt: skip
