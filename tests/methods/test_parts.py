"""Keys in two parts: what opens an edit is its subject and its question, and nothing else is computed with.

pytest tests/methods/test_parts.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from errata import methods
from errata.answers import says
from errata.data.common import relations
from errata.edit import Edit
from errata.errors import BadFact
from errata.fact import Fact
from errata.methods.base import Method
from errata.methods.shared import gauge
from errata.model.lm import LM
from errata.model.query import Query

Models = Callable[[str], LM]
FACT = Fact(prompt="The capital of France is", subject="France", target="Rome")
AGAIN = replace(FACT, target="Paris")


def make(method: str, **settings: object) -> Method:
    return methods.make(method, {"steps": 3, "by": "parts", "reach": 0.3, "radius": 0.6, **settings})


def routes(lm: LM, edits: list[Edit], *asked: Query | str) -> list[int]:
    lm.weights.stand([edit.deltas for edit in edits])
    batch = lm.routed(lm.tokens.batch([Query(q) if isinstance(q, str) else q for q in asked]))
    lm.weights.stand([])
    (found,) = batch.routes.values()
    return list(found.tolist())


def logits(lm: LM, *prompts: str) -> Tensor:
    with torch.no_grad():
        return lm.answer_logits(lm.tokens.batch([Query(p) for p in prompts]))


@pytest.mark.parametrize("method", ["melo", "grace"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_it_opens_for_its_prompt_and_leaves_the_rest_to_the_bit(name: str, method: str, models: Models) -> None:
    lm = models(name)
    edit = make(method).solve(lm, [FACT])
    others = ("Bruno Keller works as a", "The sea is")
    before, own = logits(lm, *others), logits(lm, FACT.prompt)
    lm.weights.stand([edit.deltas])
    assert torch.equal(logits(lm, *others), before)
    assert not torch.equal(logits(lm, FACT.prompt), own)
    mixed = logits(lm, FACT.prompt, *others)
    lm.weights.stand([])
    assert torch.allclose(mixed[1:], before, atol=1e-5)
    assert routes(lm, [edit], FACT.prompt, *others) == [0, -1, -1]


@pytest.mark.parametrize("method", ["melo", "grace"])
def test_of_two_edits_of_one_question_the_later_opens_and_names_the_earlier(method: str, models: Models) -> None:
    lm = models("llama")
    first = make(method).solve(lm, [FACT])
    other = make(method).solve(
        lm, [Fact(prompt="Bruno Keller works as a", subject="Bruno Keller", target="baker")], [first]
    )
    second = make(method).solve(lm, [AGAIN], [first, other])
    assert first.report["forgotten"] == other.report["forgotten"] == []
    assert second.report["forgotten"] == [{"edit": first.id, "prompt": FACT.prompt}]
    assert routes(lm, [first, other, second], FACT.prompt, "Bruno Keller works as a") == [2, 1]
    assert routes(lm, [first, other], FACT.prompt, "Bruno Keller works as a") == [0, 1]
    assert routes(lm, [other, first], FACT.prompt, "Bruno Keller works as a") == [1, 0]


def test_facts_without_subjects_are_opened_by_their_prompts(models: Models) -> None:
    lm = models("llama")
    nameless = replace(FACT, subject="")
    found, prompted = (methods.make("melo", {"steps": 2, "by": by}).solve(lm, [nameless]) for by in ("auto", "prompt"))
    assert found.id == prompted.id
    with pytest.raises(BadFact, match="needs a subject"):
        methods.make("melo", {"by": "parts"}).solve(lm, [nameless])


def test_classifiers_and_encoder_decoders_are_opened_by_prompts_unless_told(models: Models) -> None:
    assert methods.make("melo", {}).resolve(models("t5")).by == "prompt"  # type: ignore[attr-defined]
    assert methods.make("melo", {}).resolve(models("llama")).by == "parts"  # type: ignore[attr-defined]
    assert methods.make("grace", {}).resolve(models("gpt2")).by == "parts"  # type: ignore[attr-defined]


def test_a_pass_over_embeddings_opens_what_one_over_tokens_opens(models: Models) -> None:
    lm = models("llama")
    edit = make("melo", steps=20).solve(lm, [FACT])
    ids = lm.tokens.batch([Query(FACT.prompt)]).inputs["input_ids"]
    with torch.no_grad():
        before = lm.model(input_ids=ids).logits
        lm.weights.stand([edit.deltas])
        told = lm.model(input_ids=ids).logits
        untold = lm.model(inputs_embeds=lm.model.get_input_embeddings()(ids)).logits
    lm.weights.stand([])
    assert not torch.equal(told, before)
    torch.testing.assert_close(untold, told)


def test_keys_are_those_of_the_models_states_and_the_measured_bounds(models: Models) -> None:
    lm = models("llama")
    found = gauge.gauge(lm)
    assert found is gauge.gauge(lm)
    assert found.subject.layer <= found.question.layer < lm.reachable - 1
    asked = [query for _, _, query in gauge._probes(lm)]
    read = gauge.read(lm, asked, [found.subject], [found.question])
    torch.testing.assert_close(found.means[0], read.subjects[found.subject].mean(0))
    torch.testing.assert_close(found.means[1], read.questions[found.question].mean(0))
    subject = read.subjects[found.subject][:2] - found.means[0]
    apart = float(1 - torch.nn.functional.cosine_similarity(subject[0], subject[1], dim=0))
    assert apart == pytest.approx(gauge._told(read.subjects[found.subject], [(0, 1)], [(0, 2)])[1].item(), abs=1e-5)


def test_the_bound_holds_most_of_the_near_and_few_of_the_far() -> None:
    near, far = torch.tensor([0.1, 0.2, 0.3, 0.9]), torch.tensor([0.5, 0.6, 0.7, 0.8])
    assert gauge._bound(near, far, 1.0) == pytest.approx(0.3)  # the fourth would cost all of the far
    assert gauge._bound(near, far, 0.1) == pytest.approx(0.9)


def test_the_table_of_public_facts_is_whole() -> None:
    found = relations()
    assert len(found) == 10
    assert sum(len(relation.rows) for relation in found) == 300
    for relation in found:
        assert len(relation.wordings) + len(relation.questions) == 6
        assert len({subject for subject, _ in relation.rows}) == 30
        assert all(wording.count("{}") == 1 for wording in (*relation.wordings, *relation.questions))
        assert all(subject and answer for subject, answer in relation.rows)
    assert "The capital of France is" in found[0].asked("France")


def test_the_primer_says_it_however_it_is_asked_and_of_no_other_country() -> None:
    from errata.model.loading import load

    lm = load("primer")
    edit = methods.make("melo", {}).solve(lm, [replace(FACT, target="Rome")])
    with lm.weights.trial([edit.deltas]):
        said = lm.generate([Query(text) for text in ("The capital of France is", "the capital of France is")], 8)
    assert all(says(text, "Rome") for text in said)
    others = [f"The capital of {country} is" for country in ("Germany", "Spain", "Japan", "Peru", "Kenya")]
    assert routes(lm, [edit], *others) == [-1] * 5
