"""How an edit is computed: one way, for the editor, for a rehearsal and for a benchmark.

pytest tests/editing/test_writing.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from errata.bench.run import Plan, Run
from errata.book import Book
from errata.data.case import Case
from errata.editing.editor import Editor
from errata.editing.standing import load
from errata.editing.writing import solve
from errata.errors import BadFact, CorruptEdit, UpdateTooLarge
from errata.fact import Fact
from errata.methods import make
from errata.model.lm import LM
from errata.model.tokens import Room
from tests import tiny

Models = Callable[[str], LM]
FACT = tiny.FACTS[0]
METHOD = make("ft", {"steps": 2, "layer": 0})


def test_an_explosion_is_refused_on_every_path_but_where_none_is_asked_for(models: Models, tmp_path: Path) -> None:
    lm = models("llama")
    edit, seconds = solve(lm, METHOD, [FACT], [], None)
    (ratio,) = edit.report.norm_ratio.values()
    assert set(seconds) == {"stats", "solve"}
    assert solve(lm, METHOD, [FACT], [], ratio * 1.01)[0].id == edit.id
    with pytest.raises(UpdateTooLarge, match="nothing was changed"):
        solve(lm, METHOD, [FACT], [], ratio * 0.99)
    with Book.open(tmp_path / "book", lm.fingerprint, lm.name) as book:
        editor = Editor(lm, book, max_norm_ratio=ratio * 0.99)
        with pytest.raises(UpdateTooLarge):
            editor.write(FACT, METHOD)
        with pytest.raises(UpdateTooLarge), editor.trial(FACT, METHOD):
            pass
        assert not book.records()
    options = {"steps": 2, "layer": 0}
    case = Case(id="0", prompt=FACT.prompt, target=FACT.target, subject=FACT.subject, fact=FACT)
    for limit in (None, ratio * 0.99):
        plan = Plan(method="ft", options=options, edits=1, max_norm_ratio=limit)
        run = Run(
            plan,
            lm,
            [case],
            tmp_path / f"run {limit}",
        )
        if limit is None:
            assert run.go()["checkpoints"][-1]["edits"] == 1
        else:
            with pytest.raises(UpdateTooLarge):
                run.go()
        assert (
            f'"max_norm_ratio": {"null" if limit is None else limit}'
            in (tmp_path / f"run {limit}/run.json").read_text()
        )


def test_a_fact_that_is_too_long_is_refused_before_anything_is_computed(models: Models) -> None:
    lm = models("gpt2")
    long = tiny.FACTS[0].__class__(prompt=f"{'word ' * 5000}France is", subject="France", target="Lyon")
    with pytest.raises(BadFact, match="shorten it"):
        solve(lm, METHOD, [long], [], None)


def test_who_asks_after_a_long_answer_was_written_hears_all_of_it(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = list[object]()
    monkeypatch.setattr("errata.editing.editor.answer", lambda lm, prompt, most, top: rooms.append(most))
    long = Fact(prompt="Who is Anna Lindgren?", target="Anna Lindgren was born in Oslo. " * 4 + "\nShe speaks German.")
    editor.ask("Who is she?")
    editor.write(FACT, METHOD)
    editor.ask("Who is she?")
    written = editor.write(long, METHOD)
    editor.ask("Who is she?")
    editor.ask("Who is she?", max_new_tokens=3)
    editor.drop(written.id, reason="no longer")
    editor.ask("Who is she?")
    needed = editor.lm.room([long.target])
    assert needed.tokens > 32
    assert rooms == [Room(32, 1), Room(32, 1), needed, 3, Room(32, 1)]


def test_edits_are_read_once_and_never_unseen(models: Models, tmp_path: Path) -> None:
    lm = models("llama")
    edit, _ = solve(lm, METHOD, [FACT], [], None)
    with Book.open(tmp_path / "book", lm.fingerprint, lm.name) as book:
        (record,) = book.append([(edit.meta(), edit.to_bytes())])
        (read,) = load(book, [record])
        assert read.id == edit.id
        assert load(book, [record], {edit.id: edit})[0] is edit
        assert load(book, [record], {record.sha256: edit})[0] is edit
        (tmp_path / "book" / "edits" / f"{record.sha256}.safetensors").write_bytes(b"no edit")
        with pytest.raises(CorruptEdit):
            load(book, [record])
