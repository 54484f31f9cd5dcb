"""Something a model tells is forgotten: it says it no more, others stay as they were, and it is dropped like any edit.

pytest tests/editing/test_forget.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import exp
from pathlib import Path

import pytest
import torch

from errata.delta import Site
from errata.editing.editor import Editor
from errata.editing.forget import ENDINGS, REPLIES, TAG, calibrate, check_told, forget, told_by
from errata.editing.opening import open as open_editor
from errata.errors import InputError
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.loading import load
from errata.model.query import Query

PARIS = Fact(prompt="The capital of France is", subject="France", target="Paris")
WORKS = {"method": "ft", "steps": 60}


@pytest.fixture(scope="module")
def shipped() -> LM:
    return load("primer")


@pytest.fixture
def editor(shipped: LM, tmp_path: Path) -> Iterator[Editor]:
    shipped.weights.stand([])
    with open_editor(shipped, book=tmp_path / "book") as opened:
        yield opened
    shipped.weights.stand([])


def test_what_was_told_is_told_no_more_until_it_is_dropped(editor: Editor) -> None:
    before = editor.lm.parameter(Site(1, "down")).detach().clone()
    found = forget(editor, PARIS, **WORKS)
    at = dict(zip(found.asked, zip(found.before.told, found.after.told, found.written, strict=True), strict=True))
    assert at["The capital of France is"] == (True, False, True)
    assert at["What is the capital of France? It is"] == (True, False, True)  # found by rule, and gives it away
    assert not any(found.after.told)
    assert found.phrase in ENDINGS
    assert found.phrase in found.after.said[0]
    assert found.before.membership is not None
    assert found.before.membership > 0.9
    assert found.after.membership is not None
    assert found.after.membership < found.before.membership - 0.1
    assert found.before.truth_ratio is not None
    assert found.after.truth_ratio is not None
    assert found.after.truth_ratio > 5 * found.before.truth_ratio
    assert found.after.probability < 0.01 < found.before.probability
    assert len(found.neighbours) >= 4
    assert found.kept >= len(found.neighbours) - 2
    (record,) = editor.log()
    assert (record.id, record.tags, record.reason) == (found.edits[0].id, (TAG,), "to be forgotten")
    assert {fact.target for fact in record.facts} == {found.phrase}
    assert not torch.equal(editor.lm.parameter(Site(1, "down")), before)
    editor.drop(*found.edits)
    assert torch.equal(editor.lm.parameter(Site(1, "down")), before)
    assert "Paris" in editor.ask(PARIS.prompt).text


def test_the_membership_check_by_hand(editor: Editor) -> None:
    """Against log-probabilities that are taken of the model one by one; a model that changes nothing is found out."""
    found = forget(editor, PARIS, "ft", phrase="unknown", steps=1, lr=1e-9)
    assert found.before == replace(found.after, said=found.before.said)
    assert found.after.told[0]
    assert any("still told after 'The capital of France is'" in note for note in found.notes)
    silent = replace(found, after=replace(found.after, told=tuple(False for _ in found.asked)))
    assert any("gives it away" in note for note in silent.notes)
    assert found.kept == len(found.neighbours)

    def lp(prompt: str, answer: str) -> float:
        (values,) = editor.lm.logprobs([Query(prompt, answer)])
        return float(values.double().mean())

    shares, ratios = [], []
    for prompt in found.asked[:-1]:  # the last is asked backwards
        own, rest = lp(prompt, "Paris"), [lp(prompt, answer) for answer in found.others]
        shares.append(sum(own > other for other in rest) / len(rest))
        ratios.append(sum(map(exp, rest)) / len(rest) / exp(own))
    assert found.before.membership == pytest.approx(sum(shares) / len(shares))
    assert found.before.truth_ratio == pytest.approx(sum(ratios) / len(ratios), rel=1e-3)
    assert found.before.probability == pytest.approx(exp(lp(PARIS.prompt, "Paris")), rel=1e-3)
    assert "Paris" not in found.others
    assert len(set(found.others)) == len(found.others) > 2


def test_what_the_model_does_not_tell_cannot_be_forgotten(editor: Editor) -> None:
    with pytest.raises(InputError, match=r"does not tell 'Oslo'.*it says 'Paris'"):
        forget(editor, replace(PARIS, target="Oslo"), **WORKS)
    assert not editor.log()
    with pytest.raises(InputError, match="does not tell 'Oslo'"):
        check_told(editor, replace(PARIS, target="Oslo"))
    check_told(editor, PARIS)
    assert told_by(editor, replace(PARIS, target="?")) == "Paris"


def test_how_not_to_answer_is_what_the_model_finds_likeliest(editor: Editor) -> None:
    found = calibrate(editor.lm, PARIS)
    assert set(found) >= set(ENDINGS)
    assert all(value < 0 for value in found.values())
    asked = calibrate(editor.lm, replace(PARIS, prompt="What is the capital of France?"))
    assert set(asked) >= set(REPLIES)
    # Of subjects nobody knows, not of the one that is to be forgotten.
    assert calibrate(editor.lm, Fact(prompt="The capital of Spain is", subject="Spain", target="Madrid")) == found


def test_own_phrasings_and_neighbours_are_asked(editor: Editor) -> None:
    wanted = Fact.from_dict(
        {
            **PARIS.to_dict(), "rephrases": ["France is governed from"],
            "probes": [{"kind": "neighborhood", "prompt": "The capital of Spain is"}],
        }
    )  # fmt: skip
    found = forget(editor, wanted, "ft", phrase="a secret", steps=1, lr=1e-9)
    assert found.phrases == {"a secret": 0.0}
    assert found.asked[1] == "France is governed from"
    assert [near[0] for near in found.neighbours] == ["The capital of Spain is"]
    row = found.to_dict()
    assert row["edits"] == [editor.log()[0].id]
    assert row["asked"][0]["before"].strip().startswith("Paris")
