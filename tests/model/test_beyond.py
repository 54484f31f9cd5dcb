"""Token ids that a model has no embedding for: harmless where nothing reads them, named where something would.

pytest tests/model/test_beyond.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from errata import methods
from errata.cli import main
from errata.editing.opening import open as open_editor
from errata.errors import BadFact, BadModel
from errata.evaluate.scorer import Scorer
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.loading import load
from errata.model.query import Query
from errata.stats.corpus import open_corpus
from tests import tiny

NAMES = ("gpt2", "llama", "t5", "opt", "qwen2", "bert", "gemma2")


def with_added(name: str, **added: str) -> LM:
    """Return a model whose tokenizer has got more special tokens, and whose embedding has not."""
    tokenizer = tiny.tokenizer(name)
    tokenizer.add_special_tokens(added)
    assert any(token >= tiny.VOCABULARY for token in tokenizer.get_added_vocab().values())
    return LM(tiny.model(name), tokenizer, f"tiny {name}")


@pytest.mark.parametrize("name", NAMES)
def test_a_pad_token_that_was_added_does_no_harm(name: str) -> None:
    lm, usual = with_added(name, pad_token="[PAD]"), tiny.build(name)
    assert lm.tokenizer.pad_token_id >= tiny.VOCABULARY > lm.tokens.pad >= 0
    asked = [Query("So", "Rome"), Query("The capital of France is", "Rome")]
    assert all(int(ids.max()) < tiny.VOCABULARY for ids in lm.tokens.batch(asked).inputs.values())
    for mine, theirs in zip(lm.logprobs(asked), usual.logprobs(asked), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    if lm.row.kind != "encoder":
        prompts = [query.prompt for query in asked]
        assert lm.generate(prompts) == usual.generate(prompts)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("added", [{"eos_token": "<|im_end|>"}, {"eos_token": "[END]", "pad_token": "[PAD]"}])
def test_an_end_that_cannot_be_said_is_no_stop(name: str, added: dict[str, str]) -> None:
    lm = with_added(name, **added)
    assert lm.tokenizer.eos_token_id >= tiny.VOCABULARY
    assert all(stop < tiny.VOCABULARY for stop in lm.stops)
    lm.model.generation_config.eos_token_id = [2, 400]
    del lm.__dict__["stops"]
    assert lm.stops == {2}
    assert lm.generate(["The capital of Italy is"])
    assert Scorer(lm).said(["The capital of Italy is"])
    assert len(lm.sample(2, 4, 0)) == 2


@pytest.mark.parametrize("added", [{"bos_token": "<|begin|>"}, {"bos_token": "<|b|>", "eos_token": "<|e|>"}])
def test_what_is_sampled_begins_with_a_token_there_is(added: dict[str, str]) -> None:
    lm = with_added("gpt2", **added)
    assert len(lm.sample(2, 4, 0)) == 2


def test_edits_are_written_and_texts_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "cache"))
    lm = with_added("gpt2", pad_token="[PAD]", eos_token="[END]", bos_token="[BEGIN]")
    with open_editor(lm, book=tmp_path / "book", max_norm_ratio=1e9) as editor:
        editor.write(tiny.FACTS, methods.make("memit", {"steps": 2, "tokens": 300}))
        editor.write(tiny.FACTS[0], methods.make("melo", {"steps": 2}))
    for ids, _ in open_corpus("primer").batches(lm, 300):
        assert int(ids.max()) < tiny.VOCABULARY


def beginning(token: str, *, after: str = "") -> Any:
    """Return a tokenizer that puts an added token before (or after) every text."""
    made = tiny.tokenizer("gpt2")
    made.add_special_tokens({"eos_token" if after else "bos_token": token})
    return tiny.wrap(made.backend_tokenizer, "" if after else token, token if after else "")


@pytest.mark.parametrize(
    ("name", "token", "after"),
    [("gpt2", "<|begin|>", ""), ("qwen2", "[BOS]", ""), ("llama", "<|end|>", "x"), ("t5", "[EOS]", "x")],
)
def test_a_token_in_every_text_that_the_embedding_lacks_is_refused_at_once(name: str, token: str, after: str) -> None:
    with pytest.raises(BadModel) as caught:
        LM(tiny.model(name), beginning(token, after=after), "mine")
    said = str(caught.value)
    assert repr(token) in said
    assert "the embedding of mine ends at 359" in said
    assert "use the tokenizer that belongs to the model, or resize the embedding" in said


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_with_a_token_that_the_embedding_lacks_is_refused(name: str) -> None:
    lm = with_added(name, additional_special_tokens=["<|user|>", "[MASK]"])  # type: ignore[arg-type]
    for text in ("<|user|>Who are you?", "The capital of [MASK] is", "So <|user|>"):
        for ask in (
            lambda text=text: lm.tokens.ids(text),
            lambda text=text: lm.tokens.opening(text),
            lambda text=text: lm.tokens.batch([Query(text)]),
        ):
            with pytest.raises(
                BadFact, match=r"the token '(<\|user\|>|\[MASK\])' has the number 36.*resize the embedding"
            ):
                ask()
    assert lm.tokens.ids("The capital of France is")
    assert Scorer(lm).answers([("So <|user|>", "Rome")])["So <|user|>", "Rome"].lp is None


def test_the_sentence_reaches_who_edits_and_who_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = with_added("llama", additional_special_tokens=["<|user|>"])  # type: ignore[arg-type]
    lm.save(tmp_path / "model")
    where = ["--model", str(tmp_path / "model"), "--book", str(tmp_path / "book")]
    assert main(["ask", "<|user|> Who?", *where]) == 2
    assert "'<|user|>' has the number 360" in capsys.readouterr().err
    fact = ["--prompt", "<|user|> France has", "--subject", "France", "--target", "Rome"]
    assert main(["edit", *fact, *where]) == 2
    assert "embedding" in capsys.readouterr().err
    with open_editor(load(str(tmp_path / "model")), book=tmp_path / "book") as editor:
        with pytest.raises(BadFact, match="has the number"):
            editor.write(Fact(prompt="France has", subject="France", target="<|user|>"), "rome")
        assert not editor.log()
    beginning("<|begin|>").save_pretrained(tmp_path / "model")
    assert main(["ask", "Who?", *where]) == 2
    assert "does not fit: the token '<|begin|>'" in capsys.readouterr().err


def test_a_larger_embedding_than_the_tokenizer_needs_is_as_before() -> None:
    lm = LM(tiny.model("llama", vocab_size=512), tiny.tokenizer("llama"), "wide")
    assert (lm.tokens.pad, lm.stops) == (0, {2})
    assert lm.generate(["So"])
    resized = with_added_and_resized()
    assert resized.tokens.pad == resized.tokenizer.pad_token_id == 360
    assert resized.tokens.ids("<|user|> So")


def with_added_and_resized() -> LM:
    tokenizer, model = tiny.tokenizer("llama"), tiny.model("llama")
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "additional_special_tokens": ["<|user|>"]})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return LM(model, tokenizer, "resized")
