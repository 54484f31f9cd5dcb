"""Edits that others computed, or that were dropped: let in on the terms of new ones.

    merge(editor, other_book)       # as errata.book.merge, with the model looked at and the gates asked
    restore(editor, ids)            # as Book.restore
    checkout(editor, "release-1")   # as errata.book.states.checkout

What a book can say of an edit without its model (that it is one, and whose) `errata.book.sound` looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
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


def merge(editor: Admits, other: Book, policy: str = "refuse", note: Note | None = None) -> books.MergePlan:
    """Take over what another book has, as `errata.book.merge.merge`, if the gates let it through as they would a new edit.

    Raises:
        GateClosed: a gate is closed. InputError, BookOfAnotherModel, BadBook: as there. Nothing is changed then.
    """
    with editor.lock, editor.book.lock(), other.snapshot():
        found = books.plan(editor.book, other, policy)
        new = found.new(other)
        edits = standing.load(other, new)
        bad = {edit.id: why for edit in edits if (why := misfit(editor.lm, edit, editor.limit, editor.norms))}
        good = [edit for edit in edits if edit.id not in bad]
        if not found.clashes or policy != "refuse":
            check_letting_in(editor, [record for record in new if record.id not in bad], good, found.drop)
        done = books.merge(editor.book, other, policy, note, leave=bad)
        return replace(done, clashes=[*done.clashes, *_lost(editor, other, good, found.drop)]) if good else done


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


def _lost(editor: Admits, other: Book, new: Sequence[Edit], gone: Sequence[str]) -> list[books.Clash]:
    """Return the facts that either book says alone and both together do not, as what a merge tells.

    Args:
        new: edits that were taken over. gone: ids of those that were dropped for it.
    """
    ours = [edit for edit in editor.standing if edit.id not in {edit.id for edit in new}]
    known = {edit.id: edit for edit in (*ours, *new)}
    theirs = [known[record.id] for record in other.stand() if record.id in known]
    found = interactions(editor.lm, {"here": [edit for edit in ours if edit.id not in gone], "there": theirs})
    told = []
    for one in found.lost:
        by = f", likeliest by edit {one.by[0][:8]} ({one.why})" if one.by else ""
        said = " ".join(one.said.split())[:60]
        what = f"{one.fact.prompt!r} is not answered {one.fact.target!r} any more (edit {one.edit_id[:8]}) but {said!r}{by}"
        own, cause = one.edit_id, one.by[0] if one.by else ""
        pair = (own, cause) if one.side == "here" else (cause, own)
        told.append(books.Clash(f"lost {one.side}", *pair, what, "merged"))
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
