"""Clusters against the rules they follow, computed here one by one in double precision.

pytest tests/index/test_clusters.py
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from errata.index.clusters import GAP, Clusters

A, B = (1, 7), (2,)


def key(*numbers: float) -> Tensor:
    return torch.tensor(numbers)


def made(*rows: tuple[tuple[float, ...], tuple[int, ...], float], moving: bool = True) -> Clusters:
    clusters = Clusters(len(rows[0][0]), moving=moving)
    for numbers, label, radius in rows:
        clusters.add(key(*numbers), label, radius)
    return clusters


def find(clusters: Clusters, *keys: tuple[float, ...]) -> list[int]:
    return clusters.find(torch.tensor(keys)).tolist()


def balls(clusters: Clusters) -> list[tuple[Tensor, float, tuple[int, ...]]]:
    """Return (centre, radius, label) of every cluster that holds something."""
    rows = zip(clusters.centres, clusters.radii.tolist(), strict=True)
    return [(c, r, clusters.label(i)) for i, (c, r) in enumerate(rows) if r >= 0]


def test_a_far_key_begins_a_cluster() -> None:
    clusters = made(((0.0, 0.0), A, 1.0))
    assert clusters.add(key(2.1, 0.0), B, 1.0).kind == "add"
    assert clusters.radii.tolist() == [1.0, 1.0]
    assert find(clusters, (0.9, 0.0), (1.2, 0.0), (3.05, 0.0), (9.0, 9.0)) == [0, 1, 1, -1]


def test_the_same_label_expands_to_hold_all_points() -> None:
    clusters = made(((0.0, 0.0), A, 1.0))
    event = clusters.add(key(1.5, 0.0), A, 1.0)
    assert (event.kind, event.cluster, len(clusters)) == ("expand", 0, 1)
    assert torch.equal(clusters.centres[0], key(0.75, 0.0))
    assert clusters.radii[0] == 1.0  # max(max ‖point − centre‖ = 0.75, R)
    clusters.add(key(2.7, 0.0), A, 1.0)
    assert torch.allclose(clusters.centres[0], key(1.4, 0.0))
    assert float(clusters.radii[0]) == pytest.approx(1.4)
    assert find(clusters, (0.1, 0.0), (1.3, 0.0), (2.5, 0.0)) == [0, 1, 2]  # the nearest point, not the centre


def test_another_label_in_reach_pushes_back() -> None:
    clusters = made(((0.0, 0.0), A, 1.0))
    event = clusters.add(key(0.8, 0.0), B, 1.0)
    assert (event.kind, event.forgotten) == ("conflict", ())
    assert clusters.radii.tolist() == pytest.approx([0.4 - GAP, 0.4])
    assert find(clusters, (0.3, 0.0), (0.5, 0.0), (0.0, 0.7)) == [0, 1, -1]


def test_points_outside_after_a_conflict_are_forgotten_and_named() -> None:
    clusters = made(((0.0, 0.0), A, 1.0), ((1.6, 0.0), A, 1.0))  # centre 0.8, both points 0.8 away
    event = clusters.add(key(0.8, 0.9), B, 1.0)
    assert event.kind == "conflict"
    assert event.forgotten == (0, 1)
    assert find(clusters, (0.0, 0.0), (1.6, 0.0), (0.8, 0.9)) == [-1, -1, 2]


def test_what_has_lost_all_its_points_pushes_nobody_back() -> None:
    clusters = made(((0.0, 0.0), A, 1.0))
    event = clusters.add(key(0.0, 0.0), B, 1.0)  # the same question, another answer
    assert (event.kind, event.forgotten, len(clusters)) == ("conflict", (0,), 1)
    assert find(clusters, (0.0, 0.0), (0.9, 0.0)) == [1, 1]


def test_a_split_never_makes_a_radius_larger() -> None:
    clusters = made(((0.0, 0.0), A, 0.2))
    clusters.add(key(1.0, 0.0), B, 0.9)  # d/2 is more than the old radius
    assert clusters.radii.tolist() == pytest.approx([0.2, 0.5])


def test_an_expansion_does_not_undo_a_conflicts_push() -> None:
    clusters = made(((0.0, 0.0), A, 1.0), ((0.8, 0.0), B, 1.0))
    clusters.add(key(-0.1, 0.0), A, 1.0)
    assert find(clusters, (0.5, 0.0), (0.7, 0.0), (0.1, 0.0)) == [1, 1, 0]
    (first, r, _), (second, s, _) = balls(clusters)
    assert float((first - second).norm()) >= r + s


def test_every_cluster_in_reach_is_pushed_back_not_the_nearest_only() -> None:
    clusters = made(((0.0, 0.0), A, 1.0), ((2.2, 0.0), A, 1.0))
    clusters.add(key(1.0, 0.0), B, 1.0)
    assert find(clusters, (0.3, 0.0), (0.9, 0.0), (1.3, 0.0), (2.0, 0.0)) == [0, 2, 2, 1]


def test_of_all_balls_that_hold_a_key_the_nearest_point_counts() -> None:
    # 0.7 lies nearest to the centre of the first ball, but nearest to a point of the second, which reaches it as well.
    clusters = made(((0.0, 0.0), A, 1.0), ((2.1, 0.0), A, 1.0), ((1.2, 0.0), A, 1.0))
    assert clusters.members(1) == (1, 2)
    assert find(clusters, (0.7, 0.0), (0.5, 0.0), (1.7, 0.0)) == [2, 0, 1]


def test_labels_are_compared_as_sequences() -> None:
    clusters = made(((0.0,), (3, 5), 1.0))
    assert clusters.add(key(0.5), (5, 3), 1.0).kind == "conflict"  # the same sum, another answer
    assert clusters.add(key(0.1), (3, 5), 1.0).kind == "expand"


def test_a_later_key_of_one_batch_sees_the_earlier_ones() -> None:
    clusters = Clusters(1)
    events = [clusters.add(key(x), label, 1.0) for x, label in ((0.0, A), (0.5, B), (0.1, A))]
    assert [event.kind for event in events] == ["add", "conflict", "expand"]


def test_a_codebook_grows_its_radius_and_stays_where_it_is() -> None:
    clusters = made(((0.0,), A, 1.0), ((1.7,), A, 1.0), moving=False)
    assert (clusters.centres.tolist(), float(clusters.radii[0])) == ([[0.0]], pytest.approx(1.7))
    assert clusters.members(0) == (0,)
    assert find(clusters, (1.6,), (-1.6,), (1.8,)) == [0, 0, -1]


row = st.tuples(st.tuples(*[st.integers(-6, 6)] * 2), st.sampled_from([A, B, (3,)]), st.sampled_from([0.5, 1.0, 2.5]))


@given(st.lists(row, min_size=1, max_size=25), st.booleans())
@settings(max_examples=60, deadline=None)
def test_balls_of_different_labels_never_overlap(rows: list[tuple], moving: bool) -> None:
    clusters = Clusters(2, moving=moving)
    for numbers, label, radius in rows:
        event = clusters.add(torch.tensor(numbers).float() / 2, label, radius)
        held = balls(clusters)
        for i, (c, r, one) in enumerate(held):
            for d, s, other in held[i + 1 :]:
                assert one == other or float((c - d).double().norm()) >= r + s - 1e-4
        # What was just written is found at once, under its own label.
        found = int(clusters.find(torch.tensor(numbers).float()[None] / 2))
        assert found >= 0
        assert rows[found][1] == label
        assert event.point not in event.forgotten


def state(clusters: Clusters) -> tuple[object, ...]:
    labels = [clusters.label(i) for i in range(len(clusters.radii))]
    members = [clusters.members(i) for i in range(len(labels))]
    return clusters.radii.tolist(), clusters.centres.tolist(), labels, members, clusters.points, len(clusters)


@given(st.lists(row, min_size=1, max_size=20), st.integers(0, 20), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_state_is_a_function_of_what_was_added_and_not_of_what_was_tried(
    rows: list[tuple], cut: int, moving: bool
) -> None:
    whole, part = Clusters(2, moving=moving), Clusters(2, moving=moving)
    asked = torch.tensor([numbers for numbers, _, _ in rows]).float()
    for numbers, label, radius in rows:
        whole.add(torch.tensor(numbers).float(), label, radius)
    for numbers, label, radius in rows[:cut]:
        part.add(torch.tensor(numbers).float(), label, radius)
    before, found = state(part), part.find(asked)
    for _ in range(2):
        with part.trying():
            for numbers, label, radius in rows[cut:]:
                part.add(torch.tensor(numbers).float(), label, radius)
            assert state(part) == state(whole)
        assert state(part) == before
        assert torch.equal(part.find(asked), found)
    for numbers, label, radius in rows[cut:]:
        part.add(torch.tensor(numbers).float(), label, radius)
    assert state(part) == state(whole)
    assert torch.equal(part.find(asked), whole.find(asked))


def test_finding_agrees_with_the_rule_written_out() -> None:
    draw = torch.Generator().manual_seed(0)
    clusters, keys = Clusters(5), torch.randn(300, 5, generator=draw)
    for i, k in enumerate(keys):
        clusters.add(k, (i % 7,), 0.8)
    asked = torch.cat([torch.randn(200, 5, generator=draw), keys])
    assert clusters.find(asked).tolist() == [written_out(clusters, keys, k) for k in asked]


def written_out(clusters: Clusters, keys: Tensor, asked: Tensor) -> int:
    best, found = math.inf, -1
    for cluster, (centre, radius) in enumerate(zip(clusters.centres, clusters.radii.tolist(), strict=True)):
        if radius < 0 or float((asked - centre).double().norm()) > radius + 1e-6:
            continue
        for point in clusters.members(cluster):
            d = float((asked - keys[point]).double().norm())
            if d < best - 1e-7:
                best, found = d, point
    return found


class _Counter(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(
        self, func: object, types: object, args: Sequence = (), kwargs: dict | None = None
    ) -> object:
        self.count += 1
        return func(*args, **(kwargs or {}))  # type: ignore[operator]


def test_nothing_loops_over_clusters_or_keys() -> None:
    counts = []
    for size in (20, 400):
        clusters = Clusters(3)
        for i in range(size):
            clusters.add(torch.tensor([4.0 * i, 0.0, 0.0]), (i,), 1.0)
        asked = torch.tensor([[4.0 * i, 0.1, 0.0] for i in range(size)])
        clusters.find(asked)
        with _Counter() as counter:
            clusters.find(asked)
        counts.append(counter.count)
    assert counts[0] == counts[1]
