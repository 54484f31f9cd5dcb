"""The chain of hashes: every event of a book carries the hash of itself and of everything before it.

    hash(n) = SHA-256 of [hash(n − 1), n, kind, edit, when, who, why, data, what the edit's row says]
    hash(0) = SHA-256 of [the base model's fingerprint, its name]

So a row that was altered, removed or put in between later, or a flipped bit, breaks the chain at that place. An event
may be signed: with ed25519, over its hash, and thereby over all before it. What cannot be seen from inside is that the
newest events were cut off: keep the head (`errata verify` prints it) elsewhere, and compare.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

from errata.errors import BadBook

# What of an edit's row the event that wrote it vouches for.
_ROW: Final = "e.method, e.sha256, e.bytes, e.created_at, e.record"
_EVENT: Final = "v.seq, v.kind, v.edit_id, v.at, v.author, v.reason, v.data"


def genesis(db: sqlite3.Connection) -> str:
    """Return the hash the first event builds on: of the base the book is bound to."""
    bound = dict(db.execute("SELECT key, value FROM meta"))
    return _hash([bound.get("base"), bound.get("name")])


def digest(previous: str, event: Sequence[object], row: Sequence[object] | None) -> str:
    """Return the hash of an event: (seq, kind, edit, at, author, reason, data), after `previous`.

    Args:
        row: of an event that writes an edit, what its row says: (method, sha256, bytes, created_at, record).
    """
    vouched = None if row is None else [*row[:-1], hashlib.sha256(str(row[-1]).encode()).hexdigest()]
    return _hash([previous, *event, vouched])


def head(db: sqlite3.Connection) -> tuple[int, str]:
    """Return number and hash of the last event; 0 and the genesis of a book without any."""
    row = db.execute("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1").fetchone()
    return (0, genesis(db)) if row is None else (row[0], row[1])


def breaks(db: sqlite3.Connection, after: tuple[int, str] | None = None) -> Iterator[tuple[int, str]]:
    """Yield (event, what is wrong) for every place where the chain does not hold.

    Args:
        after: an event that is known to hold, with its hash; None begins at the beginning.
    """
    seq, previous = after or (0, genesis(db))
    query = f"""SELECT {_EVENT}, v.hash, {_ROW}, e.id FROM events v
        LEFT JOIN edits e ON v.kind = 'write' AND e.id = v.edit_id WHERE v.seq > ? ORDER BY v.seq"""
    for found in db.execute(query, (seq,)):
        event, said, row, id = found[:7], found[7], found[8:13], found[13]
        if event[0] != seq + 1:
            yield seq + 1, "it is missing"
        if event[1] == "write" and id is None:
            yield event[0], f"the edit it wrote, {event[2]}, is missing"
        elif digest(previous, event, row if event[1] == "write" else None) != said:
            yield event[0], "it, the edit it wrote, or one before it was altered"
        seq, previous = event[0], said
    if after is None and (lost := _unwritten(db)):
        yield seq + 1, f"no event says that edit {lost} was written"


def require(db: sqlite3.Connection, path: object, after: tuple[int, str] | None = None) -> tuple[int, str]:
    """Return the head of a chain that holds; raises BadBook if it does not."""
    for seq, what in breaks(db, after):
        raise BadBook(
            f"the history of the book {path} does not hold at event {seq} ({what}): errata verify shows all; "
            "restore book.sqlite from a copy."
        )
    return head(db)


def _unwritten(db: sqlite3.Connection) -> str | None:
    """Return an edit that no event wrote, if there is one."""
    written = "SELECT edit_id FROM events WHERE kind = 'write'"
    row = db.execute(f"SELECT id FROM edits WHERE id NOT IN ({written}) LIMIT 1").fetchone()
    return None if row is None else str(row[0])


def _hash(values: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(list(values), ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()
