"""Two books of one base model made into one: what the other has and this one has not, in the other's order.

    plan(book, other, "ours")                 # what would be done, and nothing is
    merge(book, other, "theirs")              # done, in one transaction
    merge_all(book, paths, "ours")            # many books, one after the other; this one is read once

Where the two were one once (`errata.book.ancestor`), what only one of them dropped or restored since is taken over: that is a
change and no disagreement. Where they disagree, a policy decides: "refuse" (list it and change nothing), "ours", "theirs", or
"both" (what the other says is written on top, and what this one says stays).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, get_args

from errata.answers import same_answer
from errata.book import facts, files
from errata.book.ancestor import Ancestor, Past
from errata.book.book import Book, Note, Record
from errata.book.sound import Sizes
from errata.errors import BadBook, BookOfAnotherModel, CorruptEdit, InputError, did_you_mean
from errata.fact import Fact, question

Policy = Literal["refuse", "ours", "theirs", "both"]
POLICIES: Final[tuple[str, ...]] = get_args(Policy)


@dataclass(frozen=True, slots=True)
class Clash:
    """A disagreement: of two edits about one question ("contradiction"), or about whether one edit stands.

    Args:
        kind: "contradiction", "dropped here" or "dropped there"; of an edit that both have and were one book without, too.
            After a merge with the model, "lost here" or "lost there": a fact that one of them said alone and both together
            do not.
        ours, theirs: ids of the edits; the same one where only its standing is in question.
        what: the disagreement in words. decided: by which policy.
    """

    kind: str
    ours: str
    theirs: str
    what: str
    decided: str


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What a merge does: edits it takes, restores, drops and leaves out, and why.

    Args:
        refused: edits of the other book that are none, or do not fit, by id: why.
        ancestor: when the two books were last one, ISO 8601 in UTC; empty of books that never were.
    """

    take: list[Record] = field(default_factory=list)
    restore: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    shared: int = 0
    clashes: list[Clash] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    ancestor: str = ""

    @classmethod
    def of_all(cls, planned: Sequence[PlannedMerge]) -> MergePlan:
        """Return what merging several books does, as one; disagreements then say with whom."""
        if len(planned) == 1:
            return planned[0].plan
        plans = [each.plan for each in planned]
        return cls(
            take=[record for plan in plans for record in plan.take],
            restore=[id for plan in plans for id in plan.restore],
            drop=[id for plan in plans for id in plan.drop],
            left_out=[id for plan in plans for id in plan.left_out],
            shared=sum(plan.shared for plan in plans),
            clashes=[replace(c, what=f"{c.what}, in {each.path}") for each in planned for c in each.plan.clashes],
            refused={id: why for plan in plans for id, why in plan.refused.items()},
        )


@dataclass(frozen=True, slots=True)
class PlannedMerge:
    """What is to be done with one book.

    Args:
        path: of the other book. head: of its history. new: what will stand that does not now, as the other book has it.
    """

    plan: MergePlan
    path: Path
    head: str
    new: Sequence[Record]

    def changes(self) -> Iterator[tuple[str, bool]]:
        """Yield the edits that are dropped and taken or restored, in this order, and whether they stand then."""
        yield from ((id, False) for id in self.plan.drop)
        yield from ((record.id, True) for record in self.new)


Other = Book | Path
# Looks at a book and what of it would be new, and returns which of that cannot be let in, by id: why.
Unfit = Callable[[Book, Sequence[Record]], Mapping[str, str]]


def plan(book: Book, other: Book, policy: str = "refuse") -> MergePlan:
    """Return what merging `other` into `book` would do.

    Raises:
        InputError: no such policy. BookOfAnotherModel: the books correct different bases. BadBook: it is the same book.
    """
    return plan_all(book, [other], policy)[0].plan


def merge(book: Book, other: Book, policy: str = "refuse", note: Note | None = None) -> MergePlan:
    """Take over what `other` has, in one transaction, and return what was done.

    Raises:
        InputError, BookOfAnotherModel, BadBook: as `plan`; also where the books disagree and the policy is "refuse".
        Nothing is changed then. An edit of the other book that is none, or whose file is gone, is named and left there.
    """
    with other.snapshot():
        return merge_all(book, [other], policy, note)[0].plan


def merge_all(
    book: Book, others: Sequence[Other], policy: str = "refuse", note: Note | None = None
) -> list[PlannedMerge]:
    """Take over what books have, one after the other, each in one transaction; to the same book as so many times `merge`.

    Raises: as `merge`, of any of the books and before anything is changed.
    """
    with book.lock():
        planned = plan_all(book, others, policy)
        check_agreed(planned, policy)
        carry_out(book, planned, others, note)
    return planned


