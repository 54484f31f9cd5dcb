"""The flat directions of a matrix against the whole Kronecker product, dense and in float64.

pytest tests/solve/test_curvature.py
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from errata.delta import Site
from errata.errors import NotFinite
from errata.solve.curvature import Flat, KroneckerFactors, of_text
from errata.solve.ultraedit import Signal
from errata.stats.corpus import open_corpus
from tests import tiny


def factors(out: int = 4, width: int = 5, count: int = 30, seed: int = 0) -> KroneckerFactors:
    draw = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(count, d, generator=draw, dtype=torch.float64) ** 3 for d in (width, out))
    return KroneckerFactors.of(Signal(x, g))


def dense(found: KroneckerFactors, energy: float) -> Tensor:
    """Return the projection onto the flat directions as one (out·in, out·in) matrix, from the whole Hessian A ⊗ B."""
    whole = torch.kron(found.outputs / found.count, found.inputs / found.count)  # of vec(Δ), row by row
    values, vectors = torch.linalg.eigh(whole)
    order = values.argsort(descending=True)
    summed = values[order].cumsum(0)
    held = order[: int((summed < energy * summed[-1]).sum()) + 1]
    basis = vectors[:, held]
    return torch.eye(len(whole), dtype=torch.float64) - basis @ basis.T


@pytest.mark.parametrize("energy", [0.3, 0.9, 0.99])
def test_the_projection_is_that_of_the_whole_hessian(energy: float) -> None:
    found = factors()
    flat, change = (
        Flat(found, energy),
        torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    )
    wanted = (dense(found, energy) @ change.flatten()).reshape(4, 5)
    assert torch.allclose(flat.project(change), wanted, atol=1e-10)
    assert torch.allclose(flat.project(flat.project(change)), flat.project(change), atol=1e-12)
    assert 0 < flat.share < 1


def test_what_is_left_bends_the_loss_by_no_more_than_the_rest_of_the_energy() -> None:
    found, draw = factors(), torch.Generator().manual_seed(2)
    a, b = found.inputs / found.count, found.outputs / found.count
    rest = float((b.trace() * a.trace()) * 0.1)
    for _ in range(20):
        change = torch.randn(4, 5, dtype=torch.float64, generator=draw)
        free = Flat(found, 0.9).project(change)
        bend = float(torch.trace(b @ free @ a @ free.T))
        assert bend <= rest * float(free.square().sum()) + 1e-12
        assert bend < float(torch.trace(b @ change @ a @ change.T))


def test_no_energy_holds_nothing_and_all_of_it_everything_there_is() -> None:
    found = factors(count=3)  # of rank 3: two of five input directions, one of four output directions are never seen
    change = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(Flat(found, 0.0).project(change), change, atol=1e-12)
    flat = Flat(found, 1 - 1e-12)
    assert torch.allclose(found.outputs @ flat.project(change) @ found.inputs, torch.zeros(4, 5).double(), atol=1e-6)


def test_sums_add_up_over_tokens() -> None:
    draw = torch.Generator().manual_seed(4)
    x, g = (
        torch.randn(7, 5, generator=draw, dtype=torch.float64),
        torch.randn(7, 4, generator=draw, dtype=torch.float64),
    )
    whole, parts = (
        KroneckerFactors.of(Signal(x, g)),
        KroneckerFactors.of(Signal(x[:3], g[:3])) + KroneckerFactors.of(Signal(x[3:], g[3:])),
    )
    assert whole.count == parts.count == 7
    assert torch.allclose(whole.inputs, parts.inputs)
    assert torch.allclose(whole.outputs, parts.outputs)


def test_a_loss_that_is_flat_everywhere_is_our_error() -> None:
    none = KroneckerFactors(torch.zeros(3, 3).double(), torch.zeros(2, 2).double(), 1)
    with pytest.raises(NotFinite, match="flat or not finite"):
        Flat(none, 0.9)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_factors_of_text_are_those_of_a_loop_over_texts(name: str) -> None:
    lm, site = tiny.build(name, dtype=torch.float64), Site(1, "down")
    found = of_text(lm, [site], "primer", 200)[site]
    module, seen = lm.module(site), list[Tensor]()
    inputs, outputs, count = torch.zeros(lm.inner, lm.inner).double(), torch.zeros(lm.width, lm.width).double(), 0
    handle = module.register_forward_hook(
        lambda _, args, out: (seen.append(args[0]), out.requires_grad_(True), seen.append(out))[1]
    )
    for ids, real in open_corpus("primer").batches(lm, 200):
        for row, mask in zip(ids, real, strict=True):
            text = row[mask][None]
            seen.clear()
            logits = lm.model(input_ids=text).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, text[0, 1:], reduction="sum")
            (g,) = torch.autograd.grad(loss, [seen[1]])
            x, g = seen[0][0, :-1].detach(), g[0, :-1]
            inputs, outputs, count = inputs + x.T @ x, outputs + g.T @ g, count + len(x)
    handle.remove()
    assert found.count == count
    assert torch.allclose(found.inputs, inputs, rtol=1e-9, atol=1e-9)
    assert torch.allclose(found.outputs, outputs, rtol=1e-6, atol=1e-9 * float(outputs.abs().max()))
