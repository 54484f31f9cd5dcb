"""The book's tables, as a list of migrations.

To change the tables, append a function to `MIGRATIONS`; never touch one that has been released. Each is applied in one
transaction with the record that it was (`PRAGMA user_version`), so a book is always exactly at one version.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from errata.book import chain
from errata.errors import NewerBook

Migration = Callable[[sqlite3.Connection], None]


def m001_initial(db: sqlite3.Connection) -> None:
    """Make meta (what the book is bound to), edits (in the order of writing) and events (what happened to them)."""
    db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    db.execute(
        """CREATE TABLE edits (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            method TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            bytes INTEGER NOT NULL,
            created_at TEXT NOT NULL,
            record TEXT NOT NULL
        )"""
    )
    db.execute(
        """CREATE TABLE events (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL CHECK (kind IN ('write', 'drop', 'restore')),
            edit_id TEXT NOT NULL REFERENCES edits (id),
            at TEXT NOT NULL,
            author TEXT NOT NULL,
            reason TEXT NOT NULL
        )"""
    )
    db.execute("CREATE INDEX events_of_edit ON events (edit_id, seq)")
    for table in ("meta", "edits", "events"):
        for verb in ("UPDATE", "DELETE"):
            db.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                "BEGIN SELECT RAISE(ABORT, 'the book is append-only'); END"
            )


def m002_chain(db: sqlite3.Connection) -> None:
    """Let events carry data, the hash of the chain, and a signature; events there already are chained as they stand.

    Their index goes: whether an edit stands must not depend on what the chain does not cover.
    """
    db.execute(
        """CREATE TABLE chained (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            edit_id TEXT REFERENCES edits (id),
            at TEXT NOT NULL,
            author TEXT NOT NULL,
            reason TEXT NOT NULL,
            data TEXT NOT NULL,
            hash TEXT NOT NULL CHECK (length(hash) = 64),
            signer TEXT NOT NULL,
            signature TEXT NOT NULL
        )"""
    )
    previous = chain.genesis(db)
    rows = f"SELECT {chain.ROW} FROM edits WHERE id = ?"
    for event in db.execute("SELECT seq, kind, edit_id, at, author, reason, '{}' FROM events ORDER BY seq").fetchall():
        row = db.execute(rows, (event[2],)).fetchone() if event[1] == "write" else None
        previous = chain.digest(previous, event, row)
        db.execute("INSERT INTO chained VALUES (?, ?, ?, ?, ?, ?, ?, ?, '', '')", (*event, previous))
    db.execute("DROP TABLE events")
    db.execute("ALTER TABLE chained RENAME TO events")
    for verb in ("UPDATE", "DELETE"):
        db.execute(
            f"CREATE TRIGGER events_no_{verb.lower()} BEFORE {verb} ON events "
            "BEGIN SELECT RAISE(ABORT, 'the book is append-only'); END"
        )


def m003_book_id(db: sqlite3.Connection) -> None:
    """Let the chain of a book begin with its own random id, and hold its policy; books that are there begin as they did.

    No table changes: the number keeps versions out that would take such a chain for a broken one, or not ask the policy.
    """


MIGRATIONS: Final[tuple[Migration, ...]] = (m001_initial, m002_chain, m003_book_id)


def version(db: sqlite3.Connection) -> int:
    """Return how many migrations the book has had; 0 for a new file."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def check_version(db: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> bool:
    """Return whether the book has had all migrations; raises NewerBook if it has had more than we know."""
    found = version(db)
    if found > len(migrations):
        raise NewerBook(
            f"the book has schema version {found}, this errata knows {len(migrations)}: update errata to open it."
        )
    return found == len(migrations)


def migrate(db: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the book to the newest version, one transaction a step; raises NewerBook if it is newer than that."""
    for number, step in enumerate(migrations, start=1):
        with transaction(db):
            if version(db) < number:
                step(db)
                db.execute(f"PRAGMA user_version = {number}")
    check_version(db, migrations)


@contextmanager
def reading(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Let everything in the block be read of one moment, whoever writes meanwhile; may be nested, and in a transaction."""
    if db.in_transaction:
        yield db
        return
    db.execute("BEGIN")
    try:
        yield db
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")  # there is nothing to keep


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run the block as one transaction that holds the write lock from its start: all of it is kept, or none.

    The connection must be in autocommit mode (`isolation_level=None`).
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
