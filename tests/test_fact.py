"""Facts: what is accepted, where the subject stands, and when an answer counts as said."""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from errata.answers import says
from errata.errors import BadFact
from errata.fact import PROBE_KINDS, Fact, Probe, check_consistent, question

WORDS = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda text: bool(text.strip()) and "{}" not in text
)


def france(**changes: Any) -> Fact:
    return Fact(**{"prompt": "The capital of France is", "subject": "France", "target": "Lyon", **changes})


def test_a_fact_is_frozen_and_kept_to_the_character() -> None:
    fact = france(prompt="  The capital of France is \n", target=" Lyon ", rephrases=[" France's capital: "], joint="")
    assert (fact.prompt, fact.target) == ("  The capital of France is \n", " Lyon ")
    assert fact.rephrases == (" France's capital: ",)
    assert fact.prompt[slice(*fact.span)] == "France"
    assert Fact.from_dict(json.loads(json.dumps(fact.to_dict()))) == fact
    assert Probe("alias", " x\n", " y ") == Probe.from_dict(Probe("alias", " x\n", " y ").to_dict())
    with pytest.raises(BadFact, match="joint"):
        france(joint="-")
    with pytest.raises(dataclasses.FrozenInstanceError):
        fact.target = "Paris"  # type: ignore[misc]
    assert not hasattr(fact, "__dict__")


@pytest.mark.parametrize(
    ("prompt", "subject", "filled"),
    [
        ("The capital of {} is", "France", "The capital of France is"),
        ("{}", "France", "France"),
        ("In Python {} is a", "Python", "In Python {} is a"),  # the subject is there already: the braces are text
        ("Python's {} and {} are", "Python", "Python's {} and {} are"),
    ],
)
def test_braces_are_filled_with_the_subject(prompt: str, subject: str, filled: str) -> None:
    assert france(prompt=prompt, subject=subject).prompt == filled


@pytest.mark.parametrize(
    ("prompt", "subject", "span"),
    [
        ("The capital of France is", "France", (15, 21)),
        ("France: the capital of France is", "France", (23, 29)),  # the last one
        ("France, not Frances, nor OldFrance", "France", (0, 6)),
        ("NaNa is NaNaNa", "NaNa", (0, 4)),
        ("What does C++ do", "C++", (10, 13)),
        ("What does C++11 do", "C++", (10, 13)),  # its edge is no letter, so no boundary is asked for there
        ("Who leads the U.S.?", "U.S.", (14, 18)),
        ("Où est née Zoé ?", "Zoé", (11, 14)),
        ("L'Île-de-France est", "France", (9, 15)),
        ("法国的首都是", "法国", (0, 2)),
        ("프랑스의 수도는", "프랑스", (0, 3)),
        ("Paris是法国的首都", "Paris", (0, 5)),
        ("aa aaa aa b", "aa", (7, 9)),
    ],
)
def test_span_is_the_last_whole_occurrence(prompt: str, subject: str, span: tuple[int, int]) -> None:
    assert france(prompt=prompt, subject=subject).span == span


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"subject": "Spain"}, "'Spain' does not stand in the prompt"),
        ({"subject": "france"}, "upper and lower case"),
        ({"subject": "Franc"}, "part of a longer word"),
        (
            {"subject": "Zoe", "prompt": "Who is Zoe\u0308?"},
            "part of a longer word",
        ),  # the accent is a character of its own
        ({"subject": "France_", "prompt": "France_2 is"}, "part of a longer word"),
        ({"prompt": "{} borders {} in the", "subject": "Spain"}, "2 places"),
        ({"prompt": "x{} is", "subject": "Spain"}, "part of a longer word"),
        ({"prompt": " "}, "prompt is empty"),
        ({"subject": "\t"}, "subject is empty"),
        ({"target": ""}, "target is empty"),
        ({"target": "Ly\0on"}, "NUL"),
        ({"reason": "\udcff"}, "no valid Unicode"),
        ({"target": None}, "must be text, not NoneType"),
        ({"id": 3}, "id must be text, not int"),
        ({"rephrases": "France's capital"}, "rephrases must be a list"),
        ({"rephrases": ["x", " "]}, "rephrases is empty"),
        ({"probes": [3]}, "a probe must be an object"),
        ({"probes": [{"kind": "alias"}]}, "no 'prompt'"),
    ],
)
def test_bad_facts_say_why(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadFact, match=re.escape(words)):
        france(**changes)


