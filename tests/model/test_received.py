"""What the stream receives of what `down` puts out: all of it, a multiple, its direction, or neither.

pytest tests/model/test_received.py
"""

from __future__ import annotations

import pytest
import torch

from errata.delta import Site
from errata.model.lm import LM
from errata.model.received import Received, received
from errata.model.trace import Trace
from tests import shrunk, tiny


def granite(multiplier: float) -> LM:
    """Return a Granite that multiplies what its blocks put out, as the published ones do."""
    made = shrunk.model("granite", "decoder", 2)
    for block in made.model.layers:
        block.residual_multiplier = multiplier
    return LM(made, shrunk.tokenizer("granite"), f"granite times {multiplier}")


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "olmo2"])
def test_behind_a_norm_only_the_direction_counts(name: str) -> None:
    lm = tiny.build(name)
    assert [received(lm, Site(layer, "down")) for layer in range(lm.depth)] == [Received(None, True)] * lm.depth


@pytest.mark.parametrize("name", ["olmo3", "glm4", "exaone4"])
def test_it_is_seen_where_no_row_says_so(name: str) -> None:
    assert received(shrunk.build(name, "decoder"), Site(1, "down")) == Received(None, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_multiple_is_measured(dtype: torch.dtype) -> None:
    lm = granite(0.22)
    lm.model.to(dtype)
    found = received(lm, Site(1, "down"))
    assert found.multiple == pytest.approx(0.22, rel=1e-5 if dtype == torch.float32 else 1e-2)
    assert not found.normed


def test_what_is_added_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny.build("llama")
    monkeypatch.setattr(LM, "forward", None)
    assert received(lm, Site(1, "down")) == Received(1.0)


def test_a_norm_of_the_sum_is_neither() -> None:
    assert received(tiny.build("opt", do_layer_norm_before=False), Site(1, "down")) == Received(None)


def test_looking_leaves_nothing_and_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny.build("olmo2")
    first = received(lm, Site(0, "down"))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
    monkeypatch.setattr(Trace, "__enter__", None)
    assert received(lm, Site(0, "down")) is first
