"""Plugins: what other packages add through entry points, without a word changed here.

    installed("errata.methods", taken=("rome", "memit"))      # {"nudge": Added(<class Nudge>, "nudge-edits", "1.0")}

Four groups: ``errata.methods``, ``errata.readers``, ``errata.exports`` and ``errata.metrics``; `errata.sdk` has what they are
written with. A plugin adds and never replaces: a name that errata has itself, or that an earlier package has, is left out, and
so is what cannot be imported. What is left out is named in a `PluginWarning`, which the command line shows as a note.

``ERRATA_PLUGINS=none`` leaves all of them out, ``ERRATA_PLUGINS=one-package,another`` all but those.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Final

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.+-]{0,63}", re.ASCII)
Unfold = Callable[[Any], Mapping[str, Any]]


class PluginWarning(UserWarning):
    """Something that a package adds to errata is left out; the message says what, and why."""


@dataclass(frozen=True, slots=True)
class Added:
    """What a package adds: the thing, and the package's name and version."""

    value: Any
    package: str
    version: str


def installed(group: str, taken: Collection[str], unfold: Unfold) -> dict[str, Added]:
    """Return what the installed packages add to a group, by name; packages in the order of their names.

    Args:
        group: of entry points. taken: names that are errata's own.
        unfold: from what an entry point leads to, to the things it adds by name; what it raises is told as the reason.
    """
    found: dict[str, Added] = {}
    for point in _points(group):
        package = _package(point)
        for name, value in _things(point, unfold).items():
            if why := _refused(name, taken, found):
                _leave_out(point, f"{name!r} is {why}")
            else:
                found[name] = Added(value, package, point.dist.version if point.dist else "")
    return found


def _refused(name: object, taken: Collection[str], found: Mapping[str, Added]) -> str:
    """Return why a name cannot be had, or ""."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return "no name: lower-case letters, digits, and - _ . + after the first"
    if name in taken:
        return "a name of errata's own, which no plugin replaces"
    return f"a name that {found[name].package} has already" if name in found else ""


def _points(group: str) -> list[EntryPoint]:
    """Return the entry points of the packages that may add something, sorted by package and name."""
    wanted = os.environ.get("ERRATA_PLUGINS", "all").strip().lower()
    if wanted == "none":
        return []
    only = None if wanted in ("", "all") else {_canonical(word) for word in wanted.split(",")}
    points = sorted(entry_points(group=group), key=lambda point: (_canonical(_package(point)), point.name, point.value))
    return [point for point in points if only is None or _canonical(_package(point)) in only]


def _things(point: EntryPoint, unfold: Unfold) -> Mapping[str, Any]:
    value, problem = _loaded(point)
    if not problem:
        try:
            return unfold(value)
        except Exception as error:
            problem = f"{error}"
    _leave_out(point, problem)
    return {}


@cache
def _loaded(point: EntryPoint) -> tuple[Any, str]:
    """Return what an entry point leads to, or why it leads nowhere; imported once, broken or not."""
    try:
        return point.load(), ""
    except (Exception, SystemExit) as error:  # a stranger's module may do anything while it is imported
        return None, f"{type(error).__name__}: {error}"


def _leave_out(point: EntryPoint, why: str) -> None:
    where, said = f"{point.value}, {point.group}", " ".join(why.split()).rstrip(".")
    message = f"the plugin {point.name!r} of {_package(point)} ({where}) is left out: {said}."
    warnings.warn(message, PluginWarning, stacklevel=2)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.module.partition(".")[0]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def made_by(group: str, module: str) -> dict[str, str]:
    """Return name and version of the package that adds a module to a group; nothing for what is errata's own."""
    top = module.partition(".")[0]
    points = [] if top == "errata" else _points(group)
    return {p.dist.name: p.dist.version for p in points if p.dist and p.module.partition(".")[0] == top}


def things(value: object) -> list[object]:
    """Return what an entry point leads to, and of a module everything in it."""
    return list(vars(value).values()) if isinstance(value, ModuleType) else [value]
