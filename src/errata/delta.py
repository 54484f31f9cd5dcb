"""What an edit changes at one site, as a value.

    LowRank   left (out, r), right (in, r)      W + left rightᵀ       ROME, MEMIT, …
    Columns   index (n,), values (out, n)       W[:, index] + values  KNE, KN
    Dense     matrix (out, in)                  W + matrix            FT
    Graft     kind, config, tensors             a wrapper's state     GRACE, MELO, WISE

The first three form one algebra under ``+``, ``-`` and ``*``; a `Graft` has none. Matrices are always (out, in),
however the architecture stores them. All tensors are float32 or float64 on the CPU: a delta outlives the model it came
from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.errors import UnknownSite

Matrix: TypeAlias = Float[Tensor, "out in"]


class Site(NamedTuple):
    """A matrix of the model: the layer's number and the matrix's role, such as ``(17, "down")``.

    Layers of an encoder-decoder are counted through: encoder first, then decoder.
    """

    layer: int
    role: str

    def __str__(self) -> str:
        return f"{self.layer}.{self.role}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read ``"17.down"``.

        Raises:
            UnknownSite: the text is not a layer number, a dot and a role.
        """
        layer, dot, role = text.partition(".")
        if not (layer.isdecimal() and dot and role):
            raise UnknownSite(f"{text!r} is not a site; write the layer and the role, as in 17.down.")
        return cls(int(layer), role)


