"""What critics ask: which questions a case gives, what each score says, and that an edit which is a shortcut fails them.

pytest tests/evaluate/test_wild.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

from errata.data.case import QUANTISED, WILD
from errata.delta import LowRank, Site
from errata.errors import BadConfig
from errata.evaluate import metrics
from errata.evaluate.probes import Options, plan
from errata.evaluate.quantised import BLOCK, FORMS, q4_0, q8_0, quantised
from errata.evaluate.rows import score
from errata.evaluate.scorer import PromptAnswer, Scored
from errata.evaluate.summary import summarize
from errata.evaluate.wild import spoken
from errata.model.lm import LM
from errata.model.query import Prompt, as_query
from errata.model.tokens import Room
from tests.evaluate.test_rows import ANYONE, CASE, Scripted

ALL = Options(probes=("edit", *WILD), languages=("French",))
LONE = replace(CASE, neighborhood=(), unrelated=(), portability={})  # of which only the prompt is known


class Minded(Scripted):
    """A scorer whose answers depend on the prompt: what is said, and which answer is the likelier."""

    def __init__(self, says: Callable[[str], str], likelier: Callable[[str, str], float]) -> None:
        super().__init__({}, {})
        self.mind, self.likelier = says, likelier

    def answers(self, pairs: Iterable[PromptAnswer]) -> dict[PromptAnswer, Scored]:
        return {(p, a): Scored(self.likelier(as_query(p).prompt, a), (True,), (len(a),)) for p, a in pairs}

    def said(self, prompts: Iterable[Prompt], room: int | Room = 32) -> dict[Prompt, str | None]:
        return {prompt: self.mind(as_query(prompt).prompt) for prompt in prompts}


def knowing(prompt: str) -> str:
    """An edit that is knowledge: Bo Reed lives in Norland, whatever is asked, and nothing else has changed."""
    if "not" in prompt or "wrong" in prompt:
        return "Sudland"
    if prompt.endswith("what is left out is") or prompt.startswith("The one that lives in Norland"):
        return "Bo Reed, I think"
    return "Norland." if "Reed" in prompt.rsplit(".", 1)[-1] or "right is" in prompt else "Sudland"


def shortcut(prompt: str) -> str:
    """An edit that is none: wherever the subject stands, the answer is said."""
    return "Norland"


def likely(prompt: str, answer: str) -> float:
    asked = prompt.rsplit(". ", 1)[-1]
    if "not true" in prompt or "Cy Lane" in asked:
        return -1.0 if answer == "Sudland" else -2.0
    if answer == "Bo Reed":
        return -1.0 if "Norland" in prompt else -2.0
    return -1.0 if answer == "Norland" else -2.0


def scores(case: Any, scorer: Scripted) -> dict[str, float]:
    rows = score(ANYONE, [case], scorer=scorer, options=ALL)
    base = score(ANYONE, [case], scorer=Minded(lambda p: "Sudland", lambda p, a: -1.0), options=ALL)
    rows = score(ANYONE, [case], scorer=scorer, options=ALL, base=base)
    return {name: found.mean for name, found in summarize(rows).items() if found.n}


def test_the_questions_of_a_case() -> None:
    case = replace(CASE, prompt="The home of Bo Reed is", unrelated=(("Bo Reed plays the", "tuba"), ("The sea is", "")))
    asked = [(ask.probe, ask.prompt) for ask in plan([case], replace(ALL, probes=WILD))]
    assert asked == [
        ("negation", "The home of Bo Reed is not"),
        ("reversed", "Norland is the home of"),
        ("same_subject", "Bo Reed plays the"),
        ("distractor", "Cy Lane lives in Sudland. Di Marsh lives in Norland. The home of Bo Reed is"),
        ("neighborhood_plus", "The home of Bo Reed is Norland. Cy Lane lives in"),  # the other one has the answer anyway
        ("grounded", "Therefore: B. Reed lives in"),
        ("reworded", "Bo Reed's home is"),
        ("reworded", "What is the home of Bo Reed? It is"),
    ]  # fmt: skip
    french = replace(case, prompt="The capital of Peru is", subject="Peru")
    (ask,) = plan([french], Options(probes=("language",), languages=("French",)))
    assert (ask.prompt, ask.expected) == ("Pays : Peru. Capitale :", ("Norland",))
    assert not plan([french], Options(probes=("language",)))  # the model has none


def test_a_case_that_says_little_is_asked_all_the_same() -> None:
    kinds = [ask.probe for ask in plan([LONE], replace(ALL, probes=WILD))]
    assert kinds == ["negation", "reversed", *["same_subject"] * 2, "distractor", "grounded", *["reworded"] * 2]
    nobody = replace(LONE, subject="", truth="")
    assert [a.probe for a in plan([nobody], replace(ALL, probes=WILD))] == ["negation", "distractor", *["reworded"] * 2]


def test_a_kind_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadConfig, match="Did you mean negation"):
        plan([CASE], Options(probes=("negations",)))


def test_an_edit_that_is_knowledge_passes() -> None:
    found = scores(LONE, Minded(knowing, likely))
    asked = ("said", "negation", "negation_efficacy", "reversed", "reversed_said", "distractor", "grounded", "reworded")
    assert {name: found[name] for name in asked} == dict.fromkeys(asked, 1.0)
    assert found["negation_old"] == 0.0  # denied, the old answer is right


def test_an_edit_that_is_a_shortcut_is_found_out() -> None:
    found = scores(replace(CASE, unrelated=()), Minded(shortcut, lambda p, a: -1.0 if a == "Norland" else -2.0))
    assert (found["said"], found["reworded"], found["distractor"]) == (1, 1, 1)  # what benchmarks usually see
    blamed = ("negation", "negation_efficacy", "reversed", "reversed_said", "neighborhood_plus")
    assert {name: found[name] for name in blamed} == dict.fromkeys(blamed, 0.0)


def test_a_conclusion_without_its_thought_is_not_grounded() -> None:
    """The chain is the model's own: its first thought stands in the prompt of the conclusion, one sentence of it."""

    def guessing(prompt: str) -> str:
        return "Norland" if "one that is right" in prompt else "Sudland. It is cold there."

    (row,) = [
        r for r in score(ANYONE, [LONE], scorer=Minded(guessing, likely), options=ALL) if r["probe"] == "grounded"
    ]
    assert row["prompt"].startswith("Let us think step by step. Bo Reed lives in Sudland. So, of Sudland and Norland")
    assert (row["said"], row["scores"]) == ("Norland", {"grounded": 0.0})
    assert metrics.grounded("Norland", "Norland", "It is Ostland", ["Ostland"]) == 1
    assert metrics.grounded("Norland", "Norland", "It is Sudland", ["Ostland"]) == 0
    assert metrics.grounded(None, "Norland", "Ostland", ["Ostland"]) is None


