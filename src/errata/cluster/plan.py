"""A sweep's plan: methods × settings × models × cases × seeds, read from TOML, and everything wrong with it said at once.

methods = ["none", "rome", "memit"]
models = ["primer"]
cases = ["primer:100"]
seeds = [0, 1, 2]
edits = 100

[settings.memit]                 # optional; several tables [[settings]] are tried one after the other
weight = 100
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any, Final

from errata import methods
from errata.bench.run import CONTROL, Plan
from errata.config import from_dict
from errata.content import read_file
from errata.data.case import Case, with_subject
from errata.data.cases import parse
from errata.errors import BadConfig, BadFile, ErrataError
from errata.model.lm import LM
from errata.model.loading import look
from errata.stats.corpus import open_corpus

MOST: Final = 1 << 20  # bytes of a plan that are read
Variant = Mapping[str, Any]  # settings by name, or by method and name


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What is to be compared. `methods`, `models`, `cases` and `edits` must be given.

    What `errata bench` has by the same name means the same here; `device` and `dtype` are as in `errata ask`.

    Args:
        threads: of the processor a job computes with. Sums depend on it, so it belongs to a job; small models want one.
    """

    methods: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    edits: int = field(default=0, metadata={"least": 1})
    seeds: tuple[int, ...] = (0,)
    batch: int = field(default=1, metadata={"least": 1})
    checkpoints: tuple[int, ...] = Plan(method="none").checkpoints
    independent: bool = False
    generation: bool = False
    stop_at_perplexity: float | None = None
    text: str = "primer"
    threads: int = field(default=1, metadata={"least": 1})
    device: str | None = None
    dtype: str | None = None

    def runs(self, variants: Sequence[Variant]) -> Iterator[Plan]:
        """Yield what `errata bench` would be asked of a model, one run after the other, each once; `read` gives variants."""
        seen = set()
        common = "edits batch checkpoints independent generation stop_at_perplexity text".split()
        shared = {name: getattr(self, name) for name in common}
        for cases, seed, method, variant in product(self.cases, self.seeds, self.methods, variants):
            options = settings_of(method, variant, self.methods)
            if (key := (cases, seed, method, repr(sorted(options.items())))) not in seen:
                seen.add(key)
                yield Plan(method=method, options=options, cases=cases, seed=seed, **shared)


def settings_of(method: str, variant: Variant, names: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a variant that are meant for one method: those of its own table, and those of no method's."""
    if method == CONTROL:
        return {}
    common = {key: value for key, value in variant.items() if key not in names and not isinstance(value, dict)}
    return {**common, **variant.get(method, {})}


def read(path: Path) -> tuple[SweepPlan, list[Variant]]:
    """Read a plan and its variants of settings.

    Raises:
        BadFile: it cannot be read. BadConfig: everything wrong with it that shows without a model, in one message.
    """
    try:
        table = tomllib.loads(read_file(path, MOST).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(f"cannot read a plan from {path} ({error}).") from error
    wrong: list[str] = []
    given = table.pop("settings", [])
    variants = given if isinstance(given, list) else [given]
    plan = _fields(table, wrong)
    if not all(isinstance(variant, dict) for variant in variants):
        wrong.append("settings is a table, or several: write [settings.METHOD] or [[settings]].")
        variants = []
    variants = variants or [{}]
    wrong += _unmade(plan, variants)
    refuse(path, wrong)
    return plan, variants


def refuse(path: Path, wrong: Sequence[str]) -> None:
    """Raise BadConfig with everything that is wrong with a plan, if anything is."""
    found = list(dict.fromkeys(wrong))
    if len(found) == 1:
        raise BadConfig(f"{path} has a mistake, and nothing was run: {found[0]}")
    if found:
        listed = " ".join(f"({number}) {said}" for number, said in enumerate(found, 1))
        raise BadConfig(f"{path} has {len(found)} mistakes, and nothing was run: {listed}")


def _fields(table: Mapping[str, Any], wrong: list[str]) -> SweepPlan:
    """Return the plan as far as it can be read, looking at each key by itself so that every mistake is named."""
    good: dict[str, Any] = {}
    for key, value in table.items():
        try:
            one = from_dict(SweepPlan, {key: value})
        except BadConfig as error:
            wrong.append(str(error).replace("SweepPlan has no setting", "a plan has no key"))
            continue
        good[key] = getattr(one, key)
    for f in fields(SweepPlan):
        value = good.get(f.name, f.default)
        if value == () or (f.name == "edits" and f.name not in table):
            wrong.append(f"it names no {f.name}: give {'a number' if f.name == 'edits' else 'one or more in a list'}.")
        elif isinstance(value, tuple) and len(set(value)) < len(value):
            wrong.append(f"{f.name} names something twice: give each once.")
        elif "least" in f.metadata and f.name in good and value < f.metadata["least"]:
            wrong.append(f"{f.name} = {value} makes no sense: it is at least {f.metadata['least']}.")
    return SweepPlan(**good)


def _unmade(plan: SweepPlan, variants: Sequence[Variant]) -> Iterator[str]:
    """Yield what is wrong with methods and their settings, with cases and with the text, none of which needs a model."""
    for variant in variants:
        known = {key: value for key, value in variant.items() if isinstance(value, dict) and key not in plan.methods}
        yield from (f"settings.{key} is of no method that the plan names." for key in known)
        for method in plan.methods:
            settings = settings_of(method, variant, plan.methods)
            # One by one first, so that each is named; then together.
            each = [said for key in settings for said in _said(lambda k=key: _made(method, {k: settings[k]}, plan))]  # noqa: B023
            yield from each or _said(lambda: _made(method, settings, plan))  # noqa: B023
    if min(plan.checkpoints, default=1) < 1:
        yield "checkpoints are numbers of edits, from 1."
    for cases, seed in product(plan.cases, plan.seeds[:1]):
        yield from _said(lambda c=cases, s=seed: _enough(c, s, plan.edits))
    yield from _said(lambda: open_corpus(plan.text))
    for model in plan.models:
        yield from _said(lambda m=model: look(m))


def _said(look: Any) -> list[str]:
    """Return what a look at something raises, as a list of one; nothing if it is well."""
    try:
        look()
    except (ErrataError, OSError) as error:
        return [str(error)]
    return []


def _made(method: str, settings: Mapping[str, Any], plan: SweepPlan) -> Any:
    if method == CONTROL:
        return None
    made = methods.make(method, dict(settings))
    if plan.batch > 1 and not made.batched:
        raise BadConfig(f"{method} writes one fact at a time: leave batch = {plan.batch} out, or the method.")
    return made


def _enough(cases: str, seed: int, edits: int) -> None:
    found = parse(cases, seed=seed)
    if len(found) < edits:
        raise BadConfig(f"{cases} has {len(found)} cases, fewer than edits = {edits}: ask for fewer.")


def misfits(lm: LM, runs: Sequence[Plan], cases: Mapping[tuple[str, int], Sequence[Case]]) -> list[str]:
    """Return what is wrong with runs on a model: methods and settings that do not fit it, cases that cannot be edited."""
    wrong = []
    for plan in runs:
        if plan.method == CONTROL:
            continue
        wrong += _said(lambda p=plan: methods.make(p.method, dict(p.options)).resolve(lm))
        given = cases[plan.cases, plan.seed][: plan.edits]
        if methods.get(plan.method).located and not with_subject(given, plan.method)[0]:
            wrong.append(f"{plan.method} can edit none of the cases of {plan.cases}: they name no subject.")
    return wrong
