"""The book: what is appended stays, and what is dropped can come back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sample_edits import BASE, FACT, edit, key

from errata.book import Book, Note, Record, records, states
from errata.errors import BadBook, BookOfAnotherModel, CorruptEdit, NewerBook, UnknownEdit

# --- the ordinary ---


def test_an_edit_is_written_and_read_back(book: Book) -> None:
    meta, data = edit(1, reason="moved", source="atlas", created_at="2024-05-01T10:00:00+00:00", report={"p": 0.25})
    (records,) = book.append([(meta, data)])
    assert records == Record(
        id=meta["id"],
        method="rome",
        facts=(FACT,),
        meta=meta,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        author="Zoë",
        reason="moved",
        source="atlas",
        created_at="2024-05-01T10:00:00+00:00",
        stands=True,
        seq=1,
    )
    assert book.read(records) == data
    assert book.records() == book.stand() == [records] == [book.get(records.id)]


def test_order_is_that_of_first_writing(book: Book) -> None:
    book.append([edit(1), edit(2), edit(3)])
    book.drop([key(1)])
    book.append([edit(4)])
    book.restore([key(1)])
    assert [r.id for r in book.stand()] == [key(1), key(2), key(3), key(4)]


def test_what_others_changed_is_seen_and_nothing_else_is_read_again(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, written, read = random.Random(0), 2, list[str]()
    book.append([edit(1), edit(2)])
    book.stand()
    plain = records._record
    monkeypatch.setattr(records, "_record", lambda row, last: (read.append(row[1]), plain(row, last))[1])
    for _ in range(40):
        with Book.open(book.path) as other:
            known = other.records()
            standing = [r.id for r in known if r.stands]
            what = draw.choice(["write", "drop", "restore", "tag"])
            if what == "write":
                written += 1
                other.append([edit(written)])
            elif what == "tag":
                other.note("tag", Note(data={"name": "x"}))
            elif what == "drop" and standing:
                other.drop([draw.choice(standing)])
            elif dropped := [r.id for r in known if not r.stands]:
                other.restore([draw.choice(dropped)])
        read.clear()
        found, again = book.stand(), list(read)
        assert len(again) <= (what == "write")
        assert found == [r for r in book.records() if r.stands]


def test_history_tells_who_and_why(book: Book) -> None:
    book.append([edit(1, reason="news")])
    book.drop([key(1)], author="Ann", reason="wrong \udcff")
    book.restore([key(1)])
    assert [(e.kind, e.author, e.reason) for e in book.history(key(1))] == [
        ("write", "Zoë", "news"),
        ("drop", "Ann", "wrong ?"),
        ("restore", "", ""),
    ]
    assert book.history() == book.history(key(1))
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", e.at) for e in book.history())


def test_appending_a_dropped_edit_restores_it(book: Book) -> None:
    first, _ = book.append([edit(1), edit(2)])
    book.drop([key(1)])
    meta, data = edit(1, author="someone else")
    (again,) = book.append([(meta, data + b"later")])  # the date is in the file, too, so it may differ
    assert again == first
    assert [r.seq for r in book.stand()] == [1, 2]
    assert book.history(key(1))[-1].author == "someone else"
    assert book.read(again) == edit(1)[1]


def test_appending_a_dropped_edit_heals_its_file_only_with_the_same_content(book: Book) -> None:
    (records,) = book.append([edit(1)])
    book.drop([key(1)])
    (book.path / "edits" / f"{records.sha256}.safetensors").unlink()
    with pytest.raises(CorruptEdit):
        book.append([(edit(1)[0], b"another content")])
    book.append([edit(1)])
    assert book.read(records) == edit(1)[1]


def test_several_at_once_are_all_or_none(book: Book) -> None:
    book.append([edit(1), edit(2)])
    book.drop([key(2)])
    before = (book.records(), book.version())
    refused = [
        (lambda: book.append([edit(3), edit(1)]), BadBook, f"edit {key(1)} already stands"),
        (lambda: book.append([edit(3), edit(3)]), BadBook, "given twice"),
        (lambda: book.append([edit(3), edit(4, base="beef" * 16)]), BookOfAnotherModel, "beefbeefbeef.*primer"),
        (lambda: book.drop([key(1), key(2)]), BadBook, f"edit {key(2)} is dropped already"),
        (lambda: book.drop([key(1), "feedface"]), UnknownEdit, "no edit 'feedface'"),
        (lambda: book.restore([key(2), key(1)]), BadBook, f"edit {key(1)} already stands"),
    ]
    for attempt, error, words in refused:
        with pytest.raises(error, match=words):
            attempt()
    with pytest.raises(TypeError):
        book.append([edit(3), edit(4, report={"x": object()})])
    assert (book.records(), book.version()) == before


def test_nothing_asked_nothing_done(book: Book) -> None:
    assert book.append([]) == book.drop([]) == book.restore([]) == []
    assert (book.version(), book.records(), book.history()) == (0, [], [])


def test_last_is_the_edit_that_something_happened_to_last(book: Book) -> None:
    with pytest.raises(UnknownEdit, match="no edit 'last'"):
        book.get("last")
    book.append([edit(1), edit(2), edit(3)])
    states.tag(book, "mine", Note())  # happens to no edit
    first, _, third = (record.id for record in book.records())
    assert book.get("last").id == third
    assert [record.id for record in book.drop("last")] == [third]
    with pytest.raises(BadBook, match="dropped already"):
        book.drop("last")
    assert [record.id for record in book.restore(["last"])] == [third]
    book.drop(first)
    assert (book.get("last").id, book.get("last").stands) == (first, False)


def test_ids_may_be_shortened(book: Book) -> None:
    book.append([edit(1, id="abcdef1234567890"), edit(2, id="abcdef9876543210"), edit(3, id="abc")])
    assert book.get("abcdef1").id == "abcdef1234567890"
    assert book.get("abc").id == "abc"  # a whole id may be short
    for id, words in [
        ("abcdef", "fits 2 edits: abcdef1234567890, abcdef9876543210"),
        ("abcde", "at least 6 characters"),
        ("", "no edit ''"),
        ("abcdef12345678901", "no edit"),
        ("abcdef%", "no edit"),
    ]:
        with pytest.raises(UnknownEdit, match=words):
            book.get(id)
    assert [r.id for r in book.drop(["abcdef1", "abcdef12"])] == ["abcdef1234567890"]
    book.append([edit(4)])
    book.drop(key(4)[:6])  # type: ignore[arg-type]
    assert [r.stands for r in book.restore(key(4)[:7])] == [True]  # type: ignore[arg-type]


def test_version_shows_another_writer(book: Book) -> None:
    with Book.open(book.path, BASE) as other:
        seen = other.version()
        book.append([edit(1)])
        assert other.version() > seen
        seen = other.version()
        book.drop([key(1)])
        assert other.version() > seen
        assert other.stand() == []


# --- opening ---


def test_reopening_brings_everything_back(book: Book) -> None:
    book.append([edit(1), edit(2)])
    book.drop([key(2)])
    before = (book.records(), book.history(), book.version())
    book.close()
    book.close()
    with pytest.raises(BadBook, match="closed"):
        book.records()
    with Book.open(book.path) as again:
        assert (again.records(), again.history(), again.version()) == before
        assert (again.base, again.name) == (BASE, "primer")
        again.restore([key(2)])  # without naming the model: nothing is computed


def test_a_book_is_bound_to_its_model(book: Book) -> None:
    with pytest.raises(BookOfAnotherModel, match=r"corrects primer \(f00d.*not gpt2 \(beef"):
        Book.open(book.path, "beef" * 16, "gpt2")
    with Book.open(book.path, BASE, "a new name") as again:
        assert again.name == "primer"


def test_an_unbound_book_takes_no_edits_until_it_is_bound(tmp_path: Path) -> None:
    with Book.open(tmp_path) as book:
        assert book.base is None
        with pytest.raises(BadBook, match="bound to no model"):
            book.append([edit(1)])
    with Book.open(tmp_path, BASE) as book:
        book.append([edit(1)])
    with pytest.raises(BookOfAnotherModel):
        Book.open(tmp_path, "beef" * 16)


def test_a_relative_path_survives_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Book.open(".errata", BASE) as book:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        (records,) = book.append([edit(1)])
        assert book.read(records) == edit(1)[1]


def test_what_is_no_book(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadBook, match="is a file"):
        Book.open(tmp_path / "file", BASE)
    with pytest.raises(BadBook, match="cannot open"):
        Book.open(tmp_path / "file" / "below", BASE)
    with pytest.raises(BadBook, match="cannot open"):
        Book.open("nul\0", BASE)
    with pytest.raises(BadBook, match="no book at"):
        Book.open(tmp_path / "missing", BASE, create=False)
    assert not (tmp_path / "missing").exists()


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "book.sqlite") as db:
        db.execute("CREATE TABLE books (title TEXT)")
    db.close()
    before = (tmp_path / "book.sqlite").read_bytes()
    with pytest.raises(BadBook, match="another program"):
        Book.open(tmp_path, BASE)
    assert (tmp_path / "book.sqlite").read_bytes() == before


def test_a_newer_book_is_refused(book: Book) -> None:
    book.append([edit(1)])
    book.close()
    with sqlite3.connect(book.path / "book.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(NewerBook, match="version 99"):
        Book.open(book.path, BASE)


# --- any sequence ---


class AnyOrder(RuleBasedStateMachine):
    """Random appends, drops, restores and reopenings agree with a list and a set."""

    @initialize()
    def start(self) -> None:
        self.path = Path(os.environ["PYTEST_BOOKS"]) / str(random.Random().getrandbits(64))
        self.book = Book.open(self.path, BASE)
        self.written: list[int] = []
        self.standing: set[int] = set()
        self.events = 0

    def teardown(self) -> None:
        if hasattr(self, "book"):
            self.book.close()
            shutil.rmtree(self.path)

    @rule(numbers=st.lists(st.integers(0, 9), max_size=4))
    def append(self, numbers: list[int]) -> None:
        if len(set(numbers)) < len(numbers) or self.standing & set(numbers):
            with pytest.raises(BadBook):
                self.book.append([edit(n) for n in numbers])
            return
        assert [r.id for r in self.book.append([edit(n) for n in numbers])] == [key(n) for n in numbers]
        self.written += [n for n in numbers if n not in self.written]
        self.standing |= set(numbers)
        self.events += len(numbers)

    @rule(numbers=st.lists(st.integers(0, 9), max_size=4), drop=st.booleans())
    def change(self, numbers: list[int], drop: bool) -> None:
        act = self.book.drop if drop else self.book.restore
        allowed = self.standing if drop else set(self.written) - self.standing
        if not set(numbers) <= allowed:
            with pytest.raises((BadBook, UnknownEdit)):
                act([key(n) for n in numbers])
            return
        act([key(n)[:8] for n in numbers])
        self.standing = self.standing - set(numbers) if drop else self.standing | set(numbers)
        self.events += len(set(numbers))

    @precondition(lambda self: self.written)
    @rule()
    def reopen(self) -> None:
        self.book.close()
        self.book = Book.open(self.path, BASE)

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "book"):
            assert [r.id for r in self.book.records()] == [key(n) for n in self.written]
            assert [r.id for r in self.book.stand()] == [key(n) for n in self.written if n in self.standing]
            assert [self.book.read(r) for r in self.book.stand()] == [
                edit(n)[1] for n in self.written if n in self.standing
            ]
            assert self.book.version() == self.events


def test_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_BOOKS", str(tmp_path))
    machine = AnyOrder.TestCase
    machine.settings = settings(deadline=None, max_examples=25, stateful_step_count=15)
    machine().runTest()


def test_records_are_plain_json(book: Book) -> None:
    (records,) = book.append([edit(1, author="\udcff")])
    assert json.loads(json.dumps(records.meta)) == records.meta
    with pytest.raises(dataclasses.FrozenInstanceError):
        records.id = "x"  # type: ignore[misc]