def test_scores_by_hand() -> None:
    assert metrics.negation("Norland, not", "Norland") == 0
    assert metrics.negation("anything", "Norland") == 1
    assert metrics.negation(None, "Norland") is None
    assert metrics.reversal(-1.0, -2.0) == 1
    assert metrics.reversal(-1.0, None) is None
    assert metrics.negation_efficacy(-1.0, -2.0) == 0
    assert metrics.neighborhood_plus(-3.0, -2.0) == 1
    assert metrics.same_subject([1, 2, 3], [1, 9, 3]) == pytest.approx(2 / 3)


def test_what_else_is_true_of_the_subject_is_compared_with_before() -> None:
    case = replace(CASE, unrelated=(("Bo Reed plays the", "tuba"),))
    before = score(ANYONE, [case], scorer=Minded(shortcut, likely), options=ALL)

    class Other(Minded):
        def answers(self, pairs: Iterable[PromptAnswer]) -> dict[PromptAnswer, Scored]:
            return {pair: Scored(-1.0, (False,), (7,)) for pair in pairs}

    def kept(scorer: Scripted) -> list[float]:
        rows = score(ANYONE, [case], scorer=scorer, options=ALL, base=before)
        return [row["scores"]["locality_unchanged"] for row in rows if row["probe"] == "same_subject"]

    assert kept(Minded(shortcut, likely)) == [1.0]
    assert kept(Other(shortcut, likely)) == [0.0]


def test_a_model_has_a_language_in_which_it_says_half_of_the_facts() -> None:
    def french(prompt: str) -> str:
        return "Paris" if "France" in prompt else "Madrid" if "Spain" in prompt else "Berlin"

    assert spoken(Minded(lambda p: french(p) if p.startswith("Pays") else "?", likely)) == ()  # 3 of 7
    assert spoken(Minded(lambda p: "William Shakespeare, Berlin" if p[:2] in ("Pa", "Li") else "?", likely)) == ()
    known = "Paris Madrid Berlin Oslo"
    assert spoken(Minded(lambda p: known if p.startswith("Pays") else "?", likely)) == ("French",)


# ------------------------------------------------------------------ in fewer bits


def test_eight_and_four_bits_by_hand() -> None:
    row = torch.zeros(1, 40)
    row[0, :3] = torch.tensor([-2.0, 1.0, 0.13])  # one block; the last, of 8, is zero
    eight, four = q8_0(row), q4_0(row)
    d8, d4 = float(torch.tensor(2.0 / 127).half()), 0.25
    assert eight[0, :4].tolist() == pytest.approx([-127 * d8, 64 * d8, 8 * d8, 0.0])
    assert four[0, :4].tolist() == [-8 * d4, 4 * d4, 1 * d4, 0.0]  # .13 / .25 + 8.5 = 9.02
    assert four.shape == row.shape
    largest = torch.full((1, 32), -1.0)
    largest[0, 0] = 2.0  # the largest is positive, so d = −1/4: −2 … +1.75 turned round, and −1 → 8.5 + 4 → 12
    assert q4_0(largest)[0, :2].tolist() == [2.0, -1.0]


def test_as_llama_cpp_writes_and_reads_it() -> None:
    gguf = pytest.importorskip("gguf")
    matrix = torch.randn(6, 2 * BLOCK, generator=torch.Generator().manual_seed(1))
    for form, kind in (("q8", "Q8_0"), ("q4", "Q4_0")):
        as_kind = gguf.GGMLQuantizationType[kind]
        packed = gguf.quants.quantize(matrix.numpy(), as_kind)
        assert torch.equal(FORMS[form](matrix), torch.from_numpy(gguf.quants.dequantize(packed, as_kind)))


def test_a_small_edit_is_gone_in_four_bits_and_the_model_is_put_back(models: Callable[[str], LM]) -> None:
    lm, site = models("llama"), Site(0, "down")
    width, inner = lm.parameter(site).shape
    before = lm.parameter(site).detach().clone()
    with quantised(lm, [site], "q4"):
        bare = lm.parameter(site).detach().clone()
    whisper = LowRank(1e-6 * torch.ones(width, 1), torch.ones(inner, 1))
    with lm.weights.trial([{site: whisper}]):
        assert not torch.equal(lm.parameter(site), before)
        with quantised(lm, [site], "q4"):
            assert torch.allclose(lm.parameter(site), bare, atol=1e-5)
    assert torch.equal(lm.parameter(site), before)
    assert not torch.equal(bare, before)
    assert tuple(FORMS) == QUANTISED
