"""The methods: every module of this folder, but not of `shared`, that defines a `Method` with a name.

Outside packages add theirs through the entry point group ``errata.methods`` (module or class).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType

from errata.config import from_dict
from errata.edit import Edit
from errata.errors import UnknownMethod, did_you_mean
from errata.methods.base import BELOW, Method, Solution
from errata.methods.shared.presets import presets
from errata.model.fold import fold
from errata.model.lm import LM

__all__ = ["Method", "Solution", "get", "make", "names", "presets", "rebuilt"]


def _modules() -> list[object]:
    files = (m.name for m in pkgutil.iter_modules(__path__) if m.name != "base" and not m.ispkg)
    own: list[object] = [import_module(f"{__name__}.{name}") for name in files]
    return own + [point.load() for point in entry_points(group=__name__)]


def _found() -> dict[str, type[Method]]:
    classes: list[object] = []
    for found in _modules():
        classes += vars(found).values() if isinstance(found, ModuleType) else [found]
    return {c.name: c for c in classes if isinstance(c, type) and issubclass(c, Method) and "name" in vars(c)}


def names() -> list[str]:
    """Return the names of all methods, sorted."""
    return sorted(_found())


def get(name: str) -> type[Method]:
    """Return the method of that name, or the one whose preset has it.

    Raises:
        UnknownMethod: there is none; the message proposes the nearest.
    """
    found = _found()
    if name in found:
        return found[name]
    named = presets()
    if name in named:
        return found[named[name].method]
    known = ", ".join(sorted(found))
    raise UnknownMethod(f"no method {name!r}.{did_you_mean(name, [*found, *named])} Known: {known}.")


def make(name: str, options: dict[str, object]) -> Method:
    """Return a method with some settings given; of a preset, these in place of its own.

    Raises:
        UnknownMethod: no such method. BadConfig: no such setting, or a value it cannot take.
    """
    named = {} if name in _found() else {preset.name: preset for preset in presets().values()}
    return from_dict(get(name), {**(named[name].settings if name in named else {}), **options})


def rebuilt(lm: LM, edits: Sequence[Edit]) -> list[Edit]:
    """Return the edits that stand, oldest first, each with the deltas it has on top of those below it.

    That is what was stored, except where an edit of a method that shares one solution among its edits was dropped.
    """

    def entered(known: set[str], edit: Edit) -> set[str]:
        return known | {edit.method} if BELOW in edit.carry else known

    needed: set[str] = fold(lm, "rebuilt", edits, set, entered)
    for name in sorted(needed):
        edits = get(name).rebuild(lm, edits)
    return list(edits)
