"""Directories that are more, or other, than a plain model: quantised weights, adapters, tensors and files beside them.

pytest tests/model/test_checkpoints.py
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from errata.errors import BadConfig, BadModel, NotWritten
from errata.export.checkpoint import checkpoint
from errata.model import loading
from errata.model.lm import LM
from errata.model.loading import load
from tests import synthetic, tiny

Models = Callable[[str], LM]
BLOCK = 32


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "whole"
    made = tiny.model("llama", hidden_size=64, intermediate_size=96)
    LM(made, tiny.tokenizer("llama")).save(path)
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def change(path: Path, **settings: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **settings}))


def in_fp8(path: Path, block: int = BLOCK, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Store the projections of a checkpoint as DeepSeek's are, and return what they now stand for."""
    tensors, meant = load_file(path / "model.safetensors"), {}
    for name in [name for name in tensors if "_proj" in name]:
        rows, cols = tensors[name].shape
        blocks = tensors[name].reshape(rows // block, block, cols // block, block)
        scales = blocks.abs().amax((1, 3)) / 448
        packed = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
        meant[name] = (packed.float() * scales[:, None, :, None]).reshape(rows, cols)
        tensors[name], tensors[f"{name}_scale_inv"] = packed.reshape(rows, cols).contiguous(), scales
    rest = {name: t.to(dtype or t.dtype) for name, t in tensors.items() if "_proj" not in name}
    save_file({**tensors, **rest}, path / "model.safetensors", {"format": "pt"})
    said = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [block, block]}
    change(path, quantization_config=said)
    return {**{name: t.float() for name, t in rest.items()}, **meant}


def test_fp8_weights_are_multiplied_out_and_saved_plain(copy: Path, tmp_path: Path) -> None:
    meant = in_fp8(copy)
    lm = load(str(copy))
    for name, tensor in meant.items():
        torch.testing.assert_close(lm.model.state_dict()[name], tensor, atol=0, rtol=0)
    (note,) = lm.notes
    assert "FP8 weights were dequantised" in note
    edits = [synthetic.edit(lm, n) for n in range(2)]
    lm.weights.stand([edit.deltas for edit in edits])
    checkpoint(lm, edits, tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    again = load(str(tmp_path / "out"))
    assert again.notes == ()
    for name, tensor in lm.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name


def test_fp8_weights_take_the_dtype_of_the_configuration_or_the_one_asked_for(copy: Path) -> None:
    change(copy, dtype="bfloat16")
    in_fp8(copy, dtype=torch.bfloat16)
    assert {p.dtype for p in load(str(copy)).model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load(str(copy), dtype="float32").model.parameters()} == {torch.float32}
    change(copy, dtype=None)
    assert {p.dtype for p in load(str(copy)).model.parameters()} == {torch.bfloat16}


def test_fp8_blocks_that_transformers_would_place_elsewhere_are_refused(copy: Path) -> None:
    in_fp8(copy)
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"]["weight_block_size"] = [48, 48]  # of 64 rows: 48 and 16, not 32 and 32
    change(copy, **config)
    with pytest.raises(BadModel, match=r"_proj.weight is 64 × 96, which blocks of 48 × 48 do not divide"):
        load(str(copy))


METHODS = {
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    "mxfp4": {"quant_method": "mxfp4"},
    "modelopt": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "of an unnamed kind": {"bits": 3},
}


@pytest.mark.parametrize("method", METHODS)
def test_other_quantised_weights_are_refused_by_name(copy: Path, method: str) -> None:
    change(copy, quantization_config=METHODS[method])
    with pytest.raises(BadModel, match=rf"quantised \({re.escape(method)}\).*; give the model it was made from, "):
        load(str(copy))


PACKED = {"4-bit": {"quant_method": "bitsandbytes", "load_in_4bit": True}, "8-bit": {"load_in_8bit": True}, "nf4": None}


@pytest.mark.parametrize("lacking", ["bitsandbytes", "accelerate"])
@pytest.mark.parametrize("packing", PACKED)
def test_the_package_that_reads_few_bits_is_named_where_it_is_missing(
    copy: Path, packing: str, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(copy, quantization_config=PACKED[packing])
    monkeypatch.setattr(loading, "find_spec", lambda name: None if name == lacking else True)
    with pytest.raises(BadModel, match=rf"package {lacking}, .* not installed: pip install 'errata-lm\[quantized\]'"):
        load(str(copy), dtype="nf4" if packing == "nf4" else None)


def test_what_is_packed_already_is_not_packed_again(copy: Path) -> None:
    in_fp8(copy)
    with pytest.raises(
        BadConfig, match=r"packed already \(fp8\); leave --dtype nf4 out, or give the model it was made"
    ):
        load(str(copy), dtype="nf4")


def test_scales_without_a_word_of_them_in_the_settings_are_refused(copy: Path) -> None:
    in_fp8(copy)
    change(copy, quantization_config=None)
    with pytest.raises(
        BadModel, match=r"it holds .*_proj.weight_scale_inv as quantised weights have it, but its config.json"
    ):
        load(str(copy))


def test_an_adapter_beside_the_weights_is_refused(copy: Path) -> None:
    (copy / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(copy)}))
    with pytest.raises(
        BadModel, match=r"holds a LoRA adapter too \(adapter_config.json\).*; move the adapter elsewhere"
    ):
        load(str(copy))
    (copy / "config.json").unlink()
    with pytest.raises(BadModel, match=r"no config\.json; give the model this LoRA adapter belongs to"):
        load(str(copy))


