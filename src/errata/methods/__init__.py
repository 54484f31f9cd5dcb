"""The methods: every module of this folder, but not of `shared`, that defines a `Method` with a name.

Outside packages add theirs through the entry point group ``errata.methods`` (module or class); see `errata.plugins`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import isabstract
from typing import TypeGuard

from errata import plugins
from errata.config import from_dict
from errata.edit import Edit
from errata.errors import UnknownMethod, did_you_mean
from errata.methods.base import BELOW, Method, Solution
from errata.methods.shared.presets import presets
from errata.model.fold import fold
from errata.model.lm import LM

__all__ = ["Method", "Solution", "get", "make", "names", "presets", "rebuilt"]


def _own() -> dict[str, type[Method]]:
    files = (m.name for m in pkgutil.iter_modules(__path__) if m.name != "base" and not m.ispkg)
    found = (c for name in files for c in vars(import_module(f"{__name__}.{name}")).values() if _named(c))
    return {c.name: c for c in found}


def _named(value: object) -> TypeGuard[type[Method]]:
    return isinstance(value, type) and issubclass(value, Method) and "name" in vars(value)


def _unfolded(value: object) -> Mapping[str, type[Method]]:
    """Return the methods that a plugin's module or class gives; what it merely imports from here is none of its own."""
    own = f"{__name__}."
    found = [c for c in plugins.things(value) if _named(c) and not c.__module__.startswith(own)]
    if not found:
        raise TypeError("it gives no subclass of errata.sdk.Method that has a name")
    if unfinished := [c.__name__ for c in found if isabstract(c)]:
        raise TypeError(f"{', '.join(unfinished)} does not say its sites() or compute()")
    return {c.name: c for c in found}


def _found() -> dict[str, type[Method]]:
    own = _own()
    added = plugins.installed(__name__, {*own, *presets()}, _unfolded)
    return {**own, **{name: one.value for name, one in added.items()}}


def names() -> list[str]:
    """Return the names of all methods, sorted."""
    return sorted(_found())


def get(name: str) -> type[Method]:
    """Return the method of that name, or the one whose preset has it.

    Raises:
        UnknownMethod: there is none; the message proposes the nearest.
    """
    own, named = _own(), presets()
    wanted = named[name].method if name in named and name not in own else name
    found = own if wanted in own else _found()  # plugins are looked at only where they are asked for
    if wanted in found:
        return found[wanted]
    known = ", ".join(sorted(found))
    raise UnknownMethod(f"no method {name!r}.{did_you_mean(name, [*found, *named])} Known: {known}.")


def make(name: str, options: dict[str, object]) -> Method:
    """Return a method with some settings given; of a preset, these in place of its own.

    Raises:
        UnknownMethod: no such method. BadConfig: no such setting, or a value it cannot take.
    """
    named = {} if name in _own() else presets()
    return from_dict(get(name), {**(named[name].settings if name in named else {}), **options})


def rebuilt(lm: LM, edits: Sequence[Edit]) -> list[Edit]:
    """Return the edits that stand, oldest first, each with the deltas it has on top of those below it.

    That is what was stored, except where an edit of a method that shares one solution among its edits was dropped.
    """

    def entered(known: set[str], edit: Edit) -> set[str]:
        return known | {edit.method} if BELOW in edit.carry else known

    # What is derived from a derived edit is another, and would be remembered under the same ids.
    edits = [edit.as_written for edit in edits]
    needed: set[str] = fold(lm, "rebuilt", edits, set, entered)
    for name in sorted(needed):
        edits = get(name).rebuild(lm, edits)
    return edits
