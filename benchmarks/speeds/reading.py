"""Statistics against the bare forward pass over the same text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from errata.delta import Site
from errata.model.lm import LM
from errata.stats.corpus import open_corpus
from errata.stats.reading import MomentReading
from speeds.measure import Row, alternately, rounded
from speeds.vstar import shapes


def statistics(models: Sequence[str], count: int, tokens: int = 3000) -> Iterator[Row]:
    """Yield, for 1, 2 and 5 sites, the token rate as a share of that of a whole forward pass."""
    for lm in shapes(models):
        batches = list(open_corpus("primer").batches(lm, tokens))
        for number in (1, 2, 5):
            if number <= lm.depth:
                yield _rate(lm, [Site(i, "down") for i in range(number)], batches)


def _rate(lm: LM, sites: Sequence[Site], batches: Sequence[tuple[Tensor, Tensor]]) -> Row:
    def moments() -> None:
        reading = MomentReading(lm, sites, rule=False)
        for ids, real in batches:
            reading.add(ids, real)
        reading.close(0)

    def plain() -> None:
        with torch.no_grad():
            for ids, real in batches:
                lm.model(input_ids=ids, attention_mask=real.long(), use_cache=False)

    seconds = alternately({"statistics": moments, "forward": plain})
    return {
        "part": "statistics", "model": lm.name, "sites": len(sites), "tokens": sum(int(r.sum()) for _, r in batches),
        "forwards": len(batches), "deepest block": max(s.layer for s in sites) + 1, "blocks": lm.depth,
        **rounded(seconds), "rate": round(seconds["forward"] / seconds["statistics"], 2),
    }  # fmt: skip
