"""Two states of a book side by side, fact by fact and matrix by matrix.

diff(book, "release-1", "now").sites        # what the weights of one would have to be changed by to get the other's
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.book import facts, states
from errata.book.book import Book, Record
from errata.delta import Change, Graft, total
from errata.edit import by_site
from errata.editing.standing import load


@dataclass(frozen=True, slots=True)
class SiteChange:
    """How one matrix differs: Frobenius norms of the change in the one state, in the other, and between them.

    Args:
        grafts: wrappers that stand in one state only, which have no norm.
    """

    site: str
    before: float
    after: float
    between: float
    grafts: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """What separates two states: edits only one has, questions they answer differently, matrices."""

    a: states.BookState
    b: states.BookState
    dropped: list[str]
    added: list[str]
    facts: list[facts.ChangedFact]
    sites: list[SiteChange]


def diff(book: Book, a: str, b: str) -> Difference:
    """Compare two states, named as `errata.book.states.at` reads them.

    Raises:
        InputError: no such state. CorruptEdit: the file of an edit that only one of them has is missing or altered.
    """
    old, new = states.at(book, a), states.at(book, b)
    records = {record.id: record for record in book.records()}
    dropped, added = [i for i in old.ids if i not in new.ids], [i for i in new.ids if i not in old.ids]
    changed = facts.difference([records[i] for i in old.ids], [records[i] for i in new.ids])
    return Difference(
        old, new, dropped, added, changed, _sites(book, [[records[i] for i in s.ids] for s in (old, new)])
    )


def _sites(book: Book, sides: Sequence[Sequence[Record]]) -> list[SiteChange]:
    shared = {r.id for r in sides[0]} & {r.id for r in sides[1]}
    edits = {edit.id: edit for edit in load(book, {r.id: r for side in sides for r in side}.values())}
    before, after = (by_site([edits[r.id] for r in side]) for side in sides)
    own = [by_site([edits[r.id] for r in side if r.id not in shared]) for side in sides]
    return [
        SiteChange(
            str(site),
            _norm(before.get(site, [])),
            _norm(after.get(site, [])),
            _norm([*own[1].get(site, []), *_negative(own[0].get(site, []))]),
            sum(isinstance(d, Graft) for side in own for d in side.get(site, [])),
        )
        for site in sorted({**own[0], **own[1]})
    ]


def _negative(deltas: Sequence[Change]) -> list[Change]:
    return [d * -1.0 for d in deltas if not isinstance(d, Graft)]


def _norm(deltas: Sequence[Change]) -> float:
    summed = total(deltas)
    return 0.0 if summed is None else summed.norm()
