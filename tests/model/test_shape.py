"""Blocks and matrices found by what they do: as the rows say that somebody wrote, and on types nobody wrote one for.

pytest tests/model/test_shape.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import architectures as pages

from errata import methods
from errata.cli import main
from errata.delta import Site
from errata.errors import UnsupportedModel
from errata.model import shape
from errata.model.lm import LM
from errata.model.loading import load
from errata.model.verify import checks
from tests import shrunk, tiny
from tests.contract.test_contract import FACTS, changed, small, snapshot

Models = Callable[[str], LM]
RESULTS = json.loads(pages.RESULTS.read_text())


@pytest.mark.parametrize("name", [*tiny.DENSE, *tiny.EXPERTS])
def test_what_is_found_is_what_the_row_says(models: Models, name: str) -> None:
    lm = models(name)
    found = shape.row_of(lm.model, lm.tokenizer)
    wanted = replace(lm.row, skips=True)  # which only whole passes show
    # A norm after `down` is in BERT's blocks too; its row has no need to say so.
    assert found == (replace(wanted, post_norm=True) if name == "bert" else wanted)


def holding(lm: LM) -> dict[str, bool]:
    return {check.what.partition(" after")[0]: check.holds for check in checks(lm)}


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "falcon", "t5", "mixtral"])
def test_every_check_holds_of_a_row_that_is_right(models: Models, name: str) -> None:
    assert set(holding(models(name)).values()) == {True}


@pytest.mark.parametrize(
    ("name", "wrong", "broken"),
    [
        ("gpt2_square", {"transposed": False}, "down(k) = W k + b"),
        ("llama", {"post_norm": True}, "what down puts out is added to the stream"),
        ("gemma2", {"post_norm": False}, "what down puts out is added to the stream"),
        ("t5", {"skips": True}, "a pass begun at a layer ends as the whole one"),
    ],
)
def test_a_row_that_is_wrong_fails_its_check(name: str, wrong: dict[str, bool], broken: str) -> None:
    lm = tiny.build(name)
    lm.row = replace(lm.row, **wrong)
    lm._tuples = lm._measure_tuples()
    assert not holding(lm)[broken]


def test_a_model_that_looks_ahead_is_no_decoder() -> None:
    made = shrunk.LOADERS["decoder"].from_config(shrunk.config("electra", "classifier"))  # no is_decoder
    with pytest.raises(
        UnsupportedModel, match=r"electra.*does not pass: a block's output changes what follows, and noth"
    ):
        LM(made.eval(), tiny.tokenizer("gpt2"), "tiny electra")


def test_a_bert_that_goes_on_with_texts_is_a_decoder() -> None:
    assert shrunk.build("bert", "decoder").row.kind == "decoder"
    assert tiny.build("bert").row.kind == "encoder"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("xlnet", r"transformer.layer takes \[7, 2, 32\] .* not \(texts, tokens, size\)"),
        ("hrm_text", r"L_module.layers is run 6 times over"),
        ("jetmoe", r"blocks were found \(model.layers\), but no matrix"),
        ("qwen4_exp_text", r"several streams in one"),
    ],
)
def test_what_cannot_be_told_is_refused_with_what_was_found(name: str, why: str) -> None:
    with pytest.raises(UnsupportedModel, match=why) as caught:
        shrunk.build(name, "decoder")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ types without a row

SAMPLE = (
    ("olmo3", "decoder"), ("qwen3_next", "decoder"), ("falcon_h1", "decoder"), ("mamba2", "decoder"), ("lfm2", "decoder"),
    ("deepseek_v3", "decoder"), ("gpt_oss", "decoder"), ("nemotron_h", "decoder"), ("bart", "encoder-decoder"),
    ("modernbert", "classifier"),
)  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), SAMPLE)
def test_a_type_without_a_row_keeps_the_contract(name: str, kind: str) -> None:
    lm = shrunk.build(name, kind, pages.SEEDS[0])
    row = next(row for row in RESULTS["rows"] if (row["type"], row["kind"]) == (name, kind))
    assert (lm.found_by, lm.depth, lm.row.cache) == ("shape", row["layers"], row["cache"])
    assert sum(lm.has(Site(layer, "down")) for layer in range(lm.depth)) == row["down"]
    assert set(row["methods"]) == set(pages.methods_for(lm, row["down"]))
    for method in ("rome", "melo") if "rome" in row["methods"] else ("melo",):
        assert pages.failing(method, lm) == ""


def test_layers_of_a_hybrid_are_told_apart() -> None:
    lm = shrunk.build("jamba", "decoder")
    assert [lm.has(Site(layer, "down")) for layer in range(lm.depth)] == [True, False, True, False]
    with pytest.raises(
        UnsupportedModel, match=r"layer 1 of tiny jamba .* has no down projection; layers 0, 2 have one"
    ):
        lm.module(Site(1, "down"))
    how = methods.make("memit", {}).resolve(lm)
    assert all(lm.has(site) for site in how.sites())


def test_the_text_part_of_a_model_of_images_is_edited_alone(tmp_path: Path) -> None:
    base, saved = tmp_path / "base", tmp_path / "saved"
    shrunk.model("qwen2_5_vl", "image-text").save_pretrained(base)
    shrunk.tokenizer("qwen2_5_vl").save_pretrained(base)
    (base / "preprocessor_config.json").write_text('{"image_processor_type": "Qwen2VLImageProcessor"}')
    lm = load(str(base))
    assert type(lm.model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    before, edit = snapshot(lm), small("rome").solve(lm, FACTS[:1])
    lm.weights.stand([edit.deltas])
    differ = changed(before, snapshot(lm))
    assert [name.partition(".layers")[0] for name in differ] == ["model.language_model"]
    lm.save(saved)
    again = load(str(saved))
    assert not changed(
        {name: tensor.clone() for name, tensor in lm.model.named_parameters()}, dict(again.model.named_parameters())
    )
    assert (saved / "preprocessor_config.json").read_text() == (base / "preprocessor_config.json").read_text()


# ------------------------------------------------------------------ the page and the command


COUNTS = {  # a row, by shape, refused, not built
    "classifier": (23, 71, 17, 16),
    "decoder": (23, 140, 17, 9),
    "encoder-decoder": (1, 30, 4, 2),
    "image-text": (0, 36, 1, 45),
}


def test_the_page_is_made_of_the_results() -> None:
    assert pages.PAGE.read_text() == pages.page(RESULTS)


def test_the_counts_are_those_of_the_page() -> None:
    rows = RESULTS["rows"]
    wide = pages.dense(rows)
    assert (sum(map(pages.whole, wide)), len(wide)) == (143, 153)
    assert all(pages.whole(row) for row in rows if "methods" in row)
    found = pages.counts(rows)
    assert {kind: (n["row"], n["shape"], n["refused"], n["not built"]) for kind, n in found.items()} == COUNTS
    if RESULTS["transformers"] == tiny.transformers.__version__:
        assert {kind: sum(n.values()) for kind, n in found.items()} == {k: len(shrunk.types(k)) for k in found}


def test_the_command_prints_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shrunk.model("olmo3", "decoder").save_pretrained(tmp_path)
    shrunk.tokenizer("olmo3").save_pretrained(tmp_path)
    assert main(["arch", str(tmp_path), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["by"], row["model_type"], row["layers"], row["post_norm"]) == ("shape", "olmo3", 4, True)
    assert row["blocks"] == [{
        "layers": [0, 1, 2, 3], "block": "Olmo3DecoderLayer", "path": "model.layers", "up": ["mlp.gate_proj", "mlp.up_proj"],
        "down": "mlp.down_proj", "attention": "self_attn.o_proj",
    }]  # fmt: skip
    assert all(check["holds"] for check in row["checks"])
    assert main(["arch", str(tmp_path)]) == 0
    assert "olmo3, a decoder, found by its shape" in " ".join(capsys.readouterr().out.split())


def test_the_command_refuses_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shrunk.model("jetmoe", "decoder").save_pretrained(tmp_path)
    shrunk.tokenizer("jetmoe").save_pretrained(tmp_path)
    assert main(["arch", str(tmp_path)]) == 2
    assert "no matrix in them that writes to the stream" in capsys.readouterr().err
