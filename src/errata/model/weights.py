"""Matrices as (out, in), the base they can always be returned to, and the edits applied on top.

Nothing is ever taken back by subtraction: ``W += D; W -= D`` leaves about 7 % of entries changed in any float format.
The weights are a pure function of the base and an ordered list of deltas,

    W = cast(W_base + Σ deltas, summed in float32, in order)

and going back means computing that function again. Where W cannot be written, because it is packed in a few bits or lies
elsewhere (`model.storage`), the sum of the deltas stands beside it (`model.additions`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import is_
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from errata.delta import Change, Columns, Dense, Graft, LowRank, Site
from errata.errors import NotFinite, UnknownSite
from errata.model.additions import Additions, of_site
from errata.model.grafts.keyed import KINDS
from errata.model.grafts.standing import Grafts

Deltas = Mapping[Site, Change]
# Rank-one deltas are summed this many columns at a time: one matrix product instead of many, at boundaries that depend
# only on the order of the log, so that the sum is the same however it was arrived at.
CHUNK = 64


@runtime_checkable
class Matrices(Protocol):
    """Where the matrices are."""

    model: nn.Module

    def module(self, site: Site) -> nn.Module:
        """Return a site's module."""

    def parameter(self, site: Site) -> Tensor:
        """Return the live (out, in) view of a site's matrix; of one that cannot be written, its numbers."""

    def shape(self, site: Site) -> tuple[int, int]:
        """Return (out, in) of a site's matrix."""

    def writable(self, site: Site) -> bool:
        """Return whether a site's matrix can be written."""


class _Folded(NamedTuple):
    """A sum that edits after it can only be added to: of the base and the first `edits` edits, on the CPU."""

    edits: int
    total: Tensor


