"""Second moments: sums that add up, of real tokens only, equal to a plain loop.

pytest tests/stats/test_moments.py
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.delta import Site
from errata.errors import StatsMissing
from errata.model.lm import LM
from errata.stats.moments import Growing, SecondMoment, of_batch
from tests import tiny
from tests.solve.raw import hooked

TEXTS = (*tiny.TEXT, "Anna", "The capital of France is Paris, said Bruno Keller.")


def padded(lm: LM, texts: tuple[str, ...] = TEXTS) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [lm.tokens.ids(text) for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [lm.tokens.pad] * (width - len(row)) for row in rows])
    return ids, torch.tensor([[i < len(row) for i in range(width)] for row in rows])


@pytest.mark.parametrize("name", tiny.EDITABLE)
def test_moments_are_a_plain_loop_over_tokens(models: Callable[[str], LM], name: str) -> None:
    lm = models(name)
    sites = [Site(layer, "down") for layer in range(lm.reachable)]
    found = of_batch(lm, sites, *padded(lm))
    for site in sites:
        total, count, seen = torch.zeros(lm.inner, lm.inner, dtype=torch.float64), 0, []
        for text in TEXTS:
            ids = torch.tensor([lm.tokens.ids(text)])
            extra = {"decoder_input_ids": ids[:, :1]} if name == "t5" else {}
            with hooked((lm.module(site), lambda _, args, __, seen=seen: seen.append(args[0]))), torch.no_grad():
                lm.model(input_ids=ids, **extra)
            for key in seen.pop().reshape(-1, lm.inner).double():
                total += torch.outer(key, key)
                count += 1
        assert found[site].count == count
        assert found[site].total.dtype == torch.float64
        torch.testing.assert_close(found[site].total, total, atol=1e-4, rtol=1e-4)


def test_in_double_precision_it_is_the_loop_to_rounding() -> None:
    lm, site, seen = tiny.build("gpt2", dtype=torch.float64), Site(1, "down"), []
    with hooked((lm.module(site), lambda _, args, __: seen.append(args[0][0]))), torch.no_grad():
        for text in TEXTS:
            lm.model(torch.tensor([lm.tokens.ids(text)]))
    keys = torch.cat(seen)
    wanted = sum((torch.outer(key, key) for key in keys), torch.zeros(lm.inner, lm.inner, dtype=torch.float64)) / len(
        keys
    )
    torch.testing.assert_close(of_batch(lm, [site], *padded(lm))[site].mean, wanted, atol=1e-13, rtol=1e-10)


def test_what_is_padded_with_does_not_matter(models: Callable[[str], LM]) -> None:
    lm, site = models("llama"), Site(2, "down")
    ids, real = padded(lm)
    one = of_batch(lm, [site], ids, real)[site]
    other = of_batch(lm, [site], torch.where(real, ids, 77), real)[site]
    wider = torch.nn.functional.pad(ids, (0, 5), value=9), torch.nn.functional.pad(real, (0, 5))
    assert one.count == other.count == int(real.sum())
    torch.testing.assert_close(one.total, other.total)
    torch.testing.assert_close(one.total, of_batch(lm, [site], *wider)[site].total)


def test_batches_add_up(models: Callable[[str], LM]) -> None:
    lm, site = models("llama"), Site(1, "down")
    whole = of_batch(lm, [site], *padded(lm))[site]
    parts = [of_batch(lm, [site], *padded(lm, (text,)))[site] for text in TEXTS]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert total.count == whole.count
    torch.testing.assert_close(total.total, whole.total, atol=1e-5, rtol=1e-5)


def test_sites_of_one_layer_come_in_one_pass(models: Callable[[str], LM]) -> None:
    for name in ("llama", "falcon"):
        lm = models(name)
        sites = [Site(1, "attention"), Site(1, "down"), Site(0, "down"), Site(1, "up")]
        together = of_batch(lm, sites, *padded(lm))
        for site in sites:
            torch.testing.assert_close(together[site].total, of_batch(lm, [site], *padded(lm))[site].total)


def test_nothing_is_left_behind(models: Callable[[str], LM]) -> None:
    lm = models("llama")
    of_batch(lm, [Site(1, "down")], *padded(lm))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


def moment(seed: int, count: int) -> SecondMoment:
    keys = torch.randint(-8, 9, (count, 3), generator=torch.Generator().manual_seed(seed)).double()
    return SecondMoment(keys.T @ keys, count)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 5)), min_size=3, max_size=3))
def test_sums_can_be_taken_in_any_order(parts: list[tuple[int, int]]) -> None:
    a, b, c = (moment(*part) for part in parts)  # whole numbers: no rounding to hide behind
    for one, other in (((a + b) + c, a + (b + c)), (a + b, b + a)):
        assert torch.equal(one.total, other.total)
        assert one.count == other.count


def test_the_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(StatsMissing, match="corpus is empty; name one"):
        moment(0, 0).mean  # noqa: B018
    assert torch.equal(moment(1, 4).mean, moment(1, 4).total / 4)


def skewed(seed: int, count: int, width: int) -> torch.Tensor:
    """Return keys like a model's: far from zero, some neurons loud and some all but dead."""
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn.relu() + 0.1) * torch.logspace(-4, 1, width, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("width", [7, 128, 300, 1100])
def test_half_the_blocks_are_the_whole_to_rounding(dtype: torch.dtype, width: int) -> None:
    growing, exact = Growing.empty(width), torch.zeros(width, width, dtype=torch.float64)
    for seed, count in enumerate((1000, 1, 700)):
        keys = skewed(seed, count, width).to(dtype)
        growing.add(keys)
        exact += keys.double().T @ keys.double()
    found = growing.moment()
    assert found.count == growing.count == 1701
    assert torch.equal(found.total, found.total.T)
    assert float((found.total - exact).norm() / exact.norm()) < (1e-14 if dtype == torch.float64 else 1e-6)
    scale = exact.diagonal().sqrt()  # a neuron that is all but dead is right on its own scale, too
    assert float(((found.total - exact) / torch.outer(scale, scale)).abs().max()) < 1e-5
    assert float(torch.linalg.eigvalsh(found.total)[0]) > -1e-7 * float(exact.trace())


def test_blocks_below_the_diagonal_wait_for_the_end() -> None:
    growing = Growing.empty(300)
    growing.add(skewed(0, 50, 300))
    once = growing.moment()
    assert not growing.upper[128:, :128].any()
    growing.add(skewed(1, 50, 300))  # a moment taken earlier is a value: it does not change
    assert torch.equal(once.total, growing.moment().total) is False
    both = once + SecondMoment(skewed(1, 50, 300).T @ skewed(1, 50, 300), 50)
    torch.testing.assert_close(growing.moment().total, both.total, rtol=1e-12, atol=1e-12)
    assert both.count == growing.count
