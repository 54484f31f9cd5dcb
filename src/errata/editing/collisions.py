"""Edits whose keys lie so close that the later writes over the earlier, or takes its place.

collisions(editor.standing)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from errata.delta import Change, Delta, Graft, LowRank, Site
from errata.edit import Edit

LIMIT: Final = 0.3  # what another edit may do to a key, as a share of what its own edit does


@dataclass(frozen=True, slots=True)
class Collision:
    """An edit whose change also moves the key of another: `share` of what that one's own change does to it."""

    site: str
    edit_id: str
    other_id: str
    share: float


def collisions(standing: Sequence[Edit], limit: float = LIMIT) -> list[Collision]:
    """Return edits that share their keys' directions, worst first.

    An edit Δ_j moves the output at another's key by Δ_j k_i; that edit itself moved it by Δ_i k_i. Two facts about one subject
    have one key, and the later then writes over the earlier: ‖Δ_j k_i‖ / ‖Δ_i k_i‖ near 1. Of edits that change weights only
    those that carry their keys (closed forms) can be compared. Edits that are routed (MELO, GRACE) collide where the balls
    around two keys with different answers overlap: the share is 1 - distance / (sum of the radii), so that 0 is touching and
    1 the same key; any overlap counts, since the later one then pushes the earlier back.
    """
    sites = {site for edit in standing for site in edit.deltas if f"key/{site}" in edit.carry}
    found = [c for site in sorted(sites) for c in _at(site, standing, limit)]
    routed = {site for edit in standing for site, delta in edit.deltas.items() if _keyed(delta)}
    found += [c for site in sorted(routed) for c in _overlaps(site, standing)]
    return sorted(found, key=lambda c: -c.share)


def _keyed(delta: Change | None) -> bool:
    return isinstance(delta, Graft) and {"keys", "labels"} <= set(delta.state) and "radius" in delta.config


@torch.no_grad()
def _overlaps(site: Site, standing: Sequence[Edit]) -> list[Collision]:
    """Return pairs of routed edits, the earlier first, whose balls overlap and whose answers differ."""
    worst: dict[tuple[str, str], float] = {}
    keyed = [(e.id, delta) for e in standing if _keyed(delta := e.deltas.get(site)) and isinstance(delta, Graft)]
    for place, (one, earlier) in enumerate(keyed):
        for other, later in keyed[place + 1 :]:
            if earlier.wrapper != later.wrapper:
                continue
            reach = float(str(earlier.config["radius"])) + float(str(later.config["radius"]))
            near = 1 - torch.cdist(earlier.state["keys"].double(), later.state["keys"].double()) / max(reach, 1e-30)
            share = float(near.masked_fill(_alike(earlier.state["labels"], later.state["labels"]), 0.0).max())
            if share > 0:
                worst[one, other] = share
    return [Collision(str(site), one, other, share) for (one, other), share in worst.items()]


def _alike(one: Int[Tensor, "n s"], other: Int[Tensor, "m t"]) -> Bool[Tensor, "n m"]:
    """Return which answers are the same tokens; rows are filled up to the longest with one and the same number."""
    width = max(one.shape[1], other.shape[1])
    rows = [torch.nn.functional.pad(labels, (0, width - labels.shape[1]), value=-1) for labels in (one, other)]
    return (rows[0][:, None] == rows[1][None]).all(-1)


@torch.no_grad()
def _at(site: Site, standing: Sequence[Edit], limit: float) -> list[Collision]:
    here = [(edit, edit.deltas[site]) for edit in standing if site in edit.deltas]
    deltas = [(edit, delta) for edit, delta in here if not isinstance(delta, Graft)]
    keyed = [(edit, delta, edit.carry[f"key/{site}"]) for edit, delta in deltas if f"key/{site}" in edit.carry]
    if not keyed:
        return []
    keys = torch.cat([k.double().reshape(-1, k.shape[-1]) for *_, k in keyed])  # (m, in)
    owners = [i for i, (*_, k) in enumerate(keyed) for _ in range(k.reshape(-1, k.shape[-1]).shape[0])]
    own = torch.zeros(len(keys), dtype=torch.float64)
    moved = {edit.id: _moved(delta, keys) for edit, delta in deltas}  # (m,) each
    for row, i in enumerate(owners):
        own[row] = moved[keyed[i][0].id][row]
    worst: dict[tuple[str, str], float] = {}
    for id, norms in moved.items():
        for row, share in enumerate((norms / own.clamp(min=1e-30)).tolist()):
            edit_id = keyed[owners[row]][0].id
            if edit_id != id and share > limit:
                worst[edit_id, id] = max(share, worst.get((edit_id, id), 0.0))
    return [Collision(str(site), edit_id, other, share) for (edit_id, other), share in worst.items()]


def _moved(delta: Delta, keys: Float[Tensor, "m in"]) -> Float[Tensor, " m"]:
    """Return ‖Δ k‖ for each key."""
    if isinstance(delta, LowRank):
        moved = (keys @ delta.right.double()) @ delta.left.double().T  # (m, out)
    else:
        moved = keys @ delta.dense((delta.shape[0], keys.shape[1])).double().T
    return moved.square().sum(1).sqrt()
