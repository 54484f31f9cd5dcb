"""Solves with a kept factor against dense ones, and replay of many low-rank changes against products in one piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from errata.delta import LowRank, Site
from errata.model.lm import LM
from errata.model.loading import load
from errata.model.weights import CHUNK
from errata.solve.least_squares import Ridge, Shield, batch
from speeds.measure import Row, alternately, rounded


def solves(sizes: Sequence[int] = (640, 2048, 4096), past: int = 100) -> Iterator[Row]:
    """Yield the seconds of one key's update for matrices of several widths, without and with a history."""
    for size in sizes:
        yield _solves(size, past)


def _solves(size: int, past: int) -> Row:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(2 * size, size, generator=draw, dtype=torch.float64)
    second, keys = rows.T @ rows / len(rows), torch.randn(1, size, generator=draw, dtype=torch.float64)
    before = torch.randn(past, size, generator=draw, dtype=torch.float64)
    residuals, ridge = torch.randn(1, 256, generator=draw, dtype=torch.float64), Ridge(second, 100.0)
    shield = Shield(ridge).add(before)

    def dense(kept: Tensor | None) -> Tensor:
        inside = 100.0 * second + keys.T @ keys
        inside = inside if kept is None else inside + kept.T @ kept
        return torch.linalg.solve(inside, keys.T) @ residuals

    works = {
        "dense": lambda: dense(None), "kept": lambda: batch(residuals, keys, ridge),
        "dense_past": lambda: dense(before), "kept_past": lambda: batch(residuals, keys, shield),
    }  # fmt: skip
    apart = float((batch(residuals, keys, shield).dense().T - dense(before)).norm() / dense(before).norm())
    seconds = alternately(works)
    return {"part": "solves", "in": size, "past": past, "apart": float(f"{apart:.1g}"), **rounded(seconds),
           "faster": round(seconds["dense"] / seconds["kept"], 1),
           "faster_past": round(seconds["dense_past"] / seconds["kept_past"], 1)}  # fmt: skip


def replay(counts: Sequence[int] = (100, 1000, 10_000)) -> Iterator[Row]:
    """Yield the seconds of putting many rank-one changes on a matrix: in the log's products, in one, and one by one."""
    lm, site = load("primer"), Site(0, "down")
    for count in counts:
        yield _replay(lm, site, count)


def _replay(lm: LM, site: Site, count: int) -> Row:
    out, inner = lm.weights[site].shape
    draw = torch.Generator().manual_seed(0)
    edits = [
        {site: LowRank(*(1e-4 * torch.randn(size, 1, generator=draw) for size in (out, inner)))} for _ in range(count)
    ]
    left, right = (torch.cat([getattr(e[site], side) for e in edits], 1) for side in ("left", "right"))

    def whole() -> None:
        lm.weights.stand([])
        lm.weights.stand(edits)

    def one_more() -> None:
        lm.weights.stand(edits[:-1])
        lm.weights.stand(edits)

    def singly() -> None:
        total = lm.weights.base(site).float().clone()
        for edit in edits:
            edit[site].add_to(total)

    one_more()
    seconds = alternately({"replay": whole, "one_product": lambda: left @ right.T, "singly": singly, "more": one_more})
    lm.weights.stand([])
    return {"part": "replay", "edits": count, "products": -(-count // CHUNK), **rounded(seconds),
           "of_one_product": round(seconds["replay"] / seconds["one_product"], 2),
           "faster_than_singly": round(seconds["singly"] / seconds["replay"], 1)}  # fmt: skip
