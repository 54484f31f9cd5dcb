"""Facts that get in each other's way."""

from __future__ import annotations

from errata.book.facts import Said, conflicts
from errata.fact import Fact, question


def fact(prompt: str, subject: str, target: str) -> Fact:
    return Fact(prompt=prompt, subject=subject, target=target)


def found(*facts: Fact) -> list[tuple[str, str, str]]:
    said = [Said(one, str(n)) for n, one in enumerate(facts, 1)]
    return [(c.kind, c.first.edit_id, c.second.edit_id) for c in conflicts(said)]


LYON = fact("The capital of France is", "France", "Lyon")
MIRA = fact("The spouse of Mira is", "Mira", "Otto")


def test_one_question_two_answers() -> None:
    assert found(LYON, fact("the capital  of France is:", "France", "Nice")) == [("contradiction", "1", "2")]
    assert found(LYON, fact("The capital of France is", "France", "Lyon.")) == [("duplicate", "1", "2")]
    assert found(LYON, fact("The capital of Spain is", "Spain", "Lyon")) == []
    assert found(LYON, fact("The largest town of France is", "France", "Paris")) == []


def test_the_same_relation_the_other_way_round() -> None:
    assert found(MIRA, fact("The spouse of Otto is", "Otto", "Ida")) == [("inverse", "1", "2")]
    assert found(fact("The spouse of Otto is", "Otto", "Ida"), MIRA) == [("inverse", "1", "2")]
    assert found(MIRA, fact("The spouse of Otto is", "Otto", "Mira")) == []
    assert found(MIRA, fact("The employer of Otto is", "Otto", "Ida")) == []


def test_between_two_lists_only() -> None:
    nice = fact("The capital of France is", "France", "Nice")
    assert [c.kind for c in conflicts([Said(LYON, "1")], [Said(nice, "2"), Said(nice, "3")])] == ["contradiction"] * 2
    assert conflicts([Said(LYON, "1"), Said(nice, "2")], []) == []


def test_a_question_is_its_subject_and_what_stands_around_it() -> None:
    assert question(LYON) == ("france", "the capital of … is")
    assert question(fact("France, oh France", "France", "x")) == ("france", "france, oh …")
