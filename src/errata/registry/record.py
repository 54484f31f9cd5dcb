"""What the book says about an edit, and the rows that say it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from errata.errors import BadBook, BadFact, UnknownEdit
from errata.fact import Fact

SHORTEST_ID: Final = 6  # characters of an id that are enough, if they fit one edit only

# An edit stands unless the last thing that happened to it is a drop.
_SELECT: Final = """
    SELECT seq, id, method, sha256, bytes, created_at, record,
           (SELECT kind FROM events WHERE edit_id = edits.id ORDER BY events.seq DESC LIMIT 1) IS NOT 'drop'
    FROM edits
"""


@dataclass(frozen=True, slots=True)
class Record:
    """One edit as the book knows it.

    Args:
        id: the edit's id.
        method: name of the method that made it.
        facts: what it writes.
        meta: everything recorded of it: config, base, parents, seed, prefixes, versions, sites, report, …
        sha256: hash of its file, in hex.
        bytes: size of its file.
        author: who wrote it.
        reason: why.
        source: from where it is known.
        created_at: when it was made, ISO 8601 in UTC.
        stands: whether it is in force now.
        seq: its place in the book, from 1.
    """

    id: str
    method: str
    facts: tuple[Fact, ...]
    meta: Mapping[str, Any]
    sha256: str
    bytes: int
    author: str
    reason: str
    source: str
    created_at: str
    stands: bool
    seq: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an edit: `kind` is "write", "drop" or "restore"; `at` is ISO 8601 in UTC."""

    seq: int
    kind: str
    edit_id: str
    at: str
    author: str
    reason: str


def fetch_all(db: sqlite3.Connection) -> list[Record]:
    """Return every edit, in order of first writing."""
    return [_record(row) for row in db.execute(f"{_SELECT} ORDER BY seq")]


def fetch(db: sqlite3.Connection, id: str) -> Record | None:
    """Return the edit with exactly this id, or None."""
    row = db.execute(f"{_SELECT} WHERE id = ?", (id,)).fetchone()
    return None if row is None else _record(row)


def resolve(db: sqlite3.Connection, id: str) -> Record:
    """Return the edit an id, or enough of its beginning, stands for; raises UnknownEdit if it fits none or several."""
    rows = db.execute("SELECT id FROM edits WHERE substr(id, 1, ?) = ? ORDER BY seq", (len(id), id))
    fits = [row[0] for row in rows] if id else []
    if id not in fits:
        if not fits:
            raise UnknownEdit(f"no edit {id!r} in this book: see errata log for the ids.")
        if len(id) < SHORTEST_ID:
            raise UnknownEdit(f"the edit id {id!r} is too short: give at least {SHORTEST_ID} characters.")
        if len(fits) > 1:
            shown = ", ".join(fits[:5]) + (", …" if len(fits) > 5 else "")
            raise UnknownEdit(f"the edit id {id!r} fits {len(fits)} edits: {shown}. Give more of it.")
        id = fits[0]
    edit = fetch(db, id)
    if edit is None or edit.id != id:  # the scan above and the index do not agree
        raise BadBook(f"the index of book.sqlite is wrong about edit {id}: it is damaged, restore it from a copy.")
    return edit


def insert(db: sqlite3.Connection, meta: Mapping[str, Any], sha256: str, size: int) -> None:
    """Add an edit's row; the caller adds the event and holds the transaction."""
    db.execute(
        "INSERT INTO edits (id, method, sha256, bytes, created_at, record) VALUES (?, ?, ?, ?, ?, ?)",
        (meta["id"], meta["method"], sha256, size, meta.get("created_at") or _now(), json.dumps(dict(meta))),
    )


def add_event(db: sqlite3.Connection, kind: str, id: str, author: str, reason: str) -> None:
    """Add what happened to an edit, now."""
    # Text from a terminal may hold bytes that are no UTF-8, which SQLite does not take.
    who, why = (text.encode("utf-8", "replace").decode() for text in (author, reason))
    db.execute(
        "INSERT INTO events (kind, edit_id, at, author, reason) VALUES (?, ?, ?, ?, ?)", (kind, id, _now(), who, why)
    )


def fetch_events(db: sqlite3.Connection, id: str | None) -> list[Event]:
    """Return what happened to one edit, or to all, oldest first."""
    which, values = ("", ()) if id is None else ("WHERE edit_id = ?", (id,))
    rows = db.execute(f"SELECT seq, kind, edit_id, at, author, reason FROM events {which} ORDER BY seq", values)
    return [Event(*row) for row in rows]


def _record(row: Sequence[Any]) -> Record:
    seq, id, method, sha256, size, created_at, text, stands = row
    try:
        meta = json.loads(text)
        return Record(
            id=id,
            method=method,
            facts=tuple(Fact.from_dict(fact) for fact in meta.get("facts", ())),
            meta=meta,
            sha256=sha256,
            bytes=size,
            author=meta.get("author", ""),
            reason=meta.get("reason", ""),
            source=meta.get("source", ""),
            created_at=created_at,
            stands=bool(stands),
            seq=seq,
        )
    except (ValueError, TypeError, AttributeError, BadFact) as error:
        raise BadBook(f"the entry of edit {id} cannot be read ({error}): restore book.sqlite from a copy.") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
