"""What callers hand to an editor, as what it is taken for, or refused in a sentence before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, Final

from errata import methods
from errata.config import from_dict, to_dict
from errata.display import short
from errata.edit import Edit, Label, split
from errata.editing.gates import Gates
from errata.errors import BadConfig, BadFact, InputError
from errata.fact import Fact, checked_text
from errata.methods.base import Method
from errata.model.tokens import Room

LARGEST: Final = 3.4e38  # of float32
Facts = Fact | Mapping[str, Any] | Sequence[Fact | Mapping[str, Any]]


def facts_of(given: object) -> list[Fact]:
    """Return the facts of a list, of one, or of dictionaries with a fact's fields.

    Raises:
        BadFact: there is something else among them.
    """
    several = isinstance(given, Sequence) and not isinstance(given, str | bytes) and not _is_triple(given)
    return [_fact(one) for one in given] if several else [_fact(given)]  # type: ignore[attr-defined]


def _is_triple(given: Sequence[object]) -> bool:
    return 1 < len(given) < 4 and all(isinstance(one, str) for one in given)


def _fact(given: object) -> Fact:
    if isinstance(given, Fact):
        return given
    if isinstance(given, Mapping):
        return Fact.from_dict(given)
    how = "write Fact(prompt=…, subject=…, target=…), or a dict with these"
    if isinstance(given, Edit):
        raise BadFact(f"edit {given.id[:8]} is written already: give its facts (edit.facts) to write them anew.")
    if isinstance(given, Path):
        raise BadFact(f"{given} is a file: errata.data.facts.read_facts reads the facts in it.")
    if isinstance(given, str):
        raise BadFact(f"{short(given)!r} is a text, which does not say where the answer begins: {how}.")
    raise BadFact(f"{short(repr(given))} is no fact: {how}.")


def parts_of(given: object) -> list[Edit | list[Fact]]:
    """Return what is tried one after the other: edits, and lists of facts; a fact alone is a list of one."""
    if isinstance(given, str | Mapping | Fact | Edit) or not isinstance(given, Sequence):
        given = [given]
    return [one if isinstance(one, Edit) else facts_of(one) for one in given]


def edits_of(given: object) -> list[Edit]:
    """Return edits that are to stand; raises InputError for what is none."""
    found: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    for one in found:
        if not isinstance(one, Edit):
            raise InputError(f"{short(repr(one))} is no edit: give edits, such as those of editor.standing.")
    return found


def method_of(given: object, options: Mapping[str, Any], corpus: str | None = None) -> Method:
    """Return a method with settings: of a name, of a class, or of a method that has some already.

    Args:
        corpus: what statistics are taken from where the method takes them and no setting says.

    Raises:
        UnknownMethod, BadConfig: as `errata.methods.make`. InputError: it is no method.
    """
    _check_numbers(options)
    if isinstance(given, type) and issubclass(given, Method):
        given = given()
    if isinstance(given, Method):
        return replace(from_dict(type(given), {**to_dict(given), **options})) if options else given
    if not isinstance(given, str):
        raise InputError(f"a method is named, as errata.methods.names() lists them, or is a Method, not {given!r}.")
    known = methods.get(given).__dataclass_fields__
    return methods.make(given, {**({"corpus": corpus} if corpus and "corpus" in known else {}), **options})


def _check_numbers(options: Mapping[str, Any]) -> None:
    """Raise BadConfig for a number that no tensor holds."""
    for name, value in options.items():
        whole = type(value) is int and not -(2**63) <= value < 2**63
        if whole or (type(value) is float and LARGEST < abs(value) < inf):
            raise BadConfig(f"{name} = {value:g} is larger than any number that is computed with: give a smaller one.")


def label_of(label: object, settings: Mapping[str, Any]) -> tuple[Label, dict[str, Any]]:
    """Return the label with what the settings say of it, and the settings without that.

    Raises:
        InputError: as `Label`, or it is none.
    """
    if not isinstance(label, Label | None):
        raise InputError(f"a label is Label(author=…, reason=…, …), not {short(repr(label))}.")
    words, rest = split(settings)
    return replace(label or Label(), **words.to_dict()), rest


def check_how(gates: object, progress: object) -> None:
    """Raise InputError unless gates are `Gates` and what is told of progress can be called."""
    if not isinstance(gates, Gates | None):
        raise InputError(f"gates are Gates(said=…, …), or errata.editing.gates.read(file), not {short(repr(gates))}.")
    if progress is not None and not callable(progress):
        raise InputError(f"progress is a function that is told how far it is, not {progress!r}.")


def check_editor(author: object, limit: object, corpus: object) -> None:
    """Raise InputError for settings that are no settings of an editor."""
    for name, text in (("author", author), ("corpus", corpus)):
        if not isinstance(text, str | None):
            raise InputError(f"the {name} is text, not {text!r}.")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
        raise InputError(f"max_norm_ratio is a number above 0, not {limit!r}.")


def prompt_of(prompt: object, most: int | Room, top: object) -> str:
    """Return a prompt that can be asked, with so many tokens of an answer and so many of the likeliest.

    Raises:
        InputError: the prompt is empty, or a number is none. BadFact: the prompt is no text.
    """
    if isinstance(prompt, list | tuple):
        raise InputError("ask takes one prompt: ask them one by one.")
    if isinstance(prompt, Fact):
        raise InputError("ask takes a text: give the fact's prompt, as in ask(fact.prompt).")
    if not checked_text("prompt", prompt).strip():
        raise InputError("the prompt is empty; ask something.")
    for name, number, least in (("max_new_tokens", most, 1), ("top", top, 0)):
        if not isinstance(number, Room) and (type(number) is not int or number < least):
            raise InputError(f"{name} is a whole number from {least} on, not {number!r}.")
    return str(prompt)


def staged(progress: Callable[[str, int, int], None] | None, what: str) -> Callable[[int, int], None] | None:
    """Return what is told (done, wanted) of one stage of an editor's work."""
    return None if progress is None else lambda done, wanted: progress(what, done, wanted)
