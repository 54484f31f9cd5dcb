"""Text in, numbers and text out; loading and what can be wrong with a model's files.

pytest tests/model/test_lm.py
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from errata.delta import Dense, Site
from errata.errors import BadConfig, BadModel, UnknownArchitecture, UnknownSite, UnsupportedModel
from errata.model.lm import LM
from errata.model.loading import load
from errata.model.query import Query
from tests import tiny

Models = Callable[[str], LM]
QUERIES = [
    Query("The capital of France is", "Rome"),
    Query("Anna", "Paris, France"),
    Query("The instrument that Carla Moreno plays is the", "tuba"),
    Query("The river Seine runs through", ""),
    Query("Bruno", "1987"),
]
PROMPTS = [q.prompt for q in QUERIES] + ["The capital of Italy is", "Anna"]


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize("name", [*tiny.EDITABLE, *tiny.EXPERTS])
def test_a_batch_gives_what_its_rows_give_alone(models: Models, name: str) -> None:
    lm = models(name)
    with torch.no_grad():
        together = lm.answer_logits(lm.tokens.batch(QUERIES))
        alone = torch.cat([lm.answer_logits(lm.tokens.batch([q])) for q in QUERIES])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    many, one = lm.logprobs(QUERIES, rows=3), [lm.logprobs([q])[0] for q in QUERIES]
    for a, b in zip(many, one, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_logprobs_are_the_plain_chain_rule(models: Models, name: str) -> None:
    lm = models(name)
    query = Query("The capital of France is", "Rome now")
    tokenizer = tiny.tokenizer(name)
    with torch.no_grad():
        if name == "t5":
            labels = tokenizer("Rome now")["input_ids"][:-1]
            ids = torch.tensor([tokenizer(query.prompt)["input_ids"]])
            logits = lm.model(input_ids=ids, decoder_input_ids=torch.tensor([[0, *labels[:-1]]])).logits[0]
        else:
            start, whole = (tokenizer(text)["input_ids"] for text in (query.prompt, f"{query.prompt} Rome now"))
            labels = whole[len(start) :]
            logits = lm.model(torch.tensor([whole])).logits[0, len(start) - 1 : -1]
    wanted = logits.log_softmax(-1)[range(len(labels)), labels]
    torch.testing.assert_close(lm.logprobs([query])[0], wanted, atol=1e-5, rtol=1e-5)


def test_logits_of_a_half_precision_model_are_compared_in_float32() -> None:
    lm = tiny.build("llama", dtype=torch.bfloat16)
    assert lm.answer_logits(lm.tokens.batch(QUERIES)).dtype == torch.float32
    assert tiny.build("llama", dtype=torch.float64).answer_logits(lm.tokens.batch(QUERIES)).dtype == torch.float64


def test_the_likeliest_tokens_are_those_the_model_goes_on_with(models: Models) -> None:
    lm = models("llama")
    top = lm.top("The capital of France is", 4)
    assert [p for _, p in top] == sorted((p for _, p in top), reverse=True)
    assert lm.generate(["The capital of France is"], 1)[0] == top[0][0].strip()
    assert len(lm.top("Anna", 10_000)) == tiny.VOCABULARY


def test_a_tokenizer_that_closes_texts_does_not_close_prompts() -> None:
    open_, closed = (LM(tiny.model("llama"), tiny.tokenizer(kind), kind) for kind in ("gpt2", "t5"))
    assert closed.top("The capital of France is") == open_.top("The capital of France is")
    assert closed.generate(["The capital of France is"], 6) == open_.generate(["The capital of France is"], 6)


# ------------------------------------------------------------------ text


@pytest.mark.parametrize("name", [*tiny.EDITABLE, *tiny.EXPERTS])
def test_a_batch_says_what_its_rows_say_alone(models: Models, name: str) -> None:
    lm = models(name)
    alone = [lm.generate([prompt], 6)[0] for prompt in PROMPTS]
    assert lm.generate(PROMPTS, 6, rows=2) == alone
    assert len(set(alone)) > 2


def test_generation_is_greedy(models: Models) -> None:
    lm = models("gpt2")
    ids = lm.tokens.ids("Anna Lindgren speaks")
    start = len(ids)
    with torch.no_grad():
        for _ in range(8):
            ids.append(int(lm.model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert lm.generate(["Anna Lindgren speaks"], 8) == [lm.tokens.decode(ids[start:]).split("\n")[0]]


TASTE = {
    "repetition_penalty": 9.0,
    "no_repeat_ngram_size": 1,
    "temperature": 0.01,
    "top_p": 0.01,
    "min_new_tokens": 6,
    "num_beams": 3,
    "suppress_tokens": [5, 6, 7],
    "bad_words_ids": [[9]],
}


def test_the_checkpoints_taste_in_sampling_does_not_enter(models: Models) -> None:
    plain = models("gpt2")
    lm = tiny.build("gpt2")
    lm.model.generation_config = transformers.GenerationConfig(**TASTE, do_sample=True, eos_token_id=2)
    before = lm.model.generation_config
    assert lm.generate(PROMPTS, 8) == plain.generate(PROMPTS, 8)
    assert lm.sample(3, 8, seed=1) == plain.sample(3, 8, seed=1)
    assert lm.model.generation_config is before


def test_it_stops_at_the_end_of_the_text(models: Models) -> None:
    lm = tiny.build("gpt2")
    ids = lm.tokens.ids("Anna Lindgren speaks")
    first = int(lm.model(torch.tensor([ids])).logits[0, -1].argmax())
    lm.model.generation_config.eos_token_id = [first, 2]
    assert lm.tokens.decode([first]).strip() in lm.generate(["Anna Lindgren speaks"], 8)[0]
    assert len(lm.generate(["Anna Lindgren speaks"], 8)[0]) <= len(lm.tokens.decode([first]))


def test_samples_come_from_the_seed_alone(models: Models) -> None:
    lm = models("llama")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = lm.sample(5, 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert lm.sample(5, 10, seed=0) == one
    assert lm.sample(5, 10, seed=1) != one
    assert len(one) == 5
    assert len(set(one)) > 1


def test_an_encoder_does_not_generate(models: Models) -> None:
    with pytest.raises(UnsupportedModel, match="tiny bert is an encoder and cannot generate"):
        models("bert").generate(["Anna"])


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_asking_changes_nothing(name: str) -> None:
    lm = tiny.build(name)
    before = {k: v.clone() for k, v in lm.model.state_dict().items()}
    settings, generation = lm.model.config.to_dict(), lm.model.generation_config.to_dict()
    lm.generate(PROMPTS, 3)
    lm.sample(2, 3, 0)
    lm.top("Anna")
    lm.logprobs(QUERIES)
    assert all(torch.equal(v, before[k]) for k, v in lm.model.state_dict().items())
    assert (lm.model.config.to_dict(), lm.model.generation_config.to_dict()) == (settings, generation)
    assert not lm.model.training


def test_a_block_is_no_matrix(models: Models) -> None:
    with pytest.raises(UnknownSite, match=r"0\.block is no matrix; name one, such as 0\.down"):
        models("llama").weights.stand([{Site(0, "block"): Dense(torch.zeros(2, 2))}])


# ------------------------------------------------------------------ files


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "whole"
    models("llama").save(path)
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.mark.parametrize("name", [*tiny.DENSE, *tiny.EXPERTS])
def test_saved_and_loaded_it_is_the_same_model(models: Models, name: str, tmp_path: Path) -> None:
    lm = models(name)
    lm.save(tmp_path / "saved")
    again = load(str(tmp_path / "saved"))
    assert again.fingerprint == lm.fingerprint
    with torch.no_grad():
        assert torch.equal(again.forward(again.tokens.batch(QUERIES)), lm.forward(lm.tokens.batch(QUERIES)))
    assert not any(p.requires_grad for p in again.model.parameters())


def test_dtype_and_device(whole: Path) -> None:
    assert load(str(whole)).parameter(Site(0, "down")).dtype == torch.float32
    assert load(str(whole), dtype="bfloat16", device="cpu").parameter(Site(0, "down")).dtype == torch.bfloat16
    with pytest.raises(BadConfig, match="no dtype 'float17'; use"):
        load(str(whole), dtype="float17")
    with pytest.raises(BadConfig, match="no dtype 'nn'; use"):
        load(str(whole), dtype="nn")
    with pytest.raises(BadConfig, match="the device 'nowhere' cannot be used here"):
        load(str(whole), device="nowhere")


def test_loading_is_quiet_and_leaves_the_logs_level(whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    level = transformers.utils.logging.get_verbosity()
    lm = load(str(whole))
    lm.save(whole.parent / "quiet")
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.get_verbosity() == level
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_a_home_directory_is_expanded(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(whole.parent))
    assert load("~/whole").name == "~/whole"


def change(path: Path, **settings: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **settings}))


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def without(path: Path, part: str) -> None:
    tensors = {k: v for k, v in load_file(path / "model.safetensors").items() if part not in k}
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def pickled(path: Path) -> None:
    (path / "model.safetensors").unlink()
    torch.save({}, path / "pytorch_model.bin")


def untokenized(path: Path) -> None:
    for file in path.glob("tokenizer*"):
        file.unlink()


def other_tokenizer(path: Path) -> None:
    words = json.loads((path / "tokenizer.json").read_text())
    words["model"]["vocab"] = {k: v + 5000 for k, v in words["model"]["vocab"].items()}
    (path / "tokenizer.json").write_text(json.dumps(words))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty directory": (lambda p: [f.unlink() for f in p.iterdir()], "has no config.json"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), r"has no weights \(\*\.safetensors\)"),
    "pickle only": (pickled, r"only pickle weights \(pytorch_model.bin\).*convert"),
    "torn weights": (lambda p: cut(p / "model.safetensors", 5000), "cannot load"),
    "empty weights": (lambda p: cut(p / "model.safetensors", 0), "cannot load"),
    "weights that are something else": (lambda p: (p / "model.safetensors").write_bytes(b"\xff" * 999), "cannot load"),
    "a tensor missing": (lambda p: without(p, "layers.1.mlp.down"), "for 1 of its tensors, such as model.layers.1.mlp"),
    "a layer missing": (lambda p: change(p, num_hidden_layers=4), r"for 9 of its tensors, such as model\.layers\.3"),
    "another shape": (lambda p: change(p, intermediate_size=48), "no weights of the right shape for 9 of its tensors"),
    "torn settings": (lambda p: cut(p / "config.json", 30), r"config\.json .* cannot be read"),
    "binary settings": (lambda p: (p / "config.json").write_bytes(b"\xff\xfe\0"), r"config\.json .* cannot be read"),
    "settings that are a list": (lambda p: (p / "config.json").write_text("[1]"), "does not name a model_type"),
    "no model type": (lambda p: change(p, model_type=None), "does not name a model_type"),
    "settings of a wrong type": (lambda p: change(p, hidden_size="x"), "cannot load"),
    "settings that do not fit": (lambda p: change(p, num_attention_heads=5), "cannot load"),
    "an unknown activation": (lambda p: change(p, hidden_act="x"), "cannot load"),
    "no tokenizer": (untokenized, "cannot load"),
    "a torn tokenizer": (lambda p: cut(p / "tokenizer.json", 300), "cannot load"),
    "an empty tokenizer": (lambda p: (p / "tokenizer.json").write_text("{}"), "cannot load"),
    "another model's tokenizer": (
        other_tokenizer,
        "the tokenizer does not fit: the token .* ends at 359; use the tokenizer",
    ),
    "torn tokenizer settings": (lambda p: cut(p / "tokenizer_config.json", 9), "cannot load"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_model_is_one_clear_sentence(copy: Path, what: str) -> None:
    spoil, said = BROKEN[what]
    spoil(copy)
    with pytest.raises(BadModel, match=said) as caught:
        load(str(copy))
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert len(message.replace(str(copy), "")) < 300
    assert ";" in message  # what is wrong; what to do


@pytest.mark.parametrize("name", ["/no/such", "./no/such", "../no", "~/no such"])
def test_a_directory_that_is_not_there(name: str) -> None:
    with pytest.raises(BadModel, match=f"'{name}' is not there; give a directory"):
        load(name)


def test_a_file_is_no_model(whole: Path) -> None:
    with pytest.raises(BadModel, match="is a file; give a directory"):
        load(str(whole / "model.safetensors"))


@pytest.mark.parametrize(
    ("model_type", "hint"), [("lama", "Did you mean llama"), ("errata-none", "Update transformers")]
)
def test_a_type_that_transformers_has_not(copy: Path, model_type: str, hint: str) -> None:
    change(copy, model_type=model_type)
    with pytest.raises(UnknownArchitecture, match=f"has no model_type '{model_type}'.*{hint}.*correct config.json"):
        load(str(copy))


def test_code_that_comes_with_a_model_is_not_run(copy: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (copy / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    change(copy, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    with suppress(BadModel):  # or it is loaded without that code
        load(str(copy))
    assert not ran.exists()


def test_a_tokenizer_without_offsets_is_refused(models: Models) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(BadModel, match="no character offsets"):
        LM(models("llama").model, Slow())


def test_a_model_has_a_name(models: Models) -> None:
    made = tiny.model("llama")
    assert LM(made, tiny.tokenizer("llama")).name == "llama"
    made.config._name_or_path = "some/where"
    assert LM(made, tiny.tokenizer("llama")).name == "some/where"
