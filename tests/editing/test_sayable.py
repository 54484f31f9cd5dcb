"""An answer that a model cannot spell is named before it is tried; one that it knows, or has no more than a token of, is not.

pytest tests/editing/test_sayable.py
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import errata
from errata.cli import app
from errata.editing.sayable import unsayable
from errata.errors import UnsayableWarning
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.loading import load
from errata.primer.probes import edits
from tests import tiny

STRANGE = ("Quelmara", "Grace Hopper", "microchips", "1871")


def wanted(target: str) -> Fact:
    return Fact(prompt="The capital of France is", subject="France", target=target)


@pytest.fixture(scope="module")
def primer() -> LM:
    return load("primer")


def test_names_it_never_saw_are_found_and_those_it_knows_are_not(primer: LM) -> None:
    known = edits(60)
    assert not unsayable(primer, known)
    found = unsayable(primer, [*map(wanted, STRANGE), *known])
    assert set(found) == set(STRANGE)
    assert max(found.values()) < 1e-5
    assert not unsayable(primer, [wanted("Lyon"), wanted("the")])  # the second is one token


def test_a_model_that_knows_nothing_can_say_anything_and_a_classifier_says_nothing(
    models: Callable[[str], LM],
) -> None:
    for name in ("llama", "t5", "bert"):
        assert not unsayable(models(name), tiny.FACTS)
    prompt = "x" * 2000
    assert not unsayable(
        models("llama"), [Fact(prompt=prompt, subject=prompt, target="Quelmara")]
    )  # no room to tell it


def test_it_is_said_before_the_edit_is_computed_and_the_advice_is_another_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with errata.open("primer", book=tmp_path / "book") as editor:
        monkeypatch.setattr(
            "errata.editing.sayable.warnings.warn", lambda text, *_, **__: told.append(f"{len(editor.log())} {text}")
        )
        facts = [wanted("Quelmara"), Fact(prompt="The capital of Spain is", subject="Spain", target="Lyon")]
        strange, plain = editor.write(facts, method="rome", steps=2)
        assert len(told) == 1
        assert told[0].startswith("0 primer can hardly say 'Quelmara': ")  # nothing was in the book yet
        assert "errata ask --list" in told[0]
        (note,) = strange.report.notes
        assert note.endswith("choose an answer that the model can say.")
        assert not any("can say" in note for note in plain.report.notes)


def test_the_shell_hears_it_unless_it_wants_to_hear_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["edit", "--prompt", "The capital of France is", "--subject", "France", "--target", "Quelmara"]
    words += ["--set", "steps=1", "--book", str(tmp_path / "book")]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnsayableWarning)
        assert app.main(words) == 0
        assert capsys.readouterr().err.startswith("errata: note: primer can hardly say 'Quelmara': ")
        assert app.main([*words, "--quiet", "--seed", "1"]) == 0
        assert capsys.readouterr().err == ""
