"""When a covariance has settled: what an error of it costs, computed densely, and how it falls with what is read.

pytest tests/stats/test_stopping.py
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from errata.stats.stopping import DAMPING, FIRST, Settling, excess


def drawn(seed: int, count: int, width: int) -> Tensor:
    """Return correlated keys of one distribution."""
    mixed = torch.randn(width, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) @ mixed


def damped(second: Tensor) -> Tensor:
    return second + DAMPING * float(second.diagonal().mean()) * torch.eye(len(second), dtype=second.dtype)


def disturbed(update: Tensor, second: Tensor) -> float:
    """Return what an update disturbs ordinary text by: the mean of ‖Δ k‖²."""
    return float((update @ second @ update.T).trace())


def test_excess_is_what_a_rank_one_update_disturbs_too_much() -> None:
    width, keys, value = 12, drawn(1, 5, 12), torch.randn(8, dtype=torch.float64)
    rough, fine = (damped(k.T @ k / len(k)) for k in (drawn(2, 30, width), drawn(3, 400, width)))
    shares = []
    for key in keys:  # ROME's update under either: both give the key the same value
        made = [torch.outer(value, d / (d @ key)) for d in (torch.linalg.inv(c) @ key for c in (rough, fine))]
        torch.testing.assert_close(made[0] @ key, made[1] @ key)
        shares.append(disturbed(made[0], fine) / disturbed(made[1], fine) - 1)
    used, best = (keys @ torch.linalg.inv(c) for c in (rough, fine))
    found = excess(used, keys, best, torch.linalg.cholesky(fine))
    assert min(shares) > 0
    assert found == pytest.approx(sum(shares) / len(shares), rel=1e-9)
    assert excess(3 * best, keys, best, torch.linalg.cholesky(fine)) == pytest.approx(0, abs=1e-12)


def test_a_probe_that_is_zero_says_nothing() -> None:
    keys = torch.cat([drawn(1, 5, 12), torch.zeros(1, 12, dtype=torch.float64)])
    second = damped(drawn(3, 400, 12).T @ drawn(3, 400, 12) / 400)
    best, factor = keys @ torch.linalg.inv(second), torch.linalg.cholesky(second)
    assert excess(best, keys, best, factor) == pytest.approx(0, abs=1e-12)


def test_what_is_left_is_what_more_text_would_still_change() -> None:
    width = 40
    text, true = (
        drawn(5, 16 * FIRST * width, width),
        damped(drawn(6, 200_000, width).T @ drawn(6, 200_000, width) / 2e5),
    )
    probes = drawn(7, 256, width)
    settling, total, read, left = Settling(probes.float()), torch.zeros(width, width, dtype=torch.float64), 0, []
    for part in text.split(FIRST * width // 2):
        total, read = total + part.T @ part, read + len(part)
        if settling.due(read):
            settling.look(total / read, read)
            best = probes @ torch.linalg.inv(true)
            really = excess(settling.directions, probes, best, torch.linalg.cholesky(true))
            left.append((read, settling.excess, really))
    assert [read for read, _, _ in left] == [FIRST * width << look for look in range(5)]
    assert math.isnan(left[0][1])
    for read, said, really in left[1:]:
        assert said == pytest.approx(really, rel=0.5)
        assert really == pytest.approx(width / read, rel=0.5)  # of Gaussian keys: a dimension costs 1 / n


def test_what_cannot_be_solved_has_not_settled() -> None:
    settling = Settling(torch.ones(2, 3))
    for broken in (torch.full((3, 3), float("nan"), dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)):
        assert not settling.look(broken, 100)
        assert settling.directions is None