def plan_all(
    book: Book, others: Sequence[Other], policy: str = "refuse", unfit: Unfit | None = None
) -> list[PlannedMerge]:
    """Return what merging books one after the other would do, each as if those before it were merged; raises as `plan`.

    `book` is read once, so that the time grows with what the others hold and not with their number times what it does.

    Args:
        others: books, or where they are; the latter are opened one at a time.
        unfit: looks at what would be new, with the model.
    """
    if policy not in POLICIES:
        raise InputError(f"no policy {policy!r}.{did_you_mean(policy, POLICIES)} Known: {', '.join(POLICIES)}.")
    ours, found = _Ours(book), list[PlannedMerge]()
    for one in others:
        with _opened(one) as other, other.snapshot():
            found.append(ours.planned(other, policy, unfit))
        ours.merged(found[-1])
    return found


def check_agreed(planned: Sequence[PlannedMerge], policy: str) -> None:
    """Raise InputError where books disagree and nobody has said who is right."""
    clashes = MergePlan.of_all(planned).clashes if policy == "refuse" and planned else []
    if clashes:
        shown = "; ".join(clash.what for clash in clashes[:3])
        more = f"; and {len(clashes) - 3} more" if len(clashes) > 3 else ""
        raise InputError(
            f"the books disagree in {len(clashes)} places: {shown}{more}. Nothing was changed: decide with "
            "--on-conflict ours, theirs or both."
        )


def carry_out(book: Book, planned: Sequence[PlannedMerge], others: Sequence[Other], note: Note | None = None) -> None:
    """Do what `plan_all` found, under the lock that was held then."""
    note = note or Note()
    for one, where in zip(planned, others, strict=True):
        data = {"merged": one.path.name, "head": one.head}
        why = note.reason or f"merged from {one.path.name}"
        with _opened(where) as other:
            # What is restored is written as well: its file may have been lost or forgotten here.
            items = [(record.meta, other.read(record)) for record in one.new]
        book.change(drop=one.plan.drop, write=items, note=Note(note.author, why, data))


def _opened(other: Other) -> AbstractContextManager[Book]:
    return nullcontext(other) if isinstance(other, Book) else Book.open(other, create=False, look=True)


