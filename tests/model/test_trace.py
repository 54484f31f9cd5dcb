"""Recording, replacing, resuming, and letting go, on every architecture.

pytest tests/model/test_trace.py
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from errata.delta import Site
from errata.errors import UnknownSite
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Batch
from errata.model.trace import Trace, answers_only, at, no_grads_kept, resume
from tests import tiny

Models = Callable[[str], LM]
ROLES = ("block", "up", "down", "attention")


def padded(lm: LM) -> Batch:
    """Return rows of three lengths with answers of several tokens."""
    return lm.tokens.batch([Query(f.prompt, f"{f.target} and more", f.span) for f in tiny.FACTS])


def hung(model: nn.Module) -> list[str]:
    """Return every module that carries a hook or a forward of its own."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    marked = [n for n, m in model.named_modules() if any(getattr(m, kind) for kind in kinds)]
    return marked + [n for n, m in model.named_modules() if "forward" in m.__dict__]


@pytest.fixture
def llama(models: Models) -> LM:
    return models("llama")


# ------------------------------------------------------------------ recording


@pytest.mark.parametrize("name", tiny.DENSE)
def test_everything_is_shown_as_batch_token_dim(models: Models, name: str) -> None:
    lm, sites = models(name), [Site(layer, role) for layer in range(models(name).depth) for role in ROLES]
    batch = padded(lm)
    with torch.no_grad(), Trace(lm, inputs=sites, outputs=sites) as trace:
        lm.forward(batch)
    for site in sites:
        tokens = batch.inputs["decoder_input_ids" if site.layer >= lm.reachable else "input_ids"].shape[1]
        for shown in (trace.inputs[site], trace.outputs[site]):
            assert shown.shape[:2] == (len(batch), tokens)
        inner = lm.inner * (2 if name == "phi3" else 1)  # gate and up in one
        assert trace.outputs[site].shape[2] == (inner if site.role == "up" else lm.width)
    assert not hung(lm.model)


@pytest.mark.parametrize("name", tiny.DENSE)
def test_a_replacement_is_seen_in_the_same_form(models: Models, name: str) -> None:
    lm, seen = models(name), []
    site = Site(1, "down")

    def replace(value: Tensor) -> Tensor:
        seen.append(value.shape)
        return value * 2

    with torch.no_grad(), Trace(lm, outputs=[site]) as plain:
        lm.forward(padded(lm))
    with torch.no_grad(), Trace(lm, outputs=[site], replace={site: replace}) as doubled:
        lm.forward(padded(lm))
    assert seen == [plain.outputs[site].shape]
    assert torch.equal(doubled.outputs[site], plain.outputs[site] * 2)


def test_what_is_recorded_is_a_copy(models: Models) -> None:
    lm, site = models("falcon"), Site(0, "down")  # Falcon adds to this output in place
    batch = padded(lm)
    with torch.no_grad(), Trace(lm, inputs=[site], outputs=[site]) as trace:
        lm.forward(batch)
    wanted = lm.module(site)(trace.inputs[site])
    torch.testing.assert_close(trace.outputs[site], wanted)
    key = trace.inputs[site].clone()
    with torch.no_grad():
        lm.forward(batch)
    assert torch.equal(trace.inputs[site], key)
    assert not trace.outputs[site].requires_grad


def test_a_tap_sees_the_live_input_with_its_gradient(llama: LM) -> None:
    site, live = Site(2, "down"), []
    with Trace(llama, tap={site: live.append}):
        llama.forward(padded(llama)).sum().backward(inputs=list(llama.model.parameters())[:1])
    assert live[0].requires_grad
    llama.model.zero_grad(set_to_none=True)


def test_a_site_never_reached_has_no_entry(llama: LM) -> None:
    with torch.no_grad(), Trace(llama, inputs=[Site(0, "down"), Site(2, "down")], stop=Site(1, "block")) as trace:
        llama.forward(padded(llama))
    assert set(trace.inputs) == {Site(0, "down")}
    assert not hung(llama.model)


