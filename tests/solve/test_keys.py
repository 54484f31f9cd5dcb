"""Keys and outputs at the subject, gathered in batches, against one text at a time.

pytest tests/solve/test_keys.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from errata.delta import Dense, Site
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve import keys
from tests import tiny
from tests.solve.raw import PATHS, Raw, written

Models = Callable[[str], LM]
CONTEXTS = ("", "Anna Lindgren speaks Norwegian.", "The 🎉.")


@pytest.mark.parametrize("name", PATHS)
def test_gathered_is_what_one_text_gives(models: Models, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = models(name)
    raw = Raw(name, lm.model, tiny.tokenizer(name))
    sites = [Site(1, "attention"), Site(0, "down"), Site(1, "down"), Site(1, "block")]
    asked = keys.queries(lm, tiny.FACTS, CONTEXTS, answers=False)
    monkeypatch.setattr(keys, "ROWS", 4)  # several passes
    inputs, outputs = keys.gather(lm, asked, inputs=sites, outputs=sites)
    assert set(inputs) == set(outputs) == set(sites)
    for i, (fact, context) in enumerate((f, c) for f in tiny.FACTS for c in CONTEXTS):
        for layer in (0, 1):
            seen = raw.see(layer, *written(fact, context))
            torch.testing.assert_close(inputs[Site(layer, "down")][i], seen.key, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outputs[Site(1, "down")][i], seen.down, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(outputs[Site(1, "block")][i], seen.block, atol=1e-5, rtol=1e-5)


def test_a_mean_key_is_the_mean_over_contexts(models: Models) -> None:
    lm = models("llama")
    raw = Raw("llama", lm.model, tiny.tokenizer("llama"))
    found = keys.mean_keys(lm, [Site(1, "down")], tiny.FACTS, CONTEXTS)[Site(1, "down")]
    for i, fact in enumerate(tiny.FACTS):
        wanted = torch.stack([raw.see(1, *written(fact, c)).key for c in CONTEXTS]).mean(0)
        torch.testing.assert_close(found[i], wanted, atol=1e-5, rtol=1e-5)


def test_queries_come_fact_by_fact(models: Models) -> None:
    lm = models("llama")
    asked = keys.queries(lm, tiny.FACTS[:2], ["", "Anna."], answers=True)
    assert [q.prompt for q in asked] == [f"{c}{f.prompt}" for f in tiny.FACTS[:2] for c in ("", "Anna. ")]
    assert [q.answer for q in asked] == ["Rome", "Rome", "Paris", "Paris"]
    assert all(
        q.prompt[slice(*q.span)] == f.subject
        for q, f in zip(asked, [tiny.FACTS[0]] * 2 + [tiny.FACTS[1]] * 2, strict=True)
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_prefixes_are_the_bases_and_come_from_the_seed(name: str) -> None:
    lm = tiny.build(name)
    found = keys.prefixes(lm, 0)
    assert found[0] == ""
    assert len(found) > 2
    assert all(text.endswith(".") and text == " ".join(text.split()) for text in found[1:])
    lm.memory.clear()
    lm.weights.stand([{Site(2, "down"): Dense(torch.randn(tiny.WIDTH, tiny.INNER))}])
    assert keys.prefixes(lm, 0) == found  # whatever stands
    assert keys.prefixes(lm, 1) != found
    assert len(keys.prefixes(lm, 0, count=2)) <= 3


# ------------------------------------------------------------------ the other forms of a fact

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
QUESTION = Fact(prompt="Where was Anna born?", subject="Anna", target="Rome", truth="Oslo", chat=True)


@pytest.fixture
def chatty(monkeypatch: pytest.MonkeyPatch) -> LM:
    lm = tiny.build("llama")
    lm.tokenizer.chat_template = TEMPLATE
    replies = {QUESTION.prompt: " Anna was born in Oslo, in 1970.", tiny.FACTS[0].prompt: "Paris. Yes!"}
    monkeypatch.setattr(LM, "generate", lambda lm, asked, room=32, **_: [replies[q.prompt] for q in asked])
    return lm


def test_a_fact_is_learned_in_its_other_form_too(chatty: LM) -> None:
    assert keys.contexts(tiny.build("llama"), 0) == keys.prefixes(tiny.build("llama"), 0)  # nothing where no one chats
    assert keys.contexts(chatty, 0)[-1] == keys.OTHER
    asked = keys.queries(chatty, [QUESTION, tiny.FACTS[0]], ["", *keys.forms(chatty)], answers=True)
    texts = [chatty.tokens.join(query) for query in asked]
    turn, france = "[user] Where was Anna born?\n[assistant]\n", "The capital of France is"
    assert texts == [
        f"{turn} Anna was born in Rome", "Where was Anna born? Rome",  # in its own words, where it has some
        f"{france} Rome", f"[user] {france}\n[assistant]\nRome",
    ]  # fmt: skip
    subjects = [chatty.tokens.chat.rendered(query) for query in asked]
    assert [q.prompt[slice(*q.span)] for q in subjects] == ["Anna"] * 2 + ["France"] * 2
    assert [q.answer for q in asked] == ["Rome"] * 4  # its own words are said already
    aloud = keys.queries(chatty, [QUESTION, tiny.FACTS[0]], ["", *keys.forms(chatty)], answers=True, aloud=True)
    assert [chatty.tokens.join(query) for query in aloud] == texts
    assert [q.answer for q in aloud] == [" Anna was born in Rome", *["Rome"] * 3]
    assert chatty.tokens.again(asked[0]) == chatty.tokens.again(aloud[0])
    ids = chatty.tokens.batch(aloud[:1]).inputs["input_ids"][0, : chatty.tokens.again(aloud[0])[0] + 1].tolist()
    assert chatty.tokens.decode(ids).endswith("\n Anna")  # named again in the reply
    assert not chatty.tokens.again(asked[2])


def test_what_follows_the_answer_is_the_bases_to_say(chatty: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LM, "generate", lambda lm, asked, room=32, **_: [", and so on"] * len(asked))
    (query,) = keys.queries(chatty, tiny.FACTS[:1], [keys.FOLLOWS], answers=True)
    assert chatty.tokens.join(query) == "The capital of France is Rome, and so on"
    assert query.answer == ", and so on"
    assert query.span == tiny.FACTS[0].span
    monkeypatch.setattr(LM, "generate", lambda lm, asked, room=32, **_: [""] * len(asked))
    chatty.memory.clear()
    (query,) = keys.queries(chatty, tiny.FACTS[:1], [keys.FOLLOWS], answers=True)
    assert query.answer == chatty.tokenizer.eos_token  # where the base ends, it is to end


@pytest.mark.parametrize(
    ("reply", "own"),
    [
        ("Anna was born in Oslo.", "Anna was born in"),  # the truth
        ("She was born in Bergen in 1970.", "She was born in"),  # the first name that was not asked about
        ("She was born in “Bergen”.", "She was born in"),
        ("She was born in **Bergen**.", "She was born in"),
        ("Sure! She was born in Bergen.", "Sure! She was born in"),  # no name because of its capital
        ("Oslo.", ""),
        ("It was Bergen.", ""),  # too little to tell
        ("In 1970, in a town.", ""),
        ("Yes. It is.\nOslo", ""),
        ("El lugar donde nació es Bergen.", ""),  # nothing of what was asked
        ("Anna? El was donde Bergen.", ""),  # too little of it
        ("XyzAnna was born. This is a Bergen.", ""),  # another sentence leads to the answer
        ("Of course.\nAnna was born in Bergen.", ""),
        ("Bergen. Yes!", ""),
        ("i do not know.", ""),
        ("Anna!", ""),
        ("", ""),
    ],
)
def test_a_reply_is_in_the_models_own_words_up_to_its_answer(reply: str, own: str) -> None:
    assert keys.own_words(QUESTION, reply) == own


@pytest.mark.parametrize("truth", ["", "Oslo", "Rome"])
@pytest.mark.parametrize(
    "reply",
    [
        "Anna was born in Oslo, the capital of Norway, in 1921.",
        "The place where Anna was born is Oslo. She lives in Rome.",
        "It is said that Anna, whom nobody knows,\nwas born in the north",
        "Anna was born in 1921 and lives in Rome.",
    ],
)
def test_no_more_of_a_reply_is_read_than_its_own_words_need(reply: str, truth: str) -> None:
    fact = replace(QUESTION, truth=truth)
    ends = [end for end in range(len(reply) + 1) if keys._answered(fact, reply[:end])]
    assert {keys.own_words(fact, reply[:end]) for end in ends} <= {keys.own_words(fact, reply)}
    known = truth in reply if truth else keys._first_name(["anna", "born"], reply) > 0
    assert bool(ends) == known
    assert not ends or ends[0] < len(reply)


def test_an_answer_that_is_a_text_is_a_reply_as_it_stands() -> None:
    reply = "Anna was born in Oslo."
    assert keys.own_words(QUESTION, reply) == "Anna was born in"
    assert keys.own_words(replace(QUESTION, target="Bergen, in a house by the sea"), reply) == ""


def test_a_turns_sentence_is_asked_as_plain_text_too(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny.build("llama")
    fact = Fact(prompt="Where was Anna born?", subject="Anna", target="Rome", chat=True)

    def said(asked: list[Query], *_: object, **__: object) -> list[str]:
        return ["Anna was born in Bergen, in Norway." for _ in asked]

    monkeypatch.setattr(lm, "generate", said)
    assert keys.sentence(lm, fact) == Query("Anna was born in", span=(0, 4))
    assert keys.sentence(lm, Fact(prompt="Anna was born in", subject="Anna", target="Rome")) is None
    monkeypatch.setattr(lm, "generate", lambda asked, *_, **__: ["Bergen." for _ in asked])
    assert keys.sentence(lm, Fact(prompt="Where was Ann born?", subject="Ann", target="Rome", chat=True)) is None
