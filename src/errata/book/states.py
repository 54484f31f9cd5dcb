"""States of a book: which edits stood at a moment, by tag, by number of event, or now.

tag(book, "release-1")
at(book, "release-1").ids              # also "@12" (after event 12), "now", "base", or an edit's id (that one alone)
checkout(book, "release-1")            # drop and restore until these stand again, as events like any other
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from errata.book.book import Book, Event, Note, Record
from errata.book.records import SHORTEST_ID
from errata.content import is_id
from errata.errors import InputError, UnknownEdit, did_you_mean

NOW: Final = "now"
BASE: Final = "base"


@dataclass(frozen=True, slots=True)
class BookState:
    """What stood at a moment.

    Args:
        name: what it was asked for by. seq: number of the last event before it.
        ids: the edits, in the order in which they are applied.
    """

    name: str
    seq: int
    ids: tuple[str, ...]


def tags(book: Book) -> dict[str, Event]:
    """Return the tags that are set, in the order of setting, each with the event that set it."""
    return _tags(book.history())


def tag(book: Book, name: str, note: Note | None = None, *, move: bool = False) -> Event:
    """Give the state of the book as it is a name.

    Raises:
        InputError: the name cannot be one, or is taken and `move` is False.
    """
    if not re.fullmatch(r"\w[\w.+-]*", name) or name in (NOW, BASE):
        raise InputError(f"{name!r} cannot be a tag: use letters, digits, '.', '+', '-', and neither now nor base.")
    with book.lock():
        if is_id(name) or (len(name) >= SHORTEST_ID and any(r.id.startswith(name) for r in book.records())):
            raise InputError(
                f"{name!r} cannot be a tag: it is, or could be, the id of an edit, and would stand in its place."
            )
        if name in tags(book) and not move:
            raise InputError(f"the tag {name} is there already: choose another, or move it with --move.")
        note = note or Note()
        book.note("tag", Note(note.author, note.reason, {**note.data, "name": name}))
        return tags(book)[name]


def untag(book: Book, name: str, note: Note | None = None) -> None:
    """Take a tag away; raises InputError if there is none of that name."""
    with book.lock():
        known = tags(book)
        if name not in known:
            raise InputError(f"no tag {name!r}.{did_you_mean(name, known)}")
        note = note or Note()
        book.note("untag", Note(note.author, note.reason, {**note.data, "name": name}))


def at(book: Book, name: str) -> BookState:
    """Return the state of that name.

    Raises:
        InputError: there is no such tag, event or edit.
    """
    if not isinstance(name, str):
        raise InputError(f"a state is named by text (a tag, @N, now, base, or an edit's id), not by {name!r}.")
    with book.snapshot():  # of one moment, whoever writes meanwhile
        records, events = book.records(), book.history()
    last = events[-1].seq if events else 0
    known = _tags(events)
    if name in known:
        return _state(name, known[name].seq, records, events)
    if name == BASE:
        return BookState(name, 0, ())
    if name == NOW:
        return _state(name, last, records, events)
    if re.fullmatch(r"@\d+", name):
        if int(name[1:]) > last:
            raise InputError(f"there is no event {name} yet: the book has {last}.")
        return _state(name, int(name[1:]), records, events)
    try:
        return BookState(name, last, (book.get(name).id,))
    except UnknownEdit as error:
        raise InputError(
            f"no state {name!r}.{did_you_mean(name, known)} Give a tag (errata tag lists them), @N for the moment "
            "after event N, now, base, or an edit's id."
        ) from error


def checkout(book: Book, name: str, note: Note | None = None) -> tuple[list[Record], list[Record]]:
    """Make the edits of a state the ones that stand; return those dropped and those restored.

    Raises:
        InputError: no such state. CorruptEdit: an edit's file is missing or altered. Nothing is changed then.
    """
    with book.lock():
        wanted = set(at(book, name).ids)
        standing = {edit.id for edit in book.stand()}
        drop, restore = sorted(standing - wanted), sorted(wanted - standing)
        note = note or Note()
        why = f"checkout {name}" + (f": {note.reason}" if note.reason else "")
        changed = book.change(drop=drop, restore=restore, note=Note(note.author, why, {**note.data, "checkout": name}))
    return changed[: len(drop)], changed[len(drop) :]


def _tags(events: Sequence[Event]) -> dict[str, Event]:
    found: dict[str, Event] = {}
    for event in events:
        if event.kind in ("tag", "untag"):
            found.pop(str(event.data.get("name")), None)
        if event.kind == "tag":
            found[str(event.data.get("name"))] = event
    return found


def _state(name: str, seq: int, records: Sequence[Record], events: Sequence[Event]) -> BookState:
    stands: Mapping[str, bool] = {
        e.edit_id: e.kind in ("write", "restore") for e in events if e.seq <= seq and e.edit_id
    }
    return BookState(name, seq, tuple(r.id for r in records if stands.get(r.id)))
