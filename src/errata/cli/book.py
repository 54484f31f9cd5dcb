"""Commands of the book: what is in it, what stands, and how it is looked after.

All but check and migrate open no model, and answer at once: nothing here imports torch before it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from errata import wire
from errata.book import Book, Note
from errata.cli import common as opt
from errata.cli.common import Shown, open_book
from errata.errors import InputError

if TYPE_CHECKING:
    from errata.book.merge import MergePlan


def log(
    book: opt.BookPath = opt.HERE,
    standing: Annotated[bool, typer.Option("--standing", help="Only edits that stand.")] = False,
    tag: Annotated[str, typer.Option("--tag", help="Only edits with this word among their tags.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Only edits on this one's behalf.")] = "",
    expired: Annotated[bool, typer.Option("--expired", help="Only edits whose last day has passed.")] = False,
    as_json: opt.Json = False,
) -> Shown:
    """List every edit of the book, oldest first, dropped ones too."""
    with open_book(book, look=True) as opened:
        found = opened.records(standing=standing, tag=tag, tenant=tenant, expired=expired)
    return Shown([wire.record(record) for record in found], as_json, long=True)


def show(
    edit_id: opt.Id,
    book: opt.BookPath = opt.HERE,
    everything: Annotated[bool, typer.Option("--all", help="Settings, statistics, versions and hashes, too.")] = False,
    as_json: opt.Json = False,
) -> Shown:
    """Show what one edit says, who wrote it and why, and what became of it; with --all or --json all that is known."""
    with open_book(book, look=True) as opened:
        row = wire.whole_record(opened.get(edit_id), opened.history(edit_id))
    return Shown(row if as_json else {**row, "all": everything}, as_json, long=True)


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
    return Shown([wire.record(record) for record in records], as_json)


def restore(
    ids: opt.Ids,
    model: opt.Gated = None,
    dtype: opt.Dtype = None,
    book: opt.BookPath = opt.HERE,
    author: opt.Author = "",
    reason: opt.Reason = "",
    as_json: opt.Json = False,
) -> Shown:
    """Let dropped edits stand again, each in the place it had."""
    if model is not None:
        with opt.opened(model, book=book, dtype=dtype, author=author, use="edit") as editor:
            records = editor.restore(*ids, reason=reason)
    else:
        with open_book(book, use="edit") as opened:
            _check_gates(opened)
            records = opened.restore(ids, author=author, reason=reason)
    return Shown([wire.record(record) for record in records], as_json)


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A tag, @N (after event N), now, base, or an edit's id.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The state to compare it with.")] = "now",
    book: opt.BookPath = opt.HERE,
    as_json: opt.Json = False,
) -> Shown:
    """Compare two states of the book: what they say, and their matrices."""
    from errata.editing import diff as comparing

    with open_book(book, look=True) as opened:
        found = comparing.diff(opened, a, b)
    return Shown(wire.difference(found), as_json)


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
    from errata.book import states

    if name is None and (move or delete):
        raise InputError("name the tag to move or delete.")
    with open_book(book) as opened:
        if name is not None and delete:
            states.untag(opened, name, Note(author, reason))
        elif name is not None:
            states.tag(opened, name, Note(author, reason), move=move)
        found = [wire.tag(one, event, states.at(opened, one)) for one, event in states.tags(opened).items()]
    return Shown(found, as_json)


def checkout(
    state: Annotated[str, typer.Argument(metavar="STATE", help="A tag, @N (after event N), base, or an edit's id.")],
    model: opt.Gated = None,
    dtype: opt.Dtype = None,
    book: opt.BookPath = opt.HERE,
    author: opt.Author = "",
    reason: opt.Reason = "",
    as_json: opt.Json = False,
) -> Shown:
    """Let exactly those edits stand that stood then; what that drops and restores is in the log as ever."""
    from errata.book import states

    note = Note(author, reason)
    if model is not None:
        from errata.editing import letting_in

        with opt.opened(model, book=book, dtype=dtype, use="edit") as editor:
            dropped, restored = letting_in.checkout(editor, state, note)
    else:
        with open_book(book, use="edit") as opened:
            if {*states.at(opened, state).ids} - {record.id for record in opened.stand()}:  # to drop is always possible
                _check_gates(opened)
            dropped, restored = states.checkout(opened, state, note)
    return Shown([wire.record(record) for record in (*dropped, *restored)], as_json)


def verify(
    trust: Annotated[
        list[str] | None, typer.Option("--trust", help="Public key that must have signed; repeatable.")
    ] = None,
    head: Annotated[str, typer.Option("--head", help="A head printed earlier, which must be in the history.")] = "",
    book: opt.BookPath = opt.HERE,
    as_json: opt.Json = False,
) -> Shown:
    """Look over the history, its signatures and every edit's file; exit code 1 if something is wrong."""
    from errata.book import verify as verifying

    with open_book(book, look=True) as opened:
        found = verifying.verify(opened, trust=trust or (), head=head)
    return Shown(wire.findings(found), as_json, code=1 if found.problems else 0)


