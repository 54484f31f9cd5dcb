"""Looking a book over: the chain of its history, the signatures on it, and the file of every edit. No torch needed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from errata.book import chain, files, signing
from errata.book.book import Book, Event, Record
from errata.errors import BadBook, CorruptEdit


@dataclass(frozen=True, slots=True)
class Findings:
    """What `verify` found.

    Args:
        events, edits: how many there are. head: hash of the last event, to be kept elsewhere.
        problems: what must not be, a sentence each. remarks: what one should know.
        signers: events signed by each public key. unsigned: events nobody signed.
    """

    events: int
    edits: int
    head: str
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    signers: dict[str, int] = field(default_factory=dict)
    unsigned: int = 0


def verify(book: Book, *, trust: Collection[str] = (), head: str = "") -> Findings:
    """Look at every event, signature and file of a book, and change nothing.

    Args:
        trust: public keys, in hex; if any are given, an event that none of them signed is a problem.
        head: a hash that was the head once; that it is not in the history any more is a problem.
    """
    with book.query() as db:
        broken = [f"event {seq}: {what}." for seq, what in chain.breaks(db)]
        last, start = chain.head(db)[1], chain.genesis(db)
        broken += [f"the database: {said}." for (said,) in db.execute("PRAGMA integrity_check(5)") if said != "ok"]
    events, problems = book.history(), list(broken)
    if head and head not in {start, *(event.hash for event in events)}:
        problems.append(f"the head {head[:16]} is not in the history: events were cut off or replaced.")
    problems += _signatures(events, trust)
    try:
        records = book.records()
        problems += _files(book, records, events)
        remarks = [*_clock(events), *_orphans(book, records)]
    except BadBook as error:
        problems.append(str(error))
        records, remarks = [], _clock(events)
    signers = Counter(event.signer for event in events if event.signer)
    return Findings(
        len(events), len(records), last, problems, remarks, dict(signers), sum(not e.signer for e in events)
    )


def orphans(book: Book, records: Collection[Record]) -> list[str]:
    """Return the names of files in the book that no edit needs."""
    needed = {files.path_of(book.path / "edits", record.sha256).name for record in records}
    return sorted(path.name for path in (book.path / "edits").iterdir() if path.name not in needed)


def _signatures(events: Collection[Event], trust: Collection[str]) -> Iterator[str]:
    wanted = {key.lower() for key in trust}
    for event in events:
        if event.signer and not signing.holds(event.signer, event.signature, event.hash):
            yield f"event {event.seq}: its signature is not that of {event.signer[:16]}."
        elif wanted and not event.signer:
            yield f"event {event.seq}: nobody signed it."
        elif wanted and event.signer not in wanted:
            yield f"event {event.seq}: it is signed by {event.signer[:16]}, who is not trusted."


def _files(book: Book, records: Collection[Record], events: Collection[Event]) -> Iterator[str]:
    forgotten = {event.edit_id for event in events if event.kind == "forget"}
    for record in records:
        if record.id in forgotten and not record.stands:
            continue
        try:
            stated = _stated(book.read(record))
        except CorruptEdit as error:
            yield str(error)
            continue
        if stated is not None and stated != json.loads(json.dumps(dict(record.meta))):
            yield f"edit {record.id}: what the book says of it is not what its file says."


def _stated(data: bytes) -> dict[str, Any] | None:
    """Return what an edit's file says of itself; None of a file that says nothing."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return dict(json.loads(header["__metadata__"]["errata"]))
    except (ValueError, LookupError, TypeError):
        return None


def _clock(events: Collection[Event]) -> list[str]:
    """Return where the clock went backwards: harmless, because order is by number."""
    found, before = [], ""
    for event in events:
        if event.at < before:
            found.append(f"event {event.seq} is dated {event.at}, before the one before it ({before}).")
        before = event.at
    return found


def _orphans(book: Book, records: Collection[Record]) -> list[str]:
    found = orphans(book, records)
    return [f"{len(found)} files belong to no edit; errata compact removes them."] if found else []
