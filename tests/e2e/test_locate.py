"""`errata locate` on the shipped model, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from errata.cli import app

FRANCE = ["locate", "--prompt", "The capital of France is", "--subject", "France"]


def ask(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = app.main(words)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_capital_of_france_is_kept_in_the_early_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = ["--book", str(tmp_path / "book"), "--json"]
    code, out, _ = ask([*FRANCE, *book], capsys)
    found = json.loads(out)
    assert (code, found["target"], found["size"]) == (0, "Paris", 45)
    assert sum(found["share"][layer] for layer in "012") > 0.9
    code, out, _ = ask([*FRANCE, *book, "--trace", "--set", "samples=2"], capsys)
    found = json.loads(out)
    assert (code, found["layer"], found["tokens"][found["subject"][1]].strip()) == (0, 0, "France")
    assert found["clean"] > 0.9 > 0.5 > found["corrupted"]


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["locate"], "--prompt and --subject, or --facts"),
        ([*FRANCE, "--method", "kn"], "use kne or trace"),
        ([*FRANCE, "--draw", "a.gif"], ".png or .svg"),
        ([*FRANCE, "--draw", "nowhere/a.png"], "no directory 'nowhere'"),
        ([*FRANCE, "--trace", "--set", "sample=2"], "Did you mean samples?"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], say: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ask([*words, "--book", str(tmp_path / "book")], capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert say in err
