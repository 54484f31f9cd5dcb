"""Statistics in parts: processes that know nothing of each other read every N-th batch each, and one adds up what they kept.

    share(lm, wanted, "2/4")         # reads one of four parts; interrupted, it goes on from there
    share(lm, wanted, "all/4")       # adds them up, once their files lie in one directory

The sum is what one process would have found, to the rounding of adding in another order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from errata.delta import Site
from errata.errors import BadConfig, StatsMissing
from errata.model.lm import LM
from errata.stats.accumulate import Ended
from errata.stats.stopping import RULE
from errata.stats.store import PART, Key, Known, Progress, described, directory, ensure, keep, read
from errata.stats.sums import Sum

Kinds = Sequence[Mapping[Site, Key]]  # what a method reads: of each kind, by site


def parsed(part: str) -> tuple[int, int]:
    """Return which part of how many ``"2/4"`` is; 0 of how many for ``"all/4"``.

    Raises:
        BadConfig: it is no such thing.
    """
    found = re.fullmatch(r"(all|[0-9]{1,6})/([0-9]{1,6})", part)
    number, of = (0 if found[1] == "all" else int(found[1]) or -1, int(found[2])) if found else (-1, 0)
    if not 0 <= number <= of or not of:
        raise BadConfig(f"{part!r} is no part: give 1/4 to 4/4 to read one of four, then all/4 to put them together.")
    return number, of


def of_part(wanted: Kinds, number: int, of: int) -> list[dict[Site, Key]]:
    """Return what one part of each statistic is known by.

    Raises:
        BadConfig: a covariance is to be read until it has settled, which no part can know.
    """
    if any(key.rule == RULE for named in wanted for key in named.values()):
        raise BadConfig("parts of a text need a number of tokens: set tokens=N, for every part and when writing.")
    return [{site: _piece(key, number, of) for site, key in named.items()} for named in wanted]


def share(lm: LM, wanted: Kinds, part: str, progress: Progress | None = None) -> dict[str, dict[str, Any]]:
    """Read one of N parts of the text for each statistic, or add all of them up; return how each ended.

    Args:
        part: ``"I/N"`` or ``"all/N"``.

    Raises:
        BadConfig: it is no part, or no number of tokens was set. StatsMissing: a part that is to be added up is not there,
        or none has read anything. What `store.ensure` raises.
    """
    number, of = parsed(part)
    parts = of_part(wanted, max(1, number), of)
    for named in parts if number else ():
        ensure(lm, named, progress)
    for key in () if number else [key for named in wanted for key in named.values()]:
        lm.memory[key] = _added(key, of)
        keep(key, *lm.memory[key])
    return {label: row for named in (parts if number else wanted) for label, row in described(lm, named).items()}


def _added(key: Key, of: int) -> Known:
    """Return the sum of all parts."""
    total: Sum | None = None
    tokens, missing = 0, []
    for number in range(1, of + 1):
        found = read(_piece(key, number, of))
        if found is None:
            missing.append(f"{number}/{of}")
        else:
            total = found[0] if total is None else total + found[0]
            tokens += found[1].tokens
    if missing or total is None:
        raise StatsMissing(
            f"of {key.label} {', '.join(missing[:9])}{' …' if missing[9:] else ''} "
            f"{'are' if missing[1:] else 'is'} not in {directory()}: read what is missing, or copy it there."
        )
    if not tokens:
        raise StatsMissing(f"no part has read any text for {key.label}; name a corpus with text in it.")
    return total, Ended(tokens, "limit" if tokens >= key.tokens else "corpus")


def _piece(key: Key, number: int, of: int) -> Key:
    return replace(key, rule=f"{PART}{number}/{of}")
