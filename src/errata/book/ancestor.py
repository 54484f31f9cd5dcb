"""What two books had in common when they were last one: so that a merge can tell who changed what since.

A copy of a book shares its history up to where the two went apart, hash by hash. A merge writes the other's head beside what it
takes over, so that the two have that in common from then on. Books that were never one have no common ancestor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from errata.book.records import Event


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A state that two books have in common.

    Args:
        at: when it was, ISO 8601 in UTC. seq: number of its last event, in the history of the book it was read in.
        stood: for each edit that was written until then, whether it stood.
    """

    at: str
    seq: int
    stood: Mapping[str, bool]


def common(ours: Sequence[Event], theirs: Sequence[Event]) -> Ancestor | None:
    """Return the newest state that two histories have in common; None of books that were never one.

    That is where they went apart, or what one had when the other last merged it.
    """
    found = [*_forked(ours, theirs), *_merged(ours, theirs), *_merged(theirs, ours)]
    return max(found, key=lambda one: (one.at, one.seq), default=None)


def _forked(ours: Sequence[Event], theirs: Sequence[Event]) -> list[Ancestor]:
    known = {event.hash for event in ours}
    shared = [event for event in theirs if event.hash in known]
    return [_state(theirs, shared[-1].seq, shared[-1].at)] if shared else []


def _merged(ones: Sequence[Event], others: Sequence[Event]) -> list[Ancestor]:
    """Return what the second book had when the first one last merged it."""
    heads = {event.hash: event.seq for event in others}
    told = [event for event in ones if "merged" in event.data and event.data.get("head") in heads]
    return [_state(others, heads[told[-1].data["head"]], told[-1].at)] if told else []


def _state(events: Sequence[Event], seq: int, at: str) -> Ancestor:
    stood = {e.edit_id: e.kind in ("write", "restore") for e in events if e.seq <= seq and e.edit_id}
    return Ancestor(at, seq, stood)
