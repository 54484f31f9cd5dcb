"""The real files, where they are at hand: every record parses, and the numbers of things are right.

ERRATA_DATA=DIR pytest tests/evaluate/test_bundle.py
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from errata.data.cases import KNOWN, find, parse
from errata.fact import occurrences

DATA = Path(os.environ.get("ERRATA_DATA") or Path(__file__).parents[3] / "shared" / "data")

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no benchmark files at hand: set ERRATA_DATA")

# name, file → cases, with a subject in the prompt, paraphrases, neighbours, unrelated, portability, generation prompts
EXPECTED = {
    ("counterfact", "counterfact_full.jsonl"): (1827, 1827, 3654, 18270, 729, 1117, 5381),
    ("counterfact-easyedit", "counterfact_all.jsonl"): (21311, 21311, 3654, 18270, 21311, 0, 5381),
    ("zsre", "zsre_mend_format.jsonl"): (2252, 2242, 2252, 0, 1605, 1430, 0),
    ("zsre-true", "zsre_mend_format.jsonl"): (2252, 2242, 2252, 0, 1605, 0, 0),
    ("wiki_recent", "wiki_recent_test.jsonl"): (1166, 1166, 1166, 0, 5726, 10539, 0),
    ("wiki_recent", "wiki_recent_train.jsonl"): (569, 569, 0, 0, 1935, 751, 0),
    ("wiki_counterfact", "wiki_counterfact_test.jsonl"): (705, 705, 705, 0, 4919, 3769, 0),
    ("wiki_counterfact", "wiki_counterfact_train.jsonl"): (1427, 1427, 0, 0, 2034, 2216, 0),
    ("knowedit-zsre", "zsre_test.jsonl"): (1084, 1084, 1084, 0, 2168, 1084, 0),
    ("wikibio", "wikibio_test.jsonl"): (254, 254, 0, 0, 508, 0, 0),
    ("wikibio", "wikibio_train.jsonl"): (405, 405, 0, 0, 810, 0, 0),
    ("convsent", "convsent_test.jsonl"): (800, 800, 0, 0, 0, 0, 800),
    ("convsent", "convsent_val.jsonl"): (799, 799, 0, 0, 0, 0, 799),
    ("sanitation", "sanitation_trivia_test.json"): (80, 0, 0, 0, 453, 0, 0),
    ("sanitation", "sanitation_trivia_train.json"): (80, 80, 0, 0, 453, 0, 0),
    ("mquake", "mquake_hard.jsonl"): (351, 351, 0, 0, 0, 1053, 0),
    ("mquake", "mquake_cf_akew.jsonl"): (234, 234, 0, 0, 0, 702, 0),
    ("qaedit", "qaedit_1k.jsonl"): (900, 899, 900, 0, 4500, 0, 0),
    ("halluedit", "halluedit.jsonl"): (2030, 2030, 2030, 0, 2030, 16240, 0),
    ("wise-hallucination", "wise_hallucination_edit.jsonl"): (541, 541, 0, 0, 541, 0, 0),
    ("wise-hallucination", "wise_hallucination_train.jsonl"): (264, 264, 0, 0, 264, 0, 0),
    ("unke", "unke_v2.jsonl"): (900, 0, 900, 0, 0, 4263, 0),
    ("editeverything", "editeverything.jsonl"): (500, 0, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize(("name", "file"), EXPECTED)
def test_every_record_parses(name: str, file: str) -> None:
    known = next(k for k in KNOWN if k.name == name)
    path = next((p for p in find(known, DATA) if p.name.removesuffix(".gz") == file), None)
    if path is None:
        pytest.skip(f"no {file} under {DATA}")
    cases = parse(f"{name}:{path}").cases
    found = (
        len(cases),
        sum(case.needs_subject for case in cases),
        sum(len(case.rephrases) for case in cases),
        sum(len(case.neighborhood) for case in cases),
        sum(len(case.unrelated) for case in cases),
        sum(len(questions) for case in cases for questions in case.portability.values()),
        sum(len(case.generation) for case in cases),
    )
    assert found == EXPECTED[name, file]
    for case in cases:
        assert case.prompt
        assert case.target
        assert name not in ("counterfact", "mquake") or case.target != case.truth
        for fact in case.facts[:1]:  # a subject that does not stand in the prompt is left out of the fact
            assert fact.prompt == case.prompt
            named = case.subject and occurrences(case.prompt, case.subject)
            assert fact.subject == (case.subject if named else "")


def test_easyedits_rephrase_is_a_generation_prompt_in_five_of_six_records() -> None:
    known = {k.name: k for k in KNOWN}
    if not (find(known["counterfact"], DATA) and find(known["counterfact-easyedit"], DATA)):
        pytest.skip("one of the two forms is missing")
    original = {case.id.split("-")[-1]: case for case in parse("counterfact", data=DATA)}
    other = {case.id.split("-")[-1]: case for case in parse("counterfact-easyedit", data=DATA)}
    kinds: Counter[str] = Counter()
    for name in original.keys() & other.keys():
        (rephrase,) = other[name].rephrases_easyedit
        kinds["generation"] += rephrase in original[name].generation
        kinds["paraphrase"] += rephrase in original[name].rephrases
    assert sum(kinds.values()) > 1700
    assert 0.78 < kinds["generation"] / sum(kinds.values()) < 0.9
