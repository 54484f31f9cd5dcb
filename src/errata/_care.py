"""The commands that look after a book: merge, conflicts, check, migrate, compact. They return what is to be printed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import errata
from errata import _book_rows as rows
from errata import _options as opt
from errata._book import VIEWS, open_book
from errata._shown import Shown
from errata.book.book import Note

if TYPE_CHECKING:
    pass

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def merge(
    other: Annotated[Path, typer.Argument(metavar="OTHER_BOOK", help="Directory of the book to take edits from.")],
    on_conflict: Annotated[
        str, typer.Option("--on-conflict", help="refuse, ours, theirs or both: who is right where the books disagree.")
    ] = "refuse",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    book: opt.BookPath = opt.HERE,
    author: opt.Author = "",
    reason: opt.Reason = "",
    as_json: opt.Json = False,
) -> Shown:
    """Take over the standing edits of another book of the same base model, all or none."""
    merging = import_module("errata.book.merge")
    with open_book(book) as opened, open_book(other) as theirs:
        if dry_run:
            plan = merging.plan(opened, theirs, on_conflict)
        else:
            plan = merging.merge(opened, theirs, on_conflict, Note(author, reason))
    return Shown(rows.merged(plan, dry_run), f"{VIEWS}.merged", as_json)


@app.command()
def conflicts(
    limit: Annotated[float, typer.Option("--limit", min=0, help="Share at which two keys collide.")] = 0.3,
    book: opt.BookPath = opt.HERE,
    as_json: opt.Json = False,
) -> Shown:
    """List standing edits that get in each other's way: contradictions, duplicates, inverses, shared keys."""
    comparing, facts = import_module("errata.comparing"), import_module("errata.book.facts")
    with open_book(book) as opened:
        standing = opened.stand()
        edits = comparing.load(opened, standing)
    found = facts.conflicts(facts.said(standing))
    collisions = import_module("errata.collisions").collisions(edits, limit)
    return Shown(rows.conflicts(found, collisions), f"{VIEWS}.conflicts", as_json)


@app.command()
def check(
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if an edit is forgotten or expired.")] = False,
    drop_expired: Annotated[bool, typer.Option("--drop-expired", help="Drop edits whose last day has passed.")] = False,
    today: Annotated[str, typer.Option("--today", metavar="DAY", help="Instead of this day, YYYY-MM-DD.")] = "",
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    as_json: opt.Json = False,
) -> Shown:
    """Ask the model about every standing fact and its probes: what holds, what was forgotten, overridden or expired."""
    with errata.open(model, book=book, device=device, dtype=dtype, trust_remote_code=trust_remote_code) as editor:
        verdicts = import_module("errata.checking").check(editor, today)
        expired = sorted({v.edit_id for v in verdicts if v.status == "expired"})
        if drop_expired and expired:
            editor.drop(*expired, reason="its last day has passed")
    bad = any(v.status in ("forgotten", "expired") for v in verdicts)
    dropped = expired if drop_expired else []
    return Shown(rows.verdicts(verdicts, dropped), f"{VIEWS}.verdicts", as_json, code=int(strict and bad))


@app.command()
def migrate(
    to: Annotated[str, typer.Option("--to", help="The other model: a directory or a hub id.")],
    to_book: Annotated[Path, typer.Option("--to-book", help="Its book; goes on with one that is there.")],
    method: Annotated[str, typer.Option("--method", help="Instead of the one each edit was written with.")] = "",
    settings: opt.Settings = None,
    book: opt.BookPath = opt.HERE,
    corpus: opt.Corpus = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    as_json: opt.Json = False,
) -> Shown:
    """Write the standing facts of this book into another base model, leaving out what it says already."""
    given = import_module("errata.moving").parse(method, settings or ())
    with (
        open_book(book) as old,
        errata.open(
            to, book=to_book, corpus=corpus, device=device, dtype=dtype, trust_remote_code=trust_remote_code
        ) as editor,
    ):
        found = list(import_module("errata.moving").migrate(old, editor, method, **given))
    return Shown([rows.moved(one) for one in found], f"{VIEWS}.moved", as_json)


@app.command()
def compact(
    forget: Annotated[
        bool, typer.Option("--forget", help="Also remove the tensors of dropped edits; they cannot be restored then.")
    ] = False,
    book: opt.BookPath = opt.HERE,
    author: opt.Author = "",
    reason: opt.Reason = "",
    as_json: opt.Json = False,
) -> Shown:
    """Remove files no edit needs, such as a killed writer leaves, and pack the database."""
    compacting = import_module("errata.book.compact")
    with open_book(book) as opened:
        found = compacting.compact(opened, forget=forget, note=Note(author, reason))
    return Shown(rows.compacted(found), f"{VIEWS}.compacted", as_json)
