"""Conflicts and differences between the facts of edits: contradictions, duplicates, inverses. Text only; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from errata.answers import same_answer
from errata.book.book import Record
from errata.fact import Fact, Question, plain, question


@dataclass(frozen=True, slots=True)
class Said:
    """A fact and the edit that writes it."""

    fact: Fact
    edit_id: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two facts that get in each other's way, the older one first.

    Args:
        kind: "contradiction" (one question, two answers), "duplicate" (one question, one answer, twice), or "inverse" (the
            same relation leads from the first's answer to somebody else than the first's subject).
        first, second: the facts and their edits.
    """

    kind: str
    first: Said
    second: Said


@dataclass(frozen=True, slots=True)
class ChangedFact:
    """What two sets of edits say of one question; None where one says nothing."""

    before: Said | None
    after: Said | None


def said(records: Iterable[Record]) -> Iterator[Said]:
    """Yield every fact of the edits, in the order of writing."""
    for record in records:
        yield from (Said(fact, record.id) for fact in record.facts)


def answers(records: Iterable[Record]) -> dict[Question, Said]:
    """Return what the edits say last of each question."""
    return {question(one.fact): one for one in said(records)}


def difference(before: Iterable[Record], after: Iterable[Record]) -> list[ChangedFact]:
    """Return the questions that two sets of edits answer differently, or that only one answers."""
    old, new = answers(before), answers(after)
    changes = [ChangedFact(old.get(asked), new.get(asked)) for asked in {**old, **new}]
    return [
        c
        for c in changes
        if c.before is None or c.after is None or not same_answer(c.before.fact.target, c.after.fact.target)
    ]


def conflicts(older: Iterable[Said], newer: Iterable[Said] | None = None) -> list[Conflict]:
    """Return every conflict within `older`, or, if `newer` is given, between one of `older` and one of `newer`."""
    seen, found = FactIndex(), list[Conflict]()
    for one in older:
        if newer is None:
            found += seen.conflicts(one)
        seen.add(one)
    for one in newer or ():
        found += seen.conflicts(one)
    return found


class FactIndex:
    """Facts by what they answer, and by where their relation leads."""

    def __init__(self) -> None:
        self._answers: dict[Question, list[Said]] = {}
        self._leads: dict[Question, list[Said]] = {}

    def add(self, one: Said) -> None:
        """Take in a fact."""
        subject, relation = question(one.fact)
        self._answers.setdefault((subject, relation), []).append(one)
        self._leads.setdefault((plain(one.fact.target), relation), []).append(one)

    def answers(self, asked: Question) -> Sequence[Said]:
        """Return what was said of a question, oldest first."""
        return self._answers.get(asked, ())

    def conflicts(self, one: Said) -> Iterator[Conflict]:
        """Yield what of the facts gets in a fact's way."""
        subject, relation = question(one.fact)
        target = plain(one.fact.target)
        for other in self._answers.get((subject, relation), ()):
            same = same_answer(other.fact.target, one.fact.target)
            yield Conflict("duplicate" if same else "contradiction", other, one)
        for other in self._answers.get((target, relation), ()):
            if subject not in (target, plain(other.fact.target)):
                yield Conflict("inverse", other, one)
        for other in self._leads.get((subject, relation), ()):
            if plain(other.fact.subject) not in (subject, target):
                yield Conflict("inverse", other, one)
