"""A book on disk: an append-only log of edits in SQLite, and one tensor file for each.

    book.sqlite                      what was written, dropped and restored, by whom and why
    edits/<sha256>.safetensors       the edits themselves, named by the hash of their content
    lock                             held by whoever changes the book

A tensor file is complete and on the disk before the row that names it, so a process killed at any moment leaves at most
a file without a row. Edits stand in the order in which they were first written: one that is dropped and restored takes
its old place again, because sums of floats depend on their order and the weights must come back bit for bit.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import filelock

from errata.errors import BadBook, BookBusy, BookOfAnotherModel
from errata.registry import files, record
from errata.registry.record import Event, Record
from errata.registry.schema import check_version, migrate, transaction, version

__all__ = ["Book", "Event", "Record"]

WAIT: Final = 30.0  # seconds to wait for another process before BookBusy


class Book:
    """The log of one base model's edits. Made by `Book.open`; a context manager that closes itself.

    Several processes, and several threads of one, may use a book at once. Wherever an id is asked for, its first six or
    more characters are enough if they fit one edit only.

    Raises (any method):
        BookBusy: another process kept the book for longer than the waiting time.
        BadBook: the database is damaged, or the disk refuses.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, wait: float) -> None:
        self.path = path
        self.base: str | None = None
        self.name: str | None = None
        self._edits = path / "edits"
        self._connection = connection
        self._threads = threading.RLock()
        self._wait = wait
        self._lock = filelock.FileLock(path / "lock")

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        base: str | None = None,
        name: str | None = None,
        *,
        create: bool = True,
        wait: float = WAIT,
    ) -> Book:
        """Open the book in the directory `path`, made if it is not there.

        Args:
            path: the book's directory.
            base: fingerprint of the base model, to which a new book is bound; None to look only (and drop or restore).
            name: the base model's name, for messages.
            create: whether to make a book that is not there.
            wait: seconds to wait for other processes, here and in later calls.

        Raises:
            BadBook: `path` is a file, there is no book and `create` is False, or it is damaged.
            BookOfAnotherModel: the book is bound to another base.
            NewerBook: the book was written by a newer version.
        """
        directory = Path(path).absolute()
        connection = _connect(directory, create, wait)
        book = cls(directory, connection, wait)
        try:
            book._prepare()
            book._bind(base, name)
        except BaseException:
            connection.close()
            raise
        return book

    def close(self) -> None:
        """Close the book; closing it again does nothing."""
        self._connection.close()

    def __enter__(self) -> Book:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # --- reading ---------------------------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """Return every edit ever written, in order of first writing."""
        with self._query() as db:
            return record.fetch_all(db)

    def stand(self) -> list[Record]:
        """Return the edits in force, in the order in which they are to be applied."""
        return [edit for edit in self.records() if edit.stands]

    def get(self, id: str) -> Record:
        """Return one edit's record; raises UnknownEdit if the id fits none or several."""
        with self._query() as db:
            return record.resolve(db, id)

    def read(self, edit: Record) -> bytes:
        """Return the content of the edit's file; raises CorruptEdit if it is missing or not what was written."""
        return files.read(self._edits, edit)

    def history(self, id: str | None = None) -> list[Event]:
        """Return what happened to one edit, or to all, oldest first; raises UnknownEdit as `get` does."""
        with self._query() as db:
            return record.fetch_events(db, None if id is None else record.resolve(db, id).id)

    def version(self) -> int:
        """Return the number of the last event: it grows with every change, whoever makes it."""
        with self._query() as db:
            return int(db.execute("SELECT COALESCE(MAX(seq), 0) FROM events").fetchone()[0])

    # --- writing ---------------------------------------------------------------------------------------------------

    def append(self, items: Sequence[tuple[Mapping[str, Any], bytes]]) -> list[Record]:
        """Add edits, all or none: each a JSON-able description with at least "id" and "method", and its file's content.

        A dropped edit that is appended again is restored, to its old place and with its old record.

        Raises:
            BadBook: an edit already stands or is given twice, the book is bound to no model, or the disk refuses.
            BookOfAnotherModel: an edit was computed on another base.
        """
        with self.lock():
            dropped = self._admit([meta for meta, _ in items])
            stored = [self._store(data, dropped.get(meta["id"])) for meta, data in items]
            if stored:
                files.sync(self._edits)
            with self._query() as db, transaction(db):
                for (meta, _), (sha256, size) in zip(items, stored, strict=True):
                    new = meta["id"] not in dropped
                    if new:
                        record.insert(db, meta, sha256, size)
                    what = "write" if new else "restore"
                    record.add_event(db, what, meta["id"], meta.get("author", ""), meta.get("reason", ""))
            return [self.get(meta["id"]) for meta, _ in items]

    def drop(self, ids: Iterable[str], *, author: str = "", reason: str = "") -> list[Record]:
        """Take edits out of force, all or none, and return them; the others stay as they were computed.

        Raises:
            UnknownEdit: an id fits no edit or several.
            BadBook: an edit is dropped already.
        """
        return self._change(ids, "drop", author, reason)

    def restore(self, ids: Iterable[str], *, author: str = "", reason: str = "") -> list[Record]:
        """Put dropped edits back in force, each in its old place, all or none, and return them.

        Raises:
            UnknownEdit: an id fits no edit or several.
            BadBook: an edit stands already.
            CorruptEdit: an edit's file is missing or altered.
        """
        return self._change(ids, "restore", author, reason)

    @contextmanager
    def lock(self, timeout: float | None = None) -> Iterator[None]:
        """Keep other writers out, so that what is computed from the standing edits still holds when it is appended.

        May be nested. `timeout` is in seconds; None takes the book's own. Raises BookBusy when it has passed.
        """
        try:
            held = self._lock.acquire(timeout=self._wait if timeout is None else timeout)
        except (filelock.Timeout, RuntimeError) as error:  # RuntimeError: this very thread holds it by another Book
            raise BookBusy(f"another process is writing to the book {self.path}: try again when it is done.") from error
        except OSError as error:
            raise BadBook(f"cannot write to the book {self.path}: {error.strerror}.") from error
        with held:
            yield

    # --- inside ----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Bring the tables up to date, one process at a time; raises BadBook for what is not a book of ours."""
        with self._query() as db:
            db.execute("PRAGMA synchronous = FULL")  # a commit that was reported survives a power cut
            db.execute("PRAGMA foreign_keys = ON")
            if check_version(db):
                return
            with self.lock():
                new = version(db) == 0
                if new and db.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise BadBook(
                        f"{self.path / 'book.sqlite'} belongs to another program: give the book another path."
                    )
                if new and next(self._edits.glob("*.safetensors"), None):
                    raise BadBook(f"{self.path} has edits but its book.sqlite is lost: restore that from a copy.")
                db.execute("PRAGMA journal_mode = WAL")
                migrate(db)

    def _bind(self, base: str | None, name: str | None) -> None:
        with self._query() as db:
            bound = dict(db.execute("SELECT key, value FROM meta"))
            if base is not None and "base" not in bound:
                with self.lock(), transaction(db):
                    rows = [("base", base), ("name", name or base)]
                    db.executemany("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", rows)
                bound = dict(db.execute("SELECT key, value FROM meta"))
        self.base, self.name = bound.get("base"), bound.get("name")
        if base is not None and self.base != base:
            raise BookOfAnotherModel(
                f"the book {self.path} corrects {self.name} ({str(self.base)[:12]}), not {name or 'this model'} "
                f"({base[:12]}): open that model, or give another book."
            )

    def _admit(self, metas: Sequence[Mapping[str, Any]]) -> dict[str, Record]:
        """Check that these may be appended, and return those of them that are in the book, dropped."""
        dropped: dict[str, Record] = {}
        if metas and self.base is None:
            raise BadBook(f"the book {self.path} is bound to no model yet: open it with the model to write to it.")
        if len({meta["id"] for meta in metas}) < len(metas):
            raise BadBook("an edit is given twice: append it once.")
        for meta in metas:
            id = meta["id"]
            if meta.get("base", self.base) != self.base:
                raise BookOfAnotherModel(
                    f"edit {id} was computed on another base model ({meta['base'][:12]}) than {self.name} "
                    f"({str(self.base)[:12]}), which the book {self.path} corrects: write it again on that."
                )
            with self._query() as db:
                known = record.fetch(db, id)
            if known is not None and known.stands:
                raise BadBook(f"edit {id} already stands: drop it first to write it again.")
            if known is not None:
                dropped[id] = known
        return dropped

    def _store(self, data: bytes, dropped: Record | None) -> tuple[str, int]:
        """Write the file of an edit; of a dropped one, only if it is the same file, which may have been lost since."""
        if dropped is None or hashlib.sha256(data).hexdigest() == dropped.sha256:
            return files.store(self._edits, data)
        self.read(dropped)  # the same edit with another author or date: the first file counts, if it is whole
        return dropped.sha256, dropped.bytes

    def _change(self, ids: Iterable[str], kind: str, author: str, reason: str) -> list[Record]:
        with self.lock(), self._query() as db:
            given = [ids] if isinstance(ids, str) else ids
            edits = {edit.id: edit for edit in (record.resolve(db, id) for id in given)}
            for edit in edits.values():
                if edit.stands and kind == "restore":
                    raise BadBook(f"edit {edit.id} already stands: there is nothing to restore.")
                if not edit.stands and kind == "drop":
                    raise BadBook(f"edit {edit.id} is dropped already: restore it to bring it back.")
                if kind == "restore":
                    self.read(edit)
            with transaction(db):
                for id in edits:
                    record.add_event(db, kind, id, author, reason)
            return [record.resolve(db, id) for id in edits]

    @contextmanager
    def _query(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to one thread at a time, and turn what SQLite raises into our errors."""
        with self._threads:
            try:
                yield self._connection
            except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter is how sqlite3 reports damaged text
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise BookBusy(f"another process keeps the book {self.path}: try again when it is done.") from error
                raise BadBook(
                    f"cannot use {self.path / 'book.sqlite'} ({error}): if it is damaged, restore it from a copy."
                ) from error


def _connect(directory: Path, create: bool, wait: float) -> sqlite3.Connection:
    database = directory / "book.sqlite"
    try:
        if directory.exists() and not directory.is_dir():
            raise BadBook(f"{directory} is a file: a book is a directory, give another path.")
        if not create and not database.exists():
            raise BadBook(f"there is no book at {directory}: check the path, or write an edit to start one.")
        (directory / "edits").mkdir(parents=True, exist_ok=True)
        return sqlite3.connect(database, timeout=wait, isolation_level=None, check_same_thread=False)
    except (OSError, ValueError, sqlite3.Error) as error:
        raise BadBook(f"cannot open a book at {directory}: {error}.") from error
