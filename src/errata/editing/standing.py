"""Standing edits of a book, or of an earlier state of it, read whole."""

from __future__ import annotations

from collections.abc import Iterable

from errata.book import states
from errata.book.book import Book, Record
from errata.edit import Edit


def at(book: Book, name: str) -> tuple[states.State, list[Edit]]:
    """Return a state by its name, with its edits; raises what `errata.book.states.at` and `load` raise."""
    state = states.at(book, name)
    return state, load(book, [book.get(id) for id in state.ids])


def load(book: Book, records: Iterable[Record]) -> list[Edit]:
    """Read edits from a book; raises CorruptEdit for a file that is missing or altered."""
    return [Edit.from_bytes(book.read(record), f"edit {record.id}") for record in records]
