"""The front door: open a model with its book, write facts, ask, drop, save.

The model in memory is always the base with the edits that stand in the book. A write holds the book's lock from reading
what stands to adding the new rows, so an edit is never computed on a state that has passed; whatever goes wrong in
between, the model is put back and the book is as it was.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, overload

from errata import methods
from errata.book.book import Book, Named, Note, Record
from errata.book.records import named
from errata.content import check_free
from errata.delta import Change, Site
from errata.display import table
from errata.edit import Edit, Label
from errata.editing import given as args
from errata.editing import letting_in, materialised, sayable, standing
from errata.editing.answering import Answer, answer, enough
from errata.editing.gates import GateCheck, Gates, in_force
from errata.editing.given import Facts
from errata.editing.lock import ModelLock
from errata.editing.near import Near
from errata.editing.writing import MAX_NORM_RATIO, check_fits, labelled, misfit, outcome, solve
from errata.errors import BookOfAnotherModel, InputError, UnknownEdit, UpdateTooLarge
from errata.export import adapter
from errata.export.checkpoint import checkpoint
from errata.export.files import Exported
from errata.export.forms import ONTO, check_form, form_of, write_form
from errata.export.onto import Onto
from errata.fact import Fact, Message, check_consistent
from errata.methods.base import Method
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Room
from errata.stats.store import Progress

Told = Callable[[str, int, int], None]  # of progress: at what, how much is done, of how much
ABSURD = 1_000.0  # ‖ΔW‖/‖W‖ that no method gives one fact, whatever its limit: such an edit of a book is left out


class Editor:
    """A model and its book, kept equal. Several threads may use it: one at a time has the model, the others wait.

    An edit that is as it was written and yet cannot stand in this model (of other shapes, not finite, of absurd size) is left
    out of it and named in `notes`: it shuts nobody out, and `errata drop` takes it out of the book.

    Args:
        lm: the base model, without edits. book: bound to it.
        corpus: text statistics are taken from, where a method needs them; None leaves it to the method.
        author: who writes, unless a call says otherwise.
        max_norm_ratio: largest ‖ΔW‖/‖W‖ an edit of one fact may have; one of n facts, √n times that.
        progress: is told of what takes long: "statistics" or "writing", how much is done, of how much.

    Raises:
        InputError: one of these is not of its kind.
    """

    def __init__(
        self,
        lm: LM,
        book: Book,
        *,
        corpus: str | None = None,
        author: str = "",
        max_norm_ratio: float = MAX_NORM_RATIO,
        progress: Told | None = None,
    ) -> None:
        if not (isinstance(lm, LM) and isinstance(book, Book)):
            raise InputError("an Editor takes a loaded LM and an open Book: errata.open(model, book=…) opens both.")
        args.check_editor(author, max_norm_ratio, corpus)
        args.check_how(None, progress)
        self._told = progress
        self.lm, self.book, self.name = lm, book, lm.name
        self._corpus, self._author, self.limit, self._version = corpus, author, max_norm_ratio, -1
        self._records, self._read = list[Record](), list[Edit]()  # as stored
        self._standing: list[Edit] = []  # as they stand: the same, unless a method derives what a drop changes
        self._deltas: list[Mapping[Site, Change]] = []  # of those
        self.norms: dict[Site, float] = {}  # ‖W‖ of matrices that edits change
        self._summed = 0  # of how many edits the sum is kept
        self.skipped: Mapping[str, str] = {}  # edits of the book that cannot stand in this model, by id: why
        self.lock = ModelLock()
        self._refresh()

    def __repr__(self) -> str:
        stand = [record.stands for record in self.book.records()]
        return f"<Editor {self.name}, book {self.book.path}: of {len(stand)} edits {sum(stand)} stand>"

    def _repr_html_(self) -> str:
        rows = [(r.id[:8], r.method, str(f.prompt), f.target) for r in self.book.stand() for f in r.facts]
        return f"<b>{escape(repr(self)[1:-1])}</b>{table(('edit', 'method', 'prompt', 'target'), rows)}"

    def __enter__(self) -> Editor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def notes(self) -> list[str]:
        """What a user should know although all went well: of the model, of the book's key, and of edits left out."""
        said = "edit {0} is in the book and not in the model: {1} Take it out with errata drop {0}."
        return [*self.lm.notes, *self.book.notes, *(said.format(id, why) for id, why in self.skipped.items())]

    def close(self) -> None:
        """Close the book; the model in memory keeps its edits."""
        self.book.close()

    # ---------------------------------------------------------------- asking

    def ask(
        self,
        prompt: str,
        *,
        chat: bool = False,
        messages: Sequence[Message] = (),
        max_new_tokens: int | Room | None = None,
        top: int = 5,
    ) -> Answer:
        """Return what the edited model says after `prompt`, or replies to it.

        Args:
            chat: put the prompt into the model's chat template, as the user's turn.
            messages: (role, content) of the turns before it, of a conversation.
            max_new_tokens: most that is said; unless given, 32 or what the longest answer that stands needs.

        Raises:
            InputError: the prompt is empty. BadFact: it is no text, or fills the model.
            UnsupportedModel: the model cannot generate, or has no chat template.
        """
        prompt = args.prompt_of(prompt, 1 if max_new_tokens is None else max_new_tokens, top)
        role = "user" if chat or messages else ""
        with self.lock:
            self._refresh()
            most = enough(self.lm, self._standing) if max_new_tokens is None else max_new_tokens
            return answer(self.lm, Query(prompt, role=role, earlier=tuple(messages)), most, top)

    @property
    def standing(self) -> list[Edit]:
        """The edits that stand, in order, as the model has them."""
        with self.lock:
            self._refresh()
            return list(self._standing)

    def log(self) -> list[Record]:
        """Return every edit of the book, oldest first."""
        return self.book.records()

    # ---------------------------------------------------------------- writing

    @overload
    def write(self, facts: Fact | Mapping[str, Any], method: str | Method = "rome", **options: Any) -> Edit: ...
    @overload
    def write(
        self, facts: Sequence[Fact | Mapping[str, Any]], method: str | Method = "rome", **options: Any
    ) -> list[Edit]: ...
    def write(self, facts: Facts, method: str | Method = "rome", **options: Any) -> Edit | list[Edit]:
        """Write one fact, or a list in one transaction; see `write_all`. A dictionary of a fact's fields is a fact."""
        written = self.write_all(facts, method, **options)
        return written[0] if isinstance(facts, Fact | Mapping) else written

    def write_all(
        self,
        facts: Facts,
        method: str | Method = "rome",
        *,
        label: Label | None = None,
        gates: Gates | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> list[Edit]:  # size: one transaction
        """Compute edits that write `facts`, apply them and add them to the book: all of them or none.

        Args:
            method: a name, or a `Method` with its settings.
            label: who writes it, why, on whose behalf and until when; its fields may also stand among the settings.
            gates: what the edited model must still do; those in the book's ``gates.toml`` unless given.
            progress: is told how many edits are computed, of how many; what it raises undoes all of them. The editor's own, if
                it has one, is told as well.
            settings: of the method, such as ``seed=1``.

        Returns:
            one edit for all facts if the method writes batches, else one a fact; what the model said is in its ``report``.

        Raises:
            BadFact: facts contradict each other. UnknownMethod, BadConfig, UnknownSite, UnsupportedModel: as named.
            NotFinite, UpdateTooLarge, GateClosed: the update would break the model. Nothing is changed then.
        """
        args.check_how(gates, progress)
        facts = args.facts_of(facts)
        check_consistent(facts)
        label, settings = args.label_of(label, settings)
        told = [one for one in (progress, args.staged(self._told, "writing")) if one is not None]
        how = self._method(method, settings)
        groups = [facts] if how.batched and facts else [[fact] for fact in facts]
        with self.lock, self.book.lock():
            self._refresh()
            keeper = GateCheck(self.lm, in_force(self.book, gates), facts, self._standing)
            near, written = Near(self.lm, facts, self._standing), list[Edit]()
            strange = sayable.warn(self.lm, facts)
            try:
                for group in groups:
                    written.append(self._write_one(how, group, [*self._standing, *written], label, strange))
                    for tell in told:
                        tell(len(written), len(groups))
                return self._keep(keeper.let_through(near.noted(written)))
            except BaseException:
                self.lm.weights.stand(self._deltas)
                raise

    def _keep(self, written: list[Edit]) -> list[Edit]:
        """Add edits that stand in the model to the book."""
        files = [(e, e.to_bytes()) for e in map(self._as_first_written, written)]
        notes = {edit.id: Note(edit.author, edit.reason) for edit in written}
        self.book.change(write=[(e.meta(), file) for e, file in files], notes=notes)
        self._refresh({hashlib.sha256(file).hexdigest(): edit for edit, file in files})
        return written

    def _as_first_written(self, edit: Edit) -> Edit:
        """Return an edit that is in the book, dropped, as it is recorded there, so that its file, if lost, is whole again."""
        try:
            return edit.as_recorded(self.book.get(edit.id).meta)
        except UnknownEdit:
            return edit

    def _method(self, method: str | Method, options: Mapping[str, Any]) -> Method:
        return args.method_of(method, options, self._corpus)

    def _write_one(self, how: Method, facts: Sequence[Fact], past: list[Edit], label: Label, strange: Set[str]) -> Edit:
        prompts, room = [Query.asked(fact) for fact in facts], self.lm.room(fact.target for fact in facts)
        check_fits(self.lm, facts)  # before the model is asked
        before = self.lm.generate(prompts, room)
        edit, seconds = solve(
            self.lm, how, facts, past, self.limit, self.book.base, args.staged(self._told, "statistics")
        )
        solved = time.perf_counter()
        self.lm.weights.stand([*self._deltas, *(e.deltas for e in past[len(self._deltas) :]), edit.deltas])
        seconds["apply"] = time.perf_counter() - solved
        after = self.lm.generate(prompts, room)
        return labelled(replace(edit, report=outcome(edit, before, after, seconds, strange)), label, self._author)

    @contextmanager
    def trial(self, facts: Facts, method: str | Method = "rome", **options: Any) -> Iterator[LM]:
        """Apply edits inside the ``with`` block only; the book is not touched and the model is put back to the bit."""
        with self.rehearse([args.facts_of(facts)], method, **options):
            yield self.lm

    @contextmanager
    def rehearse(
        self, parts: Sequence[Edit | Sequence[Fact]], method: str | Method = "rome", **options: Any
    ) -> Iterator[list[Edit]]:
        """As `trial`, with edits (of this base) and lists of facts one after the other; yields the edits."""
        parts, how = args.parts_of(parts), self._method(method, options)
        tried: list[Edit] = []
        with self.lock:
            self._refresh()
            try:
                for part in parts:
                    for group in [part] if isinstance(part, Edit) or how.batched else [[fact] for fact in part]:
                        tried.append(self._tried(how, group, [*self._standing, *tried]))
                        self.lm.weights.stand([e.deltas for e in (*self._standing, *tried)])
                yield tried
            finally:
                self.lm.weights.stand(self._deltas)

    def _tried(self, how: Method, part: Edit | Sequence[Fact], past: list[Edit]) -> Edit:
        if isinstance(part, Edit):
            if part.base != self.book.base and not self.lm.identity.goes_by(part.base):
                raise BookOfAnotherModel(f"edit {part.id} was computed on another base model than {self.name}.")
            if why := misfit(self.lm, part, self.limit, self.norms):
                raise UpdateTooLarge(f"edit {part.id} cannot be let in: {why}")
            return part
        return solve(self.lm, how, part, past, self.limit, self.book.base)[0]

    @contextmanager
    def standing_as(self, edits: Sequence[Edit]) -> Iterator[LM]:
        """Let exactly these edits stand in the model inside the ``with`` block; the book is not touched."""
        edits = args.edits_of(edits)
        with self.lock:
            self._refresh()
            try:
                self.lm.weights.stand([edit.deltas for edit in edits])
                yield self.lm
            finally:
                self.lm.weights.stand(self._deltas)

    # ---------------------------------------------------------------- taking back

    def drop(self, *edits: Named, author: str = "", reason: str = "") -> list[Record]:
        """Take edits back: the model is again what it would be had they never been in the log.

        Args:
            edits: ids, of which the first six characters will do, "last", edits or records, or a list of these.
            author: who does it; else the editor's own.

        Raises:
            UnknownEdit: no edit of that id. BadBook: it is dropped already.
        """
        with self.lock:
            records = self.book.drop(edits, author=author or self._author, reason=reason)
            self._refresh()
            return records

    def restore(self, *edits: Named, author: str = "", reason: str = "") -> list[Record]:
        """Let dropped edits stand again, each in its old place, if the gates let them through as they would a new one.

        Args:
            edits, author: as `drop`.

        Raises:
            UnknownEdit: no edit of that id. BadBook: it stands already. CorruptEdit: its file was altered, or it is none that
                can stand in this model. GateClosed: a gate is closed. Nothing is changed then.
        """
        with self.lock:
            records = letting_in.restore(self, edits, Note(author or self._author, reason))
            self._refresh()
            return records

    def _refresh(self, files: Mapping[str, Edit] | None = None) -> None:
        """Make the model equal to the book, reading what changed since the last look and is not in `files`, by its hash."""
        if (version := self.book.version()) == self._version:
            return
        records = self.book.stand()
        begun = records[: len(self._records)] == self._records  # as after a write
        kept = self._read if begun else []
        known = {**(files or {}), **({} if begun else {edit.id: edit for edit in self._read})}
        held = [] if self._records else materialised.resume(self.lm, self.book, records)
        found = standing.load(self.book, records[len(self._records) + len(held) if begun else 0 :], known)
        found, ours = [*held, *found], {id(edit) for edit in (*known.values(), *held)}
        bad = {
            edit.id: why
            for edit in found
            if id(edit) not in ours and (why := misfit(self.lm, edit, ABSURD, self.norms))
        }
        self.skipped = {**(self.skipped if begun else {}), **bad}
        self._records, self._read = records, [*kept, *(edit for edit in found if edit.id not in bad)]
        before, self._standing = self._standing, methods.rebuilt(self.lm, self._read)
        same = len(before) if self._standing[: len(before)] == before else 0
        same_sum = len(held) or min(self._summed, same)
        self._deltas = [*self._deltas[:same], *(edit.deltas for edit in self._standing[same:])]
        self.lm.weights.stand(self._deltas)
        self._summed = materialised.keep(self.lm, self.book, records, self._standing, same_sum)
        self._version = version

    # ---------------------------------------------------------------- keeping

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write the model with its standing edits as a checkpoint transformers loads; it appears whole or not at all.

        Raises:
            InputError: the directory exists and is not empty, or an edit stands beside the weights, not in them.
        """
        self._refresh()
        return checkpoint(self.lm, self._standing, check_free(directory))

    def export(
        self,
        directory: str | os.PathLike[str],
        form: str = "adapter",
        at: str = "now",
        *,
        rank: int | None = None,
        block: str | Edit | Record = "",
        onto: Onto | None = None,
    ) -> Exported:
        """Write what stands, or stood, for others to use: the whole model, the change alone, an adapter, or MELO's blocks.

        Args:
            directory: a new one; it appears whole or not at all. form: of `errata.export.forms.FORMS`, "gguf" or a plugin's.
            at: a state of the book, as `errata.book.states.at` reads it. rank: the adapter's largest rank.
            block: a MELO edit or its id, whose block alone is written as a change that every prompt opens.
            onto: the GGUF file that form "gguf" copies with the edits in it.

        Raises:
            InputError: no such form or state, the directory is not empty, or the edits have no such form.
        """
        check_form(form, rank, onto)
        state, edits = standing.at(self.book, at)
        edits = methods.rebuilt(self.lm, edits)
        edits = [adapter.opened(edits, named(block)[0])] if block else edits
        with self.standing_as(edits) if form != ONTO and form_of(form).standing else nullcontext():
            parts = write_form(self.lm, edits, directory, form, (rank, onto))
        return Exported(Path(directory), form, self.name, state.name, state.ids, parts)

    def stats(self, method: str, progress: Progress | None = None, part: str = "", **options: Any) -> dict[str, Any]:
        """Compute the statistics a method with these settings needs, or a part; see `Method.collect`."""
        return self._method(method, options).collect(self.lm, progress, part)
