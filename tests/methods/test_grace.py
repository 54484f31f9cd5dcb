"""GRACE: the value stands where it should, and grows and splits as the paper says.

pytest tests/methods/test_grace.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from errata.delta import Graft, Site
from errata.fact import Fact
from errata.methods.grace import Grace
from errata.methods.shared.routed import read_keys, training_query
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.trace import Trace

Models = Callable[[str], LM]
FACT = Fact(prompt="The capital of France is", subject="France", target="Rome and Paris")


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "t5"])
def test_the_value_is_put_out_from_the_prompts_last_token_on(name: str, models: Models) -> None:
    lm = models(name)
    site = Site(2, "down")
    edit = Grace(by="prompt", layer=2, role="down", steps=5, radius=0.5).solve(lm, [FACT])
    graft = edit.deltas[site]
    assert isinstance(graft, Graft)
    batch = lm.tokens.batch([Query(FACT.prompt, FACT.target), Query("Bruno Keller works as a", "baker")])
    with torch.no_grad(), Trace(lm, outputs=[site]) as before:
        lm.forward(batch)
    lm.weights.stand([edit.deltas])
    with torch.no_grad(), Trace(lm, outputs=[site]) as after:
        lm.forward(batch)
    said = lm.logprobs([training_query(lm, FACT)])[0]
    lm.weights.stand([])
    assert batch.ends is not None
    end = int(batch.ends[0])
    assert torch.equal(before.outputs[site][1], after.outputs[site][1])
    assert torch.equal(before.outputs[site][0, :end], after.outputs[site][0, :end])
    assert torch.allclose(after.outputs[site][0, end:], graft.state["value"].expand_as(after.outputs[site][0, end:]))
    assert float(-said.mean()) == pytest.approx(edit.report["loss"][0], abs=1e-3)  # type: ignore[index]


def test_the_key_is_the_sites_input_at_the_prompts_end(models: Models) -> None:
    lm = models("llama")
    edit = Grace(by="prompt", layer=2, role="down", steps=1, radius=0.5).solve(lm, [FACT])
    keys = read_keys(lm, Site(2, "down"), [Query(FACT.prompt)], entering=True)
    assert torch.equal(edit.deltas[Site(2, "down")].tensors()["keys"], keys)
    assert keys.shape[1] == lm.inner


def test_the_same_label_grows_and_another_splits(models: Models) -> None:
    lm = models("llama")
    grace = Grace(by="prompt", layer=2, role="down", steps=1, radius=100.0)  # everything is near
    first = grace.solve(lm, [FACT])
    same = grace.solve(lm, [Fact(prompt="France is governed from", subject="France", target=FACT.target)], [first])
    other = grace.solve(lm, [replace(FACT, prompt="Paris, France, is", target="Oslo")], [first])
    assert (same.report["events"], same.report["clusters"]) == (["expand"], 1)
    assert (other.report["events"], other.report["clusters"]) == (["conflict"], 2)


def test_what_is_far_is_the_models_own_to_the_bit(models: Models) -> None:
    lm = models("gpt2")
    edit = Grace(by="prompt", layer=2, steps=5, radius=0.01).solve(lm, [FACT])
    query = Query("Bruno Keller works as a", "baker")
    before = lm.logprobs([query])[0]
    lm.weights.stand([edit.deltas])
    assert torch.equal(lm.logprobs([query])[0], before)
    lm.weights.stand([])
