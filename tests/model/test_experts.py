"""Experts as matrices: their keys, their sum, ROME's closed form on those that are opened, and dropping it.

pytest tests/model/test_experts.py
"""

from __future__ import annotations

import pytest
import torch
import transformers

from errata import methods
from errata.delta import Site
from errata.errors import BadConfig, UnknownSite, UnsupportedModel
from errata.model.experts import opened_keys, routing_at
from errata.model.lm import LM
from errata.model.query import Query
from tests import shrunk, tiny
from tests.contract.test_contract import FACTS, changed, small, snapshot

FUSED = ("mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3")  # plain, small, transposed with biases, beside a shared one


@pytest.mark.parametrize("name", FUSED)
def test_what_opened_experts_give_is_what_the_block_gives(name: str) -> None:
    lm = shrunk.build(name, "decoder", 2)
    layer = max(lm.experts)
    experts = lm.experts[layer]
    routing = routing_at(lm, Site(layer, "experts"), lm.tokens.batch([Query(fact.prompt) for fact in FACTS[:1]]).inputs)
    found = opened_keys(experts, routing)
    with torch.no_grad():
        total = experts.module(*routing)
        made = torch.zeros_like(total)
        for expert, (rows, keys) in found.items():
            made[rows] += keys @ experts.matrix(expert).T
            if name == "gpt_oss":  # the only one here with biases
                gates = routing.gates[routing.opened == expert]
                made[rows] += gates[:, None] * experts.module.down_proj_bias[expert]
    torch.testing.assert_close(made, total, atol=1e-5, rtol=1e-5)
    assert len(found) > 1


def one_expert() -> tuple[LM, LM]:
    """Return a Mistral, and a Mixtral of one expert with the same numbers: its gate is 1."""
    dense = tiny.build("mistral", 2)
    same = {name: getattr(dense.model.config, name) for name in ("rope_parameters", "rms_norm_eps", "sliding_window")}
    config = tiny.config("mixtral", num_local_experts=1, num_experts_per_tok=1, **same)
    made = transformers.MixtralForCausalLM(config).eval()
    state = dense.model.state_dict()
    made.load_state_dict({k: v for k, v in state.items() if ".mlp." not in k}, strict=False)
    with torch.no_grad():
        for ours, theirs in zip(made.model.layers, dense.model.model.layers, strict=True):
            ours.mlp.experts.gate_up_proj[0] = torch.cat([theirs.mlp.gate_proj.weight, theirs.mlp.up_proj.weight])
            ours.mlp.experts.down_proj[0] = theirs.mlp.down_proj.weight
    return dense, LM(made, tiny.tokenizer("mixtral"), "one expert")


def test_with_one_expert_it_is_romes_update() -> None:
    dense, sparse = one_expert()
    how = {"layer": 1, "steps": 10, "tokens": 400, "damping": 0.5}  # one damping for both, whatever was read
    (site, wanted), *_ = methods.make("rome", how).solve(dense, FACTS[:1]).deltas.items()
    ((place, found),) = methods.make("rome", how).solve(sparse, FACTS[:1]).deltas.items()
    assert (str(site), str(place)) == ("1.down", "1.expert0")
    torch.testing.assert_close(found.dense(), wanted.dense(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", FUSED[:3])
def test_an_edit_of_experts_shows_and_is_dropped_to_the_bit(name: str) -> None:
    lm = shrunk.build(name, "decoder", 2)
    before, query = snapshot(lm), [Query(FACTS[0].prompt, FACTS[0].target)]
    edit = small("rome").solve(lm, FACTS[:1])
    assert not changed(before, snapshot(lm))
    assert {site.role[:6] for site in edit.deltas} == {"expert"}
    assert sum(edit.report["experts"].values()) == pytest.approx(1, abs=0.01)
    old = lm.logprobs(query)[0]
    lm.weights.stand([edit.deltas])
    assert float(lm.logprobs(query)[0].sum()) > float(old.sum())
    assert len(changed(before, snapshot(lm))) == 1  # one tensor holds all experts of a layer
    lm.weights.stand([])
    assert not changed(before, snapshot(lm))


def test_what_is_not_worked_out_for_experts_is_refused() -> None:
    lm = tiny.build("mixtral", 2)
    for wrong in ({"constraint": "o-edit"}, {"restrain": "rect"}, {"anchor": 1.0}):
        with pytest.raises(BadConfig, match="on experts neither"):
            small("rome", **wrong).solve(lm, FACTS[:1])
    with pytest.raises(UnknownSite, match="expert0 to expert2"):
        lm.module(Site(0, "expert7"))
    with pytest.raises(UnsupportedModel, match="name one, such as expert0"):
        lm.parameter(Site(0, "experts"))
    with pytest.raises(UnsupportedModel, match="no experts"):
        tiny.build("llama").module(Site(0, "expert0"))
