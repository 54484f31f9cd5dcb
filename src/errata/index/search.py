"""Which balls hold a key: exact on any device, or by FAISS.

Both find candidates first and then compare true distances, in the same way, so they give the same answers: `Exact` by one
matrix product with a margin for its rounding, `Faiss` by a range search over a flat index from which balls are removed and
to which they are added as they change. Nothing loops over balls.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, Protocol, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.errors import BadConfig
from errata.index.sketch import NUMBERS, Sketch

Backend: TypeAlias = Literal["size", "exact", "faiss"]
Pairs: TypeAlias = tuple[Int[Tensor, " c"], Int[Tensor, " c"]]
MANY = 4096  # balls from which a sketch of them is looked at first
DENSE = 16  # where one of so many pairs seems near in a sketch, it was of no use
LARGE = 1_000_000  # balls from which "size" takes FAISS, where it is there and keys are on the CPU; a sketch is faster below
# |k − c|² as |k|² + |c|² − 2kc loses digits of the larger terms: this share of them, with room to spare, is the margin.
_MARGIN = 1e-5


class Search(Protocol):
    """Finds candidates."""

    def pairs(
        self, keys: Float[Tensor, "b d"], centres: Float[Tensor, "m d"], radii: Float[Tensor, " m"], changed: set[int]
    ) -> Pairs:
        """Return (row, ball) pairs among which are all with |key − centre| ≤ radius.

        Args:
            radii: negative for a ball that holds nothing.
            changed: balls that are new or have moved since the last call; emptied.
        """


class _Sized:
    """Keeps |centre|², which is as long to compute as the search, up to date with what changes."""

    _sizes: Tensor | None = None

    def _sizes_of(self, centres: Float[Tensor, "m d"], changed: set[int]) -> Float[Tensor, " m"]:
        if self._sizes is None:
            self._sizes = centres.square().sum(1)
            return self._sizes
        if len(self._sizes) < len(centres):
            self._sizes = torch.cat([self._sizes, self._sizes.new_zeros(len(centres) - len(self._sizes))])
        if changed:
            some = torch.tensor(sorted(changed), device=centres.device)
            self._sizes[some] = centres[some].square().sum(1)
        return self._sizes


class Exact(_Sized):
    """One matrix product over all balls, on the device where they are; over sketches of them first where they are many."""

    _sketch: Sketch | None = None

    def pairs(self, keys: Tensor, centres: Tensor, radii: Tensor, changed: set[int]) -> Pairs:
        """Return candidates; see `Search`."""
        own = self._sizes_of(centres, changed)
        if len(centres) >= MANY and centres.shape[1] > 2 * NUMBERS:
            found = self._sketched(keys, centres, radii, own, changed)
            changed.clear()
            if len(found[0]) * DENSE <= len(keys) * len(centres):
                return found
        self._sketch = self._sketch if len(centres) >= MANY else None
        changed.clear()
        sizes = keys.square().sum(1)[:, None] + own[None]  # (b, m)
        squares = sizes - 2 * keys @ centres.T
        near = (squares <= radii.clamp(min=0).square() + _MARGIN * sizes) & (radii >= 0)
        rows, balls = near.nonzero(as_tuple=True)
        return rows, balls

    def _sketched(self, keys: Tensor, centres: Tensor, radii: Tensor, own: Tensor, changed: set[int]) -> Pairs:
        """Return candidates by what is far in a few numbers: that is far in all."""
        if self._sketch is None or len(centres) > 2 * self._sketch.made_of:
            self._sketch = Sketch(centres)
        else:
            self._sketch.follow(centres, changed)
        reach = torch.where(radii >= 0, radii.square() + _MARGIN * own, -torch.inf)
        rows, balls = self._sketch.near(keys, reach, _MARGIN * keys.square().sum(1)).nonzero(as_tuple=True)
        return rows, balls


class Faiss(_Sized):
    """A flat FAISS index of the centres, by number, kept up with changes (`IndexIDMap2`, on the CPU)."""

    def __init__(self, width: int) -> None:
        if find_spec("faiss") is None:
            raise BadConfig('search = faiss needs FAISS; install "errata-lm[index]", or use search=exact.')
        self._faiss: Any = import_module("faiss")
        self._index = self._faiss.IndexIDMap2(self._faiss.IndexFlatL2(width))
        self._held: set[int] = set()

    def pairs(self, keys: Tensor, centres: Tensor, radii: Tensor, changed: set[int]) -> Pairs:
        """Return candidates; see `Search`."""
        own = self._sizes_of(centres, changed)
        self._follow(centres, radii, changed)
        if not self._held:
            none = torch.zeros(0, dtype=torch.long, device=keys.device)
            return none, none
        largest = float(radii.max())
        size = float(keys.square().sum(1).max() + own.max())
        reach = largest**2 + _MARGIN * size
        starts, _, balls = self._index.range_search(keys.cpu().contiguous().numpy(), reach)
        counts = torch.from_numpy(starts.astype("int64")).diff()
        rows = torch.arange(len(keys)).repeat_interleave(counts)
        return rows.to(keys.device), torch.from_numpy(balls.astype("int64")).to(keys.device)

    def _follow(self, centres: Tensor, radii: Tensor, changed: set[int]) -> None:
        """Take out what has changed and put back what still holds something, where it is now."""
        gone = sorted(changed & self._held)
        if gone:
            self._index.remove_ids(torch.tensor(gone).numpy())
        here = torch.tensor(sorted(ball for ball in changed if float(radii[ball]) >= 0), dtype=torch.long)
        if len(here):
            self._index.add_with_ids(centres[here.to(centres.device)].cpu().contiguous().numpy(), here.numpy())
        self._held = (self._held - changed) | set(here.tolist())
        changed.clear()


def choose(backend: Backend, size: int, width: int, device: torch.device) -> Search:
    """Return the search for `size` balls of keys of `width` numbers on `device`.

    Raises:
        BadConfig: FAISS is asked for and not installed.
    """
    small = size < LARGE or device.type != "cpu" or find_spec("faiss") is None
    return Exact() if backend == "exact" or (backend == "size" and small) else Faiss(width)


def distances(keys: Float[Tensor, "b d"], others: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Return the distance of each pair of rows; a pair's does not depend on what other pairs there are."""
    found: Tensor = torch.linalg.vector_norm(keys - others, dim=1)
    return found
