"""The algebra of deltas: identities on random values, in every mixture of kinds.

pytest tests/test_delta.py
"""

from __future__ import annotations

import itertools
import operator
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from errata.delta import Change, Columns, Delta, Dense, Graft, LowRank, Site, build
from errata.errors import UnknownSite

OUT, IN = 5, 9
SHAPE = (OUT, IN)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(kind: str, seed: int) -> Delta:
    if kind == "lowrank":
        rank = 1 + seed % 4
        return LowRank(draw(seed, OUT, rank), draw(seed + 1, IN, rank))
    if kind == "dense":
        return Dense(draw(seed, OUT, IN))
    index = torch.randperm(IN, generator=torch.Generator().manual_seed(seed))[: seed % (IN + 1)].sort().values
    return Columns(index, draw(seed, OUT, len(index)))


KINDS = ("lowrank", "columns", "dense")
deltas = st.builds(make, st.sampled_from(KINDS), st.integers(0, 10**6))
factors = st.floats(-8, 8).filter(lambda f: f == 0 or abs(f) > 1e-3)
GRAFT = Graft("melo", {"radius": 0.5}, {"keys": torch.ones(2, 3), "rows": torch.tensor([1, 2])})


def whole(delta: Delta) -> Tensor:
    return delta.dense(SHAPE)


def equal(one: Delta, other: Delta | Tensor) -> bool:
    wanted = other if isinstance(other, Tensor) else whole(other)
    return torch.allclose(whole(one), wanted, atol=1e-12, rtol=1e-12)


# ------------------------------------------------------------------ identities


@settings(max_examples=120, deadline=None)
@given(deltas, deltas, deltas, factors, factors)
def test_it_is_a_vector_space(a: Delta, b: Delta, c: Delta, x: float, y: float) -> None:
    assert equal(a + b, whole(a) + whole(b))
    assert equal(a + b, b + a)
    assert equal((a + b) + c, a + (b + c))
    assert equal(a - b, whole(a) - whole(b))
    assert equal(x * a, a * x)
    assert equal(x * (y * a), (x * y) * a)
    assert equal((x + y) * a, x * a + y * a)
    assert equal(x * (a + b), x * a + x * b)
    assert equal(-a, -1 * a)
    assert equal(2 * a, a + a)
    assert equal(1 * a, a)


@settings(max_examples=120, deadline=None)
@given(deltas, deltas, factors)
def test_norms_are_norms(a: Delta, b: Delta, x: float) -> None:
    size = float(whole(a).norm())
    assert a.norm() == pytest.approx(size, rel=1e-12, abs=1e-300)
    assert (x * a).norm() == pytest.approx(abs(x) * size, rel=1e-12, abs=1e-300)
    assert (a - a).norm() <= 1e-14 * size  # nothing left, not a square root of rounding
    assert (0 * a).norm() == 0
    assert (a + b).norm() <= a.norm() + b.norm() + 1e-12


@settings(max_examples=80, deadline=None)
@given(deltas, deltas)
def test_adding_to_a_matrix_is_the_same_as_adding(a: Delta, b: Delta) -> None:
    base = draw(7, OUT, IN)
    matrix = base.clone()
    a.add_to(matrix)
    b.add_to(matrix)
    torch.testing.assert_close(matrix, base + whole(a + b))


@settings(max_examples=60, deadline=None)
@given(deltas)
def test_values_are_not_changed_by_what_is_done_with_them(a: Delta) -> None:
    before = {name: t.clone() for name, t in a.tensors().items()}
    a + a, a - a, -a, 3 * a, a.norm(), whole(a), a.add_to(torch.zeros(SHAPE, dtype=torch.float64))
    assert all(torch.equal(t, before[name]) for name, t in a.tensors().items())


# ------------------------------------------------------------------ kinds


@pytest.mark.parametrize(("one", "other"), list(itertools.product(KINDS, KINDS)))
def test_what_kind_a_sum_is(one: str, other: str) -> None:
    wanted = {"lowrank": LowRank, "columns": Columns}.get(one, Dense) if one == other else Dense
    assert type(make(one, 3) + make(other, 6)) is wanted


def test_low_rank_stays_in_factors() -> None:
    total = make("lowrank", 1) + make("lowrank", 2)
    assert isinstance(total, LowRank)
    assert total.left.shape[1] == 2 + 3
    assert (3 * total).shape == SHAPE
    huge = LowRank(torch.ones(200_000, 1), torch.ones(200_000, 1))  # 160 GB if it were multiplied out
    assert huge.norm() == pytest.approx(200_000)
    assert huge.nbytes == 1_600_000


