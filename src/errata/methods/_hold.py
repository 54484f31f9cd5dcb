"""What one edit under O-Edit or O-Edit+ is held to, and the directions it is held off; see `methods._constraint`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from errata.delta import Site
from errata.edit import Edit
from errata.model.fold import summed
from errata.model.lm import LM
from errata.solve.subspace import Basis, Room, Similarity, Span, left_vectors, similarity
from errata.solve.values import Project, Restraint
from errata.stats.store import gradients


@dataclass(frozen=True, slots=True)
class Terms:
    """How an edit is held: settings of `methods._constraint.Constrained`.

    Args:
        hard: project what is written (O-Edit+). projection: how.
        weights: λ1, λ2. kind: the similarity they weigh.
    """

    hard: bool
    projection: Literal["inside", "project", "rescaled"]
    weights: tuple[float, float]
    kind: Similarity


class Hold:
    """What one edit is held to: a room for each site, none if there is no constraint.

    Attributes:
        kept: by site, ‖(I − QQᵀ)ΔW‖ / ‖ΔW‖ of what was to be written.
    """

    def __init__(self, how: Terms, lm: LM, rooms: Mapping[Site, Room]) -> None:
        self._how, self._rooms = how, rooms
        self.kept: dict[str, float] = {}
        weights = (lm.weights[site] for site in rooms)
        like = (torch.empty(0, dtype=torch.promote_types(w.dtype, torch.float32), device=w.device) for w in weights)
        self._live = [room.to(tensor) for room, tensor in zip(rooms.values(), like, strict=True)]

    def restraint(self) -> Restraint | None:
        """Return what holds δ back while it is learned: over several sites the penalty's mean, and the last one's room."""
        how = self._how
        if not self._rooms:
            return None
        if how.hard and how.projection == "inside":
            return Restraint(project=self._live[-1].project)
        return Restraint(self._penalty) if any(how.weights) else None

    def free(self) -> dict[Site, Project]:
        """Return, by site, the projection inside whose range an update is to be learned; none unless it is hard."""
        inside = self._how.hard and self._how.projection == "inside"
        return {s: room.project for s, room in zip(self._rooms, self._live, strict=True)} if inside else {}

    def _penalty(self, delta: Tensor) -> Tensor:
        """Return ``λ1 · mean_j sim(δ, U_j) + λ2 · mean_j sim(δ, Ĝ_j)``, (n,)."""
        parts = [
            weight * similarity(delta, basis, self._how.kind)
            for room in self._live
            for weight, basis in zip(self._how.weights, (room.history, room.implicit), strict=True)
        ]
        return torch.stack(parts).sum(0) / len(self._live)

    def fit(self, site: Site, rows: Tensor) -> Tensor:
        """Return what may be written of `rows` (n, out), outputs an update at `site` is to add; reported in `kept`."""
        room = self._rooms.get(site)
        if room is None:
            return rows
        wanted = rows.double().cpu()
        free = room.project(wanted)
        self.kept[str(site)] = round(float(free.norm() / wanted.norm().clamp(min=1e-300)), 6)
        if not self._how.hard:
            return rows
        if self._how.projection == "rescaled":
            free = free * (wanted.norm(dim=1) / free.norm(dim=1).clamp(min=1e-300))[:, None]
        return free.to(rows.device)

    def report(self) -> dict[str, Any]:
        """Return, by site, how many directions are taken and free, and how much of the update lies in the free ones."""
        if not self._rooms:
            return {}
        room = {
            str(s): {"history": r.history.shape[1], "implicit": r.implicit.shape[1], "free": r.free}
            for s, r in self._rooms.items()
        }
        return {"room": room, "kept": dict(self.kept)}


def gradient_basis(lm: LM, site: Site, corpus: str, tokens: int) -> Basis:
    """Return all left singular vectors of the gradient at a site, leading first; decomposed once while the model lives."""
    key = ("gradient basis", site, corpus, tokens)
    if key not in lm.memory:
        lm.memory[key] = left_vectors(gradients(lm, [site], corpus, tokens)[site])
    found: Basis = lm.memory[key]
    return found


def history_of(lm: LM, site: Site, past: Sequence[Edit]) -> Span:
    """Return the decomposition of the sum of all standing updates at a site."""

    def entered(span: Span, edits: Sequence[Edit]) -> Span:
        return span.add_changes(edit.deltas[site] for edit in edits if site in edit.deltas)

    return summed(lm, ("history", site), past, lambda: Span.none(*lm.weights[site].shape), entered)
