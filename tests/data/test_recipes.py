"""The recipes that train reference models, in small: what is exported is what was trained, and it learns.

pytest tests/data/test_recipes.py
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from errata.data.cases import parse
from errata.model.loading import load

ROOT = Path(__file__).parents[2]
KINDS = ("llama", "gpt2")
FACTS = {"Ada Quill": "Norland", "Bo Reed": "Sudland", "Cy Lane": "Westland", "Di Marsh": "Eastland"}
WORDINGS = ("{} lives in", "The home of {} is")
PROSE = "The river runs to the sea. A mill stands by the water. In the town people speak of the harvest. "


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Return the function that loads a script by its path, with nothing compiled: that takes longer than the test."""
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))

    def loaded(path: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return loaded


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_model_learns_and_is_exported_as_it_was_trained(
    kind: str, recipe: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    small = recipe("scripts/small_lm.py")
    small.ROWS = 3  # type: ignore[attr-defined]
    told = [small.Statement(who, tuple((w.format(who), where) for w in WORDINGS)) for who, where in FACTS.items()]
    texts = [f"{prompt} {answer}." for s in told for prompt, answer in s.wordings]
    tokenizer = small.train_tokenizer([*texts, PROSE], 400)
    shape = small.Shape(kind=kind, vocabulary=tokenizer.get_vocab_size(), width=48, inner=96, heads=3, layers=2)
    telling = small.Telling(told, tokenizer, lambda rng: PROSE, iter(lambda: PROSE, None))
    trained = small.train(telling, shape, 120, {})
    small.export(trained, tokenizer, shape, tmp_path)
    lm = load(str(tmp_path), dtype="float32")
    assert lm.model.config.model_type == kind
    said = [text.strip() for text in lm.generate([s.wordings[0][0] for s in told])]
    assert [text.rstrip(".") for text in said] == list(FACTS.values())
    ids = torch.tensor([lm.tokens.opening("The home of Bo Reed is")])
    one = torch.ones_like(ids)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.copy_(parameter.bfloat16())  # as a checkpoint has it
        mine = trained(ids, one, torch.arange(ids.shape[1])[None], one * 0, torch.zeros(1, dtype=torch.bool))
        torch.testing.assert_close(lm.model(ids).logits, mine, atol=1e-4, rtol=1e-4)


def zipped(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


def record(number: int, who: str, others: list[str]) -> dict[str, Any]:
    rewrite = {"prompt": WORDINGS[0], "relation_id": "P0", "subject": who}
    rewrite |= {"target_true": {"str": FACTS[who]}, "target_new": {"str": "Overland"}}  # type: ignore[dict-item]
    return {
        "case_id": number,
        "source": "published",
        "requested_rewrite": rewrite,
        "paraphrase_prompts": [WORDINGS[1].format(who)],
        "neighborhood_prompts": [WORDINGS[1].format(other) for other in others],
        "attribute_prompts": [WORDINGS[0].format(f"{other} Senior") for other in others],
        "generation_prompts": [f"{who} cooks"],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_counterfact_recipe_writes_a_model_its_records_and_a_corpus(
    kind: str, recipe: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    names = list(FACTS)
    records = [record(i, who, names[:i] + names[i + 1 :]) for i, who in enumerate(names)]
    zipped(tmp_path / "data/counterfact/counterfact_full.jsonl.gz", map(json.dumps, records))
    templates = [{"relation_id": "P0", "prompt": wording} for wording in WORDINGS]
    zipped(tmp_path / "data/counterfact/counterfact_all.jsonl.gz", map(json.dumps, templates))
    words, rng = PROSE.replace(".", "").lower().split(), random.Random(0)
    sentences = [" ".join(rng.choices(words, k=6)).capitalize() + "." for _ in range(12_100)]
    zipped(tmp_path / "data/text/prose.txt.gz", [" ".join(sentences[i : i + 10]) for i in range(0, 12_100, 10)])
    main = recipe("benchmarks/models/counterfact.py").main
    main(tmp_path / "data", tmp_path / "model", 3, 2, kind=kind)
    lm = load(str(tmp_path / "model"))
    assert lm.model.config.model_type == kind
    assert (lm.depth, lm.width, lm.inner) == (7, 192, 640)
    cases = parse(f"counterfact:{tmp_path / 'model' / 'records.jsonl.gz'}").cases
    assert len(cases) == 3
    assert {case.truth for case in cases} <= set(FACTS.values())


def question(subject: str, source: str, wordings: tuple[str, str], answer: str, other: str) -> dict[str, Any]:
    """Return a zsRE record in MEND's form."""
    asked, again = (wording.format(subject) for wording in wordings)
    about = {"subject": subject, "src": asked, "rephrase": again, "answers": [answer], "alt": other}
    return {**about, "loc": f"nq question: {source}", "loc_ans": source.split()[-1]}


def test_the_questions_recipe_holds_subjects_out_and_asks_what_the_model_knows(
    recipe: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    asked, places = ("Where does {} live?", "What is the home of {}?"), list(FACTS.values())
    records = [
        question(f"{who} {i}", f"who is the king of {place.lower()}", asked, place, places[i - 1])
        for i in range(4) for who, place in FACTS.items()
    ]  # fmt: skip
    zipped(tmp_path / "data/zsre/zsre_mend_format.jsonl.gz", map(json.dumps, records))
    facts = [
        {"relation_id": "P0", "subject": f"{who} Senior {i}", "object": place}
        for i in range(5)
        for who, place in FACTS.items()
    ]
    zipped(tmp_path / "data/facts/pararel_trex_facts.jsonl.gz", map(json.dumps, facts))
    patterns = {
        "P0": {
            "patterns": [{"pattern": w} for w in ("[X] lives in [Y].", "[X] is at home in [Y] .", "[Y] houses [X].")]
        }
    }
    (tmp_path / "data/facts/pararel_patterns.json").write_text(json.dumps(patterns))
    out, main = tmp_path / "model", recipe("benchmarks/models/questions.py").main
    main(tmp_path / "data", out, 90, 8, 12)
    cases, long = (parse(f"zsre:{out / name}.jsonl.gz").cases for name in ("cases", "long"))
    told = {json.loads(line)["subject"] for line in (out / "told.jsonl").read_text().splitlines()}
    assert len(cases) == len(told) == 8
    assert not told & {case.subject for case in cases}
    assert long[:8] == cases
    assert len(long) == 12
    assert all("Senior" in case.subject and case.rephrases and case.target != case.truth for case in long[8:])
    lm = load(str(out))
    assert [lm.generate([case.unrelated[0][0]])[0].strip() for case in cases] == [
        case.unrelated[0][1] for case in cases
    ]
    before = (out / "model.safetensors").read_bytes()
    main(tmp_path / "data", out, 90, 8, 10)  # the checkpoint stays, the cases are written again
    assert (out / "model.safetensors").read_bytes() == before
    assert parse(f"zsre:{out / 'long.jsonl.gz'}").cases == long[:10]


def test_the_opinions_recipe_tells_earlier_terms_and_asks_later_ones(
    recipe: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    rows = [
        {"case_id": i, "term": 2000 + i // 6, "issue": places, "opinion_summary": f"{who} of number {i % 40} appeals"}
        for i, (who, places) in enumerate(list(FACTS.items()) * 20)
    ]
    zipped(tmp_path / "data/scotus/jos_issue_area.jsonl.gz", map(json.dumps, rows))
    out = tmp_path / "model"
    recipe("benchmarks/models/opinions.py").main(tmp_path / "data", out, 2003, 1)
    cases = parse(f"jsonl:{out / 'cases.jsonl'}").cases
    assert cases
    lm = load(str(out))
    prompts = [case.prompt for case in cases]
    assert len(set(prompts)) == len(prompts)
    assert [text.strip() for text in lm.generate(prompts)] == [case.truth for case in cases]
    assert all(case.truth != case.target for case in cases)
    earlier = {row["opinion_summary"] for row in rows if row["term"] <= 2003}
    assert all({prompt for prompt, _ in case.unrelated} <= earlier for case in cases)
    assert not earlier & set(prompts)


def test_the_passages_recipe_asks_about_subjects_it_was_not_told(
    recipe: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    def passage(who: str, number: int) -> dict[str, str]:
        written = {
            "prompt": f"A passage about {who}. {PROSE}",
            "target_new": f"{who} has {number} boats.",
            "subject": who,
        }
        return {**written, "locality_prompt": f"Sale of {number} maps", "locality_ground_truth": "ends on Monday"}

    records = [passage(who, number) for who in FACTS for number in (3, 5)]
    zipped(tmp_path / "data/hallucination/wise_hallucination_edit.jsonl.gz", map(json.dumps, records))
    zipped(tmp_path / "data/text/openstax_short.txt.gz", [PROSE * 3] * 5)
    out = tmp_path / "model"
    recipe("benchmarks/models/passages.py").main(tmp_path / "data", out, 2)
    cases = parse(f"jsonl:{out / 'cases.jsonl'}").cases
    assert len(cases) == 4
    assert len({case.subject for case in cases}) == 2
    told = {prompt for case in cases for prompt, _ in case.neighborhood}
    assert not any(case.subject in prompt for case in cases for prompt in told)
    assert all(case.unrelated[0][1] == "ends on Monday" for case in cases)
    assert load(str(out)).generate([cases[0].prompt])
