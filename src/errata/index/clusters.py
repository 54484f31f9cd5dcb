"""Clusters of keys: what is added, grown, pushed back and forgotten as edits come (MELO, arXiv 2312.11795, Sec. 3.2).

A cluster is a ball {centre, radius, label, points}. A new key with radius R and the nearest cluster that R reaches, at
distance d (d ≤ R_c + R):

    none         add       centre = key, radius R
    same label   expand    centre = mean of the points, R_c = max(max ‖point − centre‖, R)
    other label  conflict  R_c = min(R_c, d/2 − 1e-5), R_new = min(R, d/2); points now outside R_c are forgotten

Differs from the paper, so that balls of different labels never overlap, whatever came before: a conflict pushes back every
cluster of another label that is reached, not the nearest only; an expanded ball stops where one of another label begins
(the released code forgets an earlier conflict's push), and where it could then not hold all its points, the key gets a
cluster of its own; a cluster that has lost all its points is gone and pushes nobody back.

The state is a pure function of the sequence of keys, labels and radii: dropping an edit is building it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.index.search import Backend, Exact, Search, choose, distances

AnswerTokens = tuple[int, ...]
GAP = 1e-5  # what lies between two balls that were pushed apart
_SLACK = 1e-6  # a key computed again may differ in its last digit, and must still be found


@dataclass(frozen=True, slots=True)
class ClusterEvent:
    """What came of a key.

    Args:
        kind: "add", "expand" or "conflict". point: the key's number.
        cluster: where it is now. forgotten: numbers of points that no key finds any more.
    """

    kind: Literal["add", "expand", "conflict"]
    point: int
    cluster: int
    forgotten: tuple[int, ...] = ()


class Clusters:
    """A growing set of clusters.

    Args:
        width: numbers in a key. device: where they are kept and compared.
        backend: how they are searched.
        moving: whether a cluster grows by points and moves to their mean (MELO), or only its radius grows (GRACE).
    """

    def __init__(
        self, width: int, device: torch.device | str = "cpu", *, backend: Backend = "size", moving: bool = True
    ) -> None:
        self._moving, self._backend = moving, backend
        self._search: Search = Exact()
        self._keys, self._centres = (torch.zeros(0, width, device=device) for _ in range(2))
        self._radii = torch.zeros(0, device=device)
        self._labels: list[AnswerTokens] = []
        self._points: list[list[int]] = []  # of each cluster, oldest first
        self._kinds: dict[AnswerTokens, int] = {}
        self._kind = torch.zeros(0, dtype=torch.long, device=device)  # label of each cluster, as a number
        self._count = 0
        self._changed: set[int] = set()
        self._table: tuple[Tensor, Tensor, Tensor] | None = None
        self._before: dict[int, tuple[Tensor, float, list[int]] | None] | None = None  # what is tried changes

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Take back on the way out what is added inside; nothing is to be looked for there."""
        assert self._before is None
        self._before, clusters, kinds, count = {}, len(self._labels), len(self._kinds), self._count
        changed, table = set(self._changed), self._table
        try:
            yield
        finally:
            for cluster, before in self._before.items():
                if before is not None:
                    self._centres[cluster], self._radii[cluster], self._points[cluster] = before
            del self._labels[clusters:], self._points[clusters:]
            self._kinds = dict(islice(self._kinds.items(), kinds))
            self._before, self._count, self._changed, self._table = None, count, changed, table

    def _changes(self, cluster: int) -> None:
        """Say that a cluster is about to change, or to be there."""
        self._changed.add(cluster)
        if self._before is not None and cluster not in self._before:
            known = cluster < len(self._labels)
            self._before[cluster] = (
                (self._centres[cluster].clone(), float(self._radii[cluster]), self._points[cluster]) if known else None
            )

    # ---------------------------------------------------------------- what there is

    def __len__(self) -> int:
        """Return how many clusters hold something."""
        return sum(1 for points in self._points if points)

    @property
    def points(self) -> int:
        """Return how many keys were added, forgotten ones included."""
        return self._count

    @property
    def centres(self) -> Float[Tensor, "m d"]:
        """Return the centres, those of lost clusters included."""
        return self._centres[: len(self._labels)]

    @property
    def radii(self) -> Float[Tensor, " m"]:
        """Return the radii; −1 for a cluster that is gone."""
        return self._radii[: len(self._labels)]

    def members(self, cluster: int) -> tuple[int, ...]:
        """Return the numbers of a cluster's points."""
        return tuple(self._points[cluster])

    def label(self, cluster: int) -> AnswerTokens:
        """Return a cluster's label."""
        return self._labels[cluster]

    # ---------------------------------------------------------------- adding

    def add(self, key: Float[Tensor, " d"], label: AnswerTokens, radius: float) -> ClusterEvent:
        """Take in a key and return what came of it."""
        key = key.to(self._keys)
        point = self._store(key)
        self._table = None
        reached = self._reached(key, radius)
        if not reached:
            return ClusterEvent("add", point, self._new(key, label, radius, point))
        nearest = min(reached, key=lambda cluster: (reached[cluster], cluster))
        if self._labels[nearest] == label and self._expand(nearest, point, radius):
            return ClusterEvent("expand", point, nearest)
        kind = self._kinds.setdefault(label, len(self._kinds))
        others = {cluster: far for cluster, far in reached.items() if self._kinds[self._labels[cluster]] != kind}
        forgotten, room = self._push_back(others)
        cluster = self._new(key, label, min(radius, room), point)
        return ClusterEvent("conflict" if others else "add", point, cluster, forgotten)

    def _reached(self, key: Float[Tensor, " d"], radius: float) -> dict[int, float]:
        """Return the clusters that a ball around a key reaches, and how far their centres are."""
        if not self._labels:
            return {}
        if self._before:  # changed, and not to be kept: the search is not to know
            near = torch.arange(len(self._labels), device=self._keys.device)
        else:
            reach = torch.where(self.radii >= 0, self.radii + radius, -1.0)
            near = self._searched().pairs(key[None], self.centres, reach, self._changed)[1].sort().values
        far, radii = distances(key.expand(len(near), -1), self.centres[near]), self.radii[near]
        held = (radii >= 0) & (far <= radii + radius)
        return dict(zip(near[held].tolist(), far[held].tolist(), strict=True))

    def _searched(self) -> Search:
        """Return what finds clusters, chosen by how many there are."""
        if isinstance(self._search, Exact):
            chosen = choose(self._backend, len(self._labels), self._keys.shape[1], self._keys.device)
            if not isinstance(chosen, Exact):
                self._search, self._changed = chosen, set(range(len(self._labels)))
        return self._search

    def _push_back(self, others: Mapping[int, float]) -> tuple[tuple[int, ...], float]:
        """Shrink clusters that a key of another label reaches; return what they forget, and the room left for the key."""
        forgotten: list[int] = []
        room = float("inf")
        for cluster, far in others.items():
            self._changes(cluster)
            half = far / 2
            radius = min(float(self._radii[cluster]), half - GAP)
            lost = self._outside(cluster, radius)
            self._points[cluster] = [p for p in self._points[cluster] if p not in lost]
            forgotten += lost
            self._radii[cluster] = radius if self._points[cluster] else -1.0
            if self._points[cluster]:
                room = min(room, half)
        return tuple(sorted(forgotten)), room

    def _expand(self, cluster: int, point: int, radius: float) -> bool:
        """Let a cluster take in a point, if it then still holds all its points without reaching one of another label."""
        kept = self._points[cluster]
        if self._moving:
            keys = self._keys[torch.tensor([*kept, point])]
            centre = keys.mean(0)
            wanted = max(float(distances(keys, centre.expand_as(keys)).max()), radius)
        else:
            keys, centre = self._keys[point][None], self._centres[cluster]
            wanted = max(float(self._radii[cluster]), float(distances(keys, centre[None])))
        room = self._room(centre, cluster, wanted)
        needed = float(distances(keys, centre.expand_as(keys)).max())
        if needed > room:
            return False
        self._changes(cluster)
        self._points[cluster] = [*kept, point] if self._moving else kept
        self._centres[cluster], self._radii[cluster] = centre, min(wanted, room)
        return True

    def _room(self, centre: Float[Tensor, " d"], cluster: int, wanted: float) -> float:
        """Return how far a ball at `centre` may reach before it touches one of another label; inf if as far as wanted."""
        label = self._labels[cluster]
        reached = self._reached(centre, wanted + 2 * GAP)
        free = [far - float(self._radii[c]) for c, far in reached.items() if self._labels[c] != label]
        return min(free, default=float("inf")) - GAP

    def _outside(self, cluster: int, radius: float) -> list[int]:
        points = self._points[cluster]
        keys = self._keys[torch.tensor(points, dtype=torch.long)]
        far = distances(keys, self._centres[cluster].expand_as(keys)).tolist()
        return [point for point, d in zip(points, far, strict=True) if d > radius]

    def _store(self, key: Tensor) -> int:
        self._keys = _room_for(self._keys, self._count)
        self._keys[self._count] = key
        self._count += 1
        return self._count - 1

    def _new(self, key: Tensor, label: AnswerTokens, radius: float, point: int) -> int:
        cluster = len(self._labels)
        self._changes(cluster)
        self._centres, self._radii, self._kind = (
            _room_for(t, cluster) for t in (self._centres, self._radii, self._kind)
        )
        self._centres[cluster], self._radii[cluster] = key, radius
        self._kind[cluster] = self._kinds.setdefault(label, len(self._kinds))
        self._labels.append(label)
        self._points.append([point])
        return cluster

    # ---------------------------------------------------------------- finding

    def find(self, keys: Float[Tensor, "b d"]) -> Int[Tensor, " b"]:
        """Return for each key the nearest point of all clusters whose ball holds it; −1 where none does."""
        found = torch.full((len(keys),), -1, dtype=torch.long, device=keys.device)
        if not self._labels:
            return found
        keys = keys.to(self._keys)
        rows, balls = self._searched().pairs(keys, self.centres, self.radii, self._changed)
        limit = self.radii[balls] + _SLACK * torch.linalg.vector_norm(self.centres[balls], dim=1)
        held = (self.radii[balls] >= 0) & (distances(keys[rows], self.centres[balls]) <= limit)
        rows, points = self._unfold(rows[held], balls[held])
        if not len(rows):
            return found
        far = distances(keys[rows], self._keys[points])
        # The nearest of each row, the older of two that are equally near: sorted by the last criterion first.
        order = points.argsort(stable=True)
        order = order[far[order].argsort(stable=True)]
        order = order[rows[order].argsort(stable=True)]
        rows, points = rows[order], points[order]
        first = torch.ones_like(rows, dtype=torch.bool)
        first[1:] = rows[1:] != rows[:-1]
        found[rows[first].to(found.device)] = points[first].to(found.device)
        return found

    def _unfold(self, rows: Int[Tensor, " c"], balls: Int[Tensor, " c"]) -> tuple[Tensor, Tensor]:
        """Return (row, point) pairs of (row, cluster) pairs."""
        if self._table is None:
            counts = torch.tensor([len(points) for points in self._points])
            flat = torch.tensor([point for points in self._points for point in points], dtype=torch.long)
            self._table = tuple(t.to(rows.device) for t in (counts, counts.cumsum(0) - counts, flat))  # type: ignore[assignment]
        assert self._table is not None
        counts, starts, flat = self._table
        many = counts[balls]
        within = torch.arange(int(many.sum()), device=rows.device) - (many.cumsum(0) - many).repeat_interleave(many)
        return rows.repeat_interleave(many), flat[starts[balls].repeat_interleave(many) + within]


def _room_for(tensor: Tensor, place: int) -> Tensor:
    """Return the tensor, twice as long if `place` lies beyond its end."""
    if place < len(tensor):
        return tensor
    more = tensor.new_zeros(max(16, len(tensor)), *tensor.shape[1:])
    return torch.cat([tensor, more])