def keygen(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="New file for the private key.")],
    as_json: opt.Json = False,
) -> Shown:
    """Make a key to sign with: export ERRATA_KEY=FILE, and every change to a book is signed."""
    from errata.book.signing import make_key

    public = make_key(path)
    return Shown({"file": os.fspath(path), "public": public}, as_json)


def merge(
    others: Annotated[
        list[Path], typer.Argument(metavar="OTHER_BOOK", help="Directories of the books to take edits from.")
    ],
    on_conflict: Annotated[
        str, typer.Option("--on-conflict", help="refuse, ours, theirs or both: who is right where the books disagree.")
    ] = "refuse",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    model: opt.Gated = None,
    dtype: opt.Dtype = None,
    book: opt.BookPath = opt.HERE,
    author: opt.Author = "",
    reason: opt.Reason = "",
    as_json: opt.Json = False,
) -> Shown:
    """Take over the standing edits of other books of the same base model; exit code 1 if some are none and are left there."""
    plan = _merged(book, others, on_conflict, Note(author, reason), None if dry_run else (model, dtype))
    return Shown(wire.merged(plan, dry_run), as_json, code=int(bool(plan.refused)))


def _merged(
    book: Path, others: Sequence[Path], policy: str, note: Note, how: tuple[str | None, str | None] | None
) -> MergePlan:
    """Merge, with the model and dtype of `how` if it names any; only plan it without `how`."""
    from errata.book import merge as merging

    for other in others:  # before a model is loaded
        open_book(other, look=True).close()
    if how is None:
        with open_book(book, look=True) as opened:
            return merging.MergePlan.of_all(merging.plan_all(opened, others, policy))
    if how[0] is None:
        with open_book(book, use="edit") as opened:
            _check_gates(opened)
            return merging.MergePlan.of_all(merging.merge_all(opened, others, policy, note))
    from errata.editing import letting_in

    with opt.opened(how[0], book=book, dtype=how[1], use="edit") as editor:
        return letting_in.merge(editor, others, policy, note)


def _check_gates(book: Book) -> None:
    """Refuse to let edits stand beside gates that were not asked: they need the model."""
    if book.policy().gates is not None or os.path.lexists(book.path / "gates.toml"):
        raise InputError(f"the book {book.path} has gates, which are asked of the model: name it with --model.")


def conflicts(
    limit: Annotated[float, typer.Option("--limit", min=0, help="Share at which two keys collide.")] = 0.3,
    book: opt.BookPath = opt.HERE,
    as_json: opt.Json = False,
) -> Shown:
    """List standing edits that get in each other's way: contradictions, duplicates, inverses, shared keys."""
    from errata.book import facts
    from errata.editing.collisions import collisions
    from errata.editing.standing import load

    with open_book(book, look=True) as opened:
        standing = opened.stand()
        edits = load(opened, standing)
    return Shown(wire.conflicts(facts.conflicts(facts.said(standing)), collisions(edits, limit)), as_json)


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
    from errata.editing import check as checking

    with opt.opened(model, book=book, device=device, dtype=dtype, trust_remote_code=trust_remote_code) as editor:
        verdicts = checking.check(editor, today, drop_expired=drop_expired)
    bad = any(v.status in ("forgotten", "expired") for v in verdicts)
    return Shown(wire.verdicts(verdicts), as_json, code=int(strict and bad), notes=editor.notes)


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
    from errata.editing import migrate as moving

    given = moving.parse(method, settings or ())
    with (
        open_book(book) as old,
        opt.opened(
            to, book=to_book, corpus=corpus, device=device, dtype=dtype, trust_remote_code=trust_remote_code
        ) as editor,
    ):
        found = list(moving.migrate(old, editor, method, **given))
    return Shown([wire.moved(one) for one in found], as_json, notes=editor.notes)


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
    from errata.book import compact as compacting

    with open_book(book) as opened:
        found = compacting.compact(opened, forget=forget, note=Note(author, reason))
    return Shown(wire.compacted(found), as_json)