def test_tensors_the_model_has_no_place_for_are_named(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    more = {f"model.mtp.{n}.weight": torch.ones(2) for n in range(4)}
    save_file({**tensors, **more}, copy / "model.safetensors", {"format": "pt"})
    (note,) = load(str(copy)).notes
    assert note.startswith(
        "4 tensors of the checkpoint (model.mtp.0.weight, model.mtp.1.weight, model.mtp.2.weight, …)"
    )


# ------------------------------------------------------------------ saving


def test_what_lay_beside_the_weights_is_saved_too(copy: Path, tmp_path: Path) -> None:
    beside = {"preprocessor_config.json": "{}", "processor_config.json": '{"a": 1}', "LICENSE.txt": "free",
              "special_tokens_map.json": "{}", "merges.txt": "a b"}  # fmt: skip
    for name, text in beside.items():
        (copy / name).write_text(text)
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    (copy / "optimizer.bin").write_text("not mine")
    settings = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps({**settings, "top_k": 7, "do_sample": True}))
    load(str(copy)).save(tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_text() for name in beside} == beside
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["top_k"] == 7
    assert not (tmp_path / "out" / "optimizer.bin").exists()


def spoilt(monkeypatch: pytest.MonkeyPatch, model: Any, spoil: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Let the model's own saving go wrong in a way that nothing reports."""
    save = type(model).save_pretrained

    def worse(self: Any, directory: Path, **options: Any) -> None:
        save(self, directory, **options)
        file = Path(directory) / "model.safetensors"
        tensors = load_file(file)
        spoil(tensors)
        save_file(tensors, file, {"format": "pt"})

    monkeypatch.setattr(type(model), "save_pretrained", worse)


DOWN = "model.layers.1.mlp.down_proj.weight"
SPOILT: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "a number": (lambda t: t[DOWN].view(-1)[3].add_(1e-3), f"{DOWN} reads back otherwise"),
    "its dtype": (lambda t: t.update({DOWN: t[DOWN].bfloat16()}), f"{DOWN} reads back otherwise"),
    "missing": (lambda t: t.pop(DOWN), f"1 tensors were not written, such as {DOWN}"),
    "too many": (lambda t: t.update(more=torch.ones(1)), "holds more, which this model has not"),
    "the base": (lambda t: t.update({DOWN: tiny.model("llama").state_dict()[DOWN]}), f"{DOWN} reads back otherwise"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_nothing_is_saved_that_is_not_what_stands(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, said = SPOILT[what]
    lm = tiny.build("llama")
    change = torch.ones(tiny.WIDTH, 1)
    from errata.delta import LowRank, Site

    lm.weights.stand([{Site(1, "down"): LowRank(change, torch.ones(tiny.INNER, 1))}])
    spoilt(monkeypatch, lm.model, spoil)
    with pytest.raises(NotWritten, match=said) as caught:
        checkpoint(lm, [], tmp_path / "out")
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_read_again_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny.build("llama")
    save = type(lm.model).save_pretrained

    def torn(self: Any, directory: Path, **options: Any) -> None:
        save(self, directory, **options)
        file = Path(directory) / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])

    monkeypatch.setattr(type(lm.model), "save_pretrained", torn)
    with pytest.raises(NotWritten, match="cannot be read"):
        checkpoint(lm, [], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["gpt2", "t5", "bert", "gemma3", "mixtral"])
def test_a_saved_directory_is_what_transformers_reads(name: str, models: Models, tmp_path: Path) -> None:
    lm = models(name)
    checkpoint(lm, [], tmp_path / "out")
    plain = type(lm.model).from_pretrained(tmp_path / "out")
    wanted = lm.model.state_dict()
    assert plain.state_dict().keys() == wanted.keys()
    for key, tensor in plain.state_dict().items():
        assert torch.equal(tensor, wanted[key]), key


def test_plain_transformers_says_the_edited_fact(tmp_path: Path) -> None:
    """On the primer, by nothing of errata's: tokenizer, model and greedy generation of transformers."""
    import errata
    from errata.fact import Fact

    with errata.open("primer", book=tmp_path / "book") as editor:
        editor.write(Fact(prompt="The capital of France is", subject="France", target="Lyon"), "ft")
        editor.save(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    found = tokenizer("The capital of France is", return_tensors="pt")
    out = model.generate(found["input_ids"], attention_mask=found["attention_mask"], max_new_tokens=4, do_sample=False)
    assert tokenizer.decode(out[0, found["input_ids"].shape[1] :]).strip().startswith("Lyon")
