"""Two books of one base model made into one: what the other has and this one has not, in the other's order.

    plan(book, other, "ours")                 # what would be done, and nothing is
    merge(book, other, "theirs")              # done, in one transaction

Where the two were one once (`errata.book.ancestor`), what only one of them dropped or restored since is taken over: that is a
change and no disagreement. Where they disagree, a policy decides: "refuse" (list it and change nothing), "ours", "theirs", or
"both" (what the other says is written on top, and what this one says stays).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, get_args

from errata.answers import same_answer
from errata.book import facts
from errata.book.ancestor import Ancestor, common
from errata.book.book import Book, Note, Record
from errata.book.sound import Sizes
from errata.errors import BadBook, BookOfAnotherModel, CorruptEdit, InputError, did_you_mean
from errata.fact import question

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

    def new(self, other: Book) -> list[Record]:
        """Return what will stand that does not now, as the other book has it."""
        return [*(record for record in other.records() if record.id in self.restore), *self.take]


def plan(book: Book, other: Book, policy: str = "refuse") -> MergePlan:
    """Return what merging `other` into `book` would do.

    Raises:
        InputError: no such policy. BookOfAnotherModel: the books correct different bases. BadBook: it is the same book.
    """
    if policy not in POLICIES:
        raise InputError(f"no policy {policy!r}.{did_you_mean(policy, POLICIES)} Known: {', '.join(POLICIES)}.")
    if book.path == other.path:
        raise BadBook(f"{book.path} cannot be merged with itself: name another book.")
    if other.base is not None and book.base != other.base:
        raise BookOfAnotherModel(
            f"the book {other.path} corrects {other.name} ({str(other.base)[:12]}), {book.path} corrects {book.name} "
            f"({str(book.base)[:12]}): errata migrate writes facts into another model."
        )
    with other.snapshot():
        theirs, events = other.records(), other.history()
        other.stand()  # which looks at its history
    ours, base = {r.id: r for r in book.records()}, common(book.history(), events)
    refused = _refused(book, other, list(ours.values()), [r for r in theirs if r.stands and not _stands(ours, r.id)])
    theirs = [r for r in theirs if r.id not in refused]
    both = {r.id for r in theirs if r.stands and r.id in ours and ours[r.id].stands}
    new = [r for r in theirs if r.stands and r.id not in ours]
    changed = _changed(ours, theirs, base)
    standing = [r for r in theirs if r.id not in changed]
    kept = {id: r for id, r in ours.items() if changed.get(id) != "drop"}
    clashes = [*_standing(ours, standing, policy), *_contradictions(kept, new, both, policy)]
    out = {c.theirs for c in clashes if c.kind == "contradiction" and policy == "ours"} | _said_already(kept, new)
    gone = [c.ours for c in clashes if c.kind in ("contradiction", "dropped there") and policy == "theirs"]
    back = [c.theirs for c in clashes if c.kind == "dropped here" and policy in ("theirs", "both")]
    gone += [id for id, how in changed.items() if how == "drop"]
    back += [id for id, how in changed.items() if how == "restore"]
    take = [r for r in new if r.id not in out]
    at = base.at if base else ""
    return MergePlan(take, back, list(dict.fromkeys(gone)), sorted(out), len(both), clashes, refused, at)


def merge(
    book: Book, other: Book, policy: str = "refuse", note: Note | None = None, *, leave: Mapping[str, str] | None = None
) -> MergePlan:
    """Take over what `other` has, in one transaction, and return what was done.

    Args:
        leave: edits of the other book that somebody who has the model found to be unfit, by id: why.

    Raises:
        InputError, BookOfAnotherModel, BadBook: as `plan`; also where the books disagree and the policy is "refuse".
        Nothing is changed then. An edit of the other book that is none, or whose file is gone, is named and left there.
    """
    with book.lock(), other.snapshot():
        found = plan(book, other, policy)
        left = leave or {}
        take, back = [r for r in found.take if r.id not in left], [id for id in found.restore if id not in left]
        found = replace(found, take=take, restore=back, refused={**found.refused, **left})
        if found.clashes and policy == "refuse":
            shown = "; ".join(clash.what for clash in found.clashes[:3])
            more = f"; and {len(found.clashes) - 3} more" if len(found.clashes) > 3 else ""
            raise InputError(
                f"the books disagree in {len(found.clashes)} places: {shown}{more}. Nothing was changed: decide with "
                "--on-conflict ours, theirs or both."
            )
        # What is restored is written as well: its file may have been lost or forgotten here.
        items = [(record.meta, other.read(record)) for record in found.new(other)]
        events = other.history()
        note = note or Note()
        data = {"merged": other.path.name, "head": events[-1].hash if events else ""}
        why = note.reason or f"merged from {other.path.name}"
        book.change(drop=found.drop, write=items, note=Note(note.author, why, data))
    return found


def _stands(ours: dict[str, Record], id: str) -> bool:
    return id in ours and ours[id].stands


def _refused(book: Book, other: Book, ours: Sequence[Record], theirs: Sequence[Record]) -> dict[str, str]:
    """Return which edits the other book says stand are none, and why; they are left where they are."""
    sizes = Sizes()
    sizes.learn([r for r in ours if r.stands], book.read, {site for r in theirs for site in r.meta.get("sites") or ()})
    found = {}
    for record in theirs:
        try:
            why = sizes.unfit(record, other.read(record))
        except CorruptEdit as error:
            why = str(error)
        if why:
            found[record.id] = why
    return found


def _changed(ours: Mapping[str, Record], theirs: Sequence[Record], base: Ancestor | None) -> dict[str, str]:
    """Return edits that the books were one about, and that only one of them dropped or restored since.

    Of those that the other book changed, "drop" or "restore"; of those that this one did, "" (they stay as they are).
    """
    found = {}
    for record in theirs:
        known = ours.get(record.id)
        if base is None or record.id not in base.stood or known is None or known.stands == record.stands:
            continue
        theirs_changed = record.stands != base.stood[record.id]
        found[record.id] = ("restore" if record.stands else "drop") if theirs_changed else ""
    return found


def _standing(ours: dict[str, Record], theirs: Sequence[Record], policy: str) -> Iterator[Clash]:
    for record in theirs:
        known = ours.get(record.id)
        if known is None or known.stands == record.stands:
            continue
        kind = "dropped here" if record.stands else "dropped there"
        yield Clash(kind, record.id, record.id, f"edit {record.id[:8]} ({_first(record)}) is {kind} only", policy)


def _contradictions(ours: dict[str, Record], new: Sequence[Record], common: set[str], policy: str) -> Iterator[Clash]:
    """Yield what both books say of one question; not what the other book says on top of an edit both have."""
    own = facts.said(r for r in ours.values() if r.stands and r.id not in common)
    for found in facts.conflicts(own, facts.said(new)):
        if found.kind == "contradiction":
            first, second = found.first, found.second
            what = (
                f"{first.fact.prompt!r} is answered {first.fact.target!r} here (edit {first.edit_id[:8]}) and "
                f"{second.fact.target!r} there (edit {second.edit_id[:8]})"
            )
            yield Clash("contradiction", first.edit_id, second.edit_id, what, policy)


def _said_already(ours: dict[str, Record], new: Sequence[Record]) -> set[str]:
    """Return new edits of which every fact is written here, with the same answer."""
    known = facts.answers(r for r in ours.values() if r.stands)
    found = set()
    for record in new:
        here = [known.get(question(fact)) for fact in record.facts]
        if record.facts and all(
            one is not None and same_answer(one.fact.target, fact.target)
            for one, fact in zip(here, record.facts, strict=True)
        ):
            found.add(record.id)
    return found


def _first(record: Record) -> str:
    more = f" and {len(record.facts) - 1} more" if len(record.facts) > 1 else ""
    return (f"{record.facts[0].prompt} → {record.facts[0].target}" if record.facts else "no facts") + more
