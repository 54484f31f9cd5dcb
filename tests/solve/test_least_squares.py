"""The closed forms against their textbook formulas: dense, float64, with the inverse written out.

pytest tests/solve/test_least_squares.py
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from errata.errors import NotFinite
from errata.solve.least_squares import Ridge, Shield, batch, equality, null_space, rank_one

OUT, IN = 7, 12


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(size: int = IN, seed: int = 1) -> Tensor:
    """Return a covariance whose directions differ in size by a thousand."""
    keys = draw(5 * size, size, seed=seed) * torch.logspace(-1.5, 1.5, size, dtype=torch.float64)
    return keys.T @ keys / len(keys)


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-8) -> bool:
    return float((found - wanted).norm() / wanted.norm()) < tolerance


# ------------------------------------------------------------------ ROME


def test_rome_is_the_formula() -> None:
    c, residual, key, current = covariance(), draw(OUT, seed=2), draw(IN, seed=3), draw(IN, seed=4)
    direction = torch.linalg.inv(c) @ key
    wanted = torch.outer(residual, direction) / (current @ direction)
    delta = rank_one(residual, key, current, Ridge(c))
    assert close(delta.dense(), wanted)
    assert delta.left.dtype == delta.right.dtype == torch.float64
    assert close(delta.dense() @ current, residual)  # W k becomes v*


def test_the_scale_of_the_covariance_does_not_matter_to_rome() -> None:
    residual, key = draw(OUT), draw(IN, seed=3)
    one, other = (rank_one(residual, key, key, Ridge(covariance(), weight)) for weight in (1.0, 15000.0))
    assert close(one.dense(), other.dense())


def test_rome_in_single_precision_is_computed_in_double() -> None:
    c, residual, key = covariance(), draw(OUT).float(), draw(IN, seed=3).float()
    direction = torch.linalg.inv(c.float().double()) @ key.double()
    wanted = torch.outer(residual.double(), direction) / (key.double() @ direction)
    assert close(rank_one(residual, key, key, Ridge(c.float())).dense(), wanted)


# ------------------------------------------------------------------ MEMIT


def memit(residuals: Tensor, keys: Tensor, c: Tensor, weight: float, past: Tensor | None = None) -> Tensor:
    """Return R Kᵀ (λC + K_p K_pᵀ + K Kᵀ)⁻¹ with columns for facts, as the paper writes it."""
    r, k = residuals.T, keys.T  # (out, n), (in, n)
    inside = weight * c + k @ k.T
    if past is not None:
        inside = inside + past.T @ past
    return r @ k.T @ torch.linalg.inv(inside)


@pytest.mark.parametrize("n", [1, 2, 5, IN, 3 * IN])
@pytest.mark.parametrize("weight", [1e-2, 1.0, 15000.0])
def test_memit_is_the_formula(n: int, weight: float) -> None:
    residuals, keys, c = draw(n, OUT), draw(n, IN, seed=2), covariance()
    delta = batch(residuals, keys, Ridge(c, weight))
    assert close(delta.dense(), memit(residuals, keys, c, weight))
    assert delta.left.shape == (OUT, n)


@pytest.mark.parametrize("m", [1, 4, 3 * IN])
def test_the_history_term_is_the_formula(m: int) -> None:
    residuals, keys, past, c = draw(3, OUT), draw(3, IN, seed=2), draw(m, IN, seed=5), covariance()
    delta = batch(residuals, keys, Shield(Ridge(c, 2.0)).add(past))
    assert close(delta.dense(), memit(residuals, keys, c, 2.0, past))
    assert not close(delta.dense(), memit(residuals, keys, c, 2.0), 1e-3)


@pytest.mark.parametrize("size", [1, 3])
def test_a_history_that_grows_is_the_same_term(size: int) -> None:
    past, keys, c = draw(IN, IN, seed=5), draw(3, IN, seed=2), covariance()
    shield, kept = Shield(Ridge(c, 2.0)), list[bool]()
    for start in range(0, IN, size):
        shield = shield.add(past[start : start + size])
        inside = 2.0 * c + past[: start + size].T @ past[: start + size]
        assert close(shield.solve(keys), keys @ torch.linalg.inv(inside))
        kept.append(shield.inverse is not None)
    assert kept == sorted(kept)  # once the inverse is kept, nothing grows with the history any more
    assert kept[0] < kept[-1]
    assert shield.rows is None or len(shield.rows) <= IN // 4
    assert close(Shield(Ridge(c, 2.0)).add(past).solve(keys), shield.solve(keys))


def test_no_history_is_no_term() -> None:
    residuals, keys, ridge = draw(3, OUT), draw(3, IN, seed=2), Ridge(covariance())
    without = batch(residuals, keys, ridge).dense()
    assert torch.equal(batch(residuals, keys, Shield(ridge)).dense(), without)
    assert torch.equal(batch(residuals, keys, Shield(ridge).add(draw(0, IN))).dense(), without)


def test_history_shields_what_earlier_keys_give() -> None:
    keys, past = draw(2, IN, seed=2), draw(2, IN, seed=5)
    ridge = Ridge(covariance(), 1e-6)
    plain, shielded = (batch(draw(2, OUT), keys, p).dense() for p in (ridge, Shield(ridge).add(1e3 * past)))
    assert (shielded @ past.T).norm() < 1e-3 * (plain @ past.T).norm()


def test_a_small_weight_writes_the_values_themselves() -> None:
    residuals, keys = draw(3, OUT), draw(3, IN, seed=2)
    delta = batch(residuals, keys, Ridge(covariance(), 1e-9))
    assert close(delta.dense() @ keys.T, residuals.T, 1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.floats(1e-3, 1e4), st.integers(0, 10**6))
def test_memit_is_the_formula_at_any_size(n: int, out: int, size: int, weight: float, seed: int) -> None:
    residuals, keys, c = draw(n, out, seed=seed), draw(n, size, seed=seed + 1), covariance(size, seed + 2)
    past = draw(seed % 4, size, seed=seed + 3)
    delta = batch(residuals, keys, Shield(Ridge(c, weight)).add(past))
    assert close(delta.dense(), memit(residuals, keys, c, weight, past), 1e-7)


def test_two_facts_with_one_key_share_it() -> None:
    key = draw(1, IN, seed=2)
    twice = batch(draw(2, OUT), key.repeat(2, 1), Ridge(covariance()))
    assert close(twice.dense(), memit(draw(2, OUT), key.repeat(2, 1), covariance(), 1.0))


# ------------------------------------------------------------------ λC


def test_a_covariance_is_factored_as_it_is() -> None:
    c, keys = covariance(), draw(4, IN)
    ridge = Ridge(c, 3.0)
    assert ridge.jitter == 0
    assert close(ridge.solve(keys), keys @ torch.linalg.inv(3.0 * c))


def test_damping_is_a_share_of_the_mean_diagonal() -> None:
    c, keys = covariance(), draw(4, IN)
    wanted = torch.linalg.inv(2.0 * (c + 0.01 * c.diagonal().mean() * torch.eye(IN, dtype=torch.float64)))
    assert close(Ridge(c, 2.0, 0.01).solve(keys), keys @ wanted)


def test_a_singular_covariance_gets_just_enough_on_its_diagonal() -> None:
    few = draw(3, IN)
    c = few.T @ few / 3
    ridge = Ridge(c)
    mean = float(c.diagonal().mean())
    assert 0.9e-10 * mean < ridge.jitter < 1e-6 * mean
    assert bool(ridge.solve(draw(2, IN)).isfinite().all())
    wanted = torch.linalg.inv(c + ridge.jitter * torch.eye(IN, dtype=torch.float64))
    assert close(ridge.solve(draw(2, IN)), draw(2, IN) @ wanted, 1e-4)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_covariance_that_cannot_be_factored_is_an_error(bad: float) -> None:
    with pytest.raises(NotFinite, match=r"covariance.*[;:]"):
        Ridge(torch.full((IN, IN), bad, dtype=torch.float64))


def test_what_is_no_covariance_is_an_error() -> None:
    c = covariance()
    c[0, 0] = -1e3  # no jitter in reason makes this positive
    with pytest.raises(NotFinite, match="covariance"):
        Ridge(c)


def test_an_unreachable_key_gives_no_finite_update() -> None:
    delta = rank_one(draw(OUT), draw(IN, seed=3), torch.zeros(IN, dtype=torch.float64), Ridge(covariance()))
    assert not delta.isfinite()  # refused by `Method.solve`


# ------------------------------------------------------------------ EMMET and AlphaEdit


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_emmet_is_the_formula(n: int, epsilon: float) -> None:
    residuals, keys, c = draw(n, OUT), draw(n, IN, seed=2), covariance()
    r, k, inverse = residuals.T, keys.T, torch.linalg.inv(c)
    wanted = r @ torch.linalg.inv(k.T @ inverse @ k + epsilon * torch.eye(n, dtype=torch.float64)) @ k.T @ inverse
    delta = equality(residuals, keys, Ridge(c), epsilon)
    assert close(delta.dense(), wanted)
    assert epsilon or close(delta.dense() @ k, r)  # every fact is held exactly


def test_emmet_with_one_fact_is_rome() -> None:
    residual, key, ridge = draw(OUT), draw(IN, seed=3), Ridge(covariance())
    assert close(equality(residual[None], key[None], ridge, 0.0).dense(), rank_one(residual, key, key, ridge).dense())


def test_emmet_gives_two_facts_with_one_key_what_they_can_share() -> None:
    key = draw(1, IN, seed=3)
    residuals = draw(2, OUT)
    delta = equality(residuals, torch.cat([key, key]), Ridge(covariance()), 0.0)
    assert close(delta.dense() @ key[0], residuals.mean(0), 1e-6)


def test_the_null_space_is_where_the_covariance_is_small() -> None:
    c = covariance()
    values, vectors = torch.linalg.eigh(c)
    free = null_space(c, float(values[4:6].mean()), 0.9)
    assert close(free @ free.T, vectors[:, :5] @ vectors[:, :5].T)
    assert null_space(c, None, 0.25).shape == (IN, 3)
    assert null_space(c, 1e9, 0.0).shape == (IN, IN)
    for threshold, fraction in ((1e-12, 1.0), (None, 0.01)):
        with pytest.raises(NotFinite, match="raise it, or set fraction"):
            null_space(c, threshold, fraction)
