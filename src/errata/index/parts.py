"""Keys in two parts, what a prompt is about and what it asks: two searches whose hits must agree on an entry.

    entry    subject keys u, each with its token, and question keys q, all of length 1; bounds c_u and c_q
    about    at a position of the prompt that has the token of some u, 1 − ⟨u, h⟩ ≤ c_u
    asked    1 − ⟨q, z⟩ ≤ c_q for some q, where z is the prompt's last token
    opened   where both hold; of several the least (1 − ⟨u, h⟩) / c_u + (1 − ⟨q, z⟩) / c_q, of equals the newest

Subjects are looked up by their token, so that only entries whose subject may stand there are compared, and questions only
of these: what a search costs does not grow with the entries, but with those that share a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CHUNK = 16_384  # pairs compared at once


@dataclass(frozen=True, eq=False, slots=True)
class Entries:
    """Keys of a few entries.

    Args:
        subjects: (s, d) of length 1. tokens: (s,) where each stands. about: (s,) which entry's each is, from 0.
        questions: (q, e) of length 1. asks: (q,) which entry's each is.
        bounds: greatest distances of the two parts, 1 − cosine.
    """

    subjects: Float[Tensor, "s d"]
    tokens: Int[Tensor, " s"]
    about: Int[Tensor, " s"]
    questions: Float[Tensor, "q e"]
    asks: Int[Tensor, " q"]
    bounds: tuple[float, float]

    def __len__(self) -> int:
        """Return how many entries there are."""
        return int(self.about.max()) + 1


class Hits(NamedTuple):
    """Rows of a batch, the entries whose subject they name, and how far off it is as a share of what is allowed."""

    rows: Int[Tensor, " h"]
    entries: Int[Tensor, " h"]
    distances: Float[Tensor, " h"]


class Parts:
    """An index of keys in two parts, in the order in which they came.

    Args:
        widths: numbers in a subject's key and in a question's. device: where they are kept and compared.
    """

    def __init__(self, widths: tuple[int, int], device: torch.device | str = "cpu") -> None:
        self.widths = widths
        self._subjects, self._questions = (_Grouped(width, device) for width in widths)
        self._entries: list[int] = []  # of each subject key
        self._bounds: list[tuple[float, float]] = []
        self._device = device
        self._table: tuple[Tensor, Tensor] | None = None  # of each subject key: its entry, and how far it may be

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._bounds)

    def add(self, new: Entries) -> None:
        """Take in entries behind those there are."""
        self._subjects.add(new.subjects, new.tokens)
        self._questions.add(new.questions, new.asks + len(self))
        self._entries += [int(entry) + len(self) for entry in new.about]
        self._bounds += [new.bounds] * len(new)
        self._table = None

    def cut(self, size: int) -> None:
        """Take back what was added after the first `size` entries."""
        self._entries = [entry for entry in self._entries if entry < size]
        self._subjects.cut(len(self._entries))
        self._questions.cut(sum(1 for entry in self._questions.tags if entry < size))
        del self._bounds[size:]
        self._table = None

    def named(
        self, keys: Float[Tensor, "b t d"], tokens: Int[Tensor, "b t"] | None, where: Bool[Tensor, "b t"]
    ) -> Hits:
        """Return which entries' subjects the rows of a batch name.

        Args:
            keys: of length 1. tokens: None for a pass over vectors: then a subject may stand anywhere.
            where: which positions are the prompt's.
        """
        rows, places = where.nonzero(as_tuple=True)
        pair, subjects = self._subjects.of(None if tokens is None else tokens[rows, places], len(rows))
        if self._table is None:
            of = torch.tensor(self._entries, dtype=torch.long)
            self._table = of.to(self._device), torch.tensor([b for b, _ in self._bounds])[of].to(self._device)
        of, allowed = self._table
        far = _distances(keys[rows, places], pair, self._subjects.keys, subjects) / allowed[subjects]
        near = far <= 1
        return Hits(rows.to(pair.device)[pair[near]], of[subjects[near]], far[near])

    def agree(self, hits: Hits, keys: Float[Tensor, "b e"]) -> Int[Tensor, " b"]:
        """Return for each row the entry whose subject and question it hits; −1 where there is none.

        Args:
            hits: what `named` returned. keys: of length 1, of the prompts' last tokens.
        """
        found = torch.full((len(keys),), -1, dtype=torch.long, device=keys.device)
        pair, questions = self._questions.of(hits.entries, len(hits.entries))
        far = _distances(keys, hits.rows[pair], self._questions.keys, questions)
        best: dict[int, tuple[float, int]] = {}
        about, rows, entries = (part.tolist() for part in (hits.distances, hits.rows, hits.entries))
        for hit, distance in zip(pair.tolist(), far.tolist(), strict=True):
            entry, asked = entries[hit], distance / self._bounds[entries[hit]][1]
            if asked <= 1:
                both = (about[hit] + asked, -entry)
                best[rows[hit]] = min(best.get(rows[hit], both), both)
        for row, (_, entry) in best.items():
            found[row] = -entry
        return found


class _Grouped:
    """Rows that grow, found by a tag each of them has."""

    def __init__(self, width: int, device: torch.device | str) -> None:
        self._kept = torch.zeros(0, width, device=device)
        self.tags: list[int] = []
        self._sorted: tuple[Tensor, Tensor] | None = None  # tags in order, and the rows that have them

    @property
    def keys(self) -> Float[Tensor, "n d"]:
        """Return the rows."""
        return self._kept[: len(self.tags)]

    def add(self, keys: Float[Tensor, "n d"], tags: Int[Tensor, " n"]) -> None:
        size = len(self.tags) + len(keys)
        if size > len(self._kept):
            larger = self._kept.new_zeros(max(16, 2 * size), self._kept.shape[1])
            larger[: len(self.tags)] = self.keys
            self._kept = larger
        self._kept[len(self.tags) : size] = keys.to(self._kept)
        self.tags += tags.tolist()
        self._sorted = None

    def cut(self, size: int) -> None:
        del self.tags[size:]
        self._sorted = None

    def of(self, tags: Int[Tensor, " m"] | None, size: int) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
        """Return pairs of places in `tags` and rows that have that tag; all of `size` places and rows without tags."""
        device = self._kept.device
        if self._sorted is None:
            self._sorted = torch.tensor(self.tags, dtype=torch.long, device=device).sort(stable=True)
        known, order = self._sorted
        if tags is None:
            first, last = (torch.full((size,), bound, device=device) for bound in (0, len(known)))
        else:
            tags = tags.to(device).contiguous()
            first, last = torch.searchsorted(known, tags), torch.searchsorted(known, tags, right=True)
        many = last - first
        pair = torch.arange(size, device=device).repeat_interleave(many)
        within = torch.arange(len(pair), device=device) - (many.cumsum(0) - many)[pair]
        return pair, order[first[pair] + within]


def _distances(
    keys: Float[Tensor, "m d"], one: Int[Tensor, " p"], others: Float[Tensor, "n d"], other: Int[Tensor, " p"]
) -> Float[Tensor, " p"]:
    """Return 1 − ⟨keys[one], others[other]⟩, a part at a time."""
    parts = [
        1 - (keys[one[start : start + CHUNK].to(keys.device)].to(others) * others[other[start : start + CHUNK]]).sum(-1)
        for start in range(0, len(one), CHUNK)
    ]
    return torch.cat(parts) if parts else others.new_zeros(0)