# ------------------------------------------------------------------ leaving


def test_stop_leaves_the_block_at_once(llama: LM) -> None:
    reached = []
    with (
        torch.no_grad(),
        Trace(llama, outputs=[Site(1, "block")], tap={Site(2, "down"): reached.append}, stop=Site(1, "block")) as trace,
    ):
        llama.forward(padded(llama))
        reached.append("after")
    assert not reached
    assert Site(1, "block") in trace.outputs
    assert not hung(llama.model)


def test_stop_that_is_never_reached_is_no_error(llama: LM) -> None:
    with Trace(llama, inputs=[Site(0, "down")], stop=Site(0, "down")) as trace:
        pass
    assert not trace.inputs
    with torch.no_grad(), Trace(llama, stop=Site(0, "down")), resume(llama, 1, torch.zeros(3, 2, tiny.WIDTH)):
        assert llama.forward(llama.tokens.batch([Query("a")] * 3)) is not None
    assert not hung(llama.model)


def test_an_exception_inside_gets_out_and_the_hooks_do_not_stay(llama: LM) -> None:
    hidden = torch.zeros(3, 12, tiny.WIDTH)

    def fail(_: object) -> Tensor:
        assert len(hung(llama.model)) > 2
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Trace(llama, inputs=[Site(0, "down")]), resume(llama, 2, hidden):
        fail(None)
    assert not hung(llama.model)

    replace = {Site(layer, "down"): fail for layer in range(llama.depth)}
    with pytest.raises(ZeroDivisionError), Trace(llama, replace=replace):
        llama.forward(padded(llama))
    assert not hung(llama.model)


def test_an_unknown_site_leaves_no_hook_behind(llama: LM) -> None:
    with pytest.raises(UnknownSite), Trace(llama, inputs=[Site(0, "down"), Site(7, "down")]):
        pass
    with pytest.raises(UnknownSite), resume(llama, 7, torch.zeros(1, 1, tiny.WIDTH)):
        pass
    assert not hung(llama.model)


def test_an_inner_trace_does_not_swallow_the_outer_ones_stop(llama: LM) -> None:
    after = []
    with torch.no_grad(), Trace(llama, outputs=[Site(0, "block")], stop=Site(0, "block")) as outer:
        with Trace(llama, outputs=[Site(2, "block")], stop=Site(2, "block")) as inner:
            llama.forward(padded(llama))
        after.append("inner left")
    assert (list(outer.outputs), list(inner.outputs), after) == ([Site(0, "block")], [], [])
    assert not hung(llama.model)


def test_traces_nest_and_each_sees_what_it_asked_for(llama: LM) -> None:
    site = Site(1, "down")
    with torch.no_grad(), Trace(llama, outputs=[site]) as outer:
        with Trace(llama, inputs=[site], stop=site) as inner:
            llama.forward(padded(llama))
        llama.forward(padded(llama))
    torch.testing.assert_close(inner.inputs[site] @ llama.parameter(site).T, outer.outputs[site])
    assert not hung(llama.model)


# ------------------------------------------------------------------ resuming


@pytest.mark.parametrize("name", [*tiny.EDITABLE, "bert"])
def test_resuming_at_any_layer_gives_the_full_logits(models: Models, name: str) -> None:
    lm = models(name)
    batch = padded(lm)
    blocks = [Site(layer, "block") for layer in range(lm.depth)]
    with torch.no_grad(), Trace(lm, inputs=blocks) as trace:
        wanted = lm.forward(batch)
    for layer, block in enumerate(blocks):
        with torch.no_grad(), resume(lm, layer, trace.inputs[block]):
            assert torch.equal(lm.forward(batch), wanted), layer
        with torch.no_grad(), resume(lm, layer, trace.inputs[block] * 1.5):
            assert not torch.allclose(lm.forward(batch), wanted), layer
    assert not hung(lm.model)


