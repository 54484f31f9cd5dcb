"""O-Edit and O-Edit+ as a part that any method which changes weights can take (arXiv 2410.11469).

    hold = self.hold(lm, past)                                # of a resolved method; holds nothing under constraint=none
    values = optimise(lm, …, hold.restraint())                # soft: a penalty; inside: learned in the free space only
    residual = hold.fit(site, residual)                       # hard: what is written lies in the free space

U is derived from the deltas of the edits that stand, so a dropped edit frees its direction, and G from the base model's
gradients on ordinary text (`stats.gradients`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from errata.delta import Site
from errata.edit import Edit
from errata.errors import NoRoomLeft
from errata.methods.base import Auto, Method, filled
from errata.model.fold import fold_in_blocks
from errata.model.lm import LM
from errata.solve.subspace import Basis, FreeSpace, Over, Similarity, Span, left_vectors, similarity, without
from errata.solve.values import Constraint, Project
from errata.stats.corpus import sampled
from errata.stats.store import Key, gradients, keys


@dataclass(frozen=True, kw_only=True)
class Constrained(Method):
    """A method whose update may be kept orthogonal to earlier edits and to the model's implicit knowledge."""

    corpus: str = field(default="auto", metadata={"help": "text of the statistics: broad, own, prose, primer, a file"})
    tokens: int = field(default=0, metadata={"help": "tokens of it to read; 0: until they tell no more", "least": 0})
    constraint: Literal["none", "o-edit", "o-edit+"] = field(
        default="none", metadata={"help": "keep updates off earlier ones: by a penalty, or by projection too"}
    )
    protect: Literal["both", "history", "implicit"] = field(
        default="both", metadata={"help": "the edits that stand, the model's implicit knowledge, or both"}
    )
    lambda1: float | Auto = field(
        default="auto",
        metadata={"help": "penalty on looking towards earlier edits; auto: 50, or 5 where it is projected", "least": 0},
    )
    lambda2: float | Auto = field(default="auto", metadata={"help": "the same for implicit knowledge", "least": 0})
    similarity: Similarity = field(default="absolute", metadata={"help": "what is penalised: |cos|, cos² or cos"})
    over: Over = field(default="mean", metadata={"help": "what the penalty takes of the directions' similarities"})
    projection: Literal["inside", "project", "rescaled"] = field(
        default="inside",
        metadata={"help": "o-edit+: learn in the free space, project, or project and restore the size"},
    )
    directions: int | Literal["auto"] = field(
        default="auto", metadata={"help": "implicit directions protected; auto: an eighth of the width", "least": 0}
    )
    energy: float = field(
        default=1.0, metadata={"help": "share of the earlier updates' energy that is protected", "above": 0}
    )
    spare: int | Literal["auto"] = field(
        default="auto", metadata={"help": "directions to leave free; auto: a quarter of the width", "least": 1}
    )
    full: Literal["stop", "leading"] = field(
        default="stop", metadata={"help": "when room runs out: an error, or protect only the leading directions"}
    )

    def resolve(self, lm: LM) -> Self:
        """Return the method with every "auto" filled in; raises what `Method.resolve` raises."""
        found = super().resolve(lm)
        directions = lm.width // 8 if found.directions == "auto" else found.directions
        # With fewer free, δ no longer reaches its target, and grows until it is clamped (LOG.md, 2026-11-20).
        spare = max(1, lm.width // 4) if found.spare == "auto" else found.spare
        # Projecting needs no help: a strong penalty only keeps δ from its target (LOG.md, 2026-11-20).
        penalty = 5.0 if found.constraint == "o-edit+" else 50.0
        lambda1, lambda2 = (penalty if own == "auto" else own for own in (found.lambda1, found.lambda2))
        return replace(found, directions=directions, spare=spare, lambda1=lambda1, lambda2=lambda2)

    def text(self, lm: LM) -> str:
        """Return the name of the corpus that statistics are of where nobody says."""
        return sampled(lm)

    def wanted(self, lm: LM) -> list[Mapping[Site, Key]]:
        """Return by what the gradients of every site written to are known, if they are to be protected."""
        held = self.constraint in ("o-edit", "o-edit+") and self.protect != "history"
        return [*super().wanted(lm), *([keys(lm, self.sites(), self.corpus, self.tokens, "gradient")] if held else [])]

    def hold(self, lm: LM, past: Sequence[Edit]) -> OrthogonalRoom:
        """Return what an edit on top of `past` is held to; on a resolved method.

        Raises:
            NoRoomLeft: under o-edit+, less than `spare` directions are free.
        """
        sites = () if self.constraint == "none" else self.sites()
        weights = (filled(self.lambda1), filled(self.lambda2))
        how = OrthogonalSettings(self.constraint == "o-edit+", self.projection, weights, self.similarity, self.over)
        return OrthogonalRoom(how, lm, {site: self._room(lm, site, past) for site in sites})

    def _room(self, lm: LM, site: Site, past: Sequence[Edit]) -> FreeSpace:
        out = lm.weights[site].shape[0]
        implicit = torch.zeros(out, 0, dtype=torch.float64)
        if self.protect != "history":
            implicit = gradient_basis(lm, site, self.corpus, self.tokens)[:, : filled(self.directions)]
        if self.protect == "implicit":
            return self._checked(FreeSpace(implicit[:, :0], implicit), site)
        span, most = history_of(lm, site, past), out - implicit.shape[1] - filled(self.spare)
        most = most if self.constraint == "o-edit+" and self.full == "leading" else out
        taken = span.leading(self.energy, most)
        return self._checked(FreeSpace(taken, without(implicit, taken)), site)

    def _checked(self, room: FreeSpace, site: Site) -> FreeSpace:
        if self.constraint == "o-edit+" and room.free < int(self.spare):
            raise NoRoomLeft(
                f"at {site} only {room.free} of {room.taken.shape[0]} directions are free, fewer than spare = {self.spare}: "
                f"{room.history.shape[1]} belong to earlier edits. Drop some, lower energy or directions, or set full=leading."
            )
        return room


@dataclass(frozen=True, slots=True)
class OrthogonalSettings:
    """How an edit is held: settings of `Constrained`.

    Args:
        hard: project what is written (O-Edit+). projection: how; "learned" projects δ and nothing that is written.
        weights: λ1, λ2. kind: the similarity they weigh. over: what is taken of the directions'.
    """

    hard: bool
    projection: Literal["inside", "project", "rescaled", "learned"]
    weights: tuple[float, float]
    kind: Similarity
    over: Over = "mean"


class OrthogonalRoom:
    """What one edit is held to: a room for each site, none if there is no constraint.

    Args:
        rooms: by site, what is taken. told: what else is to be reported.

    Attributes:
        kept: by site, ‖(I − QQᵀ)ΔW‖ / ‖ΔW‖ of what was to be written.
    """

    def __init__(
        self, how: OrthogonalSettings, lm: LM, rooms: Mapping[Site, FreeSpace], told: Mapping[str, Any] | None = None
    ) -> None:
        self._how, self._rooms, self._told = how, rooms, dict(told or {})
        self.kept: dict[str, float] = {}
        weights = (lm.weights[site] for site in rooms)
        like = (torch.empty(0, dtype=torch.promote_types(w.dtype, torch.float32), device=w.device) for w in weights)
        self._live = [room.to(tensor) for room, tensor in zip(rooms.values(), like, strict=True)]

    def restraint(self) -> Constraint | None:
        """Return what holds δ back while it is learned: over several sites the penalty's mean, and the last one's room."""
        how = self._how
        if not self._rooms:
            return None
        if how.hard and how.projection in ("inside", "learned"):
            return Constraint(project=self._live[-1].project)
        return Constraint(self._penalty) if any(how.weights) else None

    def free(self) -> dict[Site, Project]:
        """Return, by site, the projection inside whose range an update is to be learned; none unless it is hard."""
        inside = self._how.hard and self._how.projection == "inside"
        return {s: room.project for s, room in zip(self._rooms, self._live, strict=True)} if inside else {}

    def _penalty(self, delta: Tensor) -> Tensor:
        """Return ``λ1 · mean_j sim(δ, U_j) + λ2 · mean_j sim(δ, Ĝ_j)``, or the sums over j, (n,)."""
        parts = [
            weight * similarity(delta, basis, self._how.kind, self._how.over)
            for room in self._live
            for weight, basis in zip(self._how.weights, (room.history, room.implicit), strict=True)
        ]
        return torch.stack(parts).sum(0) / len(self._live)

    def fit(self, site: Site, rows: Tensor) -> Tensor:
        """Return what may be written of `rows` (n, out), outputs an update at `site` is to add; reported in `kept`."""
        room = self._rooms.get(site)
        if room is None or self._how.projection == "learned":
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
            return self._told
        room = {
            str(s): {"history": r.history.shape[1], "implicit": r.implicit.shape[1], "free": r.free}
            for s, r in self._rooms.items()
        }
        return {**self._told, "room": room, "kept": dict(self.kept)}


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

    return fold_in_blocks(lm, ("history", site), past, lambda: Span.none(*lm.weights[site].shape), entered)
