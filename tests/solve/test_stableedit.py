"""StableEdit against its equations, dense and in float64: the same as UltraEdit's, with gradients whitened as a whole.

pytest tests/solve/test_stableedit.py
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from errata.edit import Edit
from errata.methods import make
from errata.model.lm import LM
from errata.solve.ultraedit import Cloud, Spread
from tests import tiny
from tests.solve.test_ultraedit import SETTINGS, SITE, of_fact, ordinary, pair


def solved(lm: LM, place: int, past: list[Edit] | None = None, **options: object) -> Edit:
    how = make("stableedit", {**SETTINGS, "rounds": 1, "lr": 1e-3, **options})
    return how.solve(lm, [tiny.FACTS[place]], past or [])


def root(about: Tensor, left: int) -> Tensor:
    """Return Σ^(−1/2) by singular values, of rows less their mean."""
    _, sizes, vectors = torch.linalg.svd(about, full_matrices=True)
    values = torch.zeros(about.shape[1], dtype=about.dtype)
    values[: len(sizes)] = sizes.square() / left
    return (vectors.T * values.clamp(min=1e-6 * float(values.mean())).rsqrt()) @ vectors


def dense(h: Tensor, g: Tensor, all_h: Tensor, all_g: Tensor, centred: bool = False) -> Tensor:
    mean = all_g.mean(0)
    white = (g - mean * centred) @ root(all_g - mean, len(all_g) - all_g.shape[1] - 1)
    normed = (h - all_h.mean(0)) / all_h.std(0, correction=0)
    v = -normed.square().sum(1)[:, None] * white
    return (torch.linalg.inv(h.T @ h + torch.eye(h.shape[1], dtype=h.dtype)) @ h.T @ v).T


def same(found: Tensor, wanted: Tensor, within: float = 1e-5) -> bool:  # an edit carries its gradients in float32
    return float((found - wanted).norm() / wanted.norm()) < within


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_one_round_is_the_equations(name: str, centred: bool) -> None:
    lm, raw = pair(name)
    found = solved(lm, 0, centred=centred).deltas[SITE].dense()  # type: ignore[union-attr]
    text, own = ordinary(raw, lm), of_fact(raw, tiny.FACTS[0], False)
    all_h, all_g = (torch.cat([text[part], own[part]]) for part in (0, 1))
    assert len(all_g) > all_g.shape[1] + 1
    assert same(found, 1e-3 * dense(*own, all_h, all_g, centred))


def test_the_scale_is_that_of_all_edits_that_stand() -> None:
    lm, raw = pair("llama")
    first, other = solved(lm, 0), solved(lm, 2)
    found = [solved(lm, 1, past).deltas[SITE].dense() for past in ([first, other], [other])]  # type: ignore[union-attr]
    text, own = ordinary(raw, lm), [of_fact(raw, fact, False) for fact in tiny.FACTS]
    for delta, seen in zip(found, (own, own[1:]), strict=True):
        all_h, all_g = (torch.cat([text[part], *(one[part] for one in seen)]) for part in (0, 1))
        assert same(delta, 1e-3 * dense(*own[1], all_h, all_g))


def rows(count: int, width: int = 4) -> Tensor:
    draw = torch.Generator().manual_seed(count)
    return torch.randn(count, width, generator=draw, dtype=torch.float64) @ torch.randn(
        width, width, generator=draw, dtype=torch.float64
    ) + torch.arange(width)


def test_whitened_rows_have_the_identity_as_covariance_and_sums_add_up() -> None:
    some = rows(50)
    cloud = Cloud.of(some[:20]) + Cloud.of(some[20:])
    white = cloud.normed(some)
    assert torch.allclose(white.T @ white / (50 - 4 - 1), torch.eye(4, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(white.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(Cloud.of(some).normed(some[:3], centred=False), cloud.normed(some[:3], centred=False))


def test_too_few_rows_for_a_covariance_are_normed_coordinate_by_coordinate() -> None:
    few = rows(5)
    assert torch.allclose(Cloud.of(few).normed(few), Spread.of(few).normed(few))
    assert not torch.allclose(Cloud.of(rows(6)).normed(few), Spread.of(rows(6)).normed(few))


def test_directions_never_seen_do_not_grow_without_bound() -> None:
    flat = rows(50) * torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    new = torch.ones(1, 4, dtype=torch.float64)
    assert bool(Cloud.of(flat).normed(new).isfinite().all())