def test_the_message_names_the_fact() -> None:
    with pytest.raises(BadFact, match="row-7"):
        france(target="", id="row-7")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("paraphrse", "p", "a"), "Did you mean paraphrase?"),
        (("alias", " ", "a"), "empty prompt"),
        (("alias", "p", 3), "must be text, not int"),
    ],
)
def test_bad_probes_say_why(values: tuple[Any, ...], words: str) -> None:
    with pytest.raises(BadFact, match=re.escape(words)):
        Probe(*values)


PROBES = st.builds(Probe, st.sampled_from(PROBE_KINDS), WORDS, st.one_of(st.just(""), WORDS))
FACTS = st.builds(
    lambda subject, **other: Fact(prompt=f"About {subject} : it is", subject=subject, **other),
    subject=WORDS.filter(lambda text: not unicodedata.category(text.strip()[0]).startswith("M")),
    target=WORDS,
    id=st.one_of(st.just(""), WORDS),
    truth=st.one_of(st.just(""), WORDS),
    rephrases=st.lists(WORDS, max_size=3),
    probes=st.lists(PROBES, max_size=3),
    source=st.one_of(st.just(""), WORDS),
    reason=st.one_of(st.just(""), WORDS),
)


@settings(deadline=None)
@given(FACTS)
def test_facts_survive_json(fact: Fact) -> None:
    row = json.loads(json.dumps(fact.to_dict()))
    assert Fact.from_dict(row) == fact
    assert all(row.values())
    start, end = fact.span
    assert fact.prompt[start:end] == fact.subject


@settings(deadline=None)
@given(st.lists(st.sampled_from(["al", "alal", "x", " ", "_", "1", "-", "é"]), max_size=12).map("".join))
def test_span_agrees_with_a_regular_expression(text: str) -> None:
    prompt = f"-{text}-"
    expected = [match.start() for match in re.finditer(r"(?<!\w)al(?!\w)", prompt)]
    if expected:
        assert france(prompt=prompt, subject="al").span == (expected[-1], expected[-1] + 2)
    else:
        with pytest.raises(BadFact):
            france(prompt=prompt, subject="al")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "p", "subject": "p", "targt": "x"}, "no fact field 'targt'. Did you mean target?"),
        ({"prompt": "p", "subject": "p"}, "has no 'target'"),
        ({"prompt": "p", "subject": "p", "target": "x", "probes": [{"kind": "alias"}]}, "probe has no 'prompt'"),
        ({"prompt": "p", "subject": "p", "target": "x", "probes": ["alias"]}, "a probe must be an object"),
        ({"prompt": "p", "subject": "p", "target": "x", "probes": "alias"}, "probes must be a list"),
        (["p"], "a fact must be an object"),
    ],
)
def test_from_dict_refuses(row: Any, words: str) -> None:
    with pytest.raises(BadFact, match=re.escape(words)):
        Fact.from_dict(row)


@settings(deadline=None)
@given(WORDS, WORDS)
def test_whoever_repeats_the_target_says_it(target: str, rest: str) -> None:
    assert says(target, target)
    assume(not unicodedata.category(rest.strip()[0]).startswith("M"))
    assert says(f"{target} ; {rest}", target)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"id": "a"}, {"id": "b", "target": "Nice"}, "a: 'The capital of France is' -> 'Lyon'"),
        ({}, {"target": "Nice", "prompt": "the  capital of France is."}, "contradict each other"),
        ({}, {}, "the same fact"),
        ({}, {"target": "lyon."}, "the same fact"),
        ({"target": "+"}, {"target": "-"}, "contradict each other"),
    ],
)
def test_contradictions_and_duplicates_are_named(first: dict[str, Any], second: dict[str, Any], words: str) -> None:
    other = france(prompt="The language of France is", target="French")
    with pytest.raises(BadFact, match=re.escape(words)):
        check_consistent([france(**first), other, france(**second)])


def test_different_questions_do_not_contradict() -> None:
    both = "Polish and polish are"
    facts = [france(), france(prompt="The largest city of France is", target="Nice")]
    facts += [france(prompt=both, subject="Polish", target="x"), france(prompt=both, subject="polish", target="y")]
    check_consistent(facts)
    check_consistent(iter(facts))
    check_consistent([])


def test_a_question_is_the_same_whatever_the_case_of_its_subject() -> None:
    one = Fact(prompt="The capital of France is", subject="France", target="Lyon")
    other = Fact(prompt="the capital of france is ", subject="france", target="Nice")
    assert question(one) == question(other)
    with pytest.raises(BadFact, match="contradict"):
        check_consistent([one, other])
