"""What the book says about an edit, and the rows that say it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from errata import display
from errata.book import chain
from errata.collector import growing
from errata.errors import BadBook, BadFact, InputError, UnknownEdit
from errata.fact import Fact

WHOLE_ID: Final = 16  # characters of an id
SHORTEST_ID: Final = 6  # characters of an id that are enough, if they fit one edit only
# What happened is always read in the order of the table, never by an index: a damaged index would make an edit fall out of
# force without a word, and nothing that could notice is stored in it.
_SELECT: Final = "SELECT seq, id, method, sha256, bytes, created_at, record FROM edits"
Named = Any  # an id, of which the first six characters will do, "last", an edit or its record, or a list of these
_TEXTS: Final = ("author", "reason", "source", "valid_from", "valid_until", "tenant", "ground", "base")
LAST: Final = "last"  # instead of an id: the edit that was written, dropped or restored last
_STANDS: Final = ("write", "restore")  # an edit stands if the last thing that happened to it is one of these


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
        valid_from, valid_until: the days, ISO 8601, between which it is true; empty where that has no end.
        tags: words to find it by.
        tenant: on whose behalf it was written.
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
    valid_from: str = ""
    valid_until: str = ""
    tags: tuple[str, ...] = ()
    tenant: str = ""

    def __repr__(self) -> str:
        return display.line_of(self, "stands" if self.stands else "dropped", ", ".join(self.tags))

    def _repr_html_(self) -> str:
        rows = (self.meta.get("report") or {}).get("facts", ())
        return display.html_of(self, rows, "stands" if self.stands else "dropped", self.reason)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, at a moment: ISO 8601 in UTC.

    Args:
        kind: "write", "drop", "restore" or "forget" of an edit; "tag" or "untag" of the book.
        edit_id: empty where it is about the whole book.
        data: what else belongs to it, such as a tag's name.
        hash: of this event and all before it.
        signer: public key of whoever signed it, in hex; empty where nobody did.
        signature: of the hash, in hex.
    """

    seq: int
    kind: str
    edit_id: str
    at: str
    author: str
    reason: str
    data: Mapping[str, Any]
    hash: str
    signer: str
    signature: str


@dataclass(frozen=True, slots=True)
class Note:
    """What is written beside an event: who, why, and what else belongs to it."""

    author: str = ""
    reason: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("author", "reason"):
            if not isinstance(value := getattr(self, name), str):
                raise InputError(f"the {name} is text, not {value!r}.")


class Signs(Protocol):
    """Whoever signs events."""

    public: str

    def sign(self, text: str) -> str:
        """Return the signature of a text, in hex."""


def fetch_all(db: sqlite3.Connection) -> list[Record]:
    """Return every edit, in order of first writing."""
    with growing():
        last = dict(db.execute("SELECT edit_id, kind FROM events ORDER BY seq"))
        return [_record(row, last.get(row[1])) for row in db.execute(f"{_SELECT} ORDER BY seq")]


def fits(edit: Record, tag: str = "", tenant: str = "", expired: bool = False) -> bool:
    """Return whether an edit has this tag, is on this one's behalf, and has seen its last day, as far as is asked."""
    today = datetime.now(UTC).date().isoformat()
    return (
        (not tag or tag in edit.tags)
        and (not tenant or tenant == edit.tenant)
        and (not expired or "" < edit.valid_until < today)
    )


def gone_on(db: sqlite3.Connection, known: Mapping[str, Record], seq: int) -> Mapping[str, Record]:
    """Return every edit by its id, in order of first writing, reading only what the events after number `seq` are about.

    Args:
        known: the edits as they were then. What an event wrote is vouched for by its hash: the caller has looked.
    """
    events = list(db.execute("SELECT edit_id, kind FROM events WHERE seq > ? ORDER BY seq", (seq,))) if seq else []
    if not seq or any(kind not in ("write", "drop", "restore") and id for id, kind in events):
        return {edit.id: edit for edit in fetch_all(db)}
    found = dict(known)
    for id, kind in events:
        if kind == "write":
            row = db.execute(f"{_SELECT} WHERE id = ?", (id,)).fetchone()
            found[id] = _record(row, kind)
        elif id:
            found[id] = replace(found[id], stands=kind in _STANDS)
    return found


def fetch(db: sqlite3.Connection, id: str) -> Record | None:
    """Return the edit with exactly this id, or None."""
    row = db.execute(f"{_SELECT} WHERE id = ?", (id,)).fetchone()
    last = "SELECT kind FROM events WHERE edit_id = ? ORDER BY seq DESC LIMIT 1"
    return None if row is None else _record(row, (db.execute(last, (id,)).fetchone() or (None,))[0])


def named(given: object) -> list[str]:
    """Return the ids that are meant: of an id, of an edit or a record, or of a list of these.

    Raises:
        UnknownEdit: it is none of them.
    """
    if isinstance(given, list | tuple | set | frozenset):
        return [id for one in given for id in named(one)]
    id = given if isinstance(given, str) else getattr(given, "id", None) if hasattr(given, "method") else None
    if not isinstance(id, str):
        raise UnknownEdit(f"{display.short(repr(given))} names no edit: give its id, the edit itself, or its record.")
    return [id]


