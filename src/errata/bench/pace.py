"""How long a benchmark still takes: what its edits and its questions took so far, times how many are left of each.

pace = Pace({"edit": 100, "case": 300, "text": 3})
pace.took("edit", 10, seconds=140.0)
pace.left                                      # None: nobody knows yet what a case takes
"""

from __future__ import annotations

from collections.abc import Mapping


class Pace:
    """Adds up what each kind of work took, and counts what is left of it.

    Args:
        wanted: by kind of work, how much of it there is to do.
    """

    def __init__(self, wanted: Mapping[str, int]) -> None:
        self._wanted = dict(wanted)
        self._done: dict[str, int] = {}
        self._seconds: dict[str, float] = {}

    def took(self, kind: str, count: int, seconds: float, wanted: bool = True) -> None:
        """Take in that some work was done; of no wanted kind where it only tells what such work takes."""
        self._done[kind] = self._done.get(kind, 0) + count
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds
        if wanted:
            self.skip(kind, count)

    def skip(self, kind: str, count: int) -> None:
        """Take in that some work was done before."""
        self._wanted[kind] = max(0, self._wanted.get(kind, 0) - count)

    @property
    def left(self) -> float | None:
        """Seconds left, or None while a kind of work is left of which nothing was done."""
        todo = {kind: count for kind, count in self._wanted.items() if count}
        if any(not self._done.get(kind) for kind in todo):
            return None
        return sum(count * self._seconds[kind] / self._done[kind] for kind, count in todo.items())
