"""Writing the facts of one book into another base model.

    with errata.open("another-model", book="its-book") as editor:
        for moved in migrate(Book.open("old-book"), editor):
            ...

Edits cannot be carried over, facts can: each is written again, by the same method with settings of its own on the new
model. What the new model says already is left alone. Each edit is a transaction of its own, so that an interrupted migration
goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from errata import methods
from errata.answers import same_answer
from errata.book import facts
from errata.book.book import Book, Record
from errata.config import parse_flags
from errata.edit import Label
from errata.editing.editor import Editor
from errata.errors import BadConfig, BadFact, ErrataError
from errata.fact import Fact, answered, question
from errata.methods import Method
from errata.model.query import Query


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of one fact.

    Args:
        fact: the fact. edit_id: the edit of the old book that wrote it.
        outcome: "says already", "written", "not said" (written, and still not said), "overridden" (by a later edit of the old
            book), "stands" (the new book has it), or "refused". said: what the new model says of it now.
        new_id: the new edit. why: of a refusal.
    """

    fact: Fact
    edit_id: str
    outcome: str
    said: str = ""
    new_id: str = ""
    why: str = ""


def parse(method: str, flags: Sequence[str]) -> dict[str, Any]:
    """Return the settings that flags such as ``"layer=3"`` give to a method.

    Raises:
        BadConfig: flags but no method to give them to, or what the method cannot take. UnknownMethod: no such method.
    """
    if flags and not method:
        raise BadConfig("--set needs --method: every edit's own method may be another, with other settings.")
    return parse_flags(methods.get(method), flags) if method else {}


def migrate(old: Book, editor: Editor, method: str | Method = "", **settings: Any) -> Iterator[Moved]:
    """Write every standing fact of a book into the editor's model, edit by edit, and yield what became of each.

    Args:
        method: instead of the one an edit was written with. settings: of the method, on the new model.
    """
    records = old.stand()
    last = facts.answers(records)
    for record in records:
        wanted: list[Fact] = []
        for fact in record.facts:
            if last[question(fact)].edit_id != record.id:
                yield Moved(fact, record.id, "overridden")
            elif moved := _already(editor, record, fact):
                yield moved
            else:
                wanted.append(fact)
        if wanted:
            yield from _write(editor, record, wanted, method or record.method, settings)


def _already(editor: Editor, record: Record, fact: Fact) -> Moved | None:
    there = facts.answers(editor.book.stand()).get(question(fact))
    if there is not None and same_answer(there.fact.target, fact.target):
        return Moved(fact, record.id, "stands", new_id=there.edit_id)
    try:
        (said,) = editor.lm.generate([Query.asked(fact)], editor.lm.room([fact.target]))
    except BadFact:  # too long, or of tokens this model lacks: whoever writes it says so
        return None
    return Moved(fact, record.id, "says already", said) if answered(fact, said) else None


def _write(
    editor: Editor, record: Record, wanted: Sequence[Fact], method: str | Method, settings: dict[str, Any]
) -> Iterator[Moved]:
    label = Label(
        author=record.author, reason=record.reason or f"migrated from edit {record.id}", source=record.source,
        tags=record.tags, tenant=record.tenant, valid_from=record.valid_from, valid_until=record.valid_until,
    )  # fmt: skip
    try:
        edits = editor.write_all(wanted, method, label=label, **{"seed": record.meta.get("seed", 0), **settings})
    except ErrataError as error:
        yield from (Moved(fact, record.id, "refused", why=str(error)) for fact in wanted)
        return
    for edit in edits:
        for fact, row in zip(edit.facts, edit.report.facts, strict=True):
            yield Moved(fact, record.id, "written" if row["said"] else "not said", row["after"], edit.id)
