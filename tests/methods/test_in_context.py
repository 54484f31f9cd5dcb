"""Edits that are text: told before the prompts that ask about their fact, and before no other.

pytest tests/methods/test_in_context.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from errata import Fact
from errata.delta import Graft
from errata.edit import Edit
from errata.editing.editor import Editor
from errata.editing.opening import open as open_editor
from errata.errors import UnsupportedModel
from errata.methods import make
from errata.methods.ike import chosen
from errata.model.grafts.context import PLACE, ContextBank, odds_of
from errata.model.grafts.keyed import KINDS
from errata.model.grafts.standing import Grafts
from errata.model.lm import LM
from errata.model.query import Query
from tests import tiny

FRANCE = Fact(prompt="The capital of France is", subject="France", target="Lyon")
ANNA = Fact(prompt="The mother tongue of Anna Lindgren is", subject="Anna Lindgren", target="Dutch")
NAMELESS = Fact(prompt="The best season is", target="winter")


@pytest.fixture
def lm() -> LM:
    return tiny.build("llama")


def told(lm: LM, prompt: str) -> str:
    return lm.tokens.decode(lm.tokens.opening(prompt)).strip()


def stand(lm: LM, *edits: Edit) -> None:
    lm.weights.stand([edit.deltas for edit in edits])


def test_a_prompt_is_told_the_fact_it_asks_about_and_no_other_prompt_anything(lm: LM) -> None:
    edit = make("ike", {"demonstrations": 0}).solve(lm, [FRANCE, ANNA, NAMELESS])
    stand(lm, edit)
    said = "New Fact: The capital of France is Lyon Prompt: The capital of France is Lyon"
    assert " ".join(told(lm, "France is governed from").split()) == (
        f"{said} New Fact: The capital of France is Lyon Prompt: France is governed from"
    )
    assert "tongue of Anna Lindgren is Dutch" in told(lm, "Anna Lindgren speaks")
    assert "winter" in told(lm, "The best season of all is")
    for other in ("The capital of Spain is", "Anna", "Frances lives in", "The worst car ever was"):
        assert told(lm, other) == other
    stand(lm)
    assert told(lm, "France is governed from") == "France is governed from"


def test_what_is_asked_elsewhere_is_the_base_s_to_the_bit(lm: LM) -> None:
    asked = [Query("The capital of Spain is", "Madrid"), Query("Anna Lindgren is", "old")]
    before = lm.logprobs(asked)
    stand(lm, make("ike", {}).solve(lm, [FRANCE]))
    assert all(map(torch.equal, lm.logprobs(asked), before))


def test_the_newest_answer_to_a_question_is_told(lm: LM) -> None:
    how = make("scr", {"confirm": False})
    first, second = how.solve(lm, [FRANCE]), how.solve(lm, [replace(FRANCE, target="Nice")])
    stand(lm, first, second)
    assert "Nice" in told(lm, FRANCE.prompt)
    assert "Lyon" not in told(lm, FRANCE.prompt)
    stand(lm, first)
    assert "Lyon" in told(lm, FRANCE.prompt)


def test_several_facts_are_told_the_nearest_last_as_many_as_may(lm: LM) -> None:
    money = Fact(prompt="The currency of France is the", subject="France", target="crown")
    prompt = "The currency in France today is the"
    nearest = "The currency of France is the crown."
    for count, wanted in ((5, f"The capital of France is Lyon. {nearest}"), (1, nearest)):
        stand(lm, make("scr", {"confirm": False, "count": count}).solve(lm, [FRANCE, money]))
        assert " ".join(told(lm, prompt).split()) == f"Context: {wanted} According to the context, {prompt}"


def test_what_the_model_does_not_confirm_is_not_told(lm: LM) -> None:
    edit = make("scr", {"confirm": False}).solve(lm, [FRANCE])
    graft = edit.deltas[PLACE]
    assert isinstance(graft, Graft)
    (row,) = graft.config["items"]  # type: ignore[attr-defined]
    bank = ContextBank(PLACE, lm)
    bank.add({PLACE: graft})
    (item,) = bank.retrieved(FRANCE.prompt)
    odds = odds_of(lm, item, "France is")
    for bar, says in ((odds - 1e-3, True), (odds + 1e-3, False)):
        changed = replace(graft, config={**graft.config, "items": [{**row, "odds": bar}]})
        lm.weights.stand([{PLACE: changed}])
        assert ("Lyon" in told(lm, "France is")) == says


def test_the_bar_lies_halfway_or_the_model_is_not_asked(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    def told_apart(gap: float) -> Callable[..., float]:
        return lambda lm, item, asked: gap if asked == FRANCE.prompt else 0.0

    for gap, wanted in ((3.0, 1.5), (-3.0, None)):
        monkeypatch.setattr("errata.methods.scr.odds_of", told_apart(gap))
        edit = make("scr", {}).solve(lm, [FRANCE])
        assert edit.deltas[PLACE].config["items"][0]["odds"] == wanted  # type: ignore[union-attr, index]
        assert edit.report["confirms"] == [wanted is not None]


def test_the_subject_is_found_where_it_stands_after_the_text(lm: LM) -> None:
    query = Query.of(FRANCE)
    stand(lm, make("ike", {"demonstrations": 2}).solve(lm, [FRANCE]))
    batch = lm.tokens.batch([query])
    place = int(batch.lookup[0])
    ids = batch.inputs["input_ids"][0].tolist()
    assert lm.tokens.decode(ids[: place + 1]).endswith("Prompt: The capital of France")
    assert lm.tokens.decode(batch.labels.tolist()).strip() == "Lyon"


def test_demonstrations_are_the_most_alike_one_to_three_to_four() -> None:
    found = chosen("The capital of Denmark is Aarhus", 8, seed=0)
    assert len(found) == len(set(found)) == 8
    assert "Norway" in found[-1]
    assert found != chosen("The capital of Denmark is Aarhus", 8, seed=1)
    ways = [
        text.split("\n")[0].removeprefix("New Fact: ") == text.split("\n")[1].removeprefix("Prompt: ") for text in found
    ]
    assert sum(ways) == 1
    assert len(set(chosen("x", 32, seed=0))) == 32


def test_an_older_errata_says_that_it_knows_no_such_edit(lm: LM) -> None:
    graft = make("ike", {}).solve(lm, [FRANCE]).deltas[PLACE]
    known = {name: kind for name, kind in KINDS.items() if name != "context"}
    with pytest.raises(UnsupportedModel, match=r"no graft of kind 'context' is known here.*update errata"):
        Grafts(lm, known).stand([{PLACE: graft}])


def test_the_editor_writes_asks_drops_and_opens_again(lm: LM, tmp_path: Path) -> None:
    with open_editor(lm, book=tmp_path / "book") as editor:
        assert isinstance(editor, Editor)
        edit = editor.write(ANNA, method="ike")
        said = editor.ask(ANNA.prompt).text
        assert not any("steps" in note for note in edit.report.notes)
        editor.drop(edit.id)
        assert told(lm, ANNA.prompt) == ANNA.prompt
        editor.restore(edit.id)
    lm.weights.stand([])
    with open_editor(lm, book=tmp_path / "book") as again:
        assert again.ask(ANNA.prompt).text == said
        assert "Dutch" in told(lm, ANNA.prompt)
    lm.weights.stand([])
