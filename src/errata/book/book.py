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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from errata.book import admission, chain, files, policy, records
from errata.book.database import connect, explain, prepare, unchanging
from errata.book.policy import PolicyInForce, Use, check_use
from errata.book.records import Event, Named, Note, Record, Signs
from errata.book.schema import reading, transaction
from errata.book.shape import check_shape
from errata.book.signing import Signer, open_to_others
from errata.content import as_path
from errata.errors import BadBook, BookBusy, BookOfAnotherModel, ErrataError
from errata.identity import Identity

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["Book", "Event", "Named", "Note", "Record"]
WAIT: Final = 30.0  # seconds to wait for another process before BookBusy
Item = tuple[Mapping[str, Any], bytes]  # what is said of an edit, and its file's content


class Book:
    """The log of one base model's edits. Made by `Book.open`; a context manager that closes itself.

    Several processes, and several threads of one, may use a book at once. Wherever an id is asked for, its first six or
    more characters are enough if they fit one edit only.

    Raises (any method):
        BookBusy: another process kept the book for longer than the waiting time.
        BadBook: the database is damaged, or the disk refuses.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, wait: float, signer: Signs | None = None, *, use: Use = "open"
    ) -> None:
        self.path, self.use = path, use
        self.notes: tuple[str, ...] = ()  # what a user should know of how it was opened
        self.base: str | None = None
        self.name: str | None = None
        self._edits = path / "edits"
        self._connection, self._look, self._still = connection, False, unchanging(path)
        self._threads = threading.RLock()
        self._wait, self.signer = wait, signer
        self._held: tuple[int, str] | None = None  # up to where the chain was found to hold
        self._known: Mapping[str, Record] = {}  # the edits up to there
        self._file_lock: BaseFileLock | None = None

    @classmethod
    def open(  # noqa: PLR0913
        cls,
        path: str | os.PathLike[str],
        base: str | Identity | None = None,
        name: str | None = None,
        *,
        create: bool = True,
        wait: float = WAIT,
        key: str | os.PathLike[str] | None = None,
        look: bool = False,
        use: Use = "open",
    ) -> Book:  # size: one way to open a book, and its options
        """Open the book in the directory `path`, made if it is not there.

        Args:
            base: identity of the base model, to which a new book is bound, or its fingerprint alone; None to look only (and
                drop or restore).
            name: the base model's name, for messages.
            create: make a book that is not there. wait: seconds to wait for other processes, here and in later calls.
            key: file of the private key that signs what is changed; else $ERRATA_KEY; without one nothing is signed.
            look: only look, at a book that is there: nothing in the directory is made, migrated or written.
            use: what for, which the book's policy may ask signatures of.

        Raises:
            BadBook: `path` is a file, there is no book and `create` is False, or it is damaged.
            BookOfAnotherModel: the book is bound to another base.
            NewerBook: the book was written by a newer version.
            BadFile: there is no key in that file.
        """
        directory = as_path(path, "the book").absolute()
        check_use(use)
        key = key or os.environ.get("ERRATA_KEY") or None
        signer = Signer(key) if key and not look else None
        connection = connect(directory, create, wait, look=look)
        book = cls(directory, connection, wait, signer, use=use)
        book._look = look
        book.notes = tuple(filter(None, [open_to_others(key) if key and signer else ""]))
        try:
            with book._query() as db:
                book._connection = prepare(db, directory, book.lock, look=look)
            book._bind(base, name)
        except BaseException:
            book._connection.close()
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

    def records(
        self, *, standing: bool = False, tag: str = "", tenant: str = "", expired: bool = False
    ) -> list[Record]:
        """Return every edit ever written, in order of first writing.

        Args:
            standing: only those that stand. tag: only those with this word. tenant: only those on this one's behalf.
            expired: only those whose last day has passed.
        """
        with self.snapshot() as db:
            found = records.fetch_all(db)
        return [one for one in found if (one.stands or not standing) and records.fits(one, tag, tenant, expired)]

    def stand(self) -> list[Record]:
        """Return the edits in force, in the order in which they are to be applied.

        Raises:
            BadBook: history was altered, or is not signed as the book's policy or $ERRATA_TRUST asks.
        """
        with self.snapshot() as db:
            before, self._held = self._held, self._require(db)
            self._known = records.gone_on(db, self._known, 0 if before is None else before[0])
        return [edit for edit in self._known.values() if edit.stands]

    def policy(self) -> PolicyInForce:
        """Return what the book asks of whoever uses it; raises BadBook if its history does not hold, or is not so signed."""
        with self.snapshot() as db:
            chain.require(db, self.path)
            return policy.require(db, self.path, self.use)

    def query(self) -> AbstractContextManager[sqlite3.Connection]:
        """Give the database, to look into; to the rooms of this package."""
        return self._query()

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Let everything that is read in the block be of one moment, whoever writes meanwhile; may be nested."""
        with self._query() as db:
            if db.in_transaction or self._still is None:
                with reading(db):
                    yield db
                return
            self._reopen()
            before = unchanging(self.path)
            try:
                with reading(self._connection) as db:
                    yield db
            except (BadBook, sqlite3.Error):
                if unchanging(self.path) == before:
                    raise
            if unchanging(self.path) != before:
                raise BookBusy(f"somebody writes to the book {self.path}: try again when that is done.")

    def __repr__(self) -> str:
        return f"<Book {self.path} of {self.name or 'no model yet'}>"

    def get(self, id: str | Record) -> Record:
        """Return one edit's record; raises UnknownEdit if the id fits none or several."""
        with self.snapshot() as db:
            return records.resolve(db, id)

    def read(self, edit: Record) -> bytes:
        """Return the content of the edit's file; raises CorruptEdit if it is missing or not what was written."""
        return files.read(self._edits, edit)

    def history(self, id: str | None = None) -> list[Event]:
        """Return what happened to one edit, or to all, oldest first; raises UnknownEdit as `get` does."""
        with self.snapshot() as db:
            return records.fetch_events(db, None if id is None else records.resolve(db, id).id)

    def meta(self) -> dict[str, str]:
        """Return what the book is bound to: its base's fingerprint, name and identity, and its own id."""
        with self._query() as db:
            found = dict(db.execute("SELECT key, value FROM meta"))
        if not all(isinstance(text, str) for pair in found.items() for text in pair):
            raise BadBook(f"what the book {self.path} is bound to cannot be read: restore book.sqlite from a copy.")
        return found

    def version(self) -> int:
        """Return the number of the last event: it grows with every change, whoever makes it."""
        with self._query() as db:
            return int(db.execute("SELECT COALESCE(MAX(seq), 0) FROM events").fetchone()[0])

    # --- writing ---------------------------------------------------------------------------------------------------

    def append(self, items: Sequence[Item]) -> list[Record]:
        """Add edits, all or none: each a JSON-able description with at least "id" and "method", and its file's content.

        A dropped edit that is appended again is restored, to its old place and with its old record.

        Raises:
            BadBook: an edit already stands or is given twice, the book is bound to no model, or the disk refuses.
            BookOfAnotherModel: an edit was computed on another base.
        """
        self.change(write=items)
        return [self.get(meta["id"]) for meta, _ in items]

    def drop(self, ids: Named, *, author: str = "", reason: str = "") -> list[Record]:
        """Take edits out of force, all or none, and return them; the others stay as they were computed.

        Raises:
            UnknownEdit: an id fits no edit or several.
            BadBook: an edit is dropped already.
        """
        return self.change(drop=ids, note=Note(author, reason))

    def restore(self, ids: Named, *, author: str = "", reason: str = "") -> list[Record]:
        """Put dropped edits back in force, each in its old place, all or none, and return them.

        Raises:
            UnknownEdit: an id fits no edit or several.
            BadBook: an edit stands already.
            CorruptEdit: an edit's file is missing or altered.
        """
        return self.change(restore=ids, note=Note(author, reason))

    def change(
        self,
        *,
        drop: Named = (),
        restore: Named = (),
        write: Sequence[Item] = (),
        note: Note | None = None,
        notes: Mapping[str, Note] | None = None,
    ) -> list[Record]:
        """Drop, restore and write edits in one transaction, in this order; return those dropped and restored.

        Args:
            note: who and why. notes: by id, of what is written; unless given, the description's own author and reason.

        Raises:
            UnknownEdit, BadBook, BookOfAnotherModel, CorruptEdit: as `drop`, `restore`, `append`. Nothing is changed then.
        """
        with self._writing() as db:
            dropped = [edit.id for edit in admission.droppable(db, drop)]
            restored = [edit.id for edit in admission.restorable(db, restore, self.read)]
            again = admission.admit(db, [meta for meta, _ in write], self.path, self.base, self.name)
            stored: list[tuple[str, int]] = []
            try:
                for meta, data in write:
                    stored.append(self._store(data, again.get(meta["id"])))
                if stored:
                    files.sync(self._edits)
                with self._transaction(db):
                    for id in dropped:
                        records.add_event(db, "drop", id, note or Note(), self.signer)
                    for id in restored:
                        records.add_event(db, "restore", id, note or Note(), self.signer)
                    for (meta, _), (sha256, size) in zip(write, stored, strict=True):
                        told = (notes or {}).get(meta["id"], note)
                        self._add(db, meta, sha256, size, new=meta["id"] not in again, note=told)
            except BaseException:
                self._sweep([sha256 for sha256, _ in stored])
                raise
            return [records.resolve(db, id) for id in (*dropped, *restored)]

    def note(self, kind: str, note: Note, id: str | None = None) -> None:
        """Add an event that drops and restores nothing, such as a tag."""
        if self.base is None:
            raise BadBook(f"the book {self.path} is bound to no model yet: open it with the model first.")
        with self._writing() as db, self._transaction(db):
            records.add_event(db, kind, id, note, self.signer)

    @contextmanager
    def lock(self, timeout: float | None = None) -> Iterator[None]:
        """Keep other writers out, so that what is computed from the standing edits still holds when it is appended.

        May be nested. `timeout` is in seconds; None takes the book's own. Raises BookBusy when it has passed.
        """
        from filelock import FileLock, Timeout  # who only reads does not wait for it

        if self._look:
            raise BadBook(f"the book {self.path} was opened only to look at it: nothing is changed.")
        files.check_kinds(self.path)
        with self._threads:
            self._file_lock = self._file_lock or FileLock(self.path / "lock")
        try:
            held = self._file_lock.acquire(timeout=self._wait if timeout is None else timeout)
        except (Timeout, RuntimeError) as error:  # RuntimeError: this very thread holds it by another Book
            raise BookBusy(f"another process is writing to the book {self.path}: try again when it is done.") from error
        except OSError as error:
            raise BadBook(f"cannot write to the book {self.path}: {error.strerror}.") from error
        with held:
            yield

    # --- inside ----------------------------------------------------------------------------------------------------

    def _bind(self, base: str | Identity | None, name: str | None) -> None:
        parts = base if isinstance(base, Identity) else None
        base = parts.fingerprint if parts is not None else base
        bound = self.meta()
        if base is not None and "base" not in bound:
            self._say({"id": os.urandom(16).hex(), "base": str(base), "name": name or str(base)})
            bound = self.meta()
        self.base, self.name, kept = bound.get("base"), bound.get("name"), bound.get("identity")
        if base is None:
            return
        # A book of before identities had parts has the model's older fingerprint; once the model was there, its parts too.
        known = Identity.from_json(kept) if kept else None
        held = self.base == base or (known is not None and known.fingerprint == base)
        if not held and not (known is None and parts is not None and parts.goes_by(self.base)):
            raise BookOfAnotherModel(admission.another(self, str(base), name, parts, known))
        if parts is not None and known is None and os.access(self.path, os.W_OK):
            self._say({"identity": parts.to_json()})

    def _say(self, said: Mapping[str, str]) -> None:
        """Keep what is not said of the base yet."""
        with self._query() as db, self.lock(), self._transaction(db):
            if db.execute(
                "SELECT 1 FROM meta WHERE key = 'base'"
            ).fetchone():  # somebody was first, or the book is older
                said = {key: value for key, value in said.items() if key != "id"}
            db.executemany("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", list(said.items()))

    def _store(self, data: bytes, dropped: Record | None) -> tuple[str, int]:
        """Write the file of an edit; of a dropped one, only if it is the same file, which may have been lost since."""
        if dropped is None or hashlib.sha256(data).hexdigest() == dropped.sha256:
            return files.store(self._edits, data)
        self.read(dropped)  # the same edit with another author or date: the first file counts, if it is whole
        return dropped.sha256, dropped.bytes

    def _add(
        self, db: sqlite3.Connection, meta: Mapping[str, Any], sha256: str, size: int, *, new: bool, note: Note | None
    ) -> None:
        row = records.insert(db, meta, sha256, size) if new else None
        own = Note(meta.get("author", ""), meta.get("reason", ""))
        records.add_event(db, "write" if new else "restore", meta["id"], note or own, self.signer, row)

    def _require(self, db: sqlite3.Connection) -> tuple[int, str]:
        """Return the head of a history that holds and is signed as is asked, having looked at what is new."""
        found = chain.require(db, self.path, self._held)
        policy.require(db, self.path, self.use, 0 if self._held is None else self._held[0])
        return found

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Give the database of a book that may be changed and asks for no other key than ours."""
        with self.lock(), self._query() as db:
            with reading(db):
                policy.check_writer(db, self.path, getattr(self.signer, "public", ""))
            yield db

    @contextmanager
    def _transaction(self, db: sqlite3.Connection) -> Iterator[None]:
        """Write all or nothing, into tables that are as we made them: what else is in them could act in our name."""
        files.check_kinds(self.path)
        with transaction(db):
            check_shape(db, self.path / files.DATABASE)
            yield

    def _reopen(self) -> None:
        """Open a database that is read as it lies there anew if its owner has changed it since."""
        if self._still == (now := unchanging(self.path)):
            return
        self._connection.close()
        self._connection = prepare(connect(self.path, False, self._wait, look=True), self.path, self.lock, look=True)
        self._still = now

    def _sweep(self, hashes: Sequence[str]) -> None:
        """Remove files that were written for rows that then were not, as far as the disk lets us."""
        with suppress(ErrataError, OSError), self._query() as db:
            for sha256 in hashes:
                if not db.execute("SELECT 1 FROM edits WHERE sha256 = ?", (sha256,)).fetchone():
                    files.remove(self._edits, files.path_of(self._edits, sha256).name)

    @contextmanager
    def _query(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to one thread at a time, and turn what SQLite raises into our errors."""
        with self._threads:
            try:
                yield self._connection
            except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter is how sqlite3 reports damaged text
                raise explain(self.path, error) from error
