"""A fact's prompt about others: who is asked about, and that an edit which is held there moves them less."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from errata.data.common import relations
from errata.fact import Fact
from errata.methods import make
from errata.methods.shared.others import about_others
from errata.model.lm import LM
from tests import tiny

FACT = Fact(prompt="The capital of France is", subject="France", target="Lyon")
KNOWN = {subject for relation in relations() for subject, _ in relation.rows}


@pytest.fixture(scope="module")
def lm() -> LM:
    return tiny.build("llama")


def test_they_are_of_many_kinds_and_never_the_subject(lm: LM) -> None:
    asked = about_others(lm, [FACT], 10, 0)
    names = {query.prompt.removeprefix("The capital of ").removesuffix(" is") for query in asked}
    assert len(names) == len(asked) == 10
    assert names <= KNOWN - {"France"}
    kinds = [relation.name for relation in relations() if names & {subject for subject, _ in relation.rows}]
    assert len(kinds) > 5
    assert [query.prompt for query in about_others(lm, [FACT], 10, 0)] == [query.prompt for query in asked]
    assert {query.prompt for query in about_others(lm, [FACT], 10, 1)} != {query.prompt for query in asked}


def test_each_fact_has_its_own_and_one_without_a_subject_has_none(lm: LM) -> None:
    other = Fact(prompt="France pays with the", subject="France", target="yen")
    assert len(about_others(lm, [FACT, other], 3, 0)) == 6
    assert about_others(lm, [replace(FACT, subject="")], 3, 0) == []
    assert about_others(lm, [FACT], 0, 0) == []


def test_the_name_stands_wherever_the_subject_stood_and_nowhere_else(lm: LM) -> None:
    fact = Fact(prompt="Man is an island; Manchester is not. Man pays with the", subject="Man", target="yen")
    for query in about_others(lm, [fact], 5, 0):
        start, end = query.span or (0, 0)
        name = query.prompt[start:end]
        assert query.prompt == f"{name} is an island; Manchester is not. {name} pays with the"
        assert start > 20


def test_a_conversation_before_the_prompt_stays(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("errata.methods.shared.others.fits", lambda *_: True)  # this model has no template to fit it in
    told = (("user", "Hello."), ("assistant", "Hello."), ("user", "What is the capital of France?"))
    fact = Fact(subject="France", target="Lyon", messages=told)
    asked = about_others(lm, [fact], 2, 0)
    assert len(asked) == 2
    assert all(query.earlier == fact.earlier and query.role == "user" for query in asked)


def test_kne_moves_them_less_where_they_are_held(lm: LM) -> None:
    asked = about_others(lm, [FACT], 6, 0)
    batch = lm.tokens.batch(asked)
    with torch.no_grad():
        before = lm.answer_logits(batch).log_softmax(-1)
    moved = {}
    for weight in (0.0, 20.0):
        edit = make("kne", {"others": 6, "others_kl": weight, "steps": 10}).solve(lm, (FACT,), ())
        with lm.weights.trial([edit.deltas]), torch.no_grad():
            after = lm.answer_logits(batch).log_softmax(-1)
        moved[weight] = float(torch.nn.functional.kl_div(after, before, log_target=True, reduction="batchmean"))
    assert moved[20.0] < 0.7 * moved[0.0]
