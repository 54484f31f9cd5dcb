"""The tree of errors: as drawn, with exit codes, and the suggestion they end with."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from errata import errors
from errata.errors import BadFile, ErrataError, InputError, did_you_mean

CLASSES = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception) and not issubclass(c, Warning)
]


def drawn() -> dict[str, str]:
    """Read {class: parent} off the drawing in the module's docstring."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)(\w+)  ", line)
        if match and match[2][0].isupper():
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            parents[match[2]] = path[depth - 1] if depth else "Exception"
    return parents


def test_drawing_is_the_tree() -> None:
    assert drawn() == {c.__name__: c.__base__.__name__ for c in CLASSES}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_error_is_documented_and_holds_its_message(cls: type[ErrataError]) -> None:
    assert cls.__dict__["__doc__"]
    assert str(cls("say what to do")) == "say what to do"
    assert cls.exit_code == (2 if issubclass(cls, InputError) else 1)


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("mmit", ["rome", "memit", "ft"], " Did you mean memit?"),
        ("ROME", ["rome", "memit"], " Did you mean rome?"),
        ("rome", ["ROME"], " Did you mean ROME?"),
        ("zzz", ["rome", "memit"], ""),
        ("", ["rome"], ""),
        ("rome", [], ""),
    ],
)
def test_did_you_mean(word: str, known: list[str], hint: str) -> None:
    assert did_you_mean(word, iter(known)) == hint


def test_layer_zero_and_the_book_import_without_torch() -> None:
    modules = "errata.errors, errata.fact, errata.data.facts, errata.config, errata.book, errata.book.book"
    code = f"import sys, {modules}; print(sorted(m for m in ('torch', 'transformers', 'numpy') if m in sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(Path(errors.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_message_is_a_sentence_not_a_file() -> None:
    error = BadFile(f"line 1: no field {'x' * 20_000!r}. Known: prompt.")
    assert len(str(error)) <= error.longest
    assert str(error).startswith("line 1: no field 'xxx")
    assert str(error).endswith("Known: prompt.")
    assert str(BadFile("short.")) == "short."
