"""What a model is known by: what it computes with, and nothing else.

pytest tests/model/test_identify.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from errata.errors import BadBook
from errata.identity import Identity
from errata.model.identify import digest, fingerprint_in_older_books
from errata.model.lm import LM
from errata.model.loading import load
from tests import tiny

Models = Callable[[str], LM]


def rewritten(lm: LM, path: Path, **changes: object) -> LM:
    """Save a model, change its config.json (None removes), and load it again."""
    if not path.exists():
        lm.save(path)
    config = json.loads((path / "config.json").read_text())
    config = {key: value for key, value in {**config, **changes}.items() if value is not None}
    (path / "config.json").write_text(json.dumps(config))
    return load(str(path))


def test_the_digest_changes_with_any_weight(models: Models) -> None:
    lm = models("gpt2")
    with torch.no_grad():
        for parameter in lm.model.parameters():
            spot = parameter.view(-1)[-1:]
            before, found = spot.clone(), (digest(lm.model), fingerprint_in_older_books(lm.model, {}))
            spot.copy_(torch.nextafter(before, before + 1))  # one bit
            assert digest(lm.model) != found[0]
            assert fingerprint_in_older_books(lm.model, {}) != found[1]
            spot.copy_(before)
            assert (digest(lm.model), fingerprint_in_older_books(lm.model, {})) == found


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("gemma2", {"final_logit_softcapping": 2.5}, "final_logit_softcapping is 2.5 where the book's is 3"),
        ("gemma2", {"sliding_window": 4}, "sliding_window is 4 where the book's is 8"),
        ("gemma3", {"image_token_index": 7}, "image_token_index is 7 where the book's is the default"),
        ("gpt2", {"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon is 0.001"),
        ("gpt_neo", {"attention_types": [[["global"], 3]]}, 'attention_layers is ["global", "global", "global"]'),
        ("llama", {"rms_norm_eps": 1e-3}, "rms_norm_eps is 0.001 where the book's is the default"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
            "rope_parameters.rope_theta is 5000 where the book's is the default",
        ),
        ("opt", {"activation_function": "gelu"}, 'activation_function is "gelu"'),
        ("t5", {"relative_attention_max_distance": 64}, "relative_attention_max_distance is 64"),
    ],
)
def test_a_setting_that_changes_what_is_computed_is_named(
    models: Models, name: str, change: dict[str, object], said: str
) -> None:
    lm, other = models(name), tiny.build(name, **change)
    assert other.fingerprint != lm.fingerprint
    assert any(clause.startswith(said) for clause in other.identity.unlike(lm.identity))


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bert", "gemma3", "opt"])
def test_circumstances_change_nothing(models: Models, name: str, tmp_path: Path) -> None:
    lm = models(name)
    for change in (
        {"pad_token_id": None, "eos_token_id": None},
        {"unsloth_version": "2024.8", "unsloth_fixed": True, "_my_tool": {"rank": 8}},
        {"transformers_version": "4.0.0", "architectures": None, "torch_dtype": None, "dtype": None},
        {"use_cache": False, "initializer_range": 0.5, "temperature": 0.1, "max_length": 7, "_name_or_path": "x"},
        {"attention_dropout": 0.3, "resid_pdrop": 0.3, "hidden_dropout_prob": 0.3, "dropout": 0.3, "dropout_rate": 0.3},
        {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}, "output_attentions": False},
    ):
        assert rewritten(lm, tmp_path / "model", **change).fingerprint == lm.fingerprint, change


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "gemma2"])
def test_a_default_may_be_written_or_not(models: Models, name: str, tmp_path: Path) -> None:
    lm = models(name)
    usual = type(lm.model.config)().to_dict()
    same = [key for key, value in lm.model.config.to_dict().items() if key in usual and usual[key] == value]
    assert len(same) > 5
    kept = {"model_type", "tie_word_embeddings", "architectures"}
    bare = rewritten(lm, tmp_path / "bare", **dict.fromkeys(key for key in same if key not in kept))
    full = rewritten(lm, tmp_path / "full", **{key: usual[key] for key in same})
    assert bare.fingerprint == full.fingerprint == lm.fingerprint
    assert len((tmp_path / "bare/config.json").read_text()) < len((tmp_path / "full/config.json").read_text())


def test_the_older_rule_is_what_it_was(models: Models) -> None:
    lm = models("llama")
    again = tiny.model("llama")
    again.config._name_or_path, again.config.use_cache, again.config.architectures = "elsewhere", False, ["Other"]
    found = LM(again.train(), tiny.tokenizer("llama"), "another name")
    assert found.fingerprint == lm.fingerprint
    assert found.identity.older() == lm.identity.older() != lm.fingerprint
    assert len(lm.fingerprint) == len(lm.identity.older()) == 32
    again.config.pad_token_id = 0
    assert LM(again, tiny.tokenizer("llama")).fingerprint == lm.fingerprint
    assert LM(again, tiny.tokenizer("llama")).identity.older() != lm.identity.older()
    made = {"b": 1, "use_cache": True, "a": {"dtype": "x", "c": 2.0}}
    net = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    assert fingerprint_in_older_books(net, made) == "2932da6fa9ecf0c38c905eb0cf296cac"


def test_the_parts_say_what_differs(models: Models) -> None:
    lm = models("llama")
    other = tiny.build("llama", seed=1)
    assert other.fingerprint != lm.fingerprint
    assert other.identity.unlike(lm.identity) == ["its weights are others"]
    rough = tiny.build("llama", dtype=torch.bfloat16)
    assert rough.fingerprint != lm.fingerprint
    assert rough.identity.unlike(lm.identity) == ["its dtype is bfloat16 where the book's is float32"]
    assert "--dtype float32" in rough.identity.advice(lm.identity)
    larger = tiny.build("llama", vocab_size=400)
    assert larger.identity.unlike(lm.identity) == ["its vocabulary has 400 tokens where the book's has 360"]
    assert not lm.identity.unlike(Identity.from_json(lm.identity.to_json()))
    assert Identity.from_json(lm.identity.to_json()).fingerprint == lm.fingerprint
    with pytest.raises(BadBook, match="cannot be read"):
        Identity.from_json("{}")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_identity_is_the_bases_whatever_stands(models: Models, name: str) -> None:
    from errata.delta import Dense, Site

    lm = tiny.build(name)
    found, older = lm.fingerprint, fingerprint_in_older_books(lm.model, lm.model.config.to_diff_dict())
    lm.weights.stand([{Site(1, "down"): Dense(torch.ones(tiny.WIDTH, tiny.INNER))}])
    assert lm.fingerprint == found
    assert lm.identity.older() == older  # asked for only now
    assert lm.identity.goes_by(older)
    assert lm.identity.goes_by(found)
    assert not lm.identity.goes_by("f00d" * 8)
