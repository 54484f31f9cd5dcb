"""Directions taken and free: the incremental basis against a dense SVD, projections against their matrices.

pytest tests/solve/test_subspace.py
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from errata.delta import Change, Columns, Dense, Graft, LowRank
from errata.solve.subspace import FreeSpace, Span, left_vectors, orthonormal, similarity, without

OUT, IN = 9, 14


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(out: int, count: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(draw(out, count, seed=seed)).Q


def same_space(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.allclose(one @ one.T, other @ other.T, atol=1e-9))


def spanned(changes: list[Change]) -> Span:
    span = Span.none(OUT, IN)
    for change in changes:
        span = span.add_changes([change])
    return span


# ------------------------------------------------------------------ the incremental basis


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(0, 99))
def test_the_incremental_basis_is_that_of_the_dense_svd(ranks: list[int], seed: int) -> None:
    parts = [LowRank(draw(OUT, r, seed=seed + 7 * i), draw(IN, r, seed=seed + 7 * i + 1)) for i, r in enumerate(ranks)]
    span = spanned(list(parts))
    dense = sum((p.dense() for p in parts), torch.zeros(OUT, IN, dtype=torch.float64))
    u, values, v = torch.linalg.svd(dense, full_matrices=False)
    kept = values > 1e-9 * values[0]
    assert torch.allclose(span.values, values[kept], atol=1e-9)
    assert torch.allclose((span.left * span.values) @ span.right.T, dense, atol=1e-9)
    for count in range(1, len(span.values) + 1):
        if count == len(span.values) or values[count - 1] - values[count] > 1e-3 * values[0]:  # else not defined
            assert same_space(span.leading(most=count), u[:, :count])
    del v


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(0, 99))
def test_changes_entered_together_are_those_entered_one_by_one(ranks: list[int], seed: int) -> None:
    parts = [LowRank(draw(OUT, r, seed=seed + 7 * i), draw(IN, r, seed=seed + 7 * i + 1)) for i, r in enumerate(ranks)]
    before = spanned([LowRank(draw(OUT, 2, seed=500), draw(IN, 2, seed=501))])
    one_by_one = before
    for part in parts:
        one_by_one = one_by_one.add_changes([part])
    together = before.add_changes(parts)
    assert torch.allclose(together.values, one_by_one.values, atol=1e-9)
    assert torch.allclose(whole(together), whole(one_by_one), atol=1e-9)
    back = together.add_changes([-part for part in reversed(parts)])
    assert back.left.shape == (OUT, 2)
    assert spanned([]).add_changes([*parts, *(-part for part in parts)]).left.shape == (OUT, 0)


def whole(span: Span) -> Tensor:
    return (span.left * span.values) @ span.right.T


def test_every_kind_of_change_counts_and_a_graft_does_not() -> None:
    changes: list[Change] = [
        LowRank(draw(OUT, 1), draw(IN, 1, seed=1)),
        Columns(torch.tensor([2, 5]), draw(OUT, 2, seed=2)),
        Dense(draw(OUT, IN, seed=3)),
        Graft("memory", {}, {}),
    ]
    total = changes[0].dense() + changes[1].dense((OUT, IN)) + changes[2].dense()
    span = spanned(changes)
    assert torch.allclose(whole(span), total, atol=1e-12)
    assert torch.allclose(whole(Span.none(OUT, IN).add_changes(changes)), total, atol=1e-12)
    assert spanned(changes[-1:]).left.shape == (OUT, 0)


def test_an_update_taken_back_frees_its_direction() -> None:
    one, other = LowRank(draw(OUT, 1), draw(IN, 1, seed=1)), LowRank(draw(OUT, 1, seed=2), draw(IN, 1, seed=3))
    assert spanned([one, other, -one]).left.shape == (OUT, 1)
    assert same_space(spanned([one, other, -one]).leading(), spanned([other]).leading())
    assert spanned([one, -one]).left.shape == (OUT, 0)


def test_energy_keeps_the_fewest_that_hold_the_share() -> None:
    span = spanned([LowRank(torch.eye(OUT, 3).double() * torch.tensor([3.0, 2.0, 1.0]), torch.eye(IN, 3).double())])
    shares = {0.5: 1, 9 / 14: 1, 0.7: 2, 13 / 14: 2, 0.95: 3, 1.0: 3}
    assert {share: span.leading(share).shape[1] for share in shares} == shares
    assert span.leading(1.0, most=2).shape[1] == 2
    assert span.leading(1.0, most=-1).shape[1] == Span.none(OUT, IN).leading(0.5).shape[1] == 0


def test_left_vectors_are_those_of_the_svd() -> None:
    matrix = draw(OUT, IN)
    u = torch.linalg.svd(matrix).U
    assert torch.allclose((left_vectors(matrix) * u).sum(0).abs(), torch.ones(OUT, dtype=torch.float64), atol=1e-8)


# ------------------------------------------------------------------ overlap and projection


def test_what_overlaps_is_removed_and_what_vanishes_left_out() -> None:
    taken = unit(OUT, 3)
    basis = torch.cat([unit(OUT, 2, seed=1), taken[:, :1], taken @ draw(3, 1)], 1)
    rest = without(basis, taken)
    assert rest.shape == (OUT, 2)
    assert (taken.T @ rest).abs().max() < 1e-15
    assert torch.allclose(rest.norm(dim=0), torch.ones(2, dtype=torch.float64))
    wanted = basis[:, 0] - taken @ (taken.T @ basis[:, 0])
    assert torch.allclose(rest[:, 0], wanted / wanted.norm())
    assert torch.equal(without(basis[:, :2], taken[:, :0]), basis[:, :2] / basis[:, :2].norm(dim=0))


def test_a_projected_update_has_nothing_in_what_is_taken() -> None:
    history = unit(OUT, 3)
    room = FreeSpace(history, without(unit(OUT, 4, seed=1), history))
    delta = draw(5, OUT, seed=2)
    free = room.project(delta)
    assert room.free == OUT - 7
    assert (free @ room.taken).abs().max() < 1e-12
    everything = torch.cat([history, unit(OUT, 4, seed=1)], 1)
    wanted = delta - delta @ (everything @ torch.linalg.pinv(everything))
    assert torch.allclose(free, wanted)
    assert torch.allclose(room.project(free), free)
    single = room.to(delta.float())
    assert single.project(delta.float()).dtype == torch.float32
    assert torch.allclose(single.project(delta.float()).double(), free, atol=1e-5)


def test_a_basis_of_columns_that_depend_on_each_other_is_as_large_as_their_span() -> None:
    basis = unit(OUT, 3)
    assert same_space(orthonormal(basis, basis @ draw(3, 2)), basis)
    assert orthonormal(basis[:, :0]).shape == (OUT, 0)


# ------------------------------------------------------------------ the soft penalty


@pytest.mark.parametrize("kind", ["absolute", "squared", "signed"])
def test_similarity_is_the_mean_cosine(kind: str) -> None:
    delta, basis = draw(4, OUT), unit(OUT, 3, seed=1)
    of = {"absolute": abs, "squared": lambda c: c * c, "signed": float}[kind]
    for row, found in zip(delta, similarity(delta, basis, kind), strict=True):  # type: ignore[arg-type]
        cosines = [float(row @ b / row.norm()) for b in basis.T]
        assert float(found) == pytest.approx(sum(map(of, cosines)) / 3)
    assert torch.equal(similarity(delta, basis[:, :0]), torch.zeros(4, dtype=torch.float64))


def test_similarity_of_a_rank_one_update_is_that_of_its_delta() -> None:
    delta, basis = draw(1, OUT), unit(OUT, 3, seed=1)
    update = draw(IN, 1, seed=2) * delta  # (in, out)
    assert torch.allclose(similarity(update[None], basis), similarity(delta, basis))


def test_similarity_of_nothing_is_zero_and_can_be_differentiated() -> None:
    delta = torch.zeros(2, OUT, requires_grad=True)
    found = similarity(delta, unit(OUT, 3))
    assert torch.equal(found, torch.zeros(2))
    (gradient,) = torch.autograd.grad(found.sum(), delta)
    assert torch.equal(gradient, torch.zeros(2, OUT))
