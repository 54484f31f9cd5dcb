"""Opening the database of a book: making it, bringing it up to date, and saying what is wrong with it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from errata.book.files import DATABASE, check_kinds, sync_whole
from errata.book.schema import check_version, migrate, version
from errata.book.shape import check_shape
from errata.errors import BadBook, BookBusy

_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def connect(directory: Path, create: bool, wait: float, *, look: bool = False) -> sqlite3.Connection:
    """Return a connection to the book in `directory`; one that only reads where nothing may be written.

    Args:
        look: make nothing, not even a folder that is missing.

    Raises:
        BadBook: `directory` is a file, there is no book and `create` is False, a part of it is a link, or the system refuses.
    """
    database = directory / DATABASE
    options = {"timeout": wait, "isolation_level": None, "check_same_thread": False}
    try:
        if directory.exists() and not directory.is_dir():
            raise BadBook(f"{directory} is a file: a book is a directory, give another path.")
        if (look or not create) and not os.path.lexists(database):
            raise BadBook(f"there is no book at {directory}: check the path, or write an edit to start one.")
        if directory.exists():
            check_kinds(directory)
        if unchanging(directory) is not None:
            return sqlite3.connect(f"file:{quote(str(database))}?mode=ro&immutable=1", uri=True, **options)  # type: ignore[call-overload]
        if database.exists() and not os.access(directory, os.W_OK):
            return sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, **options)  # type: ignore[call-overload]
        if not look:
            (directory / "edits").mkdir(parents=True, exist_ok=True)
        return sqlite3.connect(database, **options)  # type: ignore[call-overload]
    except (OSError, ValueError, sqlite3.Error) as error:
        raise BadBook(f"cannot open a book at {directory}: {error}.") from error


def unchanging(directory: Path) -> tuple[int, int] | None:
    """Return the time and size of a database that is read as it lies there, since this user may write nothing beside it.

    Without a log of changes that are not in the file yet the file is all there is. Its owner may still begin to write: whoever
    reads compares before and after. None where the database is shared in the usual way.
    """
    database, log = directory / DATABASE, directory / f"{DATABASE}-wal"
    if os.access(directory, os.W_OK) or not database.exists() or (log.exists() and log.stat().st_size):
        return None
    found = database.stat()
    return found.st_mtime_ns, found.st_size


def prepare(
    db: sqlite3.Connection, directory: Path, lock: Callable[[], AbstractContextManager[None]], *, look: bool = False
) -> sqlite3.Connection:
    """Bring the tables up to date, one process at a time, and return the connection to use.

    Args:
        look: change nothing: an older book is brought up to date in a copy in memory.

    Raises:
        BadBook: it is no book of ours, something in it is not as we made it, or it is older than this version and may not be
            written to. NewerBook: made by a later one.
    """
    writable = os.access(directory, os.W_OK)
    db.execute("PRAGMA trusted_schema = OFF")
    if writable:
        db.execute("PRAGMA synchronous = FULL")  # a commit that was reported survives a power cut
        db.execute("PRAGMA foreign_keys = ON")
    check_shape(db, directory / DATABASE)
    if look:
        db.execute("PRAGMA query_only = ON")
    if check_version(db):
        return db
    if look and version(db):
        return _copied(db)
    if not writable:
        raise BadBook(f"{directory} was written by an older errata and may not be changed: open a copy of it.")
    with lock():
        new = version(db) == 0
        if new and db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise BadBook(f"{directory / DATABASE} belongs to another program: give the book another path.")
        if new and next((directory / "edits").glob("*.safetensors"), None):
            raise BadBook(f"{directory} has edits but its book.sqlite is lost: restore that from a copy.")
        db.execute("PRAGMA journal_mode = WAL")
        migrate(db)
        if new:
            sync_whole(directory)
    return db


def _copied(db: sqlite3.Connection) -> sqlite3.Connection:
    """Return the book in memory, brought up to date there, and close the file."""
    copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    db.backup(copy)
    db.close()
    migrate(copy)
    copy.execute("PRAGMA query_only = ON")
    return copy


def explain(path: Path, error: Exception) -> BadBook:
    """Return our error for what SQLite raised."""
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return BadBook(f"the book {path} is closed: open it again.")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _BUSY:
        return BookBusy(f"another process keeps the book {path}: try again when it is done.")
    if code == sqlite3.SQLITE_READONLY:
        return BadBook(f"the book {path} may not be written to: change its permissions, or work on a copy.")
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and "disk" in str(error)):
        return BadBook(f"the disk of the book {path} refuses ({error}): make room if it is full; nothing was changed.")
    return BadBook(f"cannot use {path / DATABASE} ({error}): if it is damaged, restore it from a copy.")
