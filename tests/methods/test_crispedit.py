"""CrispEdit on models: what is written lies where the loss is flat, also where it is seen through earlier edits.

pytest tests/methods/test_crispedit.py
"""

from __future__ import annotations

import pytest
import torch

from errata.delta import Site
from errata.edit import Edit
from errata.methods import make
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve.curvature import Flat, KroneckerFactors, of_text
from errata.solve.ultraedit import Signal
from tests import tiny

SITES = (Site(0, "down"), Site(1, "down"))
OPTIONS = {"layers": (0, 1), "tokens": 400, "corpus": "primer", "steps": 8, "lr": 0.01}


@pytest.fixture
def lm() -> LM:
    return tiny.build("llama", dtype=torch.float64)


def solved(lm: LM, place: int, past: list[Edit], **options: object) -> Edit:
    return make("crispedit", {**OPTIONS, **options}).solve(lm, [tiny.FACTS[place]], past)


def outside(flat: Flat, edit: Edit, site: Site) -> float:
    change = edit.deltas[site].dense().double()
    return float((change - flat.project(change)).norm() / change.norm())


def test_all_of_the_change_lies_in_flat_directions(lm: LM) -> None:
    held, free = solved(lm, 0, [], energy=0.9), solved(lm, 0, [], energy=0.0)
    text = of_text(lm, SITES, "primer", 400)
    for site in SITES:
        flat = Flat(text[site], 0.9)
        assert outside(flat, held, site) < 1e-6 < 1e-2 < outside(flat, free, site)
        assert held.report["free"][str(site)] == round(flat.share, 6)


def test_what_earlier_edits_look_at_is_held_with_the_text(lm: LM) -> None:
    first = solved(lm, 0, [])
    lm.weights.stand([first.deltas])
    second = solved(lm, 1, [first], energy=0.9)
    lm.weights.stand([])
    text = of_text(lm, SITES, "primer", 400)
    for site in SITES:
        own = KroneckerFactors.of(Signal(first.carry[f"x/{site}"].double(), first.carry[f"g/{site}"].double()))
        assert outside(Flat(text[site] + own, 0.9), second, site) < 1e-6
    lm.weights.stand([first.deltas])
    alone = solved(lm, 1, [first], energy=0.9, history=False)
    lm.weights.stand([])
    assert outside(Flat(text[SITES[0]], 0.9), alone, SITES[0]) < 1e-6


def test_mini_batches_take_every_prompt(lm: LM) -> None:
    edit = make("crispedit", {**OPTIONS, "size": 1, "stop": 0.0}).solve(lm, list(tiny.FACTS[:2]))
    assert edit.report["steps"] == [8]
    lm.weights.stand([edit.deltas])
    after = [float(x.mean()) for x in lm.logprobs(_asked())]
    lm.weights.stand([])
    before = [float(x.mean()) for x in lm.logprobs(_asked())]
    assert all(new > old for new, old in zip(after, before, strict=True))


def _asked() -> list[Query]:

    return [Query.of(fact) for fact in tiny.FACTS[:2]]
