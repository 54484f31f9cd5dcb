"""Where a fact is kept, as data and as a picture.

pytest tests/editing/test_locate.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from errata.delta import Site
from errata.editing.editor import Editor
from errata.editing.locate import Located, locate, trace_all
from errata.editing.opening import open as open_editor
from errata.errors import BadConfig, BadFact, InputError, UnsupportedModel
from errata.fact import Fact
from errata.methods.kne import Kne
from errata.methods.memit import Memit
from errata.methods.rome import Rome
from errata.stats.remembered_layer import forget, remember, remembered

ASKED = {"prompt": "Anna Lindgren was born in", "subject": "Anna Lindgren", "target": "Paris"}


@pytest.fixture
def editor(models: Callable[[str], Any], tmp_path: Path) -> Iterator[Editor]:
    with open_editor(models("llama"), book=tmp_path / "book") as opened:
        yield opened


def test_the_ensemble_as_data(editor: Editor) -> None:
    found = locate(editor, **ASKED, p=0.1)
    data = json.loads(json.dumps(found.to_dict()))
    lm = editor.lm
    scores, chosen = Kne(layers="all", p=0.1).resolve(lm).locate(lm, [Fact(**ASKED)])
    for layer in range(lm.depth):
        site = Site(layer, "down")
        assert data["ensemble"][str(layer)]["index"] == chosen[site].nonzero()[:, 0].tolist()
        torch.testing.assert_close(torch.tensor(data["map"][str(layer)]), scores[site], rtol=1e-3, atol=0)
    assert data["size"] == sum(len(part["index"]) for part in data["ensemble"].values()) == 12
    assert sum(data["share"].values()) == pytest.approx(1, abs=1e-3)
    assert data["share"][str(found.layer)] == max(data["share"].values())
    assert (data["method"], data["target"], data["inner"]) == ("kne", "Paris", lm.inner)


def test_entries_are_shown_by_their_columns(editor: Editor) -> None:
    data = locate(editor, **ASKED, p=0.05, granularity="element").to_dict()
    assert data["candidates"] == 3 * 24 * 40
    assert all(len(row) == 40 for row in data["map"].values())


def test_the_trace_as_data(editor: Editor) -> None:
    found = locate(editor, **ASKED, method="trace", samples=2)
    data = json.loads(json.dumps(found.to_dict()))
    first, last = data["subject"]
    assert "".join(data["tokens"][first : last + 1]).strip() == "Anna Lindgren"
    assert set(data["effect"]) == {"block", "mlp", "attention"}
    for effect in data["effect"].values():
        assert len(effect) == len(data["tokens"])
        assert all(len(row) == editor.lm.depth for row in effect)
    mlp = data["effect"]["mlp"][last]
    assert found.layer == mlp.index(max(mlp))
    found.remember(editor)
    assert remembered(editor.lm) == found.layer


def test_without_a_target_it_is_what_the_model_says(editor: Editor) -> None:
    asked = {k: v for k, v in ASKED.items() if k != "target"}
    said = editor.ask(ASKED["prompt"], max_new_tokens=8, top=0).text.strip(" .,:;\"'")
    assert locate(editor, **asked).fact.target == said


@pytest.mark.parametrize("method", ["kne", "trace"])
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_picture(method: Any, kind: str, editor: Editor, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = locate(editor, **ASKED, method=method)
    one, two = (found.draw(tmp_path / f"{name}.{kind}").read_bytes() for name in "ab")
    assert one == two
    if kind == "svg":
        assert b"Paris" in one
        assert b"layer" in one
    else:
        assert one.startswith(b"\x89PNG")


def test_what_cannot_be_located_is_our_error(editor: Editor, models: Callable[[str], Any], tmp_path: Path) -> None:
    with pytest.raises(BadFact):
        locate(editor, "Anna was born in", "Bruno", "Paris")
    with pytest.raises(InputError, match="kne or trace"):
        locate(editor, **ASKED, method="feeling")  # type: ignore[arg-type]
    with pytest.raises(BadConfig, match="samples"):
        locate(editor, **ASKED, method="trace", sample=2)
    with pytest.raises(BadConfig):
        locate(editor, **ASKED, q=2)
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        Located("kne", Fact(**ASKED), {}).draw(tmp_path / "found.pdf")
    with open_editor(models("bert"), book=tmp_path / "bert") as other, pytest.raises(UnsupportedModel):
        locate(other, **ASKED)


def test_without_matplotlib_it_says_what_to_install(
    editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"errata-lm\[plot\]"):
        locate(editor, **ASKED).draw(tmp_path / "found.png")


def test_the_mean_trace_of_facts_names_the_layer_methods_start_from(editor: Editor) -> None:
    facts = [Fact(**ASKED), Fact(prompt="Ben Okri lives in", subject="Ben Okri", target="Oslo", truth="Rome")]
    found = trace_all(editor, facts, samples=2)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["facts"] == 2
    assert data["tokens"][data["subject"][1]] == "last subject token"
    for layer in (1, 2):
        remember(editor.lm, layer)
        assert Rome().resolve(editor.lm).layer == Memit().resolve(editor.lm).layers[-1] == layer
    forget(editor.lm)
    with pytest.raises(InputError, match="no facts"):
        trace_all(editor, [])
