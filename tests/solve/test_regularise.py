"""NAS, RECT, PRUNE and SPHERE against their definitions.

pytest tests/solve/test_regularise.py
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from errata.delta import LowRank
from errata.solve.regularise import beside, compressed, largest, with_norm
from tests.solve.test_least_squares import draw

OUT, IN = 7, 12


def test_an_anchored_value_keeps_its_direction() -> None:
    values, norms = draw(3, OUT), torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    found = with_norm(values, norms)
    assert torch.allclose(found.norm(dim=1), norms)
    assert torch.allclose(torch.cosine_similarity(found, values), torch.ones(3, dtype=torch.float64))


def test_the_entries_that_change_most_against_what_is_there_are_kept() -> None:
    change, matrix = draw(OUT, IN), draw(OUT, IN, seed=1)
    found = largest(change, matrix, 0.4)
    relative = (change / matrix).abs()
    kept = found != 0
    assert int(kept.sum()) == round(0.4 * OUT * IN)
    assert float(relative[kept].min()) >= float(relative[~kept].max())
    assert torch.equal(found[kept], change[kept])
    assert torch.equal(largest(change, matrix, 1.0), change)


def test_singular_values_above_the_bases_largest_are_pressed() -> None:
    u, v = torch.linalg.qr(draw(OUT, 3)).Q, torch.linalg.qr(draw(IN, 3, seed=1)).Q
    base = draw(OUT, IN, seed=2)
    most = float(torch.linalg.svdvals(base)[0])
    values = torch.tensor([5 * most, 1.1 * most, 0.5 * most], dtype=torch.float64)
    found = torch.linalg.svdvals(compressed((u * values) @ v.T, base, 1.2))
    pressed = [math.log(s) / math.log(1.2) - math.log(most) / math.log(1.2) + most for s in values[:2].tolist()]
    wanted = [min(s, p) for s, p in zip(values[:2].tolist(), pressed, strict=True)] + [0.5 * most]
    assert torch.allclose(found[:3], torch.tensor(sorted(wanted, reverse=True), dtype=torch.float64))
    small = (u * 0.3 * most) @ v.T
    assert torch.allclose(compressed(small, base, 1.2), small)


def test_the_main_directions_of_the_matrix_are_left_alone() -> None:
    change, matrix = LowRank(draw(OUT, 2), draw(IN, 2, seed=1)), draw(OUT, IN, seed=2)
    _, values, v = torch.linalg.svd(matrix)
    share = values.square().cumsum(0) / values.square().sum()
    count = int((share < 0.5).sum()) + 1
    main: Tensor = v[:count].T
    found = beside(change, matrix, 0.5, 1.0).dense()
    assert torch.allclose(found, change.dense() @ (torch.eye(IN).double() - main @ main.T), atol=1e-10)
    half = beside(change, matrix, 0.5, 0.5).dense()
    assert torch.allclose(half, (found + change.dense()) / 2, atol=1e-10)