class Weights:
    """The matrices of one model and the grafts beside them: read, edit for a while, set to base + edits.

    The first time a matrix is touched its base is copied to the CPU, bit for bit.

    Attributes:
        grafts: what stands beside the matrices; put on and taken off together with the deltas.
        additions: the deltas of matrices that cannot be written.
    """

    def __init__(self, owner: Matrices) -> None:
        self._owner = owner
        self._base: dict[Site, Tensor] = {}
        self._stood: tuple[Deltas, ...] = ()
        self._folded: dict[Site, _Folded] = {}
        self._beside: dict[Site, None] = {}  # sites that were touched and cannot be written
        self.additions = Additions(owner)
        self.grafts = Grafts(owner, KINDS)

    def __getitem__(self, site: Site) -> Float[Tensor, "out in"]:
        """Return the matrix as it stands now, a live view where it can be written: do not write to it."""
        return self.additions.onto(site, self._owner.parameter(site))

    def base(self, site: Site) -> Float[Tensor, "out in"]:
        """Return the base matrix, on the CPU if it has been touched."""
        return self._base[site] if site in self._base else self._owner.parameter(site)

    def touched(self) -> tuple[Site, ...]:
        """Return the sites that were edited once, whether or not anything stands there now."""
        return (*self._base, *self._beside)

    @property
    def stood(self) -> tuple[Deltas, ...]:
        """The edits that `stand` was last given."""
        return self._stood

    def _touch(self, site: Site) -> bool:
        """Set the base of a site aside if that has not been done; return whether it can be written."""
        if site in self._base:
            return True
        if site in self._beside or not self._owner.writable(site):
            self._beside[site] = None
            return False
        self._base[site] = self._owner.parameter(site).detach().to("cpu", copy=True)
        return True

    def stand(self, edits: Sequence[Deltas]) -> None:
        """Set every touched matrix to base + `edits`, in order, and let exactly their grafts stand.

        Raises:
            NotFinite: a sum is not finite; everything is then back at the base.
            UnknownSite: a delta names a site this model does not have, or has another shape than it.
        """
        same = _beginning(self._stood, edits)
        new = self._by_site(edits[same:])
        self.grafts.stand(edits)
        self._folded = {site: folded for site, folded in self._folded.items() if folded.edits <= same}
        self._stood = tuple(edits)
        with torch.no_grad():
            try:
                for site in dict.fromkeys((*self.touched(), *new)):
                    self._put(site, edits)
            except NotFinite:
                self._reset()
                self.grafts.clear()
                self._stood, self._folded = (), {}
                raise

    def _put(self, site: Site, edits: Sequence[Deltas]) -> None:
        if not self._touch(site):
            self.additions.put(site, of_site(site, edits))
            return
        parameter = self._owner.parameter(site)
        total = self._replayed(site, edits, parameter.device).to(parameter.dtype)
        if not bool(total.isfinite().all()):
            raise NotFinite(f"the edits at {site} do not add up to finite numbers; drop the one named last in the log.")
        parameter.copy_(total)

    def sums(self) -> dict[Site, tuple[int, Tensor]]:
        """Return, for each matrix, the sum of its base and the first edits of those that stand that no later edit can change.

        Each comes with the number of these edits. A matrix of which that is the base alone is left out, and one that cannot
        be written.
        """
        return {site: (folded.edits, folded.total) for site, folded in self._folded.items()}

    def resume(self, edits: Sequence[Deltas], sums: Mapping[Site, tuple[int, Tensor]]) -> None:
        """Take for granted what `sums` gave when `edits` stood, so that `stand` goes on from there.

        The matrices stay as they are until then. Raises UnknownSite as `stand`.
        """
        for site in {site for deltas in edits for site in deltas}:
            self._touch(site)
        self.grafts.stand(edits)
        self._stood = tuple(edits)
        self._folded = {site: _Folded(count, total) for site, (count, total) in sums.items()}

    def _replayed(self, site: Site, edits: Sequence[Deltas], device: torch.device) -> Float[Tensor, "out in"]:
        """Return base + Σ deltas of a site, gone on with from the last sum that no later edit can change."""
        start, kept = self._folded.get(site, _Folded(0, self._base[site]))
        total = kept.to(device, torch.promote_types(kept.dtype, torch.float32), copy=True)
        done, rest = start, None
        for delta, after in _grouped((i + 1, edits[i].get(site)) for i in range(start, len(edits))):
            if after is None:
                rest = delta
            else:
                delta.add_to(total)
                done = after
        if done > start:
            self._folded[site] = _Folded(done, total.to("cpu", copy=True))
        if rest is not None:
            rest.add_to(total)
        return total

    def _by_site(self, edits: Sequence[Deltas]) -> dict[Site, list[Change]]:
        by_site: dict[Site, list[Change]] = {}
        shapes: dict[Site, tuple[int, ...]] = {}  # to look for a matrix takes longer than to add a rank to it
        for deltas in edits:
            for site, delta in deltas.items():
                if isinstance(delta, Graft):
                    continue  # stands beside the matrices
                if site not in shapes:
                    shapes[site] = self._owner.shape(site)
                shape, matrix = delta.shape, shapes[site]
                if shape[0] != matrix[0] or (
                    shape[1] != matrix[1] if delta.kind != "columns" else shape[1] > matrix[1]
                ):
                    raise UnknownSite(
                        f"the delta at {site} is {shape[0]} × {shape[1]}, the model's matrix {matrix[0]} × {matrix[1]}."
                    )
                by_site.setdefault(site, []).append(delta)
        return by_site

    def _reset(self) -> None:
        for site, base in self._base.items():
            self._owner.parameter(site).copy_(base)
        self.additions.clear()

    @contextmanager
    def at_base(self) -> Iterator[None]:
        """Show the base model inside, what stood before afterwards, to the bit."""
        with self._restored(self.touched()), self.grafts.instead(()):
            with torch.no_grad():
                self._reset()
            yield

    @contextmanager
    def trial(self, edits: Sequence[Deltas]) -> Iterator[None]:
        """Add `edits` to what stands now inside, and put it back afterwards, to the bit.

        Raises:
            NotFinite: as `stand`.
        """
        by_site = self._by_site(edits)
        for site in by_site:
            self._touch(site)
        with self._restored(tuple(by_site)), self.grafts.instead((*self.grafts.standing, *edits)):
            with torch.no_grad():
                for site, deltas in by_site.items():
                    self._add(site, deltas)
            yield

    def _add(self, site: Site, deltas: Sequence[Change]) -> None:
        if not self._touch(site):
            self.additions.put(site, (*self.additions.at(site), *deltas))
            return
        parameter = self._owner.parameter(site)
        total = _sum(parameter, deltas).to(parameter.dtype)
        if not bool(total.isfinite().all()):
            raise NotFinite(f"the edit at {site} is not finite; nothing was changed.")
        parameter.copy_(total)

    @contextmanager
    def shown(self, matrices: Mapping[Site, Float[Tensor, "out in"]]) -> Iterator[None]:
        """Show these matrices in place of what stands inside, and put it back afterwards, to the bit."""
        with self._restored(tuple(matrices)):
            with torch.no_grad():
                for site, matrix in matrices.items():
                    if self._owner.writable(site):
                        self._owner.parameter(site).copy_(matrix)
                    else:
                        change = matrix.float() - self._owner.parameter(site).float()
                        self.additions.put(site, [Dense(change)])
            yield

    @contextmanager
    def _restored(self, sites: Sequence[Site]) -> Iterator[None]:
        written = [site for site in sites if self._owner.writable(site)]
        before = {site: self._owner.parameter(site).detach().clone() for site in written}
        beside = {site: self.additions.at(site) for site in sites if site not in before}
        try:
            yield
        finally:
            with torch.no_grad():
                for site, matrix in before.items():
                    self._owner.parameter(site).copy_(matrix)
                for site, deltas in beside.items():
                    self.additions.put(site, deltas)


