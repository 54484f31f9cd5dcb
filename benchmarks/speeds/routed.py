"""A batch in which every row opens a block of its own, against the bare forward pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from errata.methods.melo import Melo
from errata.model.loading import load
from errata.model.query import Query
from errata.primer.probes import edits
from speeds.measure import Row, alternately, rounded


def melo(blocks: int = 64) -> Iterator[Row]:
    """Yield the seconds of both, and how many blocks were open."""
    lm, facts = load("primer"), edits(blocks, seed=5)
    method = Melo(steps=3).resolve(lm)
    written = [method.solve(lm, [fact]).deltas for fact in facts]
    batch = lm.tokens.batch([Query(fact.prompt, fact.target) for fact in facts])

    def bare() -> None:
        with lm.weights.grafts.instead(()), torch.no_grad():
            lm.forward(batch)

    def mixed() -> None:
        with torch.no_grad():
            lm.forward(batch)

    lm.weights.stand(written)
    opened = lm.routed(batch).routes[f"melo@{method.at()}"]
    seconds = alternately({"bare": bare, "mixed": mixed}, 15)
    lm.weights.stand([])
    yield {"part": "melo", "rows": len(batch), "blocks open": len(set(opened.tolist()) - {-1}), **rounded(seconds),
           "ratio": round(seconds["mixed"] / seconds["bare"], 2)}  # fmt: skip
