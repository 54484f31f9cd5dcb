"""The table of architectures, each row against a tiny random model of it.

pytest tests/model/test_arch.py
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from errata.delta import Site
from errata.errors import UnknownSite, UnsupportedModel
from errata.methods import get, names
from errata.model import arch
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.trace import Trace
from tests import tiny

Models = Callable[[str], LM]
QUERIES = [f.prompt for f in tiny.FACTS]


def recorded(lm: LM, site: Site) -> tuple[torch.Tensor, torch.Tensor]:
    """Return every input and output of a site on a padded batch."""
    with torch.no_grad(), Trace(lm, inputs=[site], outputs=[site]) as trace:
        lm.forward(lm.tokens.batch([Query(prompt, "Rome") for prompt in QUERIES]))
    return trace.inputs[site], trace.outputs[site]


def test_every_row_has_a_tiny_model() -> None:
    assert set(arch.TABLE) == set(tiny.CONFIGS) - {"gpt2_square"}


@pytest.mark.parametrize("name", tiny.DENSE)
@pytest.mark.parametrize("role", ["down", "attention"])
def test_output_is_matrix_times_input(models: Models, name: str, role: str) -> None:
    lm = models(name)
    for layer in range(lm.depth):
        site = Site(layer, role)
        key, value = recorded(lm, site)
        bias = getattr(lm.module(site), "bias", None)
        wanted = key @ lm.parameter(site).T + (0 if bias is None else bias)
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", tiny.DENSE)
def test_matrices_are_out_by_in(models: Models, name: str) -> None:
    lm = models(name)
    inner = {"gpt2_square": tiny.WIDTH, "bloom": 4 * tiny.WIDTH}.get(name, tiny.INNER)
    for layer in range(lm.depth):
        assert lm.parameter(Site(layer, "down")).shape == (tiny.WIDTH, inner)
        stored = isinstance(lm.module(Site(layer, "down")), Conv1D)
        assert stored == lm.row.transposed
    assert (lm.width, lm.inner) == (tiny.WIDTH, inner)


def test_a_square_transposed_matrix_is_not_mistaken(models: Models) -> None:
    lm = models("gpt2_square")
    key, value = recorded(lm, Site(1, "down"))
    wrong = key @ lm.parameter(Site(1, "down"))
    assert (value - lm.module(Site(1, "down")).bias - wrong).abs().max() > 0.1


@pytest.mark.parametrize("name", tiny.DENSE)
def test_what_up_gives_becomes_what_down_takes(models: Models, name: str) -> None:
    lm = models(name)
    for layer in range(lm.depth):
        stack = lm._stacks[layer]
        wide = sum(lm._blocks[layer].get_submodule(path).weight.numel() for path in stack.up) // tiny.WIDTH
        # One matrix, or gate and up, apart or fused into one.
        assert wide in (lm.inner, 2 * lm.inner)
        assert recorded(lm, Site(layer, "up"))[1].shape[:2] == recorded(lm, Site(layer, "down"))[0].shape[:2]


@pytest.mark.parametrize("name", tiny.DECODERS)
def test_post_norm_is_said_where_the_stream_gets_something_else(models: Models, name: str) -> None:
    lm = models(name)
    down, block = Site(lm.depth - 1, "down"), Site(lm.depth - 1, "block")
    batch = lm.tokens.batch([Query(QUERIES[0])])
    shift = torch.randn(lm.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), Trace(lm, outputs=[block]) as plain:
        lm.forward(batch)
    with torch.no_grad(), Trace(lm, outputs=[block], replace={down: lambda v: v + shift}) as shifted:
        lm.forward(batch)
    received = shifted.outputs[block] - plain.outputs[block]
    assert torch.allclose(received, shift.expand_as(received), atol=1e-5) != lm.row.post_norm


def test_layers_of_an_encoder_decoder_are_counted_through(models: Models) -> None:
    lm = models("t5")
    assert (lm.depth, lm.reachable) == (5, 3)
    assert lm.module(Site(2, "block")) is lm.model.encoder.block[2]
    assert lm.module(Site(3, "block")) is lm.model.decoder.block[0]
    assert lm.module(Site(4, "down")) is lm.model.decoder.block[1].layer[2].DenseReluDense.wo


def test_gated_t5_is_a_t5() -> None:
    lm = tiny.build("t5", feed_forward_proj="gated-gelu")
    key, value = recorded(lm, Site(1, "down"))
    torch.testing.assert_close(value, key @ lm.parameter(Site(1, "down")).T)
    assert lm.module(Site(1, "up")) is lm.model.encoder.block[1].layer[1].DenseReluDense.wi_1


def test_opt_that_norms_afterwards_is_another_row() -> None:
    lm = tiny.build("opt", do_layer_norm_before=False)
    assert lm.row.post_norm
    assert not tiny.build("opt").row.post_norm


@pytest.mark.parametrize(("layer", "role"), [(3, "down"), (-1, "down"), (99, "block"), (0, "side"), (0, "")])
def test_unknown_sites_are_named(models: Models, layer: int, role: str) -> None:
    with pytest.raises(UnknownSite, match=r"layers 0 to 2|is not a role; use one of block, up, down, attention"):
        models("llama").module(Site(layer, role))


@pytest.mark.parametrize("name", tiny.EXPERTS)
def test_experts_have_no_dense_down(models: Models, name: str) -> None:
    lm = models(name)
    with pytest.raises(UnsupportedModel, match=rf"tiny {name} \({name}\) has experts in place of one dense down"):
        lm.parameter(Site(0, "down"))
    assert recorded(lm, Site(1, "attention"))[1].shape[-1] == lm.width == tiny.WIDTH
    for method in set(names()) - {"grace", "ike", "lora", "melo", "rome", "scr"}:
        with pytest.raises(UnsupportedModel, match="experts"):
            get(method)().solve(lm, tiny.FACTS[:1])


def test_published_models_are_told_by_their_shape() -> None:
    assert arch.published("gpt2", 1600, 48, 50257) == "gpt2-xl"
    assert arch.published("gpt2", 1600, 48, 50258) == ""
    assert {key[0] for key in arch._PUBLISHED} <= set(arch.TABLE)
