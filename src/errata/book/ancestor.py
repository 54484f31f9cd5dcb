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


class Past:
    """A book's history, read once, in which other books' events are looked up by their hashes.

    Args:
        events: all of it, oldest first.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.head = events[-1].hash if events else ""
        self._seqs = {event.hash: event.seq for event in events}
        told = [event for event in events if "merged" in event.data]
        self._heads = {str(event.data.get("head")): (event.at, event.seq) for event in told}

    def merged(self, head: str, at: str) -> None:
        """Take down that a book with this head is merged now, before the history says so."""
        self._heads[head] = at, len(self.events) + len(self._heads)

    def common(self, other: Past) -> Ancestor | None:
        """Return the newest state that two histories have in common; None of books that were never one.

        That is where they went apart, or what one had when the other last merged it.
        """
        found = [*self._forked(other), *self._merged(other), *other._merged(self)]
        return max(found, key=lambda one: (one.at, one.seq), default=None)

    def _forked(self, other: Past) -> list[Ancestor]:
        shared = [event for event in other.events if event.hash in self._seqs]
        return [other._state(shared[-1].seq, shared[-1].at)] if shared else []

    def _merged(self, other: Past) -> list[Ancestor]:
        """Return what the other book had when this one last merged it."""
        told = [(*self._heads[head], head) for head in self._heads.keys() & other._seqs.keys()]
        if not told:
            return []
        at, _, head = max(told, key=lambda one: one[1])
        return [other._state(other._seqs[head], at)]

    def _state(self, seq: int, at: str) -> Ancestor:
        stood = {e.edit_id: e.kind in ("write", "restore") for e in self.events if e.seq <= seq and e.edit_id}
        return Ancestor(at, seq, stood)
