"""Statements are found again by the words they share with a question, rare ones first.

pytest tests/index/test_statements.py
"""

from __future__ import annotations

import math

import pytest

from errata.index.statements import Statements, words_of

TEXTS = ("The capital of France is", "The capital of Spain is", "The mother tongue of Anna Lindgren is", "日本の首都は")


def test_cosines_are_those_of_weights_by_idf_written_out() -> None:
    known = Statements(["a b", "a c", "a c d"])

    def idf(seen: int) -> float:
        return 1 + math.log(4 / (1 + seen))

    a, b, c = idf(3), idf(1), idf(2)
    assert known.cosine("a b", 0) == pytest.approx(1.0, abs=1e-12)
    wanted = a * a / math.sqrt((a * a + b * b) * (a * a + c * c))
    assert known.cosine("a b", 1) == pytest.approx(wanted, abs=1e-12)
    assert known.cosine("x y", 1) == 0.0


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ("FRANCE: its capital?", 0),
        ("Which capital has Spain?", 1),
        ("Anna Lindgren's tongue", 2),
        ("日本の首都はどこ", 3),
    ],
)
def test_the_nearest_is_what_is_asked_about(asked: str, place: int) -> None:
    assert Statements(TEXTS).nearest(asked) == [place]


def test_nothing_alike_is_nothing_and_the_later_of_equals_comes_first() -> None:
    known = Statements(["the same", "the same", "another"])
    assert known.nearest("the same", count=2) == [1, 0]
    assert known.nearest("the same", among=[0, 2]) == [0]
    assert known.nearest("no word of these", least=0.1) == []
    assert Statements([]).nearest("anything") == []


def test_scripts_without_spaces_are_read_by_letters() -> None:
    assert words_of("The Capital, of: FRANCE") == ["the", "capital", "of", "france"]
    assert words_of("日本 Tokyo") == ["日", "本", "tokyo"]