class _Ours:
    """The book that others are merged into, as it is after those that were planned so far."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self._records: dict[str, Record] = {}
        self._lie: dict[str, Path] = {}  # folders of the files of edits
        self._facts = facts.FactIndex()  # of all edits, in order of writing; whether they stand is looked up
        self._order: list[str] = []
        self._at: dict[str, list[int]] = {}  # places in the order, by site
        for record in book.records():
            self._add(record, book.path)
        self._past = Past(book.history())

    def _add(self, record: Record, book: Path) -> None:
        for site in record.meta.get("sites") or ():
            self._at.setdefault(site, []).append(len(self._order))
        self._order.append(record.id)
        self._records[record.id], self._lie[record.id] = record, book / "edits"
        for one in facts.said([record]):
            self._facts.add(one)

    def merged(self, done: PlannedMerge) -> None:
        """Take down what was planned, as if it were done."""
        for id in done.plan.drop:
            self._records[id] = replace(self._records[id], stands=False)
        for record in done.new:
            if record.id in self._records:
                self._records[record.id] = replace(self._records[record.id], stands=True)
            else:
                self._add(record, done.path)
        if done.new or done.plan.drop:
            self._past.merged(done.head, datetime.now(UTC).isoformat(timespec="seconds"))

    def planned(self, other: Book, policy: str, unfit: Unfit | None) -> PlannedMerge:
        """Return what merging one more book would do; raises as `plan`."""
        self._check(other)
        theirs, past = other.records(), Past(other.history())
        other.stand()  # which looks at its history
        base = self._past.common(past)
        refused = self._refused(other, [r for r in theirs if r.stands and not self._stands(r.id)])
        theirs = [r for r in theirs if r.id not in refused]
        changed = self._changed(theirs, base)
        found = self._plan(theirs, changed, policy)
        back = set(found.restore)
        new = [*(r for r in theirs if r.id in back), *found.take]
        left = {} if unfit is None else dict(unfit(other, new))
        if left:
            take, new = ([r for r in records if r.id not in left] for records in (found.take, new))
            found = replace(found, take=take, restore=[id for id in found.restore if id not in left])
        found = replace(found, refused={**refused, **left}, ancestor=base.at if base else "")
        return PlannedMerge(found, other.path, past.head, new)

    def _check(self, other: Book) -> None:
        book = self.book
        if book.path == other.path:
            raise BadBook(f"{book.path} cannot be merged with itself: name another book.")
        if other.base is not None and book.base != other.base:
            raise BookOfAnotherModel(
                f"the book {other.path} corrects {other.name} ({str(other.base)[:12]}), {book.path} corrects {book.name} "
                f"({str(book.base)[:12]}): errata migrate writes facts into another model."
            )

    def _plan(self, theirs: Sequence[Record], changed: Mapping[str, str], policy: str) -> MergePlan:
        both = {r.id for r in theirs if r.stands and self._stands(r.id)}
        new = [r for r in theirs if r.stands and r.id not in self._records]
        dropped = [id for id, how in changed.items() if how == "drop"]
        standing = [r for r in theirs if r.id not in changed]
        clashes = [*self._standing(standing, policy), *self._contradictions(new, both.union(dropped), policy)]
        out = {c.theirs for c in clashes if c.kind == "contradiction" and policy == "ours"}
        out |= self._said_already(new, set(dropped))
        gone = [c.ours for c in clashes if c.kind in ("contradiction", "dropped there") and policy == "theirs"]
        back = [c.theirs for c in clashes if c.kind == "dropped here" and policy in ("theirs", "both")]
        gone += dropped
        back += [id for id, how in changed.items() if how == "restore"]
        take = [r for r in new if r.id not in out]
        return MergePlan(take, back, list(dict.fromkeys(gone)), sorted(out), len(both), clashes)

    def _stands(self, id: str) -> bool:
        return id in self._records and self._records[id].stands

    def _refused(self, other: Book, theirs: Sequence[Record]) -> dict[str, str]:
        """Return which edits the other book says stand are none, and why; they are left where they are."""
        sites = {site for r in theirs for site in r.meta.get("sites") or ()}
        places = dict.fromkeys(heapq.merge(*(self._at.get(site, ()) for site in sites)))
        ids = (self._order[place] for place in places)
        sizes = Sizes()
        sizes.learn(
            (self._records[id] for id in ids if self._stands(id)), lambda r: files.read(self._lie[r.id], r), sites
        )
        found = {}
        for record in theirs:
            try:
                why = sizes.unfit(record, other.read(record))
            except CorruptEdit as error:
                why = str(error)
            if why:
                found[record.id] = why
        return found

    def _changed(self, theirs: Sequence[Record], base: Ancestor | None) -> dict[str, str]:
        """Return edits that the books were one about, and that only one of them dropped or restored since.

        Of those that the other book changed, "drop" or "restore"; of those that this one did, "" (they stay as they are).
        """
        found = {}
        for record in theirs:
            known = self._records.get(record.id)
            if base is None or record.id not in base.stood or known is None or known.stands == record.stands:
                continue
            theirs_changed = record.stands != base.stood[record.id]
            found[record.id] = ("restore" if record.stands else "drop") if theirs_changed else ""
        return found

    def _standing(self, theirs: Sequence[Record], policy: str) -> Iterator[Clash]:
        for record in theirs:
            known = self._records.get(record.id)
            if known is None or known.stands == record.stands:
                continue
            kind = "dropped here" if record.stands else "dropped there"
            yield Clash(kind, record.id, record.id, f"edit {record.id[:8]} ({_first(record)}) is {kind} only", policy)

    def _contradictions(self, new: Sequence[Record], without: set[str], policy: str) -> Iterator[Clash]:
        """Yield what both books say of one question; not what the other book says on top of an edit both have."""
        for one in facts.said(new):
            for found in self._facts.conflicts(one):
                first = found.first
                if found.kind == "contradiction" and self._stands(first.edit_id) and first.edit_id not in without:
                    what = (
                        f"{first.fact.prompt!r} is answered {first.fact.target!r} here (edit {first.edit_id[:8]}) and "
                        f"{one.fact.target!r} there (edit {one.edit_id[:8]})"
                    )
                    yield Clash("contradiction", first.edit_id, one.edit_id, what, policy)

    def _said_already(self, new: Sequence[Record], dropped: set[str]) -> set[str]:
        """Return new edits of which every fact is written here, with the same answer."""

        def known(fact: Fact) -> bool:
            said = reversed(self._facts.answers(question(fact)))
            last = next((one for one in said if self._stands(one.edit_id) and one.edit_id not in dropped), None)
            return last is not None and same_answer(last.fact.target, fact.target)

        return {record.id for record in new if record.facts and all(map(known, record.facts))}


def _first(record: Record) -> str:
    more = f" and {len(record.facts) - 1} more" if len(record.facts) > 1 else ""
    return (f"{record.facts[0].prompt} → {record.facts[0].target}" if record.facts else "no facts") + more