def resolve(db: sqlite3.Connection, given: object) -> Record:
    """Return the edit meant by an id, by enough of its beginning, by the edit itself, or by "last".

    Raises:
        UnknownEdit: it fits none or several.
    """
    id = ", ".join(named(given))
    if id == LAST:
        newest = "SELECT edit_id FROM events JOIN edits ON edits.id = edit_id ORDER BY events.seq DESC LIMIT 1"
        id = (db.execute(newest).fetchone() or (LAST,))[0]
    edit = fetch(db, id)
    if edit is not None and edit.id == id:
        return edit
    # The beginning of an id is scanned for; a whole one is not, as the editor asks for that of every edit it writes.
    scan = "SELECT id FROM edits WHERE substr(id, 1, ?) = ? ORDER BY seq"
    fits = [row[0] for row in db.execute(scan, (len(id), id))] if 0 < len(id) < WHOLE_ID or edit is not None else []
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


def insert(db: sqlite3.Connection, meta: Mapping[str, Any], sha256: str, size: int) -> chain.Row:
    """Add an edit's row and return what the event that writes it vouches for; the caller holds the transaction."""
    (last,) = db.execute("SELECT COALESCE(MAX(seq), 0) FROM edits").fetchone()
    made = meta.get("created_at") or _now()
    row = (last + 1, meta["method"], sha256, size, made, json.dumps(dict(meta)))
    db.execute(f"INSERT INTO edits (id, {chain.ROW}) VALUES (?, ?, ?, ?, ?, ?, ?)", (meta["id"], *row))
    if db.execute(f"SELECT {chain.ROW} FROM edits WHERE id = ?", (meta["id"],)).fetchone() != row:
        raise BadBook(f"book.sqlite does not keep what is written of edit {meta['id']}: nothing was changed.")
    return row


def add_event(
    db: sqlite3.Connection,
    kind: str,
    id: str | None,
    note: Note,
    signer: Signs | None = None,
    row: chain.Row | None = None,
) -> None:
    """Add what happened now, to an edit or (None) to the book, at the end of the chain.

    Args:
        row: what `insert` gave, of an event that writes an edit. What is hashed and signed is this, not what the database,
            which others may have prepared, says is in it.
    """
    # Text from a terminal may hold bytes that are no UTF-8, which SQLite does not take.
    who, why = (text.encode("utf-8", "replace").decode() for text in (note.author, note.reason))
    seq, previous = chain.head(db)
    event = (seq + 1, kind, id, _now(), who, why, json.dumps(dict(note.data), sort_keys=True))
    found = chain.digest(previous, event, row)
    signed = (signer.public, signer.sign(found)) if signer else ("", "")
    whole = (*event, found, *signed)
    db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", whole)
    if db.execute("SELECT * FROM events WHERE seq = ?", (seq + 1,)).fetchone() != whole:
        raise BadBook("book.sqlite does not keep what is written of this event: nothing was changed.")


def fetch_events(db: sqlite3.Connection, id: str | None) -> list[Event]:
    """Return what happened to one edit, or everything, oldest first."""
    which, values = ("", ()) if id is None else ("WHERE edit_id = ?", (id,))
    columns = "seq, kind, COALESCE(edit_id, ''), at, author, reason, data, hash, signer, signature"
    rows = db.execute(f"SELECT {columns} FROM events {which} ORDER BY seq", values)
    return [_event(row) for row in rows]


def _event(row: Sequence[Any]) -> Event:
    try:
        seq, kind, id, at, author, reason, data, hash, signer, signature = row
        if not all(isinstance(value, str) for value in row[1:]):
            raise TypeError("a part of it is no text")
        return Event(seq, kind, id, at, author, reason, dict(json.loads(data)), hash, signer, signature)
    except (ValueError, TypeError) as error:
        raise BadBook(f"event {row[0]} cannot be read ({error}): restore book.sqlite from a copy.") from error


def _record(row: Sequence[Any], last: str | None) -> Record:
    seq, id, method, sha256, size, created_at, text = row
    try:
        meta = json.loads(text)
        _check_types(row, meta)
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
            stands=last in _STANDS,
            seq=seq,
            valid_from=meta.get("valid_from", ""),
            valid_until=meta.get("valid_until", ""),
            tags=tuple(meta.get("tags", ())),
            tenant=meta.get("tenant", ""),
        )
    except (ValueError, TypeError, AttributeError, BadFact) as error:
        raise BadBook(f"the entry of edit {id} cannot be read ({error}): restore book.sqlite from a copy.") from error


def _check_types(row: Sequence[Any], meta: Mapping[str, Any]) -> None:
    """Raise TypeError unless everything is of the type that whoever shows an edit takes it to be."""
    texts = [*row[1:4], row[5], *(meta.get(name, "") for name in _TEXTS), *meta.get("tags", ())]
    if not all(isinstance(text, str) for text in texts) or isinstance(meta.get("tags", ()), str):
        raise TypeError("a part of it is no text")
    if not all(isinstance(number, int) for number in (row[0], row[4])):
        raise TypeError("its number or its size is none")
    report = meta.get("report") or {}
    nests = [report, meta.get("config") or {}, meta.get("versions") or {}]
    nests += [*report.get("forgotten", ()), *report.get("lost", ())] if isinstance(report, Mapping) else []
    if not all(isinstance(nest, Mapping) for nest in nests) or isinstance(meta.get("report", {}), list):
        raise TypeError("what is said of it is no object")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
