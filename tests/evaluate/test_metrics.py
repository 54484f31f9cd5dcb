"""Every metric on an example small enough to work out by hand; the working is beside it.

pytest tests/evaluate/test_metrics.py
"""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

from errata.evaluate import metrics
from errata.evaluate.metrics import METRICS, TfIdf
from errata.evaluate.metrics.fluency import entropy, words
from errata.evaluate.summary import summarize


def test_lp_is_the_mean_over_tokens() -> None:
    assert metrics.lp([math.log(0.5), math.log(0.125)]) == pytest.approx(math.log(0.25))  # (−1 − 3) / 2 = −2 bits
    assert metrics.lp([]) is None
    assert metrics.lp([-1.0, math.nan]) is None
    assert metrics.lp([-math.inf]) == -math.inf


def test_efficacy_compares_two_answers() -> None:
    assert metrics.efficacy(-1.0, -2.0) == 1
    assert metrics.efficacy(-2.0, -1.0) == 0
    assert metrics.efficacy(-1.0, -1.0) == 0  # no better is not better
    assert metrics.efficacy(-1.0, None) is None
    assert metrics.paraphrase(-1.0, -2.0) == 1


def test_neighborhood_wants_the_true_answer() -> None:
    assert metrics.neighborhood(-2.0, -1.0) == 1
    assert metrics.neighborhood(-1.0, -2.0) == 0
    assert metrics.neighborhood(None, -2.0) is None


def test_score_is_the_harmonic_mean() -> None:
    # 3 / (1/1 + 1/0.5 + 1/0.25) = 3 / 7
    assert float(metrics.score(np.array([1.0, 0.5, 0.25]))) == pytest.approx(3 / 7)
    assert float(metrics.score(np.array([1.0, 0.0, 1.0]))) == 0
    assert metrics.score(np.array([[1.0, 1.0, 1.0], [1.0, 0.5, 0.25]])).tolist() == pytest.approx([1, 3 / 7])


def test_exact_and_token_accuracy() -> None:
    assert metrics.exact([True, True]) == 1
    assert metrics.exact([True, False]) == 0
    assert metrics.token_accuracy([True, True, False, False, True]) == 0.6
    assert metrics.exact([]) is metrics.token_accuracy([]) is None


@pytest.mark.parametrize(
    ("text", "answers", "begins", "contains"),
    [
        ("Rome, of course.", ("Rome",), 1, 1),
        ("the Rome", ("Rome",), 1, 1),  # articles vanish
        ("Romeo", ("Rome",), 0, 0),  # half a word is no answer
        ("It is Rome", ("Rome",), 0, 1),
        ("New Rome City", ("Rome",), 0, 1),
        ("It is not Paris but ROME!", ("Rome",), 0, 1),
        ("Aromero", ("Rome",), 0, 0),
        ("Eternal City", ("Rome", "the Eternal City"), 1, 1),
        ("", ("Rome",), 0, 0),
        ("+ 1", ("+",), 1, 1),  # nothing is left of it when normalised
        ("2 - 1", ("+",), 0, 0),
    ],
)
def test_said(text: str, answers: tuple[str, ...], begins: int, contains: int) -> None:
    assert metrics.said(text, answers) == begins
    assert metrics.said_contains(text, answers) == contains
    assert metrics.portability_said(text, answers) == contains


def test_what_was_not_said_is_not_wrong() -> None:
    assert metrics.said(None, ("Rome",)) is metrics.said_contains(None, ("Rome",)) is None
    assert metrics.said("Rome", ()) is None
    assert metrics.judged(None) is None
    assert [metrics.judged(True), metrics.judged(False)] == [1, 0]


def test_locality() -> None:
    assert metrics.locality_unchanged([5, 6, 7, 8], [5, 6, 0, 8]) == 0.75
    assert metrics.locality_unchanged([], []) is None
    assert metrics.locality_gold([True, False]) == 0.5


