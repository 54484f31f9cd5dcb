"""Cases asked of a model whose answers are known: what is planned, and what every row says.

pytest tests/evaluate/test_rows.py
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from errata.data.case import PROBES, Case
from errata.data.cases import parse
from errata.delta import Dense, Site
from errata.errors import BadConfig
from errata.evaluate.probes import Options, plan
from errata.evaluate.rows import About, config_hash, score
from errata.evaluate.scorer import PromptAnswer, Scored, Scorer
from errata.evaluate.summary import dump_row, estimate, summarize
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.query import Prompt, as_query
from errata.model.tokens import Room
from tests import tiny

Models = Callable[[str], LM]

CASE = Case(
    id="c1",
    prompt="Bo Reed lives in",
    target="Norland",
    subject="Bo Reed",
    truth="Sudland",
    fact=Fact(prompt="Bo Reed lives in", subject="Bo Reed", target="Norland"),
    rephrases=("The home of Bo Reed is",),
    rephrases_easyedit=("Bo Reed eats",),
    neighborhood=(("Cy Lane lives in", "Sudland"), ("Di Marsh lives in", "Norland")),
    unrelated=(("Bo Reed plays the", "deep tuba"), ("Where is the sea?", "")),
    portability={"alias": (("B. Reed lives in", ("Norland", "the North")),)},
    generation=("Bo Reed",),
    references=("Eve lives in Norland.",),
)


class Scripted(Scorer):
    """A scorer that knows its answers: log-probability and hits by pair, speech by prompt."""

    def __init__(
        self, scored: Mapping[PromptAnswer, Scored], said: Mapping[str, str], chat: Mapping[str, str] | None = None
    ) -> None:
        self._scored, self._said, self._chat = scored, said, chat or {}
        self.lm: Any = SimpleNamespace(tokens=SimpleNamespace(chat=SimpleNamespace(exists=chat is not None)))
        self.asked: list[PromptAnswer] = []

    def answers(self, pairs: Iterable[PromptAnswer]) -> dict[PromptAnswer, Scored]:
        self.asked = list(pairs)
        return {pair: self._scored.get(pair, Scored(-9.0, (False,), (0,))) for pair in self.asked}

    def said(self, prompts: Iterable[Prompt], room: int | Room = 32) -> dict[Prompt, str | None]:
        asked = {prompt: as_query(prompt) for prompt in prompts}
        return {p: (self._chat if query.turn else self._said).get(query.prompt, "hm") for p, query in asked.items()}

    def room(self, answers: Iterable[str], least: int) -> Room:
        return Room(least)

    def sampled(self, prompts: Iterable[str], length: int = 100, seed: int = 0) -> dict[str, str | None]:
        return {prompt: f"{prompt} lives in Norland" for prompt in prompts}


UNEDITED = Scripted(
    {
        ("Bo Reed lives in", "Norland"): Scored(-3.0, (False, True), (4, 5)),
        ("Bo Reed lives in", "Sudland"): Scored(-1.0, (True,), (4,)),
        ("Cy Lane lives in", "Sudland"): Scored(-1.0, (True,), (4,)),
        ("Bo Reed plays the", "deep tuba"): Scored(-2.0, (True, False), (6, 7)),
    },
    {"Bo Reed lives in": "Sudland.", "Where is the sea?": "Out west"},
)
EDITED = Scripted(
    {
        ("Bo Reed lives in", "Norland"): Scored(-0.5, (True, True), (8, 5)),
        ("Bo Reed lives in", "Sudland"): Scored(-2.0, (False,), (8,)),
        ("The home of Bo Reed is", "Norland"): Scored(-1.0, (True,), (8,)),
        ("The home of Bo Reed is", "Sudland"): Scored(-1.0000004, (False,), (8,)),
        ("Cy Lane lives in", "Sudland"): Scored(-1.0, (False,), (8,)),
        ("Cy Lane lives in", "Norland"): Scored(-0.9, (True,), (8,)),
        ("Bo Reed plays the", "deep tuba"): Scored(-2.0, (True, True), (6, 9)),
        ("Where is the sea?", "Out west"): Scored(-1.0, (True, False, True), (1, 2, 3)),
        ("B. Reed lives in", "Norland"): Scored(-1.0, (True, False), (8, 1)),
    },
    {
        "Bo Reed lives in": "Norland, where it snows.",
        "The home of Bo Reed is": "in Norland",
        "B. Reed lives in": "the far north",
        "Where is the sea?": "Out east",
    },
)
ANYONE: Any = None  # a scripted scorer needs no model
ALL = Options(probes=PROBES)
SHORT = Options(length=6)


def rows_of(scorer: Scorer, **how: Any) -> dict[tuple[str, str], dict[str, Any]]:
    rows = score(ANYONE, [CASE], scorer=scorer, **{"options": ALL, **how})
    return {(row["probe"], row["prompt"]): row for row in rows}


def test_the_plan_asks_every_probe_in_order() -> None:
    asks = plan([CASE], ALL)
    assert [ask.probe for ask in asks] == [
        "edit", "paraphrase", "rephrase_easyedit", "question", "neighborhood", "neighborhood",
        "unrelated", "unrelated", "portability.alias", "generation",
    ]  # fmt: skip
    assert [ask.speaks for ask in asks] == [True] * 4 + [False] * 3 + [True, True, False]
    assert asks[0].pairs == {("Bo Reed lives in", "Norland"), ("Bo Reed lives in", "Sudland")}
    assert asks[5].pairs == {("Di Marsh lives in", "Norland")}  # that neighbour has the new answer: nothing to compare
    assert asks[7].pairs == set()
    assert asks[8].pairs == {("B. Reed lives in", "Norland")}  # other spellings are listened for, not scored
    assert "generation" not in {ask.probe for ask in plan([CASE])}
    assert [a.probe for a in plan([CASE], Options(probes=("edit",)))] == ["edit"]


def test_a_probe_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadConfig, match="Did you mean paraphrase"):
        plan([CASE], Options(probes=("edit", "paraphrases")))


def test_answers_that_are_the_same_are_not_compared() -> None:
    (ask,) = plan([replace(CASE, truth="the norland")], Options(probes=("edit",)))
    assert (ask.new, ask.true) == ("Norland", "")


def test_a_chain_is_asked_about_all_of_its_edits() -> None:
    second = Fact(prompt="Norland borders", subject="Norland", target="Ostland", truth="Westland")
    asks = plan([replace(CASE, also=(second,))], Options(probes=("edit",)))
    assert [(ask.prompt, ask.new, ask.true) for ask in asks] == [
        ("Bo Reed lives in", "Norland", "Sudland"), ("Norland borders", "Ostland", "Westland"),
    ]  # fmt: skip


def test_the_edit_prompt() -> None:
    row = rows_of(EDITED)["edit", "Bo Reed lives in"]
    assert (row["lp_new"], row["lp_true"], row["expected"]) == (-0.5, -2.0, "Norland")
    assert row["said"] == "Norland, where it snows."
    assert row["scores"] == {
        "efficacy": 1, "exact": 1, "token_accuracy": 1, "said": 1, "said_contains": 1, "said_true": 0,
    }  # fmt: skip
    before = rows_of(UNEDITED)["edit", "Bo Reed lives in"]
    assert before["scores"] == {
        "efficacy": 0, "exact": 0, "token_accuracy": 0.5, "said": 0, "said_contains": 0, "said_true": 1,
    }  # fmt: skip


def test_paraphrases_and_easyedits_rephrase_are_kept_apart() -> None:
    rows = rows_of(EDITED)
    assert rows["paraphrase", "The home of Bo Reed is"]["scores"] == {
        "efficacy": 1, "exact": 1, "token_accuracy": 1, "said": 0, "said_contains": 1,
    }  # fmt: skip
    assert rows["rephrase_easyedit", "Bo Reed eats"]["scores"]["efficacy"] == 0
    found = summarize(list(rows.values()))
    assert (found["paraphrase"].mean, found["rephrase_easyedit"].mean) == (1, 0)


def test_neighbours() -> None:
    base = list(rows_of(UNEDITED).values())
    rows = rows_of(EDITED, base=base)
    near, same = rows["neighborhood", "Cy Lane lives in"], rows["neighborhood", "Di Marsh lives in"]
    assert near["scores"] == {"neighborhood": 0, "token_accuracy": 0, "locality_unchanged": 0}
    assert (near["lp_new"], near["lp_true"], near["argmax"]) == (-0.9, -1.0, [8])
    assert same["scores"]["neighborhood"] is None
    assert estimate(list(rows.values()), "neighborhood").missing == 1


def test_unrelated_questions_against_gold_and_against_before() -> None:
    base = list(rows_of(UNEDITED).values())
    rows = rows_of(EDITED, base=base)
    assert rows["unrelated", "Bo Reed plays the"]["scores"] == {
        "locality_gold": 1, "locality_gold_before": 0.5, "locality_unchanged": 0.5,  # 6 stayed, 7 became 9
    }  # fmt: skip
    # No gold answer: the unedited model said "Out west", and two of its three tokens are still the likeliest.
    free = rows["unrelated", "Where is the sea?"]
    assert free["scores"] == {"locality_unchanged": pytest.approx(2 / 3, abs=1e-6)}
    assert (free["said"], free["expected"]) == ("Out east", "")
    assert ("Where is the sea?", "Out west") in EDITED.asked
    before = {(row["probe"], row["prompt"]): row for row in base}
    assert before["unrelated", "Bo Reed plays the"]["scores"] == {"locality_gold": 0.5}
    assert before["unrelated", "Where is the sea?"]["scores"] == {}


def test_saying_nothing_as_before_is_no_change() -> None:
    base = list(rows_of(Scripted({}, {"Where is the sea?": ""})).values())
    silent, loud = Scripted({}, {"Where is the sea?": ""}), Scripted({}, {"Where is the sea?": "west"})
    question = "unrelated", "Where is the sea?"
    assert rows_of(silent, base=base)[question]["scores"] == {"locality_unchanged": 1}
    assert rows_of(loud, base=base)[question]["scores"] == {"locality_unchanged": 0}


def test_what_was_not_measured_before_cannot_be_called_unchanged() -> None:
    rows = rows_of(EDITED, base=[])
    assert rows["unrelated", "Bo Reed plays the"]["scores"]["locality_unchanged"] is None
    assert rows["unrelated", "Where is the sea?"]["scores"]["locality_unchanged"] is None
    assert estimate([*rows.values(), {"case": "x", "probe": "unrelated", "scores": {"locality_unchanged": 1.0}}],
                    "locality_unchanged").missing == 2  # fmt: skip


def test_portability_listens_for_every_spelling() -> None:
    row = rows_of(EDITED)["portability.alias", "B. Reed lives in"]
    assert row["scores"] == {"exact": 0, "token_accuracy": 0.5, "said": 0, "said_contains": 1}  # "the far north"
    assert (row["expected"], row["alternatives"]) == ("Norland", ["the North"])
    heard = Scripted({}, {"B. Reed lives in": "the North, they say"})
    assert rows_of(heard)["portability.alias", "B. Reed lives in"]["scores"]["said"] == 1


def test_generations_are_rows_and_are_compared_with_references() -> None:
    rows = rows_of(EDITED)
    assert rows["generation", "Bo Reed"]["said"] == "Bo Reed lives in Norland"
    # five different words: H₂ = log₂ 4, H₃ = log₂ 3
    by_hand = 100 * (2 / 3 * 2 + 4 / 3 * math.log2(3)) / 2
    assert rows["generation", "Bo Reed"]["scores"]["fluency"] == pytest.approx(by_hand, abs=1e-6)
    assert 0 < rows["consistency", ""]["scores"]["consistency"] < 1


def test_known_before_comes_from_the_unedited_model() -> None:
    base = list(rows_of(UNEDITED).values())
    assert {row["known_before"] for row in base} == {True}
    assert {row["known_before"] for row in rows_of(EDITED, base=base).values()} == {True}
    ignorant = list(rows_of(Scripted({}, {})).values())
    assert {row["known_before"] for row in rows_of(EDITED, base=ignorant).values()} == {False}


def test_chat_models_are_asked_twice() -> None:
    chatty = Scripted({}, {}, {"Bo Reed lives in": "Norland!"})
    row = rows_of(chatty)["edit", "Bo Reed lives in"]
    assert (row["said"], row["scores"]["said"]) == ("hm", 0)
    assert (row["said_chat"], row["scores"]["said_chat"]) == ("Norland!", 1)
    plain = rows_of(chatty, options=replace(ALL, chat=False))["edit", "Bo Reed lives in"]
    assert "said_chat" not in plain


def test_a_long_answer_is_compared_with_what_is_said_and_with_the_reply_in_chat() -> None:
    told = "Bo Reed lives in Norland. He keeps bees there."
    case = replace(CASE, target=told, fact=replace(CASE.fact, target=told), rephrases=("Bo Reed's home is",))
    chatty = Scripted({}, {case.prompt: "Bo Reed lives in Norland. He left."}, {case.prompt: told})
    asked = {(r["probe"], r["prompt"]): r["scores"] for r in score(ANYONE, [case], scorer=chatty, options=ALL)}
    found = asked["edit", case.prompt]
    assert found["sentences_said"] == 0.5
    assert found["said_in_part"] == pytest.approx(6 / 9, abs=1e-6)
    assert found["rouge_l"] == pytest.approx(2 * 6 / 16, abs=1e-6)
    assert found["rouge_l_chat"] == 1.0
    assert "rouge_l_chat" in asked["paraphrase", "Bo Reed's home is"]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("He lives far up, in Norland.", 1),
        ("Well. People say so. It is Norland!", 1),
        ("Not Sudland but Norland.", 0),
        ("It is not Norland.", 0),
        ("Hm.", 0),
    ],
)
def test_a_chat_model_is_asked_the_fact_as_a_question(reply: str, said: int) -> None:
    case = replace(CASE, question="Where does Bo Reed live?")
    chatty = Scripted({}, {}, {case.question: reply})
    asked = {(r["probe"], r["prompt"]): r for r in score(ANYONE, [case], scorer=chatty, options=ALL)}
    assert (asked["question", case.question]["said"], asked["question", case.question]["scores"]) == (
        reply,
        {"said": said},
    )
    summed = estimate(asked.values(), "said_chat"), estimate(asked.values(), "said_chat_cloze")
    assert [found.mean for found in summed] == [said, 0]
    named = replace(case, question="Does Bo Reed of Sudland live there?")  # the old answer is part of what is asked
    chatty = Scripted({}, {}, {named.question: "Bo Reed of Sudland lives in Norland."})
    rows = score(ANYONE, [named], scorer=chatty, options=ALL)
    assert [row["scores"]["said"] for row in rows if row["probe"] == "question"] == [1]
    silent = replace(ALL, chat=False)
    for rows in (
        score(ANYONE, [case], scorer=chatty, options=silent),
        score(ANYONE, [case], scorer=EDITED, options=ALL),
    ):
        assert not [row for row in rows if row["probe"] == "question"]
    turned = replace(case, fact=replace(CASE.fact, chat=True))  # type: ignore[type-var]  # its own prompt is asked as a turn
    assert not [row for row in score(ANYONE, [turned], scorer=chatty, options=ALL) if row["probe"] == "question"]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Norland!", 1),
        ("Bo Reed lives in Norland.", 1),
        ("Sure. It is Norland.", 1),
        ("It is not Norland.", 0),
        ("Sudland.", 0),
    ],
)
def test_a_chat_fact_is_asked_as_it_was_written(reply: str, said: int) -> None:
    assert CASE.fact is not None
    case = replace(CASE, fact=replace(CASE.fact, chat=True))
    chatty = Scripted({}, {"Bo Reed lives in": "Norland"}, {"Bo Reed lives in": reply, "The home of Bo Reed is": reply})
    rows = {(r["probe"], r["prompt"]): r for r in score(ANYONE, [case], scorer=chatty, options=ALL)}  # type: ignore[arg-type]
    for probe in (("edit", "Bo Reed lives in"), ("paraphrase", "The home of Bo Reed is")):
        row = rows[probe]
        assert row["said"] == row["said_chat"] == reply
        assert row["scores"]["said"] == row["scores"]["said_chat"] == said


def test_rows_say_what_they_are_about() -> None:
    about = About(checkpoint=10, method="rome", config="ab", model="cd", seed=3, edits={"c1": ("e1", "e2")})
    for row in rows_of(EDITED, about=about).values():
        assert (row["checkpoint"], row["method"], row["config"], row["model"], row["seed"]) == (
            10,
            "rome",
            "ab",
            "cd",
            3,
        )
        assert (row["edits"], row["case"]) == (["e1", "e2"], "c1")
        assert {"probe", "prompt", "expected", "said", "lp_new", "lp_true", "scores", "known_before"} <= set(row)


def test_settings_have_a_hash() -> None:
    assert config_hash({"a": 1, "b": (2, 3)}) == config_hash({"b": [2, 3], "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})
    assert len(config_hash({})) == 16


def test_what_the_model_cannot_score_is_null() -> None:
    mute = Scripted(dict.fromkeys(EDITED.asked, Scored()), {})
    for row in rows_of(mute).values():
        assert json.loads(dump_row(row)) == row
    row = rows_of(mute)["edit", "Bo Reed lives in"]
    assert (row["lp_new"], row["scores"]["efficacy"], row["scores"]["exact"]) == (None, None, None)


# ---------------------------------------------------------------- on a model


def test_an_unedited_model_has_changed_nothing(models: Models) -> None:
    lm, cases = models("llama"), parse("primer:4").cases
    scorer = Scorer(lm)
    base = score(lm, cases, scorer=scorer, options=SHORT)
    again = score(lm, cases, base=base, scorer=scorer, options=SHORT)
    found = summarize(again)
    assert found["locality_unchanged"].mean == 1
    assert found["locality_gold"] == found["locality_gold_before"]
    assert [row["scores"].get("efficacy") for row in base] == [row["scores"].get("efficacy") for row in again]


def test_the_same_model_gives_the_same_bytes_from_rows_read_back(models: Models) -> None:
    lm, cases = models("gpt2"), parse("primer:4").cases
    options = Options(probes=PROBES, length=6, sample=10)
    base = score(lm, cases, options=options)
    read_back = [json.loads(dump_row(row)) for row in base]
    first, second = score(lm, cases, base=base, options=options), score(lm, cases, base=read_back, options=options)
    assert [dump_row(row) for row in first] == [dump_row(row) for row in second]


def test_cases_are_scored_the_same_alone_and_together(models: Models) -> None:
    lm, cases = models("llama"), parse("primer:4").cases
    together = score(lm, cases, options=SHORT)
    alone = [row for case in cases for row in score(lm, [case], scorer=Scorer(lm, rows=1), options=SHORT)]
    for one, other in zip(together, alone, strict=True):
        assert one["lp_new"] == (None if other["lp_new"] is None else pytest.approx(other["lp_new"], abs=1e-5))
        assert {**one, "lp_new": 0, "lp_true": 0} == {**other, "lp_new": 0, "lp_true": 0}


def test_an_edit_shows() -> None:
    lm, cases = tiny.build("llama"), parse("primer:4").cases
    scorer = Scorer(lm)
    base = score(lm, cases, scorer=scorer, options=SHORT)
    site = Site(1, "down")
    torch.manual_seed(0)
    with lm.weights.trial([{site: Dense(torch.randn(lm.parameter(site).shape))}]):
        rows = score(lm, cases, base=base, scorer=scorer, options=SHORT)
    assert estimate(rows, "locality_unchanged").mean < 0.9
    back = score(lm, cases, base=base, scorer=scorer, options=SHORT)
    assert estimate(back, "locality_unchanged").mean == 1


def test_a_long_answer_has_room_to_be_said(models: Models) -> None:
    lm = models("llama")
    prompts = ("Bo Reed lives in", "The home of Cy Lane is")
    (long, _), (short, said) = ((p, lm.generate([p], 40)[0]) for p in prompts)
    answer = lm.generate([long], 60)[0].rsplit(maxsplit=3)[0]  # whole words
    assert len(lm.tokens.ids(answer)) > 30  # or it says nothing about room
    cases = [
        Case(id=p, prompt=p, target=a, subject="", fact=None) for p, a in ((long, answer), (short, said.split()[0]))
    ]
    options = Options(probes=("edit",), length=8)
    both = score(lm, cases, options=options)
    assert [row["scores"]["said"] for row in both] == [1, 1]
    assert [row["said"] for row in both] == [
        row["said"] for case in cases for row in score(lm, [case], options=options)
    ]
