"""The engine gives one number, whatever the batch, the tokenizer's padding side, or the company a prompt comes in.

pytest tests/evaluate/test_scorer.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from errata.evaluate.scorer import Scored, Scorer
from errata.model.lm import LM
from errata.model.query import Query
from tests import tiny

Models = Callable[[str], LM]

PROMPTS = (
    "The capital of France is",
    "Anna Lindgren was born in",
    "The river",
    "What does Carla Moreno play? It is the",
    "Bruno",
)
ANSWERS = ("Paris", "Rome", "Oslo and then some", "the river Seine runs")
PAIRS = [(prompt, answer) for prompt in PROMPTS for answer in ANSWERS]


@contextmanager
def watched(lm: LM) -> Iterator[list[tuple[int, int]]]:
    """Record the shape of everything the model is given to read."""
    shapes: list[tuple[int, int]] = []

    def look(module: Any, args: tuple[Any, ...]) -> None:
        shapes.append(tuple(args[0].shape))

    handle = lm.embedding().register_forward_pre_hook(look)
    try:
        yield shapes
    finally:
        handle.remove()


def alone(lm: LM, prompt: str, answer: str) -> tuple[float, list[bool], list[int]]:
    """Score one pair the long way: no batch, no padding, all logits."""
    batch = lm.tokens.batch([Query(prompt, answer)])
    with torch.no_grad():
        logp = lm.forward(batch)[0].float().log_softmax(-1)[batch.cols]
    top = logp.argmax(-1)
    mean = logp.gather(1, batch.labels[:, None]).mean()
    return float(mean), (top == batch.labels).tolist(), top.tolist()


def close(one: dict[tuple[str, str], Scored], other: dict[tuple[str, str], Scored], by: float) -> bool:
    return one.keys() == other.keys() and all(
        abs((one[p].lp or 0) - (other[p].lp or 0)) <= by and one[p].hits == other[p].hits and one[p].top == other[p].top
        for p in one
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "t5", "bert"])
def test_a_batch_scores_what_each_pair_scores_alone(name: str, models: Models) -> None:
    lm = models(name)
    found = Scorer(lm).answers(PAIRS)
    assert list(found) == PAIRS
    for pair in PAIRS:
        lp, hits, top = alone(lm, *pair)
        assert found[pair].lp == pytest.approx(lp, abs=1e-5)
        assert (list(found[pair].hits), list(found[pair].top)) == (hits, top)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_the_size_and_order_of_the_batch_do_not_matter(name: str, models: Models) -> None:
    lm = models(name)
    whole = Scorer(lm, rows=64).answers(PAIRS)
    assert close(whole, Scorer(lm, rows=1).answers(PAIRS), 1e-5)
    assert close(whole, Scorer(lm, rows=7).answers(PAIRS), 1e-5)
    turned = Scorer(lm).answers(PAIRS[::-1])
    assert close({pair: turned[pair] for pair in PAIRS}, whole, 1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_tokenizers_padding_side_does_not_matter(name: str) -> None:
    found = []
    for side in ("left", "right"):
        lm = tiny.build(name)
        lm.tokenizer.padding_side = side
        scorer = Scorer(lm)
        found.append((scorer.answers(PAIRS), scorer.said(PROMPTS), scorer.sampled(PROMPTS, 12)))
        assert lm.tokenizer.padding_side == side
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_half_precision_is_close(name: str) -> None:
    fine, coarse = tiny.build(name), tiny.build(name, dtype=torch.bfloat16)
    one, other = Scorer(fine).answers(PAIRS), Scorer(coarse).answers(PAIRS)
    apart = [abs((one[p].lp or 0) - (other[p].lp or 0)) for p in PAIRS]
    assert max(apart) < 0.25
    assert sum(apart) / len(apart) < 0.05
    same = Scorer(coarse, rows=1).answers(PAIRS)
    assert max(abs((same[p].lp or 0) - (other[p].lp or 0)) for p in PAIRS) < 0.25


def test_lp_is_the_mean_over_the_answers_tokens(models: Models) -> None:
    lm = models("gpt2")
    pair = ("The capital of France is", "Rome and then some")
    (logps,) = lm.logprobs([Query(*pair)])
    assert len(logps) > 2
    assert Scorer(lm).answers([pair])[pair].lp == pytest.approx(float(logps.mean()), abs=1e-6)


def test_equal_pairs_and_equal_inputs_run_once(models: Models) -> None:
    lm = models("llama")
    prompt, words = PROMPTS[0], [t for t in ("is", "in", "of", "the") if len(lm.tokens.ids(f" {t}")) == 2]  # <s> and it
    assert len(words) > 1
    pairs = [(prompt, word) for word in words] * 3
    with watched(lm) as shapes:
        Scorer(lm).answers(pairs)
    assert shapes == [(1, len(lm.tokens.ids(prompt)))]
    with watched(lm) as shapes:
        Scorer(lm).answers([(prompt, words[0]), (prompt, f"{words[0]} Paris")])
    assert [rows for rows, _ in shapes] == [1]  # the shorter is the beginning of the longer


def test_rows_of_one_length_run_together_and_are_hardly_padded(models: Models) -> None:
    lm = models("gpt2")
    pairs = [(" ".join(["river"] * n) + f" {i}", "Paris") for n in (2, 9, 30) for i in range(8)]
    with watched(lm) as shapes:
        Scorer(lm, rows=8).answers(pairs)
    lengths = [len(lm.tokens.ids(f"{prompt} Paris")) for prompt, _ in pairs]
    assert len(shapes) == 3
    assert sum(b * t for b, t in shapes) < 1.1 * sum(lengths)


def test_memory_is_bounded(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = models("gpt2")
    whole = Scorer(lm).answers(PAIRS)
    monkeypatch.setattr("errata.evaluate.scorer.TOKENS", 40)
    with watched(lm) as shapes:
        assert close(Scorer(lm).answers(PAIRS), whole, 1e-5)
    assert max(b * t for b, t in shapes) <= 40
    monkeypatch.undo()
    monkeypatch.setattr("errata.evaluate.scorer.LOGITS", 1)
    with watched(lm) as shapes:
        assert close(Scorer(lm).answers(PAIRS), whole, 1e-5)
    assert {b for b, _ in shapes} == {1}


def test_what_cannot_be_scored_is_said_to_be_unscored(models: Models) -> None:
    lm = models("gpt2")
    long = "river " * 200
    found = Scorer(lm).answers([(long, "Paris"), ("The river", ""), ("The river", "Paris")])
    assert found[long, "Paris"] == found["The river", ""] == Scored()
    assert found["The river", "Paris"].lp is not None


def test_a_broken_model_scores_nothing() -> None:
    lm = tiny.build("gpt2")
    with torch.no_grad():
        lm.model.transformer.ln_f.weight.fill_(float("nan"))
    assert set(Scorer(lm).answers(PAIRS).values()) == {Scored()}


def test_an_answer_without_a_token_of_its_own_is_unscored() -> None:
    # A tokenizer without pieces for an answer's letters may fold them into one unknown token with what is before.
    lm = tiny.build("llama")
    pair = ("The river", "Paris")
    scorer = Scorer(lm)
    real = lm.tokens.batch

    def refuses(queries: Any) -> Any:
        from errata.errors import BadFact

        if queries[0].answer == "Paris":
            raise BadFact("no token")
        return real(queries)

    lm.tokens.batch = refuses  # type: ignore[method-assign]
    assert scorer.answers([pair])[pair] == Scored()


def test_texts_are_tokenised_once_and_the_model_is_asked_again() -> None:
    lm = tiny.build("gpt2")
    scorer = Scorer(lm)
    before = scorer.answers(PAIRS)
    calls = []
    real = lm.tokens.batch
    lm.tokens.batch = lambda queries: calls.append(queries) or real(queries)  # type: ignore[method-assign, func-returns-value]
    with torch.no_grad():
        lm.head().weight.mul_(-1)
    after = scorer.answers(PAIRS)
    assert not calls
    assert all(before[p].lp != after[p].lp for p in PAIRS)


def test_nothing_asked_is_nothing_done(models: Models) -> None:
    scorer = Scorer(models("llama"))
    assert scorer.answers([]) == {}
    assert scorer.said([]) == {}
    assert scorer.sampled([]) == {}
