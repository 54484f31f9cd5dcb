"""Changes that stand beside matrices that cannot be written: y = W x + Δ x, in every pass from now on.

Δ is a pure function of the deltas that stand at a site, in order: their factors side by side as long as these take less room
than a matrix, one matrix from then on. Where nothing stands no hook is left, and the pass is the model's own to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from errata.delta import Change, Columns, Dense, Graft, LowRank, Site
from errata.errors import NotFinite
from errata.model.storage import device_of
from errata.model.trace import added


@runtime_checkable
class Places(Protocol):
    """All that is used of a model."""

    model: nn.Module

    def module(self, site: Site) -> nn.Module:
        """Return a site's module."""

    def shape(self, site: Site) -> tuple[int, int]:
        """Return (out, in) of a site's matrix."""


class _Standing(NamedTuple):
    """What stands at a site: the deltas, their sum on the site's device, and the hook that adds it."""

    deltas: tuple[Change, ...]
    change: LowRank | Dense
    hook: Any


class Additions:
    """What stands beside the matrices of one model, by site."""

    def __init__(self, owner: Places) -> None:
        self._owner = owner
        self._standing: dict[Site, _Standing] = {}

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where something stands."""
        return tuple(self._standing)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that what stands takes."""
        return sum(standing.change.nbytes for standing in self._standing.values())

    def at(self, site: Site) -> tuple[Change, ...]:
        """Return the deltas that stand at a site."""
        return self._standing[site].deltas if site in self._standing else ()

    def put(self, site: Site, deltas: Sequence[Change]) -> None:
        """Let exactly these deltas stand at a site, in order.

        Raises:
            NotFinite: their sum is not; what stood before then stands still.
        """
        known = self.at(site)
        if len(known) == len(deltas) and all(one is other for one, other in zip(known, deltas, strict=True)):
            return
        change = self._sum(site, deltas) if deltas else None
        if site in self._standing:
            self._standing.pop(site).hook.remove()
        if change is not None:
            hook = added(self._owner.module(site), partial(_applied, change))
            self._standing[site] = _Standing(tuple(deltas), change, hook)

    def clear(self) -> None:
        """Let nothing stand."""
        for site in self.sites:
            self.put(site, ())

    def onto(self, site: Site, matrix: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """Return base + Δ of a site, the matrix itself where nothing stands."""
        if site not in self._standing:
            return matrix
        total = matrix.to(torch.promote_types(matrix.dtype, torch.float32), copy=True)
        self._standing[site].change.add_to(total)
        return total.to(matrix.dtype)

    def _sum(self, site: Site, deltas: Sequence[Change]) -> LowRank | Dense:
        out, width = self._owner.shape(site)
        like = torch.empty(0, dtype=self._wide, device=device_of(self._owner.module(site)))
        parts = [delta.factors(width) if isinstance(delta, Columns) else delta for delta in deltas]
        factors = [part for part in parts if isinstance(part, LowRank)]
        rank = sum(part.left.shape[1] for part in factors)
        if len(factors) == len(parts) and rank * (out + width) < out * width:
            left, right = (torch.cat([getattr(p, name).to(like) for p in factors], 1) for name in ("left", "right"))
            found: LowRank | Dense = LowRank(left, right)
            fits = found.isfinite() and found.norm() < torch.finfo(self._dtype).max
        else:
            total = like.new_zeros(out, width)
            for delta in deltas:
                assert not isinstance(delta, Graft)
                delta.add_to(total)
            found = Dense(total.to(self._dtype))  # as fine as a plain matrix of this model would be
            fits = found.isfinite()
        if not fits:
            raise NotFinite(f"the edits at {site} do not add up to finite numbers; drop the one named last in the log.")
        return found

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self._dtype, torch.float32)

    @property
    def _dtype(self) -> torch.dtype:
        return next(p.dtype for p in self._owner.model.parameters() if p.is_floating_point())


def _applied(change: LowRank | Dense, x: Float[Tensor, "*t in"], y: Float[Tensor, "*t out"]) -> Tensor:
    if isinstance(change, Dense):
        more = x.to(change.matrix) @ change.matrix.T
    else:
        more = (x.to(change.right) @ change.right) @ change.left.T
    return y + more.to(y)


def of_site(site: Site, edits: Sequence[Mapping[Site, Change]]) -> list[Change]:
    """Return the changes of one matrix among those of edits, in order."""
    return [edit[site] for edit in edits if site in edit and not isinstance(edit[site], Graft)]
