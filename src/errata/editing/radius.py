"""Calibrate the radius of routed edits: distances of keys from prompts to rephrasings and to other texts.

found = reach(lm, facts, "melo")
found.radius                               # what `radius="auto"` takes, on average over the facts
found.draw("radius.svg")                   # both distributions and the radius; needs errata-lm[plot]
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from errata import methods
from errata.delta import Site
from errata.editing.pictures import picture
from errata.editing.writing import check_fits
from errata.errors import BadConfig, BadFact
from errata.fact import Fact
from errata.methods.shared.parts import RoutedByParts
from errata.methods.shared.routed import Routed
from errata.model.lm import LM

SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class Reach:
    """Distances of keys on one model, at the site a method reads them.

    Args:
        site: where. facts: of how many. radius: the mean of those calibrated for each.
        near: from a prompt to other wordings of it. far: to texts no edit is about, or where keys are in two parts to other
            questions about the subject. parted: whether they are.
    """

    method: str
    site: str
    facts: int
    radius: float
    near: tuple[float, ...]
    far: tuple[float, ...]
    parted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-able, each distribution by its quantiles."""
        shown = {name: {f"{s:.0%}": _quantile(d, s) for s in SHARES} for name, d in self._distances().items()}
        return {"method": self.method, "site": self.site, "facts": self.facts, "radius": self.radius, **shown}

    def _distances(self) -> dict[str, tuple[float, ...]]:
        return {"rephrasings": self.near, "other questions" if self.parted else "other texts": self.far}

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Write both distributions as a picture, PNG or SVG by the file's name.

        Raises:
            InputError: another kind of file, or matplotlib is not installed.
        """
        return picture(path, self._drawn, figsize=(6, 3))

    def _drawn(self, figure: Any) -> None:
        axis = figure.subplots()
        edges = [max(self.far) * i / 40 for i in range(41)]
        for name, distances in self._distances().items():
            weights = [1 / len(distances)] * len(distances)
            axis.hist(distances, edges, weights=weights, alpha=0.6, label=f"to {name}")
        axis.axvline(self.radius, color="black", linestyle="--", label=f"radius {self.radius:.3g}")
        axis.set(xlabel=f"distance of keys at {self.site}", ylabel="share")
        axis.legend(frameon=False)


def reach(lm: LM, facts: Sequence[Fact], method: str = "melo", **options: Any) -> Reach:
    """Measure how far the keys of prompts lie from those of rephrasings and of other texts.

    Args:
        options: settings of the method, such as ``corpus`` and ``index``.

    Raises:
        BadConfig: no facts, or a method whose edits are not opened by a key within a radius. BadFact: a fact is too long.
    """
    fields = methods.get(method).__dataclass_fields__
    how = methods.make(method, {**options, "radius": "auto"} if "radius" in fields else {})
    if not isinstance(how, Routed):
        raise BadConfig(f"{method} has no radius to look at; take melo or grace.")
    if not facts:
        raise BadConfig("there are no facts to look at.")
    check_fits(lm, facts)
    found = how.resolve(lm)
    parted = isinstance(found, RoutedByParts) and found.parted(lm) and all(fact.subject for fact in facts)
    site, measured = _by_parts(lm, found, facts) if parted else _by_prompt(lm, found, facts)
    near, far = (tuple(sorted(d for _, *sides in measured for d in sides[side])) for side in (0, 1))
    if not near:
        raise BadFact(f"no other wording of these facts fits into {lm.name}: shorten their prompts or rephrases.")
    return Reach(method, str(site), len(facts), sum(radius for radius, *_ in measured) / len(facts), near, far, parted)


Measured: TypeAlias = list[tuple[float, list[float], list[float]]]  # of each fact: radius, near, far


def _by_prompt(lm: LM, how: Routed, facts: Sequence[Fact]) -> tuple[Site, Measured]:
    site, entering = how.keyed_at()
    found = [how.calibrated(lm, site, [fact], entering) for fact in facts]
    return site, [(radius, shown["distances"]["near"], shown["distances"]["far"]) for radius, shown in found]


def _by_parts(lm: LM, how: Routed, facts: Sequence[Fact]) -> tuple[Site, Measured]:
    assert isinstance(how, RoutedByParts)
    found = [how.distances(lm, how.keyed_at()[0].layer, fact) for fact in facts]
    return found[0][0].question, [(gauge.radius, near, far) for gauge, near, far in found]


def _quantile(sorted_: Sequence[float], share: float) -> float:
    return sorted_[round(share * (len(sorted_) - 1))]
