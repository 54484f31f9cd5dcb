"""Weights as a pure function of base and log: everything here is `torch.equal`, nothing is close.

pytest tests/model/test_weights.py
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from errata.delta import Columns, Dense, Graft, LowRank, Site
from errata.errors import NotFinite, UnknownSite
from errata.model import weights
from errata.model.lm import LM
from errata.model.weights import CHUNK, Deltas
from tests import tiny

SITE, OTHER = Site(1, "down"), Site(2, "down")
OUT, IN = tiny.WIDTH, tiny.INNER
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@pytest.fixture(params=["llama", "gpt2"])
def lm(request: pytest.FixtureRequest, models: Callable[[str], LM]) -> Iterator[LM]:
    found = models(request.param)
    before = state(found)
    yield found
    found.weights.stand([])
    assert_equal(state(found), before)


def state(lm: LM) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in lm.model.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def low(seed: int, rank: int = 1, scale: float = 1.0) -> LowRank:
    made = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(OUT, rank, generator=made) * scale, torch.randn(IN, rank, generator=made))


def ones(count: int) -> list[Deltas]:
    return [{SITE: low(seed)} for seed in range(count)]


# ------------------------------------------------------------------ stand


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt2_square"])
def test_standing_is_the_cast_of_one_sum(name: str, dtype: torch.dtype) -> None:
    lm = tiny.build(name, dtype=dtype)
    wide = torch.promote_types(dtype, torch.float32)
    size = lm.inner
    delta = LowRank(torch.randn(OUT, 2), torch.randn(size, 2))
    columns = Columns(torch.tensor([0, 7, size - 1]), torch.randn(OUT, 3))
    base = lm.parameter(SITE).clone()
    wanted = base.to(wide) + delta.left.to(wide) @ delta.right.to(wide).T
    for place, column in enumerate((0, 7, size - 1)):
        wanted[:, column] += columns.values[:, place].to(wide)
    matrix = torch.randn(OUT, size)
    lm.weights.stand([{SITE: delta}, {SITE: columns}, {SITE: Dense(matrix)}])
    close = {"atol": 1e-6, "rtol": 1e-6} if wide == dtype else {"atol": 0, "rtol": 2.0**-7}
    torch.testing.assert_close(lm.weights[SITE], (wanted + matrix.to(wide)).to(dtype), **close)
    lm.weights.stand([])
    assert torch.equal(lm.weights[SITE], base)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_changes_too_small_alone_add_up(dtype: torch.dtype) -> None:
    lm = tiny.build("llama", dtype=dtype)
    base = lm.parameter(SITE).clone()
    step = Dense(base.float().abs() * 2.0**-14)  # far below half a unit in the last place
    lm.weights.stand([{SITE: step}])
    assert torch.equal(lm.weights[SITE], base)
    lm.weights.stand([{SITE: step}] * 4096)
    torch.testing.assert_close(lm.weights[SITE].float(), base.float() + base.float().abs() / 4, rtol=0.01, atol=0)


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1])
def test_the_way_to_a_log_does_not_matter(lm: LM, count: int) -> None:
    edits = ones(count)
    lm.weights.stand(edits)
    direct = lm.weights[SITE].clone()
    lm.weights.stand([])
    for upto in (1, count // 2, count - 1, count + 3, count):  # up, past it, and back
        lm.weights.stand(ones(count + 3)[:upto])
    assert torch.equal(lm.weights[SITE], direct)
    lm.weights.stand(edits[1:])
    lm.weights.stand(edits)
    assert torch.equal(lm.weights[SITE], direct)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_way_through_many_logs_ends_where_the_last_one_does(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "CHUNK", 3)
    kinds = (
        low(1),
        low(2, rank=2),
        low(3),
        Columns(torch.tensor([3]), torch.ones(OUT, 1)),
        low(4),
        Dense(low(5).dense()),
    )
    made: list[Deltas] = [
        {site: kinds[(i * place) % len(kinds)] for place, site in ((1, SITE), (5, OTHER)) if (i + place) % 4}
        for i in range(30)
    ]
    lm, draw = tiny.build("llama", dtype=dtype), random.Random(0)
    for _ in range(60):
        log = made[: draw.randrange(30)]
        if draw.random() < 0.4 and log:
            del log[draw.randrange(len(log))]
        lm.weights.stand(log)
        fresh = tiny.build("llama", dtype=dtype)
        fresh.weights.stand([dict(deltas) for deltas in log])
        assert_equal(state(lm), state(fresh))


def test_one_more_edit_adds_what_came_since_the_last_whole_product(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    edits, added = ones(4 * CHUNK + 2), list[int]()
    lm.weights.stand(edits[:-1])
    add = LowRank.add_to
    monkeypatch.setattr(LowRank, "add_to", lambda self, m: (added.append(self.left.shape[1]), add(self, m))[1])
    lm.weights.stand(edits)
    assert added == [2]


@pytest.mark.parametrize("count", [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_stacked_products_lose_nothing(lm: LM, count: int) -> None:
    edits = [{SITE: low(seed, rank=1 + seed % 3)} for seed in range(count)]
    edits[count // 2] = {SITE: Columns(torch.tensor([3]), torch.ones(OUT, 1))}
    wanted = lm.weights.base(SITE).double()
    wanted = wanted + sum(delta.dense((OUT, IN)).double() for deltas in edits for delta in deltas.values())
    lm.weights.stand(edits)
    torch.testing.assert_close(lm.weights[SITE].double(), wanted, atol=1e-4, rtol=1e-6)


def test_the_order_of_the_log_is_the_order_of_the_sum(lm: LM) -> None:
    big, small = Dense(torch.full((OUT, IN), 2.0**25)), Dense(torch.ones(OUT, IN))
    lm.weights.stand([{SITE: big}, {SITE: small}, {SITE: -big}])
    assert not lm.weights[SITE].abs().max()  # all digits of base and small went into the big one
    lm.weights.stand([{SITE: big}, {SITE: -big}, {SITE: small}])
    assert torch.equal(lm.weights[SITE], torch.ones(OUT, IN))


def test_a_product_is_not_stacked_past_a_delta_of_another_kind(lm: LM) -> None:
    big = LowRank(torch.full((OUT, 1), 2.0**25), torch.ones(IN, 1))
    lm.weights.stand([{SITE: big}, {SITE: Dense(torch.ones(OUT, IN))}, {SITE: -big}])
    assert not lm.weights[SITE].abs().max()


def test_several_sites_and_several_matrices(lm: LM) -> None:
    before = state(lm)
    lm.weights.stand([{SITE: low(1), OTHER: low(2)}, {OTHER: low(3)}])
    changed = {name for name, t in state(lm).items() if not torch.equal(t, before[name])}
    assert len(changed) == 2
    lm.weights.stand([{OTHER: low(2)}])
    assert torch.equal(lm.weights[SITE], lm.weights.base(SITE))
    lm.weights.stand([])
    assert_equal(state(lm), before)


def test_grafts_do_not_touch_matrices(lm: LM) -> None:
    before = state(lm)
    state_ = {"keys": torch.ones(1, OUT), "labels": torch.ones(1, 1).long()}
    lm.weights.stand([{SITE: Graft("melo", {"index": str(SITE), "radius": 1.0}, state_)}])
    assert_equal(state(lm), before)
    lm.weights.stand([])


def test_a_sum_that_is_not_finite_leaves_the_base(lm: LM) -> None:
    before = state(lm)
    with pytest.raises(NotFinite, match=r"1\.down.*drop"):
        lm.weights.stand([{OTHER: low(1)}, {SITE: low(2)}, {SITE: Dense(torch.full((OUT, IN), float("inf")))}])
    assert_equal(state(lm), before)


def test_a_sum_that_overflows_only_when_cast_is_refused() -> None:
    lm = tiny.build("llama", dtype=torch.float16)
    base = lm.parameter(SITE).clone()
    with pytest.raises(NotFinite):
        lm.weights.stand([{SITE: Dense(torch.full((OUT, IN), 1e6))}])  # finite in float32, infinite in float16
    assert torch.equal(lm.weights[SITE], base)
    with pytest.raises(NotFinite), lm.weights.trial([{SITE: Dense(torch.full((OUT, IN), 1e6))}]):
        pass
    assert torch.equal(lm.weights[SITE], base)


@pytest.mark.parametrize(
    "delta",
    [
        LowRank(torch.ones(IN, 1), torch.ones(OUT, 1)),
        Dense(torch.ones(OUT, IN + 1)),
        Columns(torch.tensor([IN]), torch.ones(OUT, 1)),
        Columns(torch.tensor([0]), torch.ones(OUT + 1, 1)),
    ],
)
def test_a_delta_of_another_shape_is_refused_before_anything_changes(lm: LM, delta: LowRank) -> None:
    lm.weights.stand([{OTHER: low(5)}])
    before = state(lm)
    with pytest.raises(UnknownSite, match=r"the delta at 1\.down is \d+ × \d+, the model's matrix 24 × 40"):
        lm.weights.stand([{OTHER: low(1)}, {SITE: delta}])
    with pytest.raises(UnknownSite), lm.weights.trial([{SITE: delta}]):
        pass
    assert_equal(state(lm), before)


def test_a_square_matrix_is_edited_the_right_way_round() -> None:
    lm = tiny.build("gpt2_square")
    base = lm.model.transformer.h[1].mlp.c_proj.weight.detach().clone()  # stored (in, out)
    left, right = torch.zeros(OUT, 1), torch.zeros(OUT, 1)
    left[2], right[5] = 1.0, 1.0
    lm.weights.stand([{SITE: LowRank(left, right)}])
    changed = (lm.model.transformer.h[1].mlp.c_proj.weight - base).nonzero().tolist()
    assert changed == [[5, 2]]


# ------------------------------------------------------------------ for a while


def test_a_trial_adds_to_what_stands_and_goes(lm: LM) -> None:
    lm.weights.stand([{SITE: low(1)}])
    standing = state(lm)
    with lm.weights.trial([{SITE: low(2)}, {OTHER: low(3)}]):
        torch.testing.assert_close(lm.weights[SITE], lm.weights.base(SITE) + low(1).dense() + low(2).dense())
        with lm.weights.trial([{SITE: low(4)}]):
            assert not torch.equal(lm.weights[SITE], lm.weights.base(SITE))
        with lm.weights.at_base():
            assert torch.equal(lm.weights[SITE], lm.weights.base(SITE))
            assert torch.equal(lm.weights[OTHER], lm.weights.base(OTHER))
        assert not torch.equal(lm.weights[OTHER], lm.weights.base(OTHER))
    assert_equal(state(lm), standing)


def test_the_base_shows_inside_and_what_stood_comes_back(lm: LM) -> None:
    base = state(lm)
    lm.weights.stand(ones(3))
    standing = state(lm)
    with lm.weights.at_base():
        assert_equal(state(lm), base)
    assert_equal(state(lm), standing)


@pytest.mark.parametrize("manager", ["trial", "at_base"])
def test_an_exception_inside_changes_nothing(lm: LM, manager: str) -> None:
    lm.weights.stand(ones(2))
    standing = state(lm)
    with pytest.raises(ZeroDivisionError), lm.weights.trial(ones(1)) if manager == "trial" else lm.weights.at_base():
        raise ZeroDivisionError
    assert_equal(state(lm), standing)


def test_a_trial_that_is_not_finite_changes_nothing(lm: LM) -> None:
    lm.weights.stand(ones(2))
    standing = state(lm)
    bad = Dense(torch.full((OUT, IN), float("nan")))
    with pytest.raises(NotFinite, match=r"2\.down"), lm.weights.trial([{SITE: low(9)}, {OTHER: bad}]):
        pytest.fail("entered")
    assert_equal(state(lm), standing)


def test_a_trial_that_comes_first_does_not_become_the_base(lm: LM) -> None:
    base = lm.parameter(OTHER).clone()
    with lm.weights.trial([{OTHER: low(1)}]):
        lm.weights.stand([])  # whatever happens inside
    assert torch.equal(lm.weights.base(OTHER), base)
    assert torch.equal(lm.weights[OTHER], base)


def test_gradients_and_flags_are_not_disturbed(lm: LM) -> None:
    flags = [p.requires_grad for p in lm.model.parameters()]
    lm.weights.stand(ones(1))
    with lm.weights.trial(ones(2)):
        pass
    assert [p.requires_grad for p in lm.model.parameters()] == flags
    assert all(p.grad is None and p.is_leaf for p in lm.model.parameters())
