"""Edits made of random numbers, on tiny models: as fast as arithmetic, and of every kind of change."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from errata.delta import Change, Columns, Dense, LowRank, Site
from errata.edit import Edit, ground
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.weights import CHUNK

KINDS = ("lowrank", "columns", "dense")


def change(kind: str, out: int, inner: int, random: torch.Generator, scale: float = 0.1) -> Change:
    """Return a random change of a matrix (out, inner)."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * scale

    if kind == "lowrank":
        rank = int(torch.randint(1, 4, (1,), generator=random))
        return LowRank(draw(out, rank), draw(inner, rank))
    if kind == "columns":
        index = torch.randperm(inner, generator=random)[:3].sort().values
        return Columns(index, draw(out, 3))
    return Dense(draw(out, inner))


def edit(lm: LM, number: int, kinds: Sequence[str] = KINDS, past: Sequence[str] = ()) -> Edit:
    """Return the edit of that number: one or two changed matrices, computed on top of `past`."""
    random = torch.Generator().manual_seed(number)
    layers = torch.randperm(lm.depth, generator=random)[: 1 + number % 2].tolist()
    deltas = {}
    for place, layer in enumerate(layers):
        site = Site(layer, ("down", "attention")[(number + place) % 2])
        out, inner = lm.parameter(site).shape
        deltas[site] = change(kinds[number % len(kinds)], out, inner, random)
    fact = Fact(prompt=f"Town {number} is in", subject=f"Town {number}", target=f"Land {number}")
    return Edit(
        method="synthetic", config={"number": number}, facts=(fact,), base=lm.fingerprint, seed=number, deltas=deltas,
        parents=tuple(past[-3:]), ground=ground(list(past)), created_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def item(lm: LM, number: int, kinds: Sequence[str] = KINDS) -> tuple[dict[str, object], bytes]:
    """Return the edit as `Book.append` takes it."""
    made = edit(lm, number, kinds)
    return made.meta(), made.to_bytes()


def by_hand(base: torch.Tensor, deltas: Sequence[Change]) -> torch.Tensor:
    """cast(base + Σ deltas), summed in float32 in order, low-rank neighbours multiplied together once they are 64 columns."""
    total, waiting = base.float().clone(), list[LowRank]()
    for delta in [*deltas, None]:
        if isinstance(delta, LowRank):
            waiting.append(delta)
        if waiting and (not isinstance(delta, LowRank) or sum(d.left.shape[1] for d in waiting) >= CHUNK):
            left, right = torch.cat([d.left for d in waiting], 1), torch.cat([d.right for d in waiting], 1)
            total = torch.addmm(total, left, right.T)
            waiting = []
        if isinstance(delta, Columns):
            total[:, delta.index] += delta.values
        if isinstance(delta, Dense):
            total += delta.matrix
    return total.to(base.dtype)
