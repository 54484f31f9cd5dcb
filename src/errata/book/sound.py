"""Whether an edit's file can be let into a book: it is the edit it is called, and fits the matrices of those beside it.

Hashes say that a file is what its author wrote, not that he wrote an edit: its tensors may be another's, of another model's
shapes, not finite, or a million times too large, and what is signed after that is signed for good.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Final

from errata import content
from errata.book.records import Record
from errata.errors import CorruptEdit

MOST: Final = 5.0  # ‖ΔW‖/‖W‖ of an edit of one fact; of n facts √n times that, as independent changes add up to


def check_sound(edit: Record, data: bytes) -> None:
    """Raise CorruptEdit unless a file that is as it was written is that edit."""
    if wrong := Sizes().unfit(edit, data):
        raise CorruptEdit(f"edit {edit.id} is none: {wrong}. Write its facts again.")


class Sizes:
    """How large the matrices of a model are and how long, as far as edits tell; compares each edit with those before it."""

    def __init__(self) -> None:
        self._sizes: dict[str, tuple[int, int | None]] = {}
        self._norms: dict[str, float] = {}

    def learn(self, records: Iterable[Record], read: Callable[[Record], bytes], sites: Iterable[str]) -> None:
        """Look at edits, the first of each site, that are trusted: their reports say how their size compares to a matrix's."""
        wanted = set(sites)
        for record in records:
            if not wanted:
                return
            here = wanted & set(record.meta.get("sites") or ())
            if not here:
                continue
            try:
                data = read(record)
            except CorruptEdit:
                continue
            if content.problem(data, record.id):
                continue
            wanted -= here
            self._sizes |= content.shapes(record.meta, data)
            ratios = (record.meta.get("report") or {}).get("norm_ratio") or {}
            lengths = content.norms(record.meta, data)
            self._norms |= {site: lengths[site] / ratios[site] for site in here if ratios.get(site) and site in lengths}

    def unfit(self, record: Record, data: bytes) -> str:
        """Return why an edit cannot be let in, or ""; one that can is what the next are compared with."""
        if not content.is_id(record.id):
            return "its id is none"
        if wrong := content.problem(data, record.id):
            return wrong
        if content.stated(data) != json.loads(json.dumps(dict(record.meta))):
            return "what the book says of it is not what its file says"
        found = content.shapes(record.meta, data)
        for site, (out, width) in found.items():
            known = self._sizes.get(site, (out, width))
            if known[0] != out or (None not in (known[1], width) and known[1] != width):
                return f"its change at {site} is of {_by(found[site])}, others are of {_by(known)}"
        most = MOST * max(1, len(record.facts)) ** 0.5
        for site, length in content.norms(record.meta, data).items():
            if length > most * self._norms.get(site, float("inf")):
                return f"its change at {site} is {length / self._norms[site]:.3g} times as large as the matrix"
        self._sizes |= {site: size for site, size in found.items() if size[1] is not None or site not in self._sizes}
        return ""


def _by(size: tuple[int, int | None]) -> str:
    return f"{size[0]} × {'?' if size[1] is None else size[1]}"
