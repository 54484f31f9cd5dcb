"""Writing the facts of one book into another model: what becomes of each.

pytest tests/editing/test_migrate.py
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from errata.book.book import Book
from errata.edit import Edit
from errata.editing.editor import Editor
from errata.editing.migrate import Moved, migrate, parse
from errata.editing.opening import open as open_editor
from errata.errors import BadConfig, UnknownMethod
from errata.fact import Fact
from errata.methods.base import Solution
from errata.methods.ft import FineTune
from errata.model.lm import LM
from tests import synthetic, tiny
from tests.editing.mouth import Mouth, put

HOW = {"steps": 1, "layer": 0}
BASE = "another base"


def fact(town: str, target: str, **more: str) -> Fact:
    return Fact(prompt=f"{town} lies in", subject=town, target=target, **more)  # type: ignore[arg-type]


@pytest.fixture
def old(lm: LM, tmp_path: Path) -> Iterator[Book]:
    with Book.open(tmp_path / "old", BASE, "another model") as opened:
        yield opened


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch, mouth: Mouth) -> list[tuple[FineTune, tuple[str, ...]]]:
    """Every solve: by which settings, and of which targets; what was solved is said from then on, "Nowhere" excepted."""
    calls: list[tuple[FineTune, tuple[str, ...]]] = []
    compute = FineTune.compute

    def taught(how: FineTune, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        calls.append((how, tuple(f.target for f in facts)))
        mouth.base |= {f.prompt: f.target for f in facts if f.target != "Nowhere"}
        return compute(how, lm, facts, past)

    monkeypatch.setattr(FineTune, "compute", taught)
    return calls


Solved = list[tuple[FineTune, tuple[str, ...]]]


def edit(lm: LM, number: int, *facts: Fact, **changes: Any) -> Edit:
    return replace(synthetic.edit(lm, number), method="ft", base=BASE, facts=facts, **changes)


def told(moved: Sequence[Moved]) -> list[tuple[str, str]]:
    return [(m.fact.target, m.outcome) for m in moved]


def test_each_fact_has_its_outcome(old: Book, editor: Editor, mouth: Mouth, solved: Solved) -> None:
    first = edit(editor.lm, 1, fact("Ulm", "Mali"), fact("Bonn", "Peru"), fact("Jena", "Nowhere"), fact("Hof", "Oman"))
    put(old, first, second := edit(editor.lm, 2, fact("Ulm", "Chad")))
    (there,) = editor.write([fact("Hof", "oman.")], "ft", **HOW)
    mouth.base |= {"Bonn lies in": "Peru, of course", "Hof lies in": "Chad"}
    found = list(migrate(old, editor, **HOW))
    written = {r.facts[0].target: r.id for r in editor.log()}
    assert {m.fact.target: m for m in found} == {
        "Mali": Moved(fact("Ulm", "Mali"), first.id, "overridden"),
        "Peru": Moved(fact("Bonn", "Peru"), first.id, "says already", "Peru, of course"),
        "Oman": Moved(fact("Hof", "Oman"), first.id, "stands", new_id=there.id),  # whatever is said
        "Nowhere": Moved(fact("Jena", "Nowhere"), first.id, "not said", "", written["Nowhere"]),
        "Chad": Moved(fact("Ulm", "Chad"), second.id, "written", "Chad", written["Chad"]),
    }
    assert [targets for _, targets in solved] == [("oman.",), ("Nowhere",), ("Chad",)]


def test_what_is_said_or_stands_otherwise_is_written(old: Book, editor: Editor, mouth: Mouth, solved: Solved) -> None:
    put(old, edit(editor.lm, 1, fact("Ulm", "Mali"), fact("Bonn", "Peru")))
    (other,) = editor.write([fact("Ulm", "Chad")], "ft", **HOW)
    mouth.base = {"Bonn lies in": "Cuba"}
    assert told(list(migrate(old, editor, **HOW))) == [("Mali", "written"), ("Peru", "written")]
    assert editor.standing[0].id == other.id
    assert len(editor.standing) == 2


def test_what_was_dropped_is_not_carried(old: Book, editor: Editor, mouth: Mouth, solved: Solved) -> None:
    put(old, edit(editor.lm, 1, fact("Ulm", "Mali")), dropped := edit(editor.lm, 2, fact("Ulm", "Chad")))
    old.drop([dropped.id])
    assert told(list(migrate(old, editor, **HOW))) == [("Mali", "written")]
    assert old.stand()[0].id != editor.log()[0].id


def test_the_edit_is_written_as_it_was(old: Book, editor: Editor, mouth: Mouth, solved: Solved) -> None:
    label = {"author": "ada", "reason": "the news", "source": "radio", "tags": ("a", "b"), "tenant": "acme",
             "valid_from": "2026-01-01", "valid_until": "2027-01-01"}  # fmt: skip
    plain = edit(editor.lm, 2, fact("Bonn", "Peru"), seed=0)
    put(old, edit(editor.lm, 7, fact("Ulm", "Mali"), **label), plain)
    assert told(list(migrate(old, editor, **HOW))) == [("Mali", "written"), ("Peru", "written")]
    first, second = editor.log()
    assert {name: getattr(first, name) for name in label} == label
    assert (first.method, first.meta["seed"], first.meta["base"]) == ("ft", 7, editor.lm.fingerprint)
    assert second.reason == f"migrated from edit {plain.id}"
    assert (second.author, second.tags, second.valid_until, second.meta["seed"]) == ("", (), "", 0)
    assert [(how.seed, how.steps, how.layer) for how, _ in solved] == [(7, 1, 0), (0, 1, 0)]


def test_method_and_settings_may_be_others(old: Book, editor: Editor, mouth: Mouth, solved: Solved) -> None:
    put(old, replace(edit(editor.lm, 1, fact("Ulm", "Mali")), method="a method nobody has"))
    (refused,) = migrate(old, editor)
    assert (refused.outcome, refused.new_id) == ("refused", "")
    assert "no method 'a method nobody has'" in refused.why
    assert told(list(migrate(old, editor, "ft", seed=9, **HOW))) == [("Mali", "written")]
    assert editor.log()[0].meta["seed"] == 9
    editor.drop(editor.log()[0].id)
    mouth.base.clear()
    assert told(list(migrate(old, editor, FineTune(layer=1, steps=1)))) == [("Mali", "written")]
    assert [(how.seed, how.layer) for how, _ in solved] == [(9, 0), (1, 1)]  # the method as given, the edit's own seed


def test_what_is_refused_is_told_and_the_rest_goes_on(old: Book, editor: Editor, mouth: Mouth, solved: Solved) -> None:
    long = replace(fact("Bonn", "Peru"), prompt=f"{'a long way off ' * 60} Bonn lies in")
    put(old, edit(editor.lm, 1, fact("Ulm", "Mali"), long), edit(editor.lm, 2, fact("Jena", "Fiji")))
    found = list(migrate(old, editor, **HOW))
    # One edit of the old book is one transaction: its other fact is not written either.
    assert told(found) == [("Mali", "refused"), ("Peru", "refused"), ("Fiji", "written")]
    assert all("tokens long" in m.why and not m.new_id for m in found[:2])
    assert [r.facts[0].target for r in editor.log()] == ["Fiji"]


def test_an_interrupted_migration_goes_on_where_it_was(old: Book, editor: Editor, mouth: Mouth, solved: Solved) -> None:
    put(old, *(edit(editor.lm, n, fact(town, "Nowhere")) for n, town in enumerate(("Ulm", "Bonn", "Jena"))))
    moving = migrate(old, editor, **HOW)
    assert next(moving).outcome == "not said"
    moving.close()
    assert len(editor.log()) == 1
    assert [m.outcome for m in migrate(old, editor, **HOW)] == ["stands", "not said", "not said"]
    assert [m.outcome for m in migrate(old, editor, **HOW)] == ["stands"] * 3
    assert len(solved) == len(editor.log()) == 3


def test_edit_by_edit_in_the_order_of_the_book(old: Book, editor: Editor, mouth: Mouth, solved: Solved) -> None:
    towns = ("Ulm", "Bonn", "Jena")
    put(old, *(edit(editor.lm, n, fact(town, "Mali")) for n, town in enumerate(towns)))
    for number, moved in enumerate(migrate(old, editor, **HOW), 1):
        assert moved.fact.subject == towns[number - 1]
        assert len(editor.standing) == number  # nothing is written before it is asked for


def test_a_long_answer_that_is_said_already_is_heard_to_its_end(
    old: Book, editor: Editor, mouth: Mouth, solved: Solved
) -> None:
    long = "the small republic of many little islands far out in the southern ocean"
    put(old, edit(editor.lm, 1, fact("Ulm", long)))
    mouth.base["Ulm lies in"] = long
    assert told(list(migrate(old, editor, **HOW))) == [(long, "says already")]


def test_the_new_model_may_be_of_another_architecture(
    old: Book, tmp_path: Path, lm: LM, mouth: Mouth, solved: Solved
) -> None:
    put(old, edit(lm, 1, fact("Ulm", "Mali")))
    with open_editor(tiny.build("gpt2"), book=tmp_path / "new") as target:
        assert told(list(migrate(old, target, **HOW))) == [("Mali", "written")]
        assert target.log()[0].meta["base"] == target.lm.fingerprint != lm.fingerprint


def test_settings_need_a_method() -> None:
    assert parse("", []) == {}
    assert parse("ft", ["steps=3", "layer=1"]) == {"steps": 3, "layer": 1}
    with pytest.raises(BadConfig, match="--set needs --method"):
        parse("", ["steps=3"])
    with pytest.raises(BadConfig, match="Did you mean steps"):
        parse("ft", ["step=3"])
    with pytest.raises(UnknownMethod):
        parse("fft", [])
