"""The chain of hashes: every event of a book carries the hash of itself and of everything before it.

    hash(n) = SHA-256 of [hash(n − 1), n, kind, edit, when, who, why, data, what the edit's row says]
    hash(0) = SHA-256 of [the base model's fingerprint, its name, the book's random id]

The id is missing in books made before schema 3. It lets no other book of the same model, signed by the same key, pass for this.

So a row that was altered, removed or put in between later, or a flipped bit, breaks the chain at that place. An event
may be signed: with ed25519, over its hash, and thereby over all before it. What cannot be seen from inside is that the
newest events were cut off: keep the head (`errata verify` prints it) elsewhere, and compare.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from errata.errors import BadBook

# What of an edit's row the event that wrote it vouches for, besides its id.
ROW: Final = "seq, method, sha256, bytes, created_at, record"
Row = tuple[int, str, str, int, str, str]  # which is that
_EVENT: Final = "seq, kind, edit_id, at, author, reason, data"


def genesis(db: sqlite3.Connection) -> str:
    """Return the hash the first event builds on: of the base the book is bound to, and of the book's id if it has one."""
    bound = dict(db.execute("SELECT key, value FROM meta"))
    return _hash([bound.get("base"), bound.get("name"), *([bound["id"]] if "id" in bound else [])])


def digest(previous: str, event: Sequence[object], row: Sequence[object] | None) -> str:
    """Return the hash of an event: (seq, kind, edit, at, author, reason, data), after `previous`.

    Args:
        row: of an event that writes an edit, what its row says: (seq, method, sha256, bytes, created_at, record).
    """
    return _hash([previous, *event, None if row is None else _vouched(row)])


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
    edits = _edits(db, after is None)
    for *event, said in db.execute(f"SELECT {_EVENT}, hash FROM events WHERE seq > ? ORDER BY seq", (seq,)):
        writes = event[1] == "write"
        row = edits(event[2]) if writes else None
        if event[0] != seq + 1:
            yield seq + 1, "it is missing"
        if writes and row is None:
            yield event[0], f"the edit it wrote, {event[2]}, is missing"
        elif _hash([previous, *event, row]) != said:
            yield event[0], "it, the edit it wrote, or one before it was altered"
        seq, previous = event[0], said
    if after is None and (lost := _unwritten(db)):
        yield seq + 1, f"no event says that edit {lost} was written"


def _edits(db: sqlite3.Connection, everything: bool) -> Callable[[str], list[object] | None]:
    """Return what looks up what an edit's row is vouched to say: by scanning the table, since an index may be damaged."""
    if everything:
        return {row[0]: _vouched(row[1:]) for row in db.execute(f"SELECT id, {ROW} FROM edits ORDER BY seq")}.get

    def one(id: str) -> list[object] | None:
        row = db.execute(f"SELECT {ROW} FROM edits WHERE id = ?", (id,)).fetchone()
        return None if row is None else _vouched(row)

    return one


def _vouched(row: Sequence[object]) -> list[object]:
    return [*row[:-1], hashlib.sha256(str(row[-1]).encode()).hexdigest()]


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
    written = {id for (id,) in db.execute("SELECT edit_id FROM events WHERE kind = 'write' ORDER BY seq")}
    return next((str(id) for (id,) in db.execute("SELECT id FROM edits ORDER BY seq") if id not in written), None)


def _hash(values: Sequence[object]) -> str:
    # What is neither text nor number was put there by somebody else, and hashes like nothing we write.
    text = json.dumps(
        list(values), ensure_ascii=True, separators=(",", ":"), default=lambda other: {"no text": repr(other)}
    )
    return hashlib.sha256(text.encode()).hexdigest()
