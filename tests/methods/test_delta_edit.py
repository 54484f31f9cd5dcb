"""DeltaEdit: noise, what of it is usual, and the directions δ is kept off, against dense float64.

pytest tests/methods/test_delta_edit.py
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
import torch

from errata.delta import Site
from errata.edit import Report
from errata.methods import make
from errata.methods.shared import locate_then_edit
from errata.methods.shared.delta_edit import UsualNoise, directions, stirred
from errata.model.query import Query
from errata.solve.keys import gather
from errata.solve.subspace import Span
from tests.methods.test_orthogonal import MORE, built, same_tensors, write

SITE = Site(1, "down")


def span_of(matrix: torch.Tensor) -> Span:
    return Span.none(*matrix.shape).add(torch.eye(len(matrix), dtype=torch.float64), matrix.T)


def test_noise_is_what_the_sum_of_updates_gives_and_u_its_leading_directions() -> None:
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(12, 3, generator=rng, dtype=torch.float64) @ torch.randn(
        3, 20, generator=rng, dtype=torch.float64
    )
    keys = torch.randn(2, 20, generator=rng, dtype=torch.float64)
    noise = stirred(span_of(matrix), keys)
    torch.testing.assert_close(noise, keys @ matrix.T)
    u, values, _ = torch.linalg.svd(torch.cat([noise.T, matrix], 1))
    for floor in (0.0, float(values[1].square()) * 0.99, 1e9):
        found = directions(span_of(matrix), noise, floor)
        count = min(int((values.square() > max(floor, 1e-18)).sum()), 12 // 4)
        assert found.shape == (12, count)
        torch.testing.assert_close(found @ found.T, u[:, :count] @ u[:, :count].T)


def test_what_is_usual_is_a_running_mean_that_unusual_noise_does_not_move() -> None:
    (edit,) = write(built(), "rome", MORE[:1])
    noises = [1.0, 1.2, 0.9, 5.0, 1.1]
    past = [replace(edit, report=Report({"noise": noise, "held_off": noise == 5.0})) for noise in noises] + [
        replace(edit, report=Report({}))
    ]
    mean, variance = 1.0, 0.0
    for noise in (1.2, 0.9, 1.1):
        mean = 0.9 * mean + 0.1 * noise
        variance = 0.9 * variance + 0.1 * (noise - mean) ** 2
    found = UsualNoise.of(past)
    assert (found.mean, found.variance, found.seen) == (pytest.approx(mean), pytest.approx(variance), 4)
    assert not found.strays(mean + 2.9 * sqrt(variance), 3.0)
    assert found.strays(mean - 3.1 * sqrt(variance), 3.0)
    assert not UsualNoise.of(past[:1]).strays(9.0, 3.0)  # one says nothing of what is usual


@pytest.mark.parametrize("method", ["rome", "memit"])
def test_delta_is_free_until_the_noise_strays_and_kept_off_then(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = built()
    plain = write(lm, method, MORE[:3])
    edits = write(lm, method, MORE[:3], constraint="deltaedit")
    assert all(same_tensors(one, other) for one, other in zip(plain, edits, strict=True))  # fewer than twenty stand
    lm.weights.stand([edit.deltas for edit in edits[:2]])
    asked, _ = gather(lm, [Query.of(MORE[2], "")], inputs=[SITE])
    total = sum((e.deltas[SITE].dense() for e in edits[:2]), torch.zeros(lm.width, lm.inner, dtype=torch.float64))
    noise = asked[SITE] @ total.T
    assert edits[2].report["noise"] == pytest.approx(float(noise.norm()))
    assert not edits[2].report["held_off"]
    assert "noise" not in edits[0].report

    monkeypatch.setattr(locate_then_edit, "FIRST", 2)
    monkeypatch.setattr(UsualNoise, "strays", lambda *_: True)
    held = write(lm, method, MORE[2:3], edits[:2], constraint="deltaedit", floor=0.0)[-1]
    assert held.report["held_off"]
    u, values, _ = torch.linalg.svd(torch.cat([noise.T, total], 1))
    u = u[:, : min(int((values > 1e-9 * values[0]).sum()), lm.width // 4)]
    (delta,) = (t.double() for name, t in held.carry.items() if name.startswith("delta/"))
    assert float((delta @ u).norm()) < 1e-6 * float(delta.norm())
    free = next(t for name, t in edits[2].carry.items() if name.startswith("delta/")).double()
    assert float((free @ u).norm()) > 1e-3 * float(free.norm())


def test_the_setting_is_of_methods_that_learn_v() -> None:
    for name in ("rome", "memit", "ledger", "emmet", "alphaedit"):
        assert make(name, {"constraint": "deltaedit"}).constraint == "deltaedit"  # type: ignore[attr-defined]
