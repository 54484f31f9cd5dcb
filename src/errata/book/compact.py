"""Making a book smaller without changing what it says: files nobody needs, and room in the database."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from dataclasses import dataclass, field

from errata.book import files, verify
from errata.book.book import Book, Note
from errata.errors import BadBook


@dataclass(frozen=True, slots=True)
class Compacted:
    """What `compact` did: files it removed, dropped edits whose tensors are gone now, bytes before and after."""

    removed: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    before: int = 0
    after: int = 0


def compact(book: Book, *, forget: bool = False, note: Note | None = None) -> Compacted:
    """Remove files that belong to no edit, such as a killed writer leaves, and pack the database.

    Args:
        forget: also remove the tensors of dropped edits, for good: they cannot be restored then unless they are written
            again. The log keeps all it says of them.

    Raises:
        BadBook: the disk refuses. BookBusy: another process is writing.
    """
    with book.lock():
        before = _size(book)
        records, events = book.records(), book.history()
        gone = {event.edit_id for event in events if event.kind == "forget"}
        dropped = [r for r in records if not r.stands]
        new = [r.id for r in dropped if r.id not in gone] if forget else []
        note = note or Note()
        for id in new:
            book.note("forget", Note(note.author, note.reason), id)
        removed = verify.orphans(book, records)
        if forget:
            removed += [files.path_of(book.path / "edits", r.sha256).name for r in dropped]
        removed = [name for name in removed if _remove(book, name)]
        with book.query() as db, suppress(sqlite3.OperationalError):  # somebody reads: another time, then
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return Compacted(removed, new, before, _size(book))


def _remove(book: Book, name: str) -> bool:
    try:
        return files.remove(book.path / "edits", name)
    except OSError as error:
        path = book.path / "edits" / name
        raise BadBook(f"cannot remove {path} ({error.strerror}): change its permissions, and compact again.") from error


def _size(book: Book) -> int:
    return sum(path.lstat().st_size for path in book.path.rglob("*") if path.is_file())