def test_columns_that_meet_are_added() -> None:
    a = Columns(torch.tensor([1, 4]), torch.tensor([[1.0, 2.0]]))
    b = Columns(torch.tensor([0, 4]), torch.tensor([[5.0, 7.0]]))
    total = a + b
    assert isinstance(total, Columns)
    assert total.index.tolist() == [0, 1, 4]
    assert total.values.tolist() == [[5.0, 1.0, 9.0]]
    assert (a.shape, total.shape) == ((1, 5), (1, 5))
    assert a.dense((1, 6)).tolist() == [[0, 1, 0, 0, 2, 0]]


def test_no_columns_are_no_change() -> None:
    none = Columns(torch.zeros(0, dtype=torch.long), torch.zeros(OUT, 0, dtype=torch.float64))
    assert (none.norm(), none.shape, none.isfinite()) == (0, (OUT, 0), True)
    assert equal(none + make("dense", 1), make("dense", 1))
    assert torch.equal(whole(none), torch.zeros(SHAPE, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_says_so(kind: str, bad: float) -> None:
    delta = make(kind, 5)
    assert delta.isfinite()
    assert not (bad * delta).isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_build_it_again(kind: str) -> None:
    delta: Any = make(kind, 5)
    again = build(kind, delta.tensors(), {})
    assert type(again) is type(delta)
    assert all(torch.equal(t, again.tensors()[name]) for name, t in delta.tensors().items())
    assert delta.nbytes == sum(t.numel() * t.element_size() for t in delta.tensors().values())
    with pytest.raises(FrozenInstanceError):
        setattr(delta, next(iter(delta.tensors())), torch.ones(1))


def test_a_delta_is_added_in_the_matrixs_precision() -> None:
    matrix = torch.zeros(SHAPE)
    for kind in KINDS:
        make(kind, 5).add_to(matrix)
    assert matrix.dtype == torch.float32
    torch.testing.assert_close(matrix, sum(whole(make(kind, 5)) for kind in KINDS).float())
    transposed = torch.zeros(IN, OUT).T  # as GPT-2 stores it
    make("lowrank", 5).add_to(transposed)
    torch.testing.assert_close(transposed, whole(make("lowrank", 5)).float())


# ------------------------------------------------------------------ what has no algebra


@pytest.mark.parametrize("operate", [operator.add, operator.sub])
@pytest.mark.parametrize("kind", KINDS)
def test_a_graft_is_no_sum(operate: Any, kind: str) -> None:
    for pair in ((GRAFT, make(kind, 3)), (make(kind, 3), GRAFT), (GRAFT, GRAFT)):
        with pytest.raises(TypeError, match="graft is a wrapper's state, not a sum: drop its rows"):
            operate(*pair)


@pytest.mark.parametrize("operate", [lambda: GRAFT * 2.0, lambda: 2.0 * GRAFT, lambda: -GRAFT])
def test_a_graft_is_not_scaled(operate: Any) -> None:
    with pytest.raises(TypeError, match="not a sum"):
        operate()


def test_a_graft_keeps_its_state() -> None:
    again: Change = build("graft", GRAFT.tensors(), {"wrapper": "melo", "config": {"radius": 0.5}})
    assert isinstance(again, Graft)
    assert (again.wrapper, again.config) == ("melo", {"radius": 0.5})
    assert torch.equal(again.state["keys"], GRAFT.state["keys"])
    assert GRAFT.isfinite()
    assert GRAFT.nbytes == 6 * 4 + 2 * 8
    assert not replace(GRAFT, state={"keys": torch.full((1,), float("nan"))}).isfinite()


@pytest.mark.parametrize("other", [1, 2.0, None, "x", torch.ones(SHAPE)])
@pytest.mark.parametrize("kind", KINDS)
def test_only_deltas_are_added(kind: str, other: object) -> None:
    with pytest.raises(TypeError):
        make(kind, 3) + other  # type: ignore[operator]


# ------------------------------------------------------------------ sites


@given(st.integers(0, 999), st.sampled_from(["down", "up", "attention"]))
def test_a_site_is_written_and_read(layer: int, role: str) -> None:
    assert Site.parse(str(Site(layer, role))) == Site(layer, role)


@pytest.mark.parametrize("text", ["", "down", "5", "5.", ".down", "-1.down", "x.down", "٥down"])
def test_what_is_no_site_is_refused(text: str) -> None:
    with pytest.raises(UnknownSite, match=r"is not a site; write the layer and the role, as in 17\.down"):
        Site.parse(text)
