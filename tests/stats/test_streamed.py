"""Texts that the library `datasets` streams: a directory of its kind, read as a file with the same texts is.

make test-datasets, or pytest tests/stats/test_streamed.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from errata.delta import Site
from errata.errors import BadConfig, BadFile
from errata.stats import streamed
from errata.stats.corpus import open_corpus
from errata.stats.store import second_moments
from tests import tiny

TEXTS = [f"Anna Lindgren of house {number} lives in Oslo." for number in range(40)]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def made(folder: Path, split: str = "train", texts: list[str] = TEXTS, field: str = "text") -> str:
    folder.mkdir(exist_ok=True)
    rows = (json.dumps({field: text, "number": number}) for number, text in enumerate(texts))
    (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return f"datasets:{folder}"


def test_what_is_streamed_is_what_a_file_would_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    name, lm = made(tmp_path / "set", texts=[*TEXTS, "  "]), tiny.build("llama")
    made(tmp_path / "set", "test", ["It sets in the west."])
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    corpus = open_corpus(name)
    assert list(corpus.documents(lm)) == TEXTS
    assert list(open_corpus(f"{name}::test").documents(lm)) == ["It sets in the west."]
    site = Site(0, "down")
    one, other = (second_moments(lm, [site], each, 300)[site] for each in (name, str(file)))
    assert torch.equal(one, other)
    with monkeypatch.context() as gone:
        gone.setattr(streamed, "revision", None)
        assert torch.equal(second_moments(lm, [site], name, 300)[site], one), "a hub is asked once"
    made(tmp_path / "set", texts=[*TEXTS, "The sun rises."])
    assert open_corpus(name).revision != corpus.revision


@pytest.mark.parametrize(
    ("suffix", "said"),
    [("::no", "cannot be read"), (":other", "cannot be read"), (":::x", "names no data set"), ("x", "cannot be read")],
)
def test_what_is_no_data_set_is_one_sentence(tmp_path: Path, suffix: str, said: str) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(BadFile, match=said) as found:
        open_corpus(made(tmp_path / "set") + suffix)
    assert "\n" not in str(found.value)


def test_a_data_set_without_texts_is_told(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(BadFile, match=r"no texts in a field 'text': it has words, number"):
        open_corpus(made(tmp_path / "set", field="words"))
    with pytest.raises(BadFile, match=r"names no data set"):
        open_corpus("datasets:")


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadConfig, match=r"pip install 'errata-lm\[datasets\]'"):
        streamed.revision("datasets:somebody/something")
