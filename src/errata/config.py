"""Settings: a flat frozen dataclass, and back again from dictionaries, TOML and `key=value` flags.

    @dataclass(frozen=True)
    class Rome:
        lr: float = field(default=0.5, metadata={"help": "step size"})
        layers: tuple[int, ...] | Literal["auto"] = "auto"

    from_flags(Rome, ["lr=0.1", "layers=3,4"])  # Rome(lr=0.1, layers=(3, 4))

A field may be bool, int, float, str, a Literal, `tuple[int, ...]`, `tuple[str, ...]` (any of these as elements), or a
union of them with None. What is unknown or does not fit raises BadConfig; nothing is ever evaluated.
"""

from __future__ import annotations

import json
import math
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from errata.errors import BadConfig, did_you_mean

T = TypeVar("T")

_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
_NO_MATCH: Final = object()


def to_dict(cfg: Any) -> dict[str, Any]:
    """Return the settings as a JSON-able dictionary; tuples become lists."""
    values = {f.name: getattr(cfg, f.name) for f in _settings(type(cfg))}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def from_dict(cls: type[T], mapping: Mapping[str, Any]) -> T:
    """Make the settings from a dictionary; fields left out keep their defaults.

    Raises:
        BadConfig: an unknown key, a missing one without default, or a value that does not fit its field.
    """
    known = {f.name: f for f in _settings(cls)}
    values = {}
    for key, raw in mapping.items():
        kind = _type_of(cls, key)
        value = _fit(kind, raw)
        if value is _NO_MATCH:
            raise BadConfig(
                f"{cls.__name__}: {key} = {raw!r} does not fit; it takes {_type_text(kind)}.{_hint(kind, raw)}"
            )
        values[key] = value
    missing = [name for name, f in known.items() if name not in values and _default(f) is MISSING]
    if missing:
        raise BadConfig(f"{cls.__name__} needs {', '.join(missing)}: give a value.")
    return _build(cls, values)


def from_flags(cls: type[T], flags: Sequence[str]) -> T:
    """Make the settings from `["lr=0.5", "layers=3,4,5", "variant=masked", "limit=none"]`; the rest are defaults.

    Raises:
        BadConfig: a flag without "=", a key given twice, an unknown key, or a value that its field cannot hold.
    """
    return from_dict(cls, parse_flags(cls, flags))


def parse_flags(cls: type[Any], flags: Sequence[str]) -> dict[str, Any]:
    """Return only what the flags say, as typed values by field name; raises BadConfig as `from_flags` does."""
    values: dict[str, Any] = {}
    for flag in flags:
        key, equals, text = flag.partition("=")
        key, text = key.strip().replace("-", "_"), text.strip()
        if not equals or not key:
            raise BadConfig(f"cannot read {flag!r}: write KEY=VALUE.")
        kind = _type_of(cls, key)
        if key in values:
            raise BadConfig(f"{key} is set twice: give it once.")
        value = _parse(kind, text)
        if value is _NO_MATCH:
            raise BadConfig(
                f"{cls.__name__}: cannot read {key}={text}; it takes {_type_text(kind)}.{_hint(kind, text)}"
            )
        values[key] = value
    return values


def check_types(cfg: Any) -> None:
    """Raise BadConfig unless every field of a settings object holds what its type says; to be called when one is made."""
    for f in _settings(type(cfg)):
        kind, value = _type_of(type(cfg), f.name), getattr(cfg, f.name)
        if _fit(kind, value) is _NO_MATCH:
            raise BadConfig(f"{type(cfg).__name__}: {f.name} = {value!r} does not fit; it takes {_type_text(kind)}.")


def to_toml(cfg: Any) -> str:
    """Return the settings as TOML text, one line a field.

    TOML has no null: a field that is None is left out, or says "none" where leaving it out would mean another default.

    Raises:
        BadConfig: a field is None, its default is not, and "none" would be read back as text.
    """
    lines = []
    for f in _settings(type(cfg)):
        value = getattr(cfg, f.name)
        if value is None and _default(f) in (None, MISSING):
            continue
        if value is None and _fit(_type_of(type(cfg), f.name), "none") is not _NO_MATCH:
            raise BadConfig(f"TOML cannot say that {f.name} is none, as that reads as text: choose a value.")
        lines.append(f"{f.name} = {_toml('none' if value is None else value)}\n")
    return "".join(lines)