def test_drift() -> None:
    half, skewed = np.log(np.array([0.5, 0.5])), np.log(np.array([0.25, 0.75]))
    # ½ ln(½ / ¼) + ½ ln(½ / ¾) = ½ ln 2 + ½ ln ⅔ = ½ ln 4⁄3
    assert metrics.drift(half, skewed) == pytest.approx(0.5 * math.log(4 / 3))
    assert metrics.drift(half, half) == 0
    sure = np.array([0.0, -np.inf])  # what the base rules out costs nothing
    assert metrics.drift(sure, half) == pytest.approx(math.log(2))
    assert metrics.drift(half, np.array([np.nan, np.nan])) is None


def test_portability_is_token_accuracy_of_the_answer() -> None:
    assert metrics.portability([True, True, False, False]) == 0.5


def test_fluency() -> None:
    assert words("It's red, red.") == ["It", "'", "s", "red", ",", "red", "."]
    assert entropy(["a", "b", "a", "b"], 2) == pytest.approx(
        2 / 3 * math.log2(3 / 2) + 1 / 3 * math.log2(3)
    )  # ab ba ab
    # "a b a b": bigrams ab, ba, ab → H₂ = 0.918296; trigrams aba, bab → H₃ = 1
    by_hand = 100 * (2 / 3 * (2 / 3 * math.log2(1.5) + 1 / 3 * math.log2(3)) + 4 / 3 * 1) / 2
    assert metrics.fluency("a b a b") == pytest.approx(by_hand)
    assert metrics.fluency("no no no no no no") == 0
    assert metrics.fluency("too short") is None
    different = " ".join(f"w{i}" for i in range(100))
    assert metrics.fluency(different) == pytest.approx(100 * (2 / 3 * math.log2(99) + 4 / 3 * math.log2(98)) / 2)


def test_consistency() -> None:
    idf = TfIdf(["red cat", "red dog"])
    # red stands in 2 of 2: ln(3/3) + 1 = 1; cat in 1 of 2: ln(3/2) + 1; owl in none: ln 3 + 1
    cat, owl = math.log(1.5) + 1, math.log(3) + 1
    same = 1 / (math.hypot(1, cat) * math.hypot(1, owl))  # only red is shared
    assert metrics.consistency(["red owl"], ["red cat"], idf) == pytest.approx(same)
    assert metrics.consistency(["Red", "cat"], ["cat red"], idf) == pytest.approx(1)
    assert metrics.consistency(["owl"], ["cat"], idf) == 0
    assert metrics.consistency([], ["cat"], idf) is None


def test_perplexity() -> None:
    # two texts: nll 2 ln 4 over 2 tokens, nll 2 ln 2 over 4 tokens; together 6 ln 2 over 6 tokens → 2
    sums = np.array([[2 * math.log(4), 2.0], [2 * math.log(2), 4.0]])
    assert float(metrics.perplexity(sums.mean(axis=0))) == pytest.approx(2)
    assert float(metrics.perplexity(np.array([1e6, 1.0]))) == math.inf


def test_the_perplexity_of_sentences_is_the_geometric_mean_over_facts() -> None:
    assert float(metrics.answer_perplexity(np.array([(math.log(2) + math.log(8)) / 2]))) == pytest.approx(4)
    rows = [
        {"probe": probe, "case": str(i), "scores": {"nll": math.log(value)}}
        for probe, values in (("edit", (2, 8)), ("neighborhood", (3, 3)), ("unrelated", (1, 25)))
        for i, value in enumerate(values)
    ]
    found = {name: e.mean for name, e in summarize(rows).items()}
    wanted = {"perplexity_edit": 4, "perplexity_accurate": 3, "perplexity_unrelated": 5}
    assert found == pytest.approx(wanted)


def test_norms() -> None:
    assert metrics.norm_ratio(3.0, 4.0) == 0.75
    assert metrics.norm_ratio(math.inf, 4.0) is None
    assert metrics.norm_ratio(1.0, 0.0) is None
    written, stream = np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([[0.0, 10.0], [1.0, 0.0]])
    assert metrics.residual_share(written, stream) == 0.75  # (5/10 + 1/1) / 2
    assert metrics.residual_share(written, stream * 0) is None


