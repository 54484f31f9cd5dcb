"""Accumulate statistics over a text, batch after batch; interrupted, it goes on to the same bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from errata.delta import Site
from errata.model.lm import LM
from errata.stats import gradients, moments
from errata.stats.gradients import GradientSum
from errata.stats.moments import Growing, keys_of
from errata.stats.stopping import PROBES, Settling
from errata.stats.sums import Sum

By = Literal["settled", "limit", "corpus", "part"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How much was read for a statistic, and why no more.

    Args:
        tokens: read. by: its directions have settled, the number asked for or the largest was reached, the corpus ended, or
            it is of a part of the text only.
        excess: what was left to settle when last looked at (`settling`), or None where nobody looked twice.
    """

    tokens: int
    by: By
    excess: float | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """What a reading goes on from: tensors by name, and values that JSON can hold."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


@runtime_checkable
class Reading(Protocol):
    """Sums over a text for several sites."""

    def add(self, ids: Int[Tensor, "b t"], real: Bool[Tensor, "b t"]) -> None:
        """Take in a batch."""

    @property
    def count(self) -> int:
        """Tokens summed by the site that read most."""

    @property
    def whole(self) -> bool:
        """Say whether `state` would be complete now: no part of what was read waits for more."""

    @property
    def over(self) -> bool:
        """Say whether no site needs more."""

    def state(self) -> Resume:
        """Return what to go on from."""

    def close(self, tokens: int) -> dict[Site, tuple[Sum, Ended]]:
        """Return every site's sum, of a reading that was to take `tokens`."""


@dataclass(slots=True)
class _One:
    """One site's sum, the tokens it is of, how far it has settled, and whether that is far enough."""

    growing: Growing
    read: int = 0  # as many as keys, but of an expert, which not every token opens
    settling: Settling | None = None
    enough: bool = False

    def add(self, keys: Float[Tensor, "t in"], rule: bool) -> None:
        self.growing.add(keys)
        if not rule:
            return
        if self.settling is None:
            self.settling = Settling(keys[:PROBES].float().cpu())
        if self.settling.due(self.growing.count):
            self.enough = self.settling.look(self.growing.moment().mean, self.growing.count)


@dataclass(slots=True)
class MomentReading:
    """Second moments, each site's until its directions have settled if `rule` says so.

    Keys wait until there are enough of them for a product. How many wait when depends on the text alone, so a site's
    moment is the same to the bit whatever other sites are read with it.
    """

    lm: LM
    sites: Sequence[Site]
    rule: bool
    _ones: dict[Site, _One] = field(default_factory=dict)
    _waiting: dict[Site, list[Tensor]] = field(default_factory=dict)
    _waits: int = 0

    def __post_init__(self) -> None:
        self._ones = {site: _One(Growing.empty(self.lm.shape(site)[1])) for site in self.sites}

    @classmethod
    def resume(cls, lm: LM, sites: Sequence[Site], rule: bool, state: Resume) -> MomentReading:
        """Return the reading a state was taken of."""
        found = cls(lm, sites, rule)
        for site in sites:
            kept, tensors = state.values[str(site)], state.tensors
            settling = None
            if kept["seen"] is not None:
                probes, directions = tensors[f"{site} probes"], tensors.get(f"{site} directions")
                settling = Settling(probes, directions, kept["seen"], kept["excess"])
            growing = Growing(tensors[f"{site} upper"], kept["count"])
            found._ones[site] = _One(growing, kept.get("read", growing.count), settling, kept["enough"])
        return found

    def add(self, ids: Int[Tensor, "b t"], real: Bool[Tensor, "b t"]) -> None:
        """Take in a batch, for the sites that need more."""
        for site, keys in keys_of(self.lm, [s for s in self.sites if not self._ones[s].enough], ids, real).items():
            self._waiting.setdefault(site, []).append(keys)
        self._waits += int(real.sum())
        if self._waits >= moments.GATHERED:
            self._multiply()

    def _multiply(self) -> None:
        for site, one in self._ones.items():
            one.read += 0 if one.enough else self._waits
            if site in self._waiting:
                one.add(torch.cat(self._waiting[site]), self.rule)
        self._waiting, self._waits = {}, 0

    @property
    def count(self) -> int:
        """Tokens read for the site that read most, and those that wait."""
        return max(one.read for one in self._ones.values()) + self._waits

    @property
    def whole(self) -> bool:
        """Say whether no key waits."""
        return not self._waits

    @property
    def over(self) -> bool:
        """Say whether every site has settled."""
        return all(one.enough for one in self._ones.values())

    def state(self) -> Resume:
        """Return what to go on from; only when `whole`."""
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {}
        for site, one in self._ones.items():
            tensors[f"{site} upper"] = one.growing.upper
            values[str(site)] = {"count": one.growing.count, "read": one.read, "enough": one.enough, "seen": None}
            if one.settling is not None:
                values[str(site)] |= {"seen": one.settling.seen, "excess": one.settling.excess}
                tensors[f"{site} probes"] = one.settling.probes
                if one.settling.directions is not None:
                    tensors[f"{site} directions"] = one.settling.directions
        return Resume(tensors, values)

    def close(self, tokens: int) -> dict[Site, tuple[Sum, Ended]]:
        """Return every site's moment; this reading is over."""
        self._multiply()
        found: dict[Site, tuple[Sum, Ended]] = {}
        for site in self.sites:
            one = self._ones.pop(site)
            if one.settling is not None and not one.enough and 2 * one.growing.count > 3 * one.settling.seen > 0:
                one.enough = one.settling.look(one.growing.moment().mean, one.growing.count)
            left = one.settling.excess if one.settling is not None else float("nan")
            by: By = "settled" if one.enough else "limit" if one.read >= tokens else "corpus"
            ended = Ended(one.read, by, round(left, 6) if left == left else None)
            found[site] = one.growing.finished(), ended
        return found


@dataclass(slots=True)
class GradientReading:
    """Gradients of the loss on the text."""

    lm: LM
    sites: Sequence[Site]
    _sums: dict[Site, GradientSum] = field(default_factory=dict)

    @classmethod
    def resume(cls, lm: LM, sites: Sequence[Site], state: Resume) -> GradientReading:
        """Return the reading a state was taken of."""
        return cls(lm, sites, {s: GradientSum(state.tensors[str(s)], state.values[str(s)]) for s in sites})

    def add(self, ids: Int[Tensor, "b t"], real: Bool[Tensor, "b t"]) -> None:
        """Take in a batch."""
        found = gradients.of_batch(self.lm, self.sites, ids, real)
        self._sums = {site: self._sums[site] + found[site] if self._sums else found[site] for site in self.sites}

    @property
    def count(self) -> int:
        """Tokens predicted so far."""
        return self._sums[self.sites[0]].count if self._sums else 0

    @property
    def whole(self) -> bool:
        """Nothing waits."""
        return True

    @property
    def over(self) -> bool:
        """There is no rule for gradients."""
        return False

    def state(self) -> Resume:
        """Return what to go on from."""
        return Resume(
            {str(s): g.total for s, g in self._sums.items()}, {str(s): g.count for s, g in self._sums.items()}
        )

    def close(self, tokens: int) -> dict[Site, tuple[Sum, Ended]]:
        """Return every site's sum."""
        empty = {s: GradientSum(torch.zeros(self.lm.weights[s].shape, dtype=torch.float64), 0) for s in self.sites}
        by: By = "limit" if self.count >= tokens else "corpus"
        return {site: (g, Ended(g.count, by)) for site, g in (self._sums or empty).items()}
