"""Migrations: each is whole or not there, and a book is never older or newer than we know without our saying so."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from errata.book.schema import MIGRATIONS, check_version, migrate, transaction, version
from errata.errors import NewerBook


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "book.sqlite", isolation_level=None)
    yield connection
    connection.close()


def tables(db: sqlite3.Connection) -> set[str]:
    return {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")} - {"sqlite_sequence"}


def add_notes(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE notes (text TEXT)")


def fail_half_way(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE half (text TEXT)")
    raise RuntimeError("power cut")


def test_from_nothing_to_the_newest(db: sqlite3.Connection) -> None:
    assert (version(db), check_version(db)) == (0, False)
    migrate(db)
    assert tables(db) == {"meta", "edits", "events"}
    assert (version(db), check_version(db)) == (len(MIGRATIONS), True)
    migrate(db)  # and again: nothing to do


def test_from_each_older_version_with_rows_in_it(db: sqlite3.Connection) -> None:
    migrate(db, MIGRATIONS[:1])
    db.execute(
        "INSERT INTO edits (id, method, sha256, bytes, created_at, record) VALUES ('a', 'rome', 'f', 1, '', '{}')"
    )
    migrate(db, (*MIGRATIONS, add_notes))
    assert version(db) == len(MIGRATIONS) + 1
    assert "notes" in tables(db)
    assert db.execute("SELECT id FROM edits").fetchall() == [("a",)]


def test_a_step_that_fails_leaves_nothing_and_can_be_tried_again(db: sqlite3.Connection) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        migrate(db, (*MIGRATIONS, fail_half_way))
    assert version(db) == len(MIGRATIONS)
    assert "half" not in tables(db)
    assert not db.in_transaction
    migrate(db, (*MIGRATIONS, add_notes))
    assert "notes" in tables(db)


def test_a_newer_book_is_refused(db: sqlite3.Connection) -> None:
    migrate(db, (*MIGRATIONS, add_notes))
    for look in (check_version, migrate):
        with pytest.raises(NewerBook, match="update errata"):
            look(db)
    assert "notes" in tables(db)


def test_rows_cannot_be_changed_or_deleted(db: sqlite3.Connection) -> None:
    migrate(db)
    db.execute("INSERT INTO meta VALUES ('base', 'f')")
    db.execute(
        "INSERT INTO edits (id, method, sha256, bytes, created_at, record) VALUES ('a', 'rome', 'f', 1, '', '{}')"
    )
    db.execute(f"INSERT INTO events VALUES (1, 'write', 'a', '', '', '', '{{}}', '{'0' * 64}', '', '')")
    for table, column in (("meta", "value"), ("edits", "sha256"), ("events", "kind")):
        for statement in (f"UPDATE {table} SET {column} = 'drop'", f"DELETE FROM {table}"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(statement)
    with pytest.raises(sqlite3.IntegrityError):
        db.execute("INSERT INTO events VALUES (2, 'write', 'a', '', '', '', '{}', 'no hash', '', '')")


def test_a_transaction_is_whole_or_not_there(db: sqlite3.Connection, tmp_path: Path) -> None:
    migrate(db)

    def interrupted() -> None:
        with transaction(db):
            db.execute("INSERT INTO meta VALUES ('base', 'f')")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert db.execute("SELECT * FROM meta").fetchall() == []
    other = sqlite3.connect(tmp_path / "book.sqlite", isolation_level=None, timeout=0)
    with (
        transaction(db),
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):  # from its start, not its first write
        other.execute("BEGIN IMMEDIATE")
    other.close()
    with transaction(db):
        db.execute("INSERT INTO meta VALUES ('base', 'f')")
    assert not db.in_transaction
    assert db.execute("SELECT * FROM meta").fetchall() == [("base", "f")]