def from_toml(cls: type[T], text: str) -> T:
    """Make the settings from TOML text; raises BadConfig for broken TOML and for what `from_dict` refuses."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, or brackets without end
        raise BadConfig(f"the settings are not valid TOML: {error}.") from error
    for f in _settings(cls):
        kind = _type_of(cls, f.name)
        if _fit(kind, None) is None:
            if _default(f) is MISSING:
                table.setdefault(f.name, None)
            if table.get(f.name) == "none" and _fit(kind, "none") is _NO_MATCH:
                table[f.name] = None
    return from_dict(cls, table)


def describe(cls: type[Any]) -> list[tuple[str, str, Any, str]]:
    """Return (name, type in words, default, help) for each setting; help comes from the field's metadata.

    The default of a field that has none is `dataclasses.MISSING`.
    """
    return [
        (f.name, _type_text(_type_of(cls, f.name)), _default(f), f.metadata.get("help", "")) for f in _settings(cls)
    ]


def _settings(cls: type[Any]) -> list[Field[Any]]:
    assert is_dataclass(cls), f"{cls!r} is not a dataclass"
    return [f for f in fields(cls) if f.init]


def _type_of(cls: type[Any], key: object) -> Any:
    known = [f.name for f in _settings(cls)]
    if key not in known:
        shown = f"Known: {', '.join(known)}." if known else "It has no settings."
        raise BadConfig(f"{cls.__name__} has no setting {key!r}.{did_you_mean(str(key), known)} {shown}")
    return _types(cls)[str(key)]  # type: ignore[arg-type]  # a class is hashable


@cache
def _types(cls: type[Any]) -> dict[str, Any]:
    return get_type_hints(cls)  # asked once a class: it compiles every annotation anew


def _hint(kind: Any, value: object) -> str:
    choices = [str(c) for option in _options(kind) if get_origin(option) is Literal for c in get_args(option)]
    return did_you_mean(value, choices) if isinstance(value, str) else ""


def _default(f: Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def _build(cls: type[T], values: dict[str, Any]) -> T:
    try:
        return cls(**values)
    except ValueError as error:  # what a __post_init__ may say about values that do not go together
        raise BadConfig(f"{cls.__name__}: {error}") from error


def _options(kind: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, or the type itself alone."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _fit(kind: Any, value: Any) -> Any:
    """Return the value as `kind` holds it (lists as tuples, whole numbers as floats), or _NO_MATCH."""
    fits = [fitted for option in _options(kind) if (fitted := _fit_one(option, value)) is not _NO_MATCH]
    exact = [fitted for fitted in fits if type(fitted) is type(value)]  # 3 for `float | int` is the int
    return (exact or fits or [_NO_MATCH])[0]


def _fit_one(kind: Any, value: Any) -> Any:
    if get_origin(kind) is Literal:
        matches = [choice for choice in get_args(kind) if choice == value and type(choice) is type(value)]
        return matches[0] if matches else _NO_MATCH
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            return _NO_MATCH
        items = [_fit(get_args(kind)[0], item) for item in value]
        return _NO_MATCH if _NO_MATCH in items else tuple(items)
    if kind is float and type(value) is int:
        return float(value) if abs(value) <= 2**53 else _NO_MATCH
    if isinstance(value, float) and math.isnan(value):
        return _NO_MATCH
    return value if type(value) is kind else _NO_MATCH  # `type is`: True is no int here


def _parse(kind: Any, text: str) -> Any:
    """Return text as the first alternative that can read it, the narrowest first, or _NO_MATCH."""
    options = _options(kind)
    for option in sorted(options, key=_breadth):
        value = _parse_one(option, text)
        if value is not _NO_MATCH:
            return value
    return _NO_MATCH


def _breadth(kind: Any) -> int:
    if kind is type(None) or get_origin(kind) is Literal:
        return 0
    return 5 if get_origin(kind) is tuple else {bool: 3, int: 1, float: 2}.get(kind, 4)


def _parse_one(kind: Any, text: str) -> Any:
    if kind is type(None):
        return None if text.lower() == "none" else _NO_MATCH
    if get_origin(kind) is Literal:
        return next((c for c in get_args(kind) if _parse_one(type(c), text) == c), _NO_MATCH)
    if get_origin(kind) is tuple:
        items = [_parse(get_args(kind)[0], item.strip()) for item in text.split(",")] if text else []
        return _NO_MATCH if _NO_MATCH in items else tuple(items)
    if kind is bool:
        return True if text.lower() in _TRUE else False if text.lower() in _FALSE else _NO_MATCH
    return text if kind is str else _number(kind, text)


def _number(kind: Any, text: str) -> Any:
    try:
        return _fit_one(kind, kind(text))
    except ValueError:
        return _NO_MATCH


def _type_text(kind: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "none"}
    parts = []
    for option in _options(kind):
        if get_origin(option) is Literal:
            parts += [str(choice) for choice in get_args(option)]
        elif get_origin(option) is tuple:
            item = {int: "whole numbers", float: "numbers", str: "texts"}.get(get_args(option)[0], "values")
            parts.append(f"{item} with commas between")
        else:
            parts.append(words.get(option, getattr(option, "__name__", str(option))))
    return " | ".join(parts)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's too, except that JSON leaves DEL as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return str(repr(value))  # int and float: Python's forms, inf and 1e-05 too, are TOML's
