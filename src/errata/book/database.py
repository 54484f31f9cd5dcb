"""Opening the database of a book: making it, bringing it up to date, and saying what is wrong with it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from errata.book.schema import check_version, migrate, version
from errata.errors import BadBook, BookBusy

_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def connect(directory: Path, create: bool, wait: float) -> sqlite3.Connection:
    """Return a connection to the book in `directory`; one that only reads where nothing may be written.

    Raises:
        BadBook: `directory` is a file, there is no book and `create` is False, or the system refuses.
    """
    database = directory / "book.sqlite"
    options = {"timeout": wait, "isolation_level": None, "check_same_thread": False}
    try:
        if directory.exists() and not directory.is_dir():
            raise BadBook(f"{directory} is a file: a book is a directory, give another path.")
        if not create and not database.exists():
            raise BadBook(f"there is no book at {directory}: check the path, or write an edit to start one.")
        if database.exists() and not os.access(directory, os.W_OK):
            # Without a log of changes that are not in the file yet, the file is all there is and will not change.
            log = directory / "book.sqlite-wal"
            still = "" if log.exists() and log.stat().st_size else "&immutable=1"
            return sqlite3.connect(f"file:{quote(str(database))}?mode=ro{still}", uri=True, **options)  # type: ignore[call-overload]
        (directory / "edits").mkdir(parents=True, exist_ok=True)
        return sqlite3.connect(database, **options)  # type: ignore[call-overload]
    except (OSError, ValueError, sqlite3.Error) as error:
        raise BadBook(f"cannot open a book at {directory}: {error}.") from error


def prepare(db: sqlite3.Connection, directory: Path, lock: Callable[[], AbstractContextManager[None]]) -> None:
    """Bring the tables up to date, one process at a time.

    Raises:
        BadBook: it is no book of ours, or older than this version and may not be written to. NewerBook: made by a later one.
    """
    writable = os.access(directory, os.W_OK)
    if writable:
        db.execute("PRAGMA synchronous = FULL")  # a commit that was reported survives a power cut
        db.execute("PRAGMA foreign_keys = ON")
    if check_version(db):
        return
    if not writable:
        raise BadBook(f"{directory} was written by an older errata and may not be changed: open a copy of it.")
    with lock():
        new = version(db) == 0
        if new and db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise BadBook(f"{directory / 'book.sqlite'} belongs to another program: give the book another path.")
        if new and next((directory / "edits").glob("*.safetensors"), None):
            raise BadBook(f"{directory} has edits but its book.sqlite is lost: restore that from a copy.")
        db.execute("PRAGMA journal_mode = WAL")
        migrate(db)


def explain(path: Path, error: Exception) -> BadBook:
    """Return our error for what SQLite raised."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _BUSY:
        return BookBusy(f"another process keeps the book {path}: try again when it is done.")
    if code == sqlite3.SQLITE_READONLY:
        return BadBook(f"the book {path} may not be written to: change its permissions, or work on a copy.")
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and "disk" in str(error)):
        return BadBook(f"the disk of the book {path} refuses ({error}): make room if it is full; nothing was changed.")
    return BadBook(f"cannot use {path / 'book.sqlite'} ({error}): if it is damaged, restore it from a copy.")