def _sum(base: Tensor, deltas: Sequence[Change]) -> Float[Tensor, "out in"]:
    """Return base + Σ deltas in float32 (float64 stays)."""
    total = base.detach().to(torch.promote_types(base.dtype, torch.float32), copy=True)
    for delta, _ in _grouped(enumerate(deltas, 1)):
        delta.add_to(total)
    return total


def _beginning(known: Sequence[Deltas], edits: Sequence[Deltas]) -> int:
    """Return how many edits two lists begin with in common: the very same objects."""
    shorter = min(len(known), len(edits))
    if all(map(is_, known, edits)):
        return shorter
    return next((i for i, (a, b) in enumerate(zip(known, edits, strict=False)) if a is not b), shorter)


def _grouped(deltas: Iterable[tuple[int, Change | None]]) -> Iterator[tuple[LowRank | Columns | Dense, int | None]]:
    """Yield the deltas in order, neighbouring low-rank ones stacked into products of at least CHUNK columns.

    With each comes the number of the last delta in it, or None where more of them may join it.
    """
    waiting: list[LowRank] = []
    columns, last = 0, 0
    for number, delta in deltas:
        if isinstance(delta, LowRank):
            waiting.append(delta)
            columns, last = columns + delta.left.shape[1], number
        elif isinstance(delta, Columns | Dense):
            if waiting:
                yield _stacked(waiting), last
                waiting, columns = [], 0
            yield delta, number
        if columns >= CHUNK:
            yield _stacked(waiting), last
            waiting, columns = [], 0
    if waiting:
        yield _stacked(waiting), None


def _stacked(deltas: Sequence[LowRank]) -> LowRank:
    return LowRank(torch.cat([d.left for d in deltas], 1), torch.cat([d.right for d in deltas], 1))


def processor(device: torch.device) -> str:
    """Return the kind of processor that computes on a device: the bits of a sum depend on it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
