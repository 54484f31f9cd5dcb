"""Several methods on the same model and cases, one run each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from errata import methods
from errata.bench.run import CONTROL, Plan, Run
from errata.config import parse_flags
from errata.data.cases import Cases
from errata.errors import BadConfig
from errata.model.loading import load

TellOf = Callable[[str, int, int, float | None], None]


def compare_methods(
    plan: Plan,
    cases: Cases,
    model: str,
    settings: Sequence[str],
    out: Path,
    tell: TellOf | None = None,
) -> dict[str, dict[str, Any]]:
    """Run the methods of `plan.method` (names with commas) one after the other, each in `out`/NAME.

    Args:
        settings: KEY=VALUE for every method, or NAME.KEY=VALUE for one.
        tell: called with (what is done, edits done, edits wanted, seconds left of this method if that can be told).

    Returns:
        the summaries by method, in the order given.

    Raises:
        UnknownMethod, BadConfig, BadFile, BadModel: what was given cannot be used; found before anything is run.
    """
    names = [name.strip() for name in plan.method.split(",") if name.strip()]
    if not names:
        raise BadConfig("no method given; name one or more, such as rome,memit.")
    options = {name: _options(name, names, settings) for name in names}
    if len(cases) < plan.edits:
        raise BadConfig(f"{plan.cases} has {len(cases)} cases, fewer than --edits {plan.edits}; ask for fewer.")
    lm = load(model)
    found = {}
    for number, name in enumerate(names, 1):
        one = replace(plan, method=name, options=options[name])
        what = name if len(names) == 1 else f"{name}, {number} of {len(names)}"
        found[name] = Run(one, lm, list(cases), out / name).go(None if tell is None else partial(tell, what))
    return found


def _options(name: str, names: Sequence[str], settings: Sequence[str]) -> dict[str, Any]:
    """Return the settings meant for one method, as values."""
    mine = []
    for setting in settings:
        owner, dot, rest = setting.partition(".")
        if dot and owner in names:
            mine += [rest] if owner == name else []
        else:
            mine.append(setting)
    if name == CONTROL:
        return {}
    return parse_flags(methods.get(name), mine)
