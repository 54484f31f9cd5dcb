"""Looking a book over: the chain of its history, the signatures on it, and the file of every edit. No torch needed."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from errata.book import chain, files, policy, signing
from errata.book.book import Book, Event, Record
from errata.book.shape import lost_triggers
from errata.book.sound import Sizes
from errata.errors import BadBook, BadConfig, CorruptEdit


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

    Raises:
        BadConfig: what is trusted is no public key.
    """
    for key in trust:
        if not signing.is_key(key):
            raise BadConfig(
                f"{key[:80]!r} is no public key: errata keygen prints one, of 64 hexadecimal digits; errata verify names the "
                "keys that signed this book."
            )
    with book.snapshot() as db:
        found = _found(book, db, trust, head)
    with book.snapshot():  # a file may have been forgotten while files were read
        gone = _forgotten(book.history())
    if gone and any(id in gone for id, _ in found[1]):
        found = (found[0], [(id, said) for id, said in found[1] if id not in gone])
    return replace(found[0], problems=[*found[0].problems, *(said for _, said in found[1])])


def _found(
    book: Book, db: sqlite3.Connection, trust: Collection[str], head: str
) -> tuple[Findings, list[tuple[str, str]]]:
    """Return what is found of one moment, and apart from it what is wrong with files, by the edits' ids."""
    broken = [f"event {seq}: {what}." for seq, what in chain.breaks(db)]
    last, start = chain.head(db)[1], chain.genesis(db)
    broken += [f"the database: {said}." for (said,) in db.execute("PRAGMA integrity_check(5)") if said != "ok"]
    remarks = [f"the database has lost its trigger {name}, which refuses changes." for name in lost_triggers(db)]
    events, problems, wrong = book.history(), list(broken), list[tuple[str, str]]()
    if head and head not in {start, *(event.hash for event in events)}:
        problems.append(f"the head {head[:16]} is not in the history: events were cut off or replaced.")
    problems += _signatures(events, trust)
    try:
        told = {seq for seq, _ in policy.unsigned(db, 0, trust)} if trust else set()
        problems += [
            f"event {n}: {why}, and the book's policy asks it." for n, why in policy.unsigned(db) if n not in told
        ]
        records = book.records()
        wrong, more = list(_files(book, records, _forgotten(events))), [*_clock(events), *_orphans(book, records)]
    except BadBook as error:
        problems.append(str(error))
        records, more = [], _clock(events)
    signers = Counter(event.signer for event in events if event.signer)
    count = sum(not event.signer for event in events)
    return Findings(len(events), len(records), last, problems, [*remarks, *more], dict(signers), count), wrong


def _forgotten(events: Collection[Event]) -> set[str]:
    """Return the edits whose tensors were forgotten and are needed no more."""
    last = {event.edit_id: event.kind for event in events if event.kind in ("write", "restore", "drop")}
    return {event.edit_id for event in events if event.kind == "forget" and last.get(event.edit_id) == "drop"}


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


def _files(book: Book, records: Collection[Record], forgotten: Collection[str]) -> Iterator[tuple[str, str]]:
    sizes = Sizes()
    for record in records:
        if record.id in forgotten:
            continue
        try:
            data = book.read(record)
        except CorruptEdit as error:
            yield record.id, str(error)
            continue
        if wrong := sizes.unfit(record, data):
            yield record.id, f"edit {record.id} is none: {wrong}."


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
