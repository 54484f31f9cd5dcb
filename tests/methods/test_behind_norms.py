"""Where `down`'s output is multiplied or normed before it is added to the stream: what is written, and how it is shared out.

pytest tests/methods/test_behind_norms.py
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from errata import methods
from errata.delta import Site
from errata.methods.shared.many_matrices import ResidualShares, spread_over
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.trace import Trace
from errata.solve import keys
from tests import shrunk, tiny
from tests.model.test_received import granite

HOW: dict[str, Any] = {"tokens": 400, "corpus": "primer", "steps": 8, "decay": 0.0}
NORMED = ("gemma2", "olmo2")


def folded(multiplier: float) -> LM:
    """Return the same function as `granite(multiplier)`, its matrices multiplied in place of what they put out."""
    made = shrunk.model("granite", "decoder", 2)
    with torch.no_grad():
        for block in made.model.layers:
            block.mlp.down_proj.weight.mul_(multiplier)
            block.self_attn.o_proj.weight.mul_(multiplier)
    return LM(made, shrunk.tokenizer("granite"), "folded")


@pytest.mark.parametrize("method", ["rome", "memit", "alphaedit", "ledger"])
def test_a_multiple_is_made_up_for_by_what_is_written(method: str) -> None:
    scaled, plain = granite(0.25), folded(0.25)  # a power of two: no rounding
    query = [Query(tiny.FACTS[0].prompt, tiny.FACTS[0].target)]
    torch.testing.assert_close(scaled.logprobs(query)[0], plain.logprobs(query)[0])
    found, wanted = (methods.make(method, HOW).solve(lm, tiny.FACTS[:1]) for lm in (scaled, plain))
    assert found.deltas.keys() == wanted.deltas.keys()
    for site, delta in wanted.deltas.items():
        torch.testing.assert_close(found.deltas[site].dense() * 0.25, delta.dense(), rtol=1e-3, atol=1e-5)
    for lm, edit in ((scaled, found), (plain, wanted)):
        lm.weights.stand([edit.deltas])
    torch.testing.assert_close(scaled.logprobs(query)[0], plain.logprobs(query)[0], rtol=1e-3, atol=1e-3)


def test_how_it_is_shared_out() -> None:
    sites = (Site(0, "down"), Site(1, "down"))
    assert spread_over(tiny.build("llama"), sites) == ResidualShares(Site(1, "block"), (1.0, 1.0))
    assert spread_over(tiny.build("gemma2"), sites) is None
    scaled = spread_over(granite(0.22), sites)
    assert scaled is not None
    assert scaled.multiples == pytest.approx((0.22, 0.22), rel=1e-5)


@pytest.mark.parametrize("name", NORMED)
def test_behind_a_norm_each_matrix_goes_a_part_of_its_own_way(name: str) -> None:
    lm = tiny.build(name)
    edit = methods.make("memit", {**HOW, "layers": (0, 1), "weight": 1e-9}).solve(lm, tiny.FACTS[:1])
    first, last = Site(0, "down"), Site(1, "down")
    for site, part in ((first, 2), (last, 1)):
        assert edit.carry[f"delta/{site}"].shape == (1, lm.width)
        made = edit.deltas[site].dense() @ edit.carry[f"key/{site}"][0]
        if site == first:  # nothing stands below that would move what the last one gives
            torch.testing.assert_close(made, edit.carry[f"delta/{site}"][0] / part, rtol=1e-3, atol=1e-4)
    now = {}
    for standing in ([], [{first: edit.deltas[first]}]):
        lm.weights.stand(standing)
        _, outputs = keys.gather(lm, keys.queries(lm, tiny.FACTS[:1], [""], answers=False), outputs=[last])
        now[len(standing)] = outputs[last][0]
    assert not torch.allclose(now[0], now[1])
    made = edit.deltas[last].dense() @ edit.carry[f"key/{last}"][0]
    torch.testing.assert_close(made, edit.carry[f"delta/{last}"][0], rtol=1e-3, atol=1e-4)  # learned on what then stood


@pytest.mark.parametrize("name", NORMED)
@pytest.mark.parametrize("method", ["rome", "memit", "ledger"])
def test_behind_a_norm_a_value_has_the_length_of_what_stood_there(name: str, method: str) -> None:
    lm = tiny.build(name)
    how = methods.make(method, {**HOW, "shrink": 0.0, **({"layers": (1,)} if method != "rome" else {"layer": 1})})
    site = Site(1, "down")
    edit = how.solve(lm, tiny.FACTS[:1])
    _, outputs = keys.gather(lm, keys.queries(lm, tiny.FACTS[:1], [""], answers=False), outputs=[site])
    start, target = outputs[site][0], outputs[site][0] + edit.carry[f"delta/{site}"][0]
    assert float(target.norm()) == pytest.approx(float(start.norm()), rel=1e-4)
    assert float((target - start).norm()) > 0.1 * float(start.norm())
    said = []
    for size in (1.0, 3.0):  # and that changes nothing that is said
        batch = lm.tokens.batch([Query(tiny.FACTS[0].prompt, tiny.FACTS[0].target)])
        with torch.no_grad(), Trace(lm, replace={site: lambda _, size=size: (size * target).expand_as(_)}):
            said.append(lm.answer_logits(batch))
    torch.testing.assert_close(said[0], said[1], rtol=1e-3, atol=1e-3)


def test_an_edit_that_is_held_to_a_free_space_keeps_its_length_there() -> None:
    lm = tiny.build("gemma2")
    how = methods.make("rome", {**HOW, "layer": 1, "constraint": "o-edit+", "protect": "implicit", "spare": 1})
    edit = how.solve(lm, tiny.FACTS[:1])
    site = Site(1, "down")
    space = how.resolve(lm)._room(lm, site, [])
    delta = edit.carry[f"delta/{site}"][0].double()
    taken = torch.cat([space.history, space.implicit], 1)
    assert float((taken.T @ delta).norm()) < 1e-5 * float(delta.norm())
