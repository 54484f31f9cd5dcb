"""Statistics against the bare forward pass over the same text, and against whole products in float64 after every batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from errata.delta import Site
from errata.model.lm import LM
from errata.stats.accumulate import MomentReading
from errata.stats.corpus import open_corpus
from errata.stats.moments import keys_of
from speeds.measure import Row, alternately, rounded
from speeds.vstar import shapes


def statistics(models: Sequence[str], repeats: int, tokens: int = 4000) -> Iterator[Row]:
    """Yield, for 1, 2 and 5 sites, the token rate as a share of that of a whole forward pass."""
    for lm in shapes(models):
        batches = list(open_corpus("primer").batches(lm, tokens))
        for number in (1, 2, 5):
            if number <= lm.depth:
                yield _rate(lm, [Site(i, "down") for i in range(number)], batches, repeats)


def _rate(lm: LM, sites: Sequence[Site], batches: Sequence[tuple[Tensor, Tensor]], repeats: int) -> Row:
    def moments() -> dict[Site, Tensor]:
        reading = MomentReading(lm, sites, rule=False)
        for ids, real in batches:
            reading.add(ids, real)
        return {site: found.total for site, (found, _) in reading.close(0).items()}

    def whole() -> dict[Site, Tensor]:
        total: dict[Site, Tensor] = {}
        for ids, real in batches:
            for site, keys in keys_of(lm, sites, ids, real).items():
                product = keys.double().T @ keys.double()
                total[site] = total[site] + product if site in total else product
        return total

    def plain() -> None:
        with torch.no_grad():
            for ids, real in batches:
                lm.model(input_ids=ids, attention_mask=real.long(), use_cache=False)

    one, other = moments(), whole()
    apart = max(float((one[site] - other[site]).norm() / other[site].norm()) for site in sites)
    seconds = alternately({"statistics": moments, "float64": whole, "forward": plain}, repeats)
    return {
        "part": "statistics", "model": lm.name, "sites": len(sites), "tokens": sum(int(r.sum()) for _, r in batches),
        "forwards": len(batches), "deepest block": max(s.layer for s in sites) + 1, "blocks": lm.depth,
        **rounded(seconds), "apart": float(f"{apart:.1g}"), "float64 rate": round(seconds["forward"] / seconds["float64"], 2),
        "rate": round(seconds["forward"] / seconds["statistics"], 2),
    }  # fmt: skip
