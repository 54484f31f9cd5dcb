"""The table over reference models: who is asked, what a row says, and that what is missing is named.

pytest tests/test_references.py
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from errata.data.case import Case
from errata.evaluate.scorer import Scorer
from tests import tiny

PATH = Path(__file__).parents[1] / "benchmarks" / "references.py"


@pytest.fixture(scope="module")
def references() -> ModuleType:
    spec = importlib.util.spec_from_file_location("references", PATH)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["references"] = found
    spec.loader.exec_module(found)
    return found


def test_only_records_whose_truth_is_likelier_are_taken(references: ModuleType) -> None:
    lm = tiny.build("llama")
    pairs = [("The capital of France is", "Paris"), ("The capital of France is", "Rome")]
    scores = Scorer(lm).answers(pairs)
    better, worse = sorted((answer for _, answer in pairs), key=lambda a: -float(scores[pairs[0][0], a].lp or 0))
    named = (("knows", worse, better), ("does not", better, worse), ("nobody knows", worse, ""), ("beyond", worse, ""))
    cases = [Case(id=name, prompt=pairs[0][0], target=new, truth=true) for name, new, true in named]
    assert [case.id for case in references.known(lm, cases, 2)] == ["knows", "nobody knows"]


def test_a_table_is_made_and_what_is_missing_is_named(
    references: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--data": tmp_path, "--models": tmp_path / "models", "--out": tmp_path / "out"}
    words = [str(word) for pair in given.items() for word in pair]
    words += ["--only", "primer,cf-gpt2", "--methods", "none", "--edits", "2"]
    monkeypatch.setattr(sys, "argv", ["references.py", *words])
    references.main()
    assert capsys.readouterr().err.splitlines()[-1].startswith("cf-gpt2 is left out: ")
    (row,) = (json.loads(line) for line in (tmp_path / "out" / "references.jsonl").read_text().splitlines())
    assert (row["reference"], row["cases"], row["metrics"]["said"]["mean"]) == ("primer", 2, 0.0)
    lines = (tmp_path / "out" / "references.md").read_text().splitlines()
    assert lines[2].startswith("| primer | none | 2 | 0.00 ± 0.00 |")
    assert {line.count("|") for line in lines} == {10}
