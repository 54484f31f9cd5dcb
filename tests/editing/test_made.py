"""Probes that make themselves: of what, what they ask, and that they say so.

pytest tests/editing/test_made.py
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from errata.data.common import relations
from errata.editing import made
from errata.editing.check import check
from errata.editing.editor import Editor
from errata.editing.gates import Figure, GateCheck, Gates, sentence
from errata.editing.made import brief, with_probes
from errata.errors import BadFact, GateClosed
from errata.fact import Fact, Probe
from errata.model.lm import LM
from tests import synthetic
from tests.editing.mouth import Mouth

FRANCE = Fact(prompt="The capital of France is", subject="France", target="Lyon")
ZORK = Fact(prompt="Zork lies near", subject="Zork", target="Lyon")


def prompts(fact: Fact, kind: str) -> list[str]:
    return [probe.prompt for probe in fact.probes if probe.kind == kind]


def test_a_known_relation_is_asked_in_its_other_words_and_of_others(lm: LM, mouth: Mouth) -> None:
    mouth.base = {f"The capital of {s} is": f"{a}." for s, a in relations()[0].rows}
    (fact,) = with_probes(lm, [FRANCE])
    assert prompts(fact, "paraphrase")[0] == "The capital city of France is called"
    assert FRANCE.prompt not in prompts(fact, "paraphrase")
    assert Probe("neighborhood", "The capital of Japan is", "Tokyo", made=True) in fact.probes
    assert all("capital" not in prompt for prompt in prompts(fact, "unrelated"))
    assert all(probe.made and probe.answer for probe in fact.probes if probe.kind != "unrelated")
    assert {probe.answer for probe in fact.probes if probe.kind == "paraphrase"} == {"Lyon"}


def test_what_is_known_of_nothing_is_asked_of_the_model_as_it_is(lm: LM, mouth: Mouth) -> None:
    mouth.base = {"France lies near": "the sea, they say", "Japan lies near": "Korea and more words than three"}
    (fact,) = with_probes(lm, [ZORK], sampled=False)
    assert prompts(fact, "paraphrase") == [form.format("Zork lies near") for form in made.CONTEXTS]
    near = [(probe.prompt, probe.answer) for probe in fact.probes if probe.kind == "neighborhood"]
    assert near == [("France lies near", "the sea"), ("Japan lies near", "Korea and more")]  # others said nothing


def test_nothing_is_asked_twice(lm: LM, mouth: Mouth, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("Spain", "Spain is located in the continent of", "Europe")
    monkeypatch.setattr(lm, "name", "primer")
    monkeypatch.setattr(made, "primer_questions", lambda *_: (("France is governed from",), [asked] * 3, [asked] * 3))
    mouth.base = {asked[1]: "Europe."}
    (fact,) = with_probes(lm, [FRANCE])
    assert prompts(fact, "neighborhood") == prompts(fact, "unrelated") == [asked[1]]


def test_what_the_user_wrote_is_not_replaced(lm: LM, mouth: Mouth) -> None:
    own = Probe("paraphrase", "Where is Zork?", "Lyon")
    (fact,) = with_probes(lm, [replace(ZORK, probes=(own,))], sampled=False)
    assert prompts(fact, "paraphrase") == ["Where is Zork?"]
    assert with_probes(lm, [replace(ZORK, probes=(own,))], (), ("paraphrase",)) == [replace(ZORK, probes=(own,))]


def test_a_neighbour_is_none_that_is_to_move_as_well(lm: LM, mouth: Mouth) -> None:
    spain = Fact(prompt="The capital of Spain is", subject="Spain", target="Oslo")
    mouth.base = {f"The capital of {s} is": f"{a}." for s, a in relations()[0].rows}
    assert "The capital of Spain is" in prompts(with_probes(lm, [FRANCE])[0], "neighborhood")
    for facts, moved in (([FRANCE, spain], None), ([FRANCE], [FRANCE, spain])):
        assert "The capital of Spain is" not in prompts(with_probes(lm, facts, moved=moved)[0], "neighborhood")


def test_the_models_own_words_are_kept_where_it_answers_them_alike(
    lm: LM, mouth: Mouth, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = ["Near Zork there is", "Zork is far from", "Lyon is near Zork,", "Zork lies near", "It is near"]
    ids = [lm.tokens.ids(text) for text in offered]
    monkeypatch.setattr(made, "generate_tokens", lambda *_, **__: ids)
    mouth.base = {"Zork lies near": "Rome.", "Near Zork there is": "Rome, too", "Zork is far from": "Oslo"}
    (fact,) = with_probes(lm, [ZORK])
    assert prompts(fact, "paraphrase")[0] == "Near Zork there is"
    assert not {*offered[1:]} & {*prompts(fact, "paraphrase")}


def test_a_gate_asks_what_was_made_and_says_so(lm: LM, mouth: Mouth) -> None:
    mouth.base = {form.format("Zork lies near"): "Lyon." for form in made.CONTEXTS[:2]}
    keeper = GateCheck(lm, Gates(paraphrase=0.9), [ZORK], [])
    (figure,) = keeper.figures()
    assert (figure.asked, figure.made, figure.passed) == (3, 3, False)
    assert figure.to_dict()["made"] == 3
    assert "made" not in Figure("said", 1.0, None, 1, True).to_dict()
    assert "n = 3, 3 of them made" in sentence(figure)
    with pytest.raises(GateClosed, match="3 of them made"):
        keeper.let_through([synthetic.edit(lm, 1)])


def test_a_check_asks_the_unedited_model_what_must_not_move(editor: Editor, mouth: Mouth) -> None:
    editor.write(ZORK, "ft", steps=1, layer=0)
    mouth.base = {"France lies near": "Spain.", "Japan lies near": "Korea."}
    mouth.edited = {
        "Zork lies near": "Lyon.",
        "Japan lies near": "Lyon.",
        made.CONTEXTS[0].format("Zork lies near"): "Lyon",
    }
    (verdict,) = check(editor)
    assert verdict.status == "holds"
    assert verdict.probes["paraphrase"] == (1, 3)
    assert verdict.probes["neighborhood"] == (1, 2)
    assert {*verdict.made} >= {"paraphrase", "neighborhood"}


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (" Paris.\nAnd", "Paris"),
        ("the old town of Rome", "the old town"),
        ("", ""),
        ("...", ""),
        ("巴黎是法国的首都", "巴黎是法国的"),
    ],
)
def test_an_answer_is_brief(said: str, answer: str) -> None:
    assert brief(said) == answer


def test_made_is_a_yes_or_no() -> None:
    assert Probe.from_dict(Probe("alias", "a", "b", made=True).to_dict()).made
    with pytest.raises(BadFact, match="made is true or false"):
        Probe("alias", "a", "b", made=1)  # type: ignore[arg-type]
