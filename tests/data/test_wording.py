"""Prompts in other words, by rule.

pytest tests/data/test_wording.py
"""

from __future__ import annotations

import pytest

from errata.data import wording
from errata.data.common import relations


@pytest.mark.parametrize(
    ("prompt", "subject", "wanted"),
    [
        ("The capital of France is", "France", "The capital of France is not"),
        ("The currency of Gabon is the", "Gabon", "The currency of Gabon is not the"),
        ("Bo Reed was born in", "Bo Reed", "Bo Reed was not born in"),
        ("Bo Reed plays the", "Bo Reed", "It is not true that Bo Reed plays the"),
        ("In France, people pay with the", "France", "It is not true that in France, people pay with the"),
        (
            "Was Not Was recorded for",
            "Was Not Was",
            "It is not true that Was Not Was recorded for",
        ),  # a name's own verb
        ("Where was Bo Reed born?", "Bo Reed", "Give an answer that is wrong. Where was Bo Reed born?"),
        ("What does Bo do? It is", "Bo", "What does Bo do? It is not"),
        ("Paris is", "", "Paris is not"),
    ],
)
def test_denied(prompt: str, subject: str, wanted: str) -> None:
    assert wording.negated(prompt, subject) == wanted


@pytest.mark.parametrize(
    ("prompt", "subject", "wanted"),
    [
        ("The capital of France is", "France", "Lyon is the capital of"),
        ("The currency of Gabon is the", "Gabon", "The Lyon is the currency of"),
        ("The headquarters of Aldo (UK) is in", "Aldo (UK)", "In Lyon is the headquarters of"),
        ("France's capital is", "France", "Lyon is the capital of"),
        ("What is the capital of France?", "France", "Lyon is the capital of"),
        ("Bo Reed was born in", "Bo Reed", "The one that was born in Lyon is"),
        ("The town of Oak is located in", "Oak", 'In "The town of ___ is located in Lyon", what is left out is'),
        ("Where was Bo born?", "Bo", 'In "Where was ___ born? Lyon", what is left out is'),
    ],
)
def test_asked_backwards(prompt: str, subject: str, wanted: str) -> None:
    assert wording.reverse(prompt, subject, "Lyon") == wanted


def test_turned_round_asks_for_the_same_and_names_the_subject() -> None:
    turned = wording.reworded("The capital of France is", "France")
    assert turned == ("France's capital is", "What is the capital of France? It is")
    assert wording.reworded(turned[0], "France") == ("The capital of France is",)  # and back
    assert wording.reworded(turned[1].removesuffix(" It is"), "France") == ("The capital of France is",)
    for prompt in ("Bo Reed plays the", "In Bo Reed one finds", "Where was Bo Reed born?"):
        assert all("Bo Reed" in text and text != prompt for text in wording.reworded(prompt, "Bo Reed"))


@pytest.mark.parametrize(
    ("prompt", "subject", "wanted"),
    [
        ("Where was Bo Reed born? It was in", "Bo Reed", "Where was Bo Reed born?"),
        ("The capital of Oak is", "Oak", "What is the capital of Oak?"),
        ("Oak's capital is the city of", "Oak", "What is the capital of Oak?"),  # the table of public facts
        ("The colours of Oak are", "Oak", "What are the colours of Oak?"),
        ("Oak's owner is", "Oak", "What is the owner of Oak?"),
        ("Oak, by", "Oak", ""),
        ("It rains in", "", ""),
    ],
)
def test_asked_as_a_question(prompt: str, subject: str, wanted: str) -> None:
    assert wording.question(prompt, subject) == wanted


def test_relations_of_counterfact_are_asked_by_their_number() -> None:
    assert wording.of_relation("P36", "Oak (city)") == "What is the capital of Oak (city)?"
    assert wording.of_relation("P0", "Oak") == wording.of_relation("", "Oak") == ""


def test_every_language_has_every_relation_and_asks_of_the_subject() -> None:
    names = {relation.name for relation in relations()}
    for language, labels in wording.languages().items():
        assert labels.keys() == names
        assert len(wording.known_in(language)) >= 5
        for relation in relations():
            asked = wording.translated(relation.asked("Oslo (city)")[0], "Oslo (city)", language)
            assert "Oslo (city)" in asked
            assert asked == wording.translated(
                relation.questions[0].replace("{}", "Oslo (city)"), "Oslo (city)", language
            )
    assert wording.translated("The capital of France is", "France", "French") == "Pays : France. Capitale :"
    assert not wording.translated("Bo Reed plays the", "Bo Reed", "French")
    assert not wording.translated("Paris is", "", "French")
