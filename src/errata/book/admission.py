"""Preconditions of append, drop and restore; raise before anything is written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from errata.book import records
from errata.book.records import Record
from errata.book.sound import check_sound
from errata.errors import BadBook, BookOfAnotherModel
from errata.identity import Identity


class Bound(Protocol):
    """A book, as far as it says which model it corrects."""

    path: Path
    base: str | None
    name: str | None


def admit(
    db: sqlite3.Connection, metas: Sequence[Mapping[str, Any]], path: Path, base: str | None, name: str | None
) -> dict[str, Record]:
    """Check that these may be appended, and return those of them that are in the book, dropped.

    Args:
        path: the book's. base, name: of the model it is bound to, if it is bound to one.

    Raises:
        BadBook: the book is bound to no model, or an edit stands or is given twice.
        BookOfAnotherModel: an edit was computed on another base.
    """
    dropped: dict[str, Record] = {}
    if metas and base is None:
        raise BadBook(f"the book {path} is bound to no model yet: open it with the model to write to it.")
    if len({meta["id"] for meta in metas}) < len(metas):
        raise BadBook("an edit is given twice: append it once.")
    for meta in metas:
        id = meta["id"]
        if meta.get("base", base) != base:
            raise BookOfAnotherModel(
                f"edit {id} was computed on another base model ({meta['base'][:12]}) than {name} "
                f"({str(base)[:12]}), which the book {path} corrects: write it again on that."
            )
        known = records.fetch(db, id)
        if known is not None and known.stands:
            raise BadBook(f"edit {id} already stands: drop it first to write it again.")
        if known is not None:
            dropped[id] = known
    return dropped


def another(book: Bound, base: str, name: str | None, parts: Identity | None, known: Identity | None) -> str:
    """Say that a model is not the one a book corrects, and what is other about it.

    Args:
        base, name: of the model. parts, known: identity of the model and the one the book keeps, as far as there are any.
    """
    mine, its = f"{book.name} ({str(book.base)[:12]})", f"{name or 'this model'} ({base[:12]})"
    here = f"the book {book.path} corrects {mine}, not {its}"
    if name == book.name:
        here = f"the book {book.path} corrects {mine} as it was when the book was made, and it is another now ({base[:12]})"
    if parts is None:
        return f"{here}: open that model, or give another book."
    if known is None:
        return f"{here}; what differs an older book does not say: open it with that model's own files, or give another."
    return f"{here}: {', '.join(parts.unlike(known))}; {parts.advice(known)}"


def droppable(db: sqlite3.Connection, ids: Any) -> list[Record]:
    """Return the edits these ids stand for, each once; raises BadBook if one is dropped already."""
    edits = _resolve(db, ids)
    for edit in edits:
        if not edit.stands:
            raise BadBook(f"edit {edit.id} is dropped already: restore it to bring it back.")
    return edits


def restorable(db: sqlite3.Connection, ids: Any, read: Callable[[Record], bytes]) -> list[Record]:
    """Return the edits these ids stand for, each once; raises BadBook if one stands, and what `read` raises."""
    edits = _resolve(db, ids)
    for edit in edits:
        if edit.stands:
            raise BadBook(f"edit {edit.id} already stands: there is nothing to restore.")
        check_sound(edit, read(edit))
    return edits


def _resolve(db: sqlite3.Connection, ids: Any) -> list[Record]:
    given = records.named(ids if isinstance(ids, str) else list(ids) if isinstance(ids, Iterable) else ids)
    return list({edit.id: edit for edit in (records.resolve(db, id) for id in given)}.values())
