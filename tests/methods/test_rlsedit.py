"""RLSEdit's recursion against its objective, solved anew at every step as a stacked least-squares problem in float64.

pytest tests/methods/test_rlsedit.py
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from errata.delta import Site
from errata.edit import Edit
from errata.methods import get, make
from errata.methods.rlsedit import RLSEdit
from errata.methods.shared.many_matrices import Wanted
from errata.model.lm import LM
from errata.stats.store import second_moments
from tests import tiny

SITE, TOKENS, WEIGHT = Site(0, "down"), 300, 3.0
OPTIONS = {"layers": (0, 1), "tokens": TOKENS, "corpus": "primer", "steps": 3, "weight": WEIGHT}
FACTS = tiny.FACTS


def square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def objective(base: Tensor, root: Tensor, square: float, rows: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return argmin_W Σ‖W K − V‖² + λ²‖W − W_0‖² + μ²‖(W − W_0) K_0‖², where `root` is (μ² K_0 K_0ᵀ)^½."""
    parts, wanted = [*(k for k, _ in rows), root], [*(v for _, v in rows), root @ base.T]
    if square:
        eye = square**0.5 * torch.eye(len(root), dtype=root.dtype)
        parts, wanted = [*parts, eye], [*wanted, eye @ base.T]
    return torch.linalg.lstsq(torch.cat(parts), torch.cat(wanted), driver="gelsd").solution.T


@pytest.mark.parametrize("deviation", [0.25, 7.0])
def test_every_step_of_the_recursion_is_the_minimum_of_the_whole_objective(deviation: float) -> None:
    lm, draw = tiny.build("llama", dtype=torch.float64), torch.Generator().manual_seed(0)
    how = make("rlsedit", {**OPTIONS, "deviation": deviation}).resolve(lm)
    assert isinstance(how, RLSEdit)
    edit = how.solve(lm, [])
    base = lm.weights.base(SITE).detach().clone()
    root = square_root(WEIGHT * second_moments(lm, [SITE], "primer", TOKENS)[SITE].double())
    now, rows, past = base.clone(), list[tuple[Tensor, Tensor]](), list[Edit]()
    for number, count in enumerate((2, 1, 5)):
        keys = torch.randn(count, base.shape[1], generator=draw, dtype=torch.float64)
        residual = torch.randn(count, base.shape[0], generator=draw, dtype=torch.float64)
        rows.append((keys, keys @ now.T + residual))
        delta, _ = how.update(lm, SITE, Wanted(FACTS[:1] * count, residual, keys), past)
        now = now + delta.dense()
        wanted = objective(base, root, deviation, rows)
        assert torch.allclose(now, wanted, rtol=0, atol=1e-9 * float(wanted.abs().max()))
        past.append(replace(edit, seed=number, carry={f"key/{SITE}": keys}))


def written(lm: LM, method: str, **options: object) -> list[Edit]:
    edits = list[Edit]()
    for fact in FACTS:
        edits.append(make(method, {**OPTIONS, **options}).solve(lm, [fact], edits))
        lm.weights.stand([edit.deltas for edit in edits])
    lm.weights.stand([])
    return edits


def test_without_deviation_it_is_memit_with_history_and_the_ledger_of_a_log_without_drops() -> None:
    lm = tiny.build("llama", dtype=torch.float64)
    found = written(lm, "rlsedit", deviation=0.0, damping=1e-3)
    for other in (written(lm, "memit", history=True), written(lm, "ledger", anchor=None)):
        for mine, its in zip(found, other, strict=True):
            for site in mine.deltas:
                a, b = (edit.deltas[site].dense().double() for edit in (mine, its))
                # a ledger keeps its values in float32
                assert torch.allclose(a, b, rtol=0, atol=1e-4 * float(b.abs().max()))


def test_the_farther_from_the_base_costs_the_nearer_it_stays() -> None:
    lm = tiny.build("llama", dtype=torch.float64)
    norms = [written(lm, "rlsedit", deviation=x)[0].deltas[SITE].norm() for x in (0.0, 1e2, 1e6)]
    assert norms[0] > norms[1] > norms[2]


def test_on_published_models_lambda_is_the_code_s() -> None:
    tuned = get("rlsedit").tuned
    assert tuned["llama-3-8b"]["deviation"] == 0.0
    assert (tuned["llama-3-8b"]["weight"], tuned["gpt2-xl"]["weight"]) == (15000.0, 20000.0)
    assert "deviation" not in tuned["primer"]
    lm = tiny.build("llama")
    how = make("rlsedit", {**OPTIONS}).resolve(lm)
    assert isinstance(how, RLSEdit)
    assert replace(how, deviation="auto").resolve(lm).deviation is None
