"""Edits that others computed, or that were dropped: let in on the terms of new ones.

    merge(editor, [book, path])     # as errata.book.merge.merge_all, with the model looked at and the gates asked
    restore(editor, ids)            # as Book.restore
    checkout(editor, "release-1")   # as errata.book.states.checkout

What a book can say of an edit without its model (that it is one, and whose) `errata.book.sound` looks at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from errata import methods
from errata.book import merge as books
from errata.book import states
from errata.book.book import Book, Named, Note, Record
from errata.book.records import named
from errata.delta import Site
from errata.edit import Edit
from errata.editing import standing
from errata.editing.gates import GateCheck, in_force
from errata.editing.interactions import interactions
from errata.editing.lock import ModelLock
from errata.editing.writing import misfit
from errata.errors import CorruptEdit
from errata.model.lm import LM


class Admits(Protocol):
    """An `errata.editing.editor.Editor`, as far as edits are let in here."""

    lm: LM
    book: Book
    name: str
    limit: float
    norms: dict[Site, float]
    lock: ModelLock

    @property
    def standing(self) -> list[Edit]:
        """The edits that stand."""

    def standing_as(self, edits: Sequence[Edit]) -> AbstractContextManager[LM]:
        """Let exactly these edits stand in the model for a while."""


def merge(
    editor: Admits, others: books.Other | Sequence[books.Other], policy: str = "refuse", note: Note | None = None
) -> books.MergePlan:
    """Take over what other books have, as `errata.book.merge.merge_all`, if the gates let it through as they would new edits.

    Args:
        others: books, or where they are.

    Raises:
        GateClosed: a gate is closed. InputError, BookOfAnotherModel, BadBook: as there. Nothing is changed then.
    """
    others = [others] if isinstance(others, Book | Path) else list(others)
    sides: dict[str, list[str]] = {}  # ids of what stands in each book
    fresh: dict[str, tuple[Record, Edit]] = {}

    def unfit(other: Book, new: Sequence[Record]) -> dict[str, str]:
        sides[str(other.path)] = [record.id for record in other.stand()]
        edits = standing.load(other, new)
        bad = {edit.id: why for edit in edits if (why := misfit(editor.lm, edit, editor.limit, editor.norms))}
        fresh.update({e.id: (r, e) for r, e in zip(new, edits, strict=True) if e.id not in bad})
        return bad

    with editor.lock, editor.book.lock():
        planned = books.plan_all(editor.book, others, policy, unfit)
        books.check_agreed(planned, policy)
        stands = {id: it for one in planned for id, it in one.changes()}  # what came last counts
        before = {edit.id for edit in editor.standing}
        left = {id: pair for id, pair in fresh.items() if stands[id] and id not in before}
        gone = [id for id, it in stands.items() if not it]
        check_letting_in(editor, [record for record, _ in left.values()], [edit for _, edit in left.values()], gone)
        books.carry_out(editor.book, planned, others, note)
        done = books.MergePlan.of_all(planned)
        return replace(done, clashes=[*done.clashes, *_lost(editor, sides, set(left), gone)]) if left else done


def restore(editor: Admits, ids: Named, note: Note | None = None) -> list[Record]:
    """Let dropped edits stand again, each in its old place, if the gates let them through.

    Raises:
        UnknownEdit: no edit of that id. BadBook: it stands already. CorruptEdit: its file was altered, or it is none that
            can stand in this model. GateClosed: a gate is closed. Nothing is changed then.
    """
    with editor.lock, editor.book.lock():
        known = {edit.id for edit in editor.standing}
        back = [editor.book.get(id) for id in named(ids)]
        new = [record for record in back if record.id not in known]
        check_letting_in(editor, new, standing.load(editor.book, new))
        return editor.book.change(restore=back, note=note)


def checkout(editor: Admits, name: str, note: Note | None = None) -> tuple[list[Record], list[Record]]:
    """Make the edits of a state the ones that stand, if the gates let through what that restores.

    Raises:
        InputError: no such state. CorruptEdit, GateClosed: as `restore`. Nothing is changed then.
    """
    with editor.lock, editor.book.lock():
        wanted, now = states.at(editor.book, name).ids, {record.id for record in editor.book.stand()}
        if back := [editor.book.get(id) for id in wanted if id not in now]:
            check_letting_in(editor, back, standing.load(editor.book, back), sorted(now - {*wanted}))
        return states.checkout(editor.book, name, note)


def _lost(editor: Admits, sides: Mapping[str, Sequence[str]], new: set[str], gone: Sequence[str]) -> list[books.Clash]:
    """Return the facts that a book says alone and all together do not, as what a merge tells.

    Args:
        sides: ids of what stood in each of the other books. new: of what was taken over. gone: of what was dropped for it.
    """
    known = {edit.id: edit for edit in editor.standing}
    every = {"here": [edit for id, edit in known.items() if id not in new and id not in gone]}
    every |= {name: [known[id] for id in ids if id in known] for name, ids in sides.items()}
    told = []
    for one in interactions(editor.lm, every).lost:
        by = f", likeliest by edit {one.by[0][:8]} ({one.why})" if one.by else ""
        said, here = " ".join(one.said.split())[:60], one.side == "here"
        whose = "" if here or len(sides) == 1 else f", in {one.side}"
        what = f"{one.fact.prompt!r} is not answered {one.fact.target!r} any more (edit {one.edit_id[:8]}) but {said!r}"
        own, cause = one.edit_id, one.by[0] if one.by else ""
        pair = (own, cause) if here else (cause, own)
        told.append(books.Clash(f"lost {'here' if here else 'there'}", *pair, f"{what}{by}{whose}", "merged"))
    return told


def check_letting_in(
    editor: Admits, records: Sequence[Record], edits: Sequence[Edit], gone: Sequence[str] = ()
) -> None:
    """Look whether edits could stand on top of what does: in the model, and at the gates; the model is put back.

    Args:
        records: of them. gone: ids of standing edits that would be dropped.

    Raises:
        CorruptEdit: one cannot stand in this model. GateClosed: a gate is closed.
    """
    for edit in edits:
        if why := misfit(editor.lm, edit, editor.limit, editor.norms):
            raise CorruptEdit(f"edit {edit.id} cannot stand in {editor.name}: {why}")
    with editor.lock:
        before = editor.standing
        keeper = GateCheck(editor.lm, in_force(editor.book), [fact for r in records for fact in r.facts], before)
        places = {record.id: record.seq for record in editor.book.records()}
        stack = [*(edit for edit in before if edit.id not in gone), *edits]
        stack.sort(key=lambda edit: places.get(edit.id, len(places) + 1))  # what is restored has its old place
        with editor.standing_as(methods.rebuilt(editor.lm, stack)):
            keeper.let_through(edits)
