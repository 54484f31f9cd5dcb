"""Facts no one expects, on models whose places are numbered: written and read back the same, or refused in a sentence.

A slice; `benchmarks/faults.py accidents` runs the whole.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from errata.book.book import Book
from errata.book.verify import verify
from errata.editing.editor import Editor
from errata.errors import BadFact
from errata.fact import Fact
from tests import tiny

LONG = "word " * 2000


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("prompt", "subject", "target"),
    [
        ("The capital of 🦊 is", "🦊", "🎉"),
        ("בירת צרפת היא", "צרפת", "ליון"),
        ("Cafe\u0301 is", "Cafe\u0301", "n\u0303"),
        ("France is", "France", "\u202eLyon"),
        ("France is", "France", "{}"),
        (f"{LONG}France is", "France", "Lyon"),
        ("France is", "France", LONG),
    ],
    ids=["emoji", "right to left", "marks", "override", "braces", "long prompt", "long target"],
)
def test_an_odd_fact_is_written_or_refused(name: str, prompt: str, subject: str, target: str, tmp_path: Path) -> None:
    lm = tiny.build(name)
    fact = Fact(prompt=prompt, subject=subject, target=target)
    with Editor(lm, Book.open(tmp_path / "book", lm.fingerprint, "tiny"), max_norm_ratio=1e9) as editor:
        if LONG.strip() in (*prompt.partition(LONG.strip()), target.strip()):
            with pytest.raises(BadFact, match=r"tokens long, and tiny .* reads fewer than 128: shorten it"):
                editor.write(fact, "ft", steps=2)
            assert editor.log() == []
            return
        edit = editor.write(fact, "ft", steps=2)
        assert editor.book.get(edit.id).facts == (fact,)
        assert verify(editor.book).problems == []


@pytest.mark.parametrize("bad", ["", "   ", "\t\n", "\0", "Ly\0on", "\ud83d"])
def test_what_no_tokenizer_and_no_file_can_hold_is_no_fact(bad: str) -> None:
    with pytest.raises(BadFact):
        Fact(prompt="France is", subject="France", target=bad)
