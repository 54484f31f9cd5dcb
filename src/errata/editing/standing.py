"""Standing edits of a book, or of an earlier state of it, read whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from errata.book import states
from errata.book.book import Book, Record
from errata.edit import Edit


def at(book: Book, name: str) -> tuple[states.BookState, list[Edit]]:
    """Return a state by its name, with its edits; raises what `errata.book.states.at` and `load` raise."""
    state = states.at(book, name)
    return state, load(book, [book.get(id) for id in state.ids])


def load(book: Book, records: Iterable[Record], known: Mapping[str, Edit] | None = None) -> list[Edit]:
    """Read edits from a book; raises CorruptEdit for a file that is missing or altered.

    The book has compared each file with its hash, which vouches for the id: the content is not hashed again.

    Args:
        known: edits that need not be read, by their id or their file's hash.
    """
    known = known or {}
    return [
        known.get(r.id) or known.get(r.sha256) or Edit.from_bytes(book.read(r), f"edit {r.id}", r.id) for r in records
    ]