class Delta(ABC):
    """A change to one matrix. Values are immutable: every operation returns a new one."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(out, in); for `Columns` the second is unknown and given as the largest index + 1."""

    @abstractmethod
    def dense(self, shape: tuple[int, int] | None = None) -> Matrix:
        """Return the change as one (out, in) matrix."""

    @abstractmethod
    def add_to(self, matrix: Matrix) -> None:
        """Add the change to `matrix` (out, in) in place, in the matrix's dtype and on its device."""

    @abstractmethod
    def __mul__(self, factor: float | int) -> Delta: ...

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {' × '.join(map(str, t.shape))}" for name, t in self.tensors().items())
        return f"<{type(self).__name__} {sizes}; norm {self.norm():.3g}>"

    def __rmul__(self, factor: float | int) -> Delta:
        return self * factor

    def __neg__(self) -> Delta:
        return self * -1.0

    def __sub__(self, other: object) -> Delta:
        return self + (-other if isinstance(other, Delta) else other)

    def __add__(self, other: object) -> Delta:
        if not isinstance(other, Delta):
            return NotImplemented  # a `Graft` then says why not
        shape = (max(self.shape[0], other.shape[0]), max(self.shape[1], other.shape[1]))
        return Dense(self.dense(shape) + other.dense(shape))

    def norm(self) -> float:
        """Return the Frobenius norm."""
        return float(self.dense().double().norm())

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to store, by field name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {name: value.contiguous() for name, value in values.items() if isinstance(value, Tensor)}

    @property
    def nbytes(self) -> int:
        """Bytes the change takes when stored."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def isfinite(self) -> bool:
        """Say whether every stored number is finite."""
        return all(bool(t.isfinite().all()) for t in self.tensors().values())


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class LowRank(Delta):
    """``left @ right.T``, never multiplied out until it is applied.

    Args:
        left: (out, r).
        right: (in, r).
    """

    left: Float[Tensor, "out r"]
    right: Float[Tensor, "in r"]
    kind: ClassVar[str] = "lowrank"

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.left.shape[0], self.right.shape[0]

    def dense(self, shape: tuple[int, int] | None = None) -> Matrix:
        """Return the product (out, in)."""
        return self.left @ self.right.T

    def add_to(self, matrix: Matrix) -> None:
        """Add the product in place."""
        matrix.addmm_(self.left.to(matrix), self.right.to(matrix).T)

    def __mul__(self, factor: float | int) -> LowRank:
        return LowRank(self.left * factor, self.right)

    def __add__(self, other: object) -> Delta:
        if isinstance(other, LowRank):
            return LowRank(torch.cat([self.left, other.left], 1), torch.cat([self.right, other.right], 1))
        return Delta.__add__(self, other)

    def norm(self) -> float:
        """Return ‖left rightᵀ‖ from the factors' triangles: Gram matrices would leave √ε where factors cancel."""
        left, right = (torch.linalg.qr(part.double(), mode="r").R for part in (self.left, self.right))
        return float((left @ right.T).norm())


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Columns(Delta):
    """A change to some columns (neurons) of a matrix.

    Args:
        index: (n,) different column numbers, ascending.
        values: (out, n) what is added to them.
    """

    index: Int[Tensor, " n"]
    values: Float[Tensor, "out n"]
    kind: ClassVar[str] = "columns"

    @property
    def shape(self) -> tuple[int, int]:
        """(out, largest index + 1)."""
        return self.values.shape[0], int(self.index.max()) + 1 if len(self.index) else 0

    def dense(self, shape: tuple[int, int] | None = None) -> Matrix:
        """Return a matrix of `shape` that is zero elsewhere."""
        matrix = self.values.new_zeros(shape or self.shape)
        matrix[:, self.index] = self.values
        return matrix

    def factors(self, width: int) -> LowRank:
        """Return the same change as factors of rank n, of a matrix with so many columns."""
        right = self.values.new_zeros(width, len(self.index))
        right[self.index, torch.arange(len(self.index))] = 1.0
        return LowRank(self.values, right)

    def add_to(self, matrix: Matrix) -> None:
        """Add the columns in place."""
        matrix.index_add_(1, self.index.to(matrix.device), self.values.to(matrix))

    def __mul__(self, factor: float | int) -> Columns:
        return Columns(self.index, self.values * factor)

    def __add__(self, other: object) -> Delta:
        if not isinstance(other, Columns):
            return Delta.__add__(self, other)
        index, inverse = torch.unique(torch.cat([self.index, other.index]), return_inverse=True)
        values = self.values.new_zeros(self.values.shape[0], len(index))
        values.index_add_(1, inverse, torch.cat([self.values, other.values], 1))
        return Columns(index, values)

    def norm(self) -> float:
        """Return the Frobenius norm of the columns."""
        return float(self.values.double().norm())


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Dense(Delta):
    """A change to a whole matrix.

    Args:
        matrix: (out, in).
    """

    matrix: Matrix
    kind: ClassVar[str] = "dense"

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.matrix.shape[0], self.matrix.shape[1]

    def dense(self, shape: tuple[int, int] | None = None) -> Matrix:
        """Return the matrix itself."""
        return self.matrix

    def add_to(self, matrix: Matrix) -> None:
        """Add the matrix in place."""
        matrix.add_(self.matrix.to(matrix))

    def __mul__(self, factor: float | int) -> Dense:
        return Dense(self.matrix * factor)


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Graft:
    """The state of a wrapper around a site; not a sum, so it has no algebra.

    Args:
        wrapper: which wrapper the tensors belong to, such as "melo".
        config: its settings, JSON-able.
        state: its tensors by name.
    """

    wrapper: str
    config: Mapping[str, object]
    state: Mapping[str, Tensor]
    kind: ClassVar[str] = "graft"

    def __repr__(self) -> str:
        return f"<Graft of {self.wrapper}: {len(self.state)} tensors, {self.nbytes:,} bytes>"

    def _no_algebra(self, other: object = None) -> Graft:
        raise TypeError(
            f"a {self.wrapper} graft is a wrapper's state, not a sum: drop its rows instead of adding grafts."
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = _no_algebra

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to store, by name."""
        return dict(self.state)

    @property
    def nbytes(self) -> int:
        """Bytes the state takes when stored."""
        return sum(t.numel() * t.element_size() for t in self.state.values())

    def isfinite(self) -> bool:
        """Say whether every stored number is finite."""
        return all(bool(t.isfinite().all()) for t in self.state.values() if t.is_floating_point())


Change: TypeAlias = LowRank | Columns | Dense | Graft


class Unread(Mapping[Site, Change]):
    """Changes of matrices, none of them a graft, that are read when one is first looked at; their sites are known before.

    Args:
        sites: where they are. read: gives them.
    """

    def __init__(self, sites: Sequence[Site], read: Callable[[], Mapping[Site, Change]]) -> None:
        self._sites, self._read = dict.fromkeys(sites), read

    def __getitem__(self, site: Site) -> Change:
        if site not in self._sites:
            raise KeyError(site)
        return self._read()[site]

    def __contains__(self, site: object) -> bool:
        return site in self._sites

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)


_KINDS: Mapping[str, type[LowRank] | type[Columns] | type[Dense]] = {c.kind: c for c in (LowRank, Columns, Dense)}


def build(kind: str, tensors: Mapping[str, Tensor], meta: Mapping[str, object]) -> Change:
    """Make a change from what `tensors()` gave, as read back from a file; `meta` is used by grafts only."""
    if kind == Graft.kind:
        config = meta.get("config")
        return Graft(str(meta["wrapper"]), config if isinstance(config, dict) else {}, dict(tensors))
    return _KINDS[kind](**tensors)


def total(deltas: Sequence[Change], width: int = 0) -> LowRank | Dense | None:
    """Return the sum of changes to one matrix, factors stacked as long as all have some; None of nothing.

    Grafts are left out. Columns become factors of their own rank; `width` (their matrix's `in`, which they do not know) must be
    given where there may be nothing else.
    """
    sums = [d for d in deltas if not isinstance(d, Graft)]
    whole = [d.shape for d in sums if d.kind != "columns"]
    width = width or max((shape[1] for shape in whole or [d.shape for d in sums]), default=0)
    found: LowRank | Dense | None = None
    for delta in sums:
        part = delta if isinstance(delta, LowRank | Dense) else delta.factors(width)
        added = part if found is None else found + part
        assert isinstance(added, LowRank | Dense)
        found = added
    return found
