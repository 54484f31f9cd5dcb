"""O-Edit and O-Edit+ on the methods that take them, against the equations in dense float64.

pytest tests/methods/test_orthogonal.py
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from errata.delta import Site
from errata.edit import Edit
from errata.errors import NoRoomLeft
from errata.fact import Fact
from errata.methods import make
from errata.model.lm import LM
from errata.stats.store import gradients
from tests import tiny

TOKENS = 300
MORE = (*tiny.FACTS, Fact(prompt="The profession of Bruno Keller is", subject="Bruno Keller", target="baker"))
SMALL: dict[str, dict[str, Any]] = {
    "rome": {"layer": 1, "tokens": TOKENS, "steps": 5, "corpus": "primer"},
    "oedit": {"layer": 1, "tokens": TOKENS, "steps": 5, "corpus": "primer"},
    "memit": {"layers": (0, 1), "tokens": TOKENS, "steps": 5, "weight": 2.0, "corpus": "primer"},
}
BASES = ("rome", "memit")


def built(name: str = "llama", dtype: torch.dtype = torch.float64) -> LM:
    return tiny.build(name, dtype=dtype)


def write(lm: LM, method: str, facts: tuple[Fact, ...], past: list[Edit] | None = None, **options: Any) -> list[Edit]:
    """Return `past` and the edits of `facts`, one after the other, standing."""
    edits = list(past or [])
    for fact in facts:
        lm.weights.stand([e.deltas for e in edits])
        edits.append(make(method, {**SMALL[method], **options}).solve(lm, [fact], edits))
    lm.weights.stand([e.deltas for e in edits])
    return edits


def taken(lm: LM, site: Site, past: list[Edit], q: int, which: str = "both") -> Tensor:
    """Return Q = orth[U, Ĝ] from dense singular value decompositions."""
    total = sum((e.deltas[site].dense() for e in past), torch.zeros(lm.width, lm.inner, dtype=torch.float64))
    u, values, _ = torch.linalg.svd(total)
    u = u[:, : int((values > 1e-9 * values[0]).sum())] if past and which != "implicit" else u[:, :0]
    g = torch.linalg.svd(gradients(lm, [site], tokens=TOKENS)[site]).U[:, : 0 if which == "history" else q]
    rest = g - u @ (u.T @ g)
    return torch.cat([u, torch.linalg.qr(rest).Q], 1)


def same_tensors(one: Edit, other: Edit) -> bool:
    ours, theirs = ({f"{s}/{k}": t for s, d in e.deltas.items() for k, t in d.tensors().items()} for e in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# ------------------------------------------------------------------ identities


@pytest.mark.parametrize("method", BASES)
def test_no_weight_on_the_penalties_is_the_base_method_to_the_bit(method: str) -> None:
    lm = built()
    plain = write(lm, method, MORE[:2])
    free = write(lm, method, MORE[:2], constraint="o-edit", lambda1=0.0, lambda2=0.0)
    assert all(same_tensors(a, b) for a, b in zip(plain, free, strict=True))
    held = write(lm, method, MORE[:2], constraint="o-edit")
    assert not same_tensors(plain[1], held[1])


@pytest.mark.parametrize("method", BASES)
def test_nothing_protected_is_the_base_method(method: str) -> None:
    lm = built()
    plain = write(lm, method, MORE[:1])
    for variant in ("inside", "project", "rescaled"):
        free = write(lm, method, MORE[:1], constraint="o-edit+", projection=variant, directions=0)
        for site, delta in plain[0].deltas.items():
            torch.testing.assert_close(free[0].deltas[site].dense(), delta.dense(), atol=1e-12, rtol=1e-9)


def test_the_method_is_rome_with_the_hard_constraint() -> None:
    lm = built()
    one, other = write(lm, "oedit", MORE[:3]), write(lm, "rome", MORE[:3], constraint="o-edit+")
    assert all(same_tensors(a, b) for a, b in zip(one, other, strict=True))


# ------------------------------------------------------------------ the hard constraint


@pytest.mark.parametrize("protect", ["both", "history", "implicit"])
@pytest.mark.parametrize("variant", ["inside", "project", "rescaled"])
@pytest.mark.parametrize("method", BASES)
def test_what_is_written_has_nothing_in_what_is_taken(method: str, variant: str, protect: str) -> None:
    lm = built()
    edits = write(lm, method, MORE[:3], constraint="o-edit+", projection=variant, protect=protect, directions=4)
    for number, edit in enumerate(edits):
        for site, delta in edit.deltas.items():
            q = taken(lm, site, edits[:number], 4, protect)
            assert edit.report["room"][str(site)]["free"] == lm.width - q.shape[1]
            update = delta.dense()
            assert float((q.T @ update).norm()) < 1e-6 * float(update.norm())


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_single_precision_keeps_to_it_too(name: str) -> None:
    lm = built(name, torch.float32)
    edits = write(lm, "oedit", MORE[:3])
    for number, edit in enumerate(edits[1:], 1):
        for earlier in edits[:number]:
            one, other = (e.deltas[Site(1, "down")].dense().double() for e in (edit, earlier))
            assert float((other.T @ one).norm()) < 1e-6 * float(other.norm() * one.norm())


def test_projecting_is_the_formula() -> None:
    lm, site = built(), Site(1, "down")
    past = write(lm, "rome", MORE[:2])
    options = {"constraint": "o-edit+", "projection": "project", "lambda1": 0.0, "lambda2": 0.0, "directions": 4}
    plain, projected = (write(lm, "rome", MORE[2:3], past, **o)[-1] for o in ({}, options))
    q = taken(lm, site, past, 4)
    wanted = plain.deltas[site].dense() - q @ q.T @ plain.deltas[site].dense()
    torch.testing.assert_close(projected.deltas[site].dense(), wanted, atol=1e-10, rtol=1e-8)
    ratio = float(wanted.norm() / plain.deltas[site].dense().norm())
    assert projected.report["kept"][str(site)] == pytest.approx(ratio, abs=1e-5)
    rescaled = write(lm, "rome", MORE[2:3], past, **{**options, "projection": "rescaled"})[-1]
    torch.testing.assert_close(rescaled.deltas[site].dense(), wanted / ratio, atol=1e-9, rtol=1e-6)


def test_inside_nothing_is_lost_and_projecting_loses_a_lot() -> None:
    # With the bare key, what ROME adds is δ itself; the averaged key adds what the contexts change of W k.
    lm, options = built(), {"consistent_keys": False, "lambda1": 0.0, "lambda2": 0.0, "directions": 12}
    inside, projected = (write(lm, "oedit", MORE[:2], projection=v, **options)[1] for v in ("inside", "project"))
    assert inside.report["kept"] == {"1.down": 1.0}
    assert projected.report["kept"]["1.down"] < 0.9


# ------------------------------------------------------------------ the soft constraint


def test_the_penalty_turns_delta_away() -> None:
    lm, site = built(), Site(1, "down")
    past = write(lm, "rome", MORE[:1], shrink=0.0)
    plain, held = (
        write(
            lm, "rome", MORE[1:2], past, steps=12, shrink=0.0, protect="history", lambda1=weight, constraint="o-edit"
        )[-1]
        for weight in (0.0, 50.0)
    )
    direction = past[0].deltas[site].dense() @ torch.ones(lm.inner, dtype=torch.float64)
    cosines = [abs(float(torch.cosine_similarity(e.carry["delta/1.down"][0], direction, dim=0))) for e in (plain, held)]
    assert cosines[1] < cosines[0] / 2
    assert held.report["room"] == {"1.down": {"history": 1, "implicit": 0, "free": lm.width - 1}}


# ------------------------------------------------------------------ the log


def test_a_dropped_edit_frees_its_direction_and_a_restart_finds_the_same() -> None:
    lm = built(dtype=torch.float32)
    edits = write(lm, "oedit", MORE[:3])
    again = built(dtype=torch.float32)  # a new process: nothing remembered
    again.weights.stand([e.deltas for e in edits])
    lm.weights.stand([e.deltas for e in edits])
    method = make("oedit", SMALL["oedit"])
    assert method.solve(lm, MORE[3:], edits).to_bytes() == method.solve(again, MORE[3:], edits).to_bytes()

    left = [edits[0], edits[2]]
    for model in (lm, fresh := built(dtype=torch.float32)):
        model.weights.stand([e.deltas for e in left])
    after = method.solve(lm, MORE[3:], left)
    assert after.report["room"]["1.down"]["history"] == 2
    assert after.to_bytes() == method.solve(fresh, MORE[3:], left).to_bytes()


def test_history_is_what_any_method_wrote_at_the_site() -> None:
    lm = built()
    tuned = make("ft", {"layer": 1, "steps": 3}).solve(lm, MORE[:1])
    found = write(lm, "oedit", MORE[1:2], [tuned], full="leading")[-1]
    assert found.report["room"]["1.down"]["history"] == lm.width - 3 - 6  # all there is, but directions and spare
    elsewhere = make("ft", {"layer": 0, "steps": 3}).solve(lm, MORE[:1])
    assert write(lm, "oedit", MORE[1:2], [elsewhere])[-1].report["room"]["1.down"]["history"] == 0


# ------------------------------------------------------------------ capacity


def test_when_room_runs_out_it_says_so_and_the_fallback_goes_on() -> None:
    lm = built()
    options = {"directions": 4, "spare": lm.width - 6}
    edits = write(lm, "oedit", MORE[:3], **options)
    with pytest.raises(NoRoomLeft, match=r"at 1.down only 17 of 24 directions are free, fewer than spare = 18"):
        make("oedit", {**SMALL["oedit"], **options}).solve(lm, MORE[3:], edits)
    on = make("oedit", {**SMALL["oedit"], **options, "full": "leading"}).solve(lm, MORE[3:], edits)
    assert on.report["room"]["1.down"] == {"history": 2, "implicit": 4, "free": 18}
    soft = make("rome", {**SMALL["rome"], **options, "constraint": "o-edit"}).solve(lm, MORE[3:], edits)
    assert soft.report["room"]["1.down"]["free"] == 17


def test_without_a_constraint_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("errata.methods.shared.orthogonal.keys", refuse)
    lm = built()
    make("rome", SMALL["rome"]).prepare(lm)
    assert "room" not in write(lm, "rome", MORE[:1])[0].report
    with pytest.raises(AssertionError):
        make("oedit", SMALL["oedit"]).prepare(lm)