@pytest.mark.parametrize("name", tiny.DECODERS)
def test_the_layers_below_are_not_computed(models: Models, name: str) -> None:
    lm, ran = models(name), []
    batch = padded(lm)
    with torch.no_grad(), Trace(lm, inputs=[Site(2, "block")]) as trace:
        lm.forward(batch)
    taps = {Site(layer, "down"): lambda _, layer=layer: ran.append(layer) for layer in range(lm.depth)}
    with torch.no_grad(), Trace(lm, tap=taps), resume(lm, 2, trace.inputs[Site(2, "block")]):
        lm.forward(batch)
    assert ran == [2]


def test_a_forward_that_was_there_before_is_put_back(llama: LM) -> None:
    block = llama.module(Site(0, "block"))
    own = block.forward  # accelerate sets one on the instance too
    block.forward = own
    try:
        with resume(llama, 1, torch.zeros(1, 1, tiny.WIDTH)):
            assert block.__dict__["forward"] is not own
        assert block.__dict__["forward"] is own
    finally:
        del block.forward


def test_gradients_go_no_deeper_than_the_layer_resumed_at(llama: LM) -> None:
    batch = padded(llama)
    with torch.no_grad(), Trace(llama, inputs=[Site(1, "block")]) as trace:
        llama.forward(batch)
    hidden = trace.inputs[Site(1, "block")].requires_grad_()
    with resume(llama, 1, hidden):
        loss = llama.forward(batch).square().sum()
    deep, shallow = llama.parameter(Site(0, "down")), llama.parameter(Site(1, "down"))
    gradients = torch.autograd.grad(loss, [hidden, deep, shallow], allow_unused=True)
    assert gradients[1] is None
    assert gradients[0].abs().sum() > 0
    assert gradients[2].abs().sum() > 0


# ------------------------------------------------------------------ the head


@pytest.mark.parametrize("name", [*tiny.EDITABLE, "bert", *tiny.EXPERTS])
def test_answers_alone_get_the_logits_the_full_head_gives(models: Models, name: str) -> None:
    lm = models(name)
    batch = padded(lm)
    with torch.no_grad():
        full = lm.forward(batch)[batch.rows, batch.cols]
        with answers_only(lm, batch.rows, batch.cols):
            assert lm.forward(batch).shape[:2] == (1, len(batch.rows))
        assert not hung(lm.model)
        torch.testing.assert_close(lm.answer_logits(batch), full, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("name", "cap"), [("gemma2", 3.0), ("gemma3_text", 3.0)])
def test_soft_caps_come_along(models: Models, name: str, cap: float) -> None:
    lm = models(name)
    uncapped = tiny.build(name, final_logit_softcapping=None).answer_logits(padded(lm))
    assert uncapped.abs().max() > cap  # or the cap would not show
    torch.testing.assert_close(lm.answer_logits(padded(lm)), cap * torch.tanh(uncapped / cap))


def test_answers_only_lets_go_after_an_error(llama: LM) -> None:
    with pytest.raises(ZeroDivisionError), answers_only(llama, torch.tensor([0]), torch.tensor([0])):
        raise ZeroDivisionError
    assert not hung(llama.model)


# ------------------------------------------------------------------ the rest


def test_no_grads_kept_puts_every_flag_back(llama: LM) -> None:
    parameters = list(llama.model.parameters())
    parameters[3].requires_grad_(False)
    before = [p.requires_grad for p in parameters]
    with suppress(ZeroDivisionError), no_grads_kept(llama.model):
        assert not any(p.requires_grad for p in parameters)
        raise ZeroDivisionError
    assert [p.requires_grad for p in parameters] == before
    parameters[3].requires_grad_(True)


def test_at_takes_one_position_a_row() -> None:
    hidden = torch.arange(24.0).reshape(2, 4, 3)
    assert torch.equal(at(hidden, torch.tensor([3, 0])), torch.stack([hidden[0, 3], hidden[1, 0]]))
