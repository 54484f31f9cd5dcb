"""The commands that only open the book, and no model: they answer at once. They return what is to be printed."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from errata import _book_rows as rows
from errata import _options as opt
from errata import _rows
from errata._shown import Shown
from errata.book.book import Book, Note
from errata.errors import InputError

app = typer.Typer(add_completion=False, rich_markup_mode=None)
VIEWS = "_book_show"


@app.command()
def log(
    book: opt.BookPath = opt.HERE,
    standing: Annotated[bool, typer.Option("--standing", help="Only edits that stand.")] = False,
    tag: Annotated[str, typer.Option("--tag", help="Only edits with this word among their tags.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Only edits on this one's behalf.")] = "",
    expired: Annotated[bool, typer.Option("--expired", help="Only edits whose last day has passed.")] = False,
    as_json: opt.Json = False,
) -> Shown:
    """List every edit of the book, oldest first, dropped ones too."""
    today = datetime.now(UTC).date().isoformat()
    with open_book(book) as opened:
        found = [
            record
            for record in opened.records()
            if (record.stands or not standing)
            and (not tag or tag in record.tags)
            and (not tenant or tenant == record.tenant)
            and (not expired or "" < record.valid_until < today)
        ]
    return Shown([_rows.record(record) for record in found], "log", as_json)


@app.command()
def show(edit_id: opt.Id, book: opt.BookPath = opt.HERE, as_json: opt.Json = False) -> Shown:
    """Show all that is known about one edit."""
    with open_book(book) as opened:
        row = _rows.whole_record(opened.get(edit_id), opened.history(edit_id))
    return Shown(row, "record", as_json)


@app.command()
def drop(
    ids: opt.Ids,
    book: opt.BookPath = opt.HERE,
    author: opt.Author = "",
    reason: opt.Reason = "",
    as_json: opt.Json = False,
) -> Shown:
    """Take edits back, exactly; the others stay as they were computed."""
    with open_book(book) as opened:
        records = opened.drop(ids, author=author, reason=reason)
    return Shown([_rows.record(record) for record in records], "log", as_json)


@app.command()
def restore(
    ids: opt.Ids,
    book: opt.BookPath = opt.HERE,
    author: opt.Author = "",
    reason: opt.Reason = "",
    as_json: opt.Json = False,
) -> Shown:
    """Let dropped edits stand again, each in the place it had."""
    with open_book(book) as opened:
        records = opened.restore(ids, author=author, reason=reason)
    return Shown([_rows.record(record) for record in records], "log", as_json)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A tag, @N (after event N), now, base, or an edit's id.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The state to compare it with.")] = "now",
    book: opt.BookPath = opt.HERE,
    as_json: opt.Json = False,
) -> Shown:
    """Compare two states of the book: what they say, and their matrices."""
    with open_book(book) as opened:
        found = import_module("errata.comparing").diff(opened, a, b)
    return Shown(rows.difference(found), f"{VIEWS}.difference", as_json)


@app.command()
def tag(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name for what stands now; none lists all.")
    ] = None,
    move: Annotated[bool, typer.Option("--move", help="Let a tag that is there name this state instead.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Take the tag away.")] = False,
    book: opt.BookPath = opt.HERE,
    author: opt.Author = "",
    reason: opt.Reason = "",
    as_json: opt.Json = False,
) -> Shown:
    """Give the state of the book a name, to compare with or go back to; without a name, list the tags."""
    states = import_module("errata.book.states")
    if name is None and (move or delete):
        raise InputError("name the tag to move or delete.")
    with open_book(book) as opened:
        if name is not None and delete:
            states.untag(opened, name, Note(author, reason))
        elif name is not None:
            states.tag(opened, name, Note(author, reason), move=move)
        found = [rows.tag(one, event, states.at(opened, one)) for one, event in states.tags(opened).items()]
    return Shown(found, f"{VIEWS}.tags", as_json)


@app.command()
def checkout(
    state: Annotated[str, typer.Argument(metavar="STATE", help="A tag, @N (after event N), base, or an edit's id.")],
    book: opt.BookPath = opt.HERE,
    author: opt.Author = "",
    reason: opt.Reason = "",
    as_json: opt.Json = False,
) -> Shown:
    """Let exactly those edits stand that stood then; what that drops and restores is in the log as ever."""
    with open_book(book) as opened:
        dropped, restored = import_module("errata.book.states").checkout(opened, state, Note(author, reason))
    return Shown([_rows.record(record) for record in (*dropped, *restored)], "log", as_json)


@app.command()
def verify(
    trust: Annotated[
        list[str] | None, typer.Option("--trust", help="Public key that must have signed; repeatable.")
    ] = None,
    head: Annotated[str, typer.Option("--head", help="A head printed earlier, which must be in the history.")] = "",
    book: opt.BookPath = opt.HERE,
    as_json: opt.Json = False,
) -> Shown:
    """Look over the history, its signatures and every edit's file; exit code 1 if something is wrong."""
    with open_book(book) as opened:
        found = import_module("errata.book.verify").verify(opened, trust=trust or (), head=head)
    return Shown(rows.findings(found), f"{VIEWS}.findings", as_json, code=1 if found.problems else 0)


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="New file for the private key.")],
    as_json: opt.Json = False,
) -> Shown:
    """Make a key to sign with: export ERRATA_KEY=FILE, and every change to a book is signed."""
    public = import_module("errata.book.signing").make_key(path)
    return Shown({"file": os.fspath(path), "public": public}, f"{VIEWS}.key", as_json)


def open_book(path: Path, **options: Any) -> Book:
    """Open a book without its model; nothing here imports torch."""
    return Book.open(path, create=False, **options)