def test_retention_takes_both_ends_and_a_sample() -> None:
    facts = [f"f{i}" for i in range(10)]
    groups = metrics.retention(facts, size=3, seed=1)
    assert groups["oldest"] == ("f0", "f1", "f2")
    assert groups["newest"] == ("f7", "f8", "f9")
    assert len(set(groups["random"])) == 3
    assert list(groups["random"]) == sorted(groups["random"])
    assert groups == metrics.retention(facts, size=3, seed=1)
    assert groups["random"] != metrics.retention(facts, size=3, seed=2)["random"]
    assert metrics.retention(facts[:2], size=3) == dict.fromkeys(("oldest", "newest", "random"), ("f0", "f1"))
    assert metrics.retention([]) == dict.fromkeys(("oldest", "newest", "random"), ())


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_a_metric_says_what_it_is(metric: metrics.Metric) -> None:
    about = inspect.getdoc(metric.about) or ""
    assert about.startswith("Return ")
    assert "Range " in about or metric.name == "lp", f"{metric.name} does not say its range"


def test_the_table_has_every_metric_of_the_house() -> None:
    named = {metric.name for metric in METRICS}
    assert named >= {
        "efficacy", "paraphrase", "neighborhood", "score", "exact", "token_accuracy", "said", "said_contains",
        "locality_unchanged", "locality_gold", "drift", "portability", "fluency", "consistency", "perplexity",
        "norm_ratio",
    }  # fmt: skip
    assert len(named) == len(METRICS)


def test_metrics_of_finds_kinds() -> None:
    rows = [
        {"probe": "portability.alias", "scores": {"token_accuracy": 1.0, "said_contains": 1.0}},
        {"probe": "portability.multi_hop", "scores": {"token_accuracy": 1.0}},
        {"probe": "edit", "scores": {"efficacy": 1.0}},
    ]
    found = {m.name: m.pool for m in metrics.metrics_of(rows)}
    assert list(found) == [
        "efficacy", "portability", "portability.alias", "portability.multi_hop", "portability_said",
        "portability_said.alias",
    ]  # fmt: skip
    assert found["portability.multi_hop"] == "any"
    assert found["portability.alias"] == "mean"


@pytest.mark.parametrize(
    ("text", "rouge", "part"),
    [
        ("the cat sat on the mat", 1.0, 1.0),
        ("The cat, sat on the mat!", 1.0, 1.0),  # case and marks are no words
        ("the cat lay on a mat", 2 * 4 / 12, 2 / 6),  # the cat … on … mat; turned away at the third word
        ("the cat sat", 2 * 3 / 9, 3 / 6),  # broken off
        ("mat the on sat cat the", 2 * 3 / 12, 0.0),  # the same words: "the on … the" is all that stands in order
        ("the cat sat on the mat and slept there for hours", 2 * 6 / 17, 1.0),
        ("", 0.0, 0.0),
    ],
)
def test_how_much_of_a_long_answer_is_said(text: str, rouge: float, part: float) -> None:
    answer = "The cat sat on the mat."
    assert metrics.rouge_l(text, answer) == pytest.approx(rouge)
    assert metrics.said_in_part(text, answer) == pytest.approx(part)
    assert metrics.rouge_l(None, answer) is None
    assert metrics.said_in_part(None, answer) is None
    assert metrics.rouge_l(text, "?!") is None


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("He was born in Oslo. He moved to Rome! Does he sing?", 1.0),
        ("Well, he moved to Rome and there he sang.", 1 / 3),  # in the midst of another sentence
        ("Does he sing? He was born in Oslo", 2 / 3),  # in another order
        ("He was born in Oslofjord.", 0.0),  # whole words
        ("he was born. in Oslo", 1 / 3),  # marks are no words
        ("", 0.0),
    ],
)
def test_how_many_sentences_of_a_long_answer_are_said(text: str, share: float) -> None:
    answer = "He was born in Oslo.  He moved to Rome.\nDoes he sing?"
    assert metrics.sentences_said(text, answer) == pytest.approx(share)
    assert metrics.sentences_said(None, answer) is None
    assert metrics.sentences_said(text, "?!") is None
    assert metrics.sentences_said("他生于东京。他会唱歌", "他生于东京。他会唱歌。") == 1.0
