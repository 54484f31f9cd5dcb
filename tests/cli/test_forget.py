"""errata forget: what is refused before a model is opened, and how what came of it looks.

pytest tests/cli/test_forget.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from errata.cli import app
from errata.cli.tables.forget import forget
from tests.cli.test_cli import Run, run, sentence  # noqa: F401
from tests.cli.test_tables import drawn

NUMBERS: dict[str, Any] = {"membership": 1.0, "truth_ratio": 0.0291, "probability": 0.999}
ROW: dict[str, Any] = {
    "answer": "Paris", "phrase": "unknown", "phrases": {"unknown": -3.1}, "others": ["Rome", "Oslo"], "kept": 1,
    "asked": [
        {"prompt": "The capital of France is", "before": "Paris.", "after": "unknown.", "told": False, "written": True},
        {"prompt": "Paris is the capital of", "before": "x " * 90, "after": "x " * 90, "told": False, "written": False},
    ],
    "before": NUMBERS, "after": {"membership": None, "truth_ratio": None, "probability": 1e-6},
    "neighbours": [{"prompt": "p", "before": "a", "after": "a"}, {"prompt": "q", "before": "b", "after": "c"}],
    "edits": ["aaaaaa1111111111"], "method": "ledger",
}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "say"),
    [
        ([], "--prompt"),
        (["--prompt", "x", "--facts", "y.jsonl"], "--prompt"),
        (["--facts", "absent.jsonl"], "absent.jsonl"),
        (["--prompt", "x", "--method", "rome"], "memit"),
        (["--prompt", "x", "--method", "ledgr"], "Did you mean ledger?"),
        (["--prompt", "x", "--set", "steps=many"], "steps"),
    ],
)
def test_bad_input_is_one_sentence_and_opens_no_book(
    words: list[str],
    say: str,
    run: Run,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("forget", *words)
    assert (code, out) == (2, "")
    assert say in sentence(err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_what_came_of_it_fits_the_terminal(width: int) -> None:
    lines = drawn(forget([ROW]), width)
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= width
    assert "forgotten: Paris; said instead: 'unknown'; edit aaaaaa11" in text
    assert "* only asked" in text
    assert "1 of 2 questions about others are answered as before." in text
    assert "0.029" in text


def test_the_command_is_known() -> None:
    assert app.asked(["forget", "--prompt", "x"]) == "forget"
