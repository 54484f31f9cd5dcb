"""A model's profile: settings that were measured on this very model, taken wherever a method leaves them at "auto".

    keep(lm, Profile(lm.name, lm.fingerprint, {"rome": {"layer": 8}}, "rome"))
    kept(lm).settings["rome"]                      # {"layer": 8}, for this very model and no other
    read(path)                                     # one that somebody else has shared: TOML

One small TOML file per model in the statistics' directory, named by the model's fingerprint. `errata tune` makes it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from errata.content import read_file
from errata.errors import BadFile
from errata.model.lm import LM
from errata.stats.store import directory, put

FORMAT: Final = 1
LARGEST: Final = 1 << 20  # bytes that are read


@dataclass(frozen=True, slots=True)
class Profile:
    """Settings of methods on one model.

    Args:
        model: its name, for people. fingerprint: of its weights. settings: by method, what "auto" is to be.
        best: the method to take. measured: by method, what it did on facts that chose nothing. facts: how many those were.
    """

    model: str = ""
    fingerprint: str = ""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    best: str = ""
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    facts: int = 0

    def toml(self) -> str:
        """Return it as TOML."""
        head = {"format": FORMAT, "model": self.model, "fingerprint": self.fingerprint}
        head |= {"best": self.best, "facts": self.facts}
        parts = ["\n".join(f"{name} = {_value(value)}" for name, value in head.items())]
        for kind, tables in (("settings", self.settings), ("measured", self.measured)):
            for method, table in tables.items():
                parts.append("\n".join([f"[{kind}.{method}]", *(f"{k} = {_value(v)}" for k, v in table.items())]))
        return "\n\n".join(parts) + "\n"


def _value(value: object) -> str:
    """Return a number, text, list of these or None as TOML writes it: as JSON does, but for text that is not ASCII, and "none".

    Settings that can be "auto", and no others are in a profile, take no text "none".
    """
    value = "none" if value is None else value
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=True)


def _path(lm: LM) -> Path:
    return directory() / f"profile-{lm.fingerprint}.toml"


def read(path: Path) -> Profile:
    """Return the profile in a file; raises BadFile where it is none."""
    try:
        table = tomllib.loads(read_file(path, LARGEST).decode())
        if table["format"] != FORMAT:
            raise BadFile(f"{path} is a profile of format {table['format']}; this errata reads format {FORMAT}.")
        settings = {method: {k: _frozen(v) for k, v in of.items()} for method, of in table.get("settings", {}).items()}
        measured = {method: dict(of) for method, of in table.get("measured", {}).items()}
        names = str(table["model"]), str(table["fingerprint"])
        return Profile(*names, settings, str(table["best"]), measured, int(table["facts"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFile(f"{path} is no profile of a model: make one with errata tune MODEL --out {path}.") from error


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else None if value == "none" else value


def keep(lm: LM, profile: Profile) -> Path:
    """Make a profile this model's from now on; return the file it is kept in."""
    path = _path(lm)
    put(path, profile.toml().encode())
    lm.memory["profile"] = profile
    return path


def kept(lm: LM) -> Profile:
    """Return this model's profile; an empty one if it has none, or the file cannot be read."""
    if "profile" not in lm.memory:
        try:
            found = read(_path(lm)) if _path(lm).exists() else Profile()
        except BadFile:
            found = Profile()
        lm.memory["profile"] = found if found.fingerprint == lm.fingerprint else Profile()
    profile: Profile = lm.memory["profile"]
    return profile


def forget(lm: LM) -> bool:
    """Take the profile back; return whether there was one."""
    there = _path(lm).exists()
    _path(lm).unlink(missing_ok=True)
    lm.memory["profile"] = Profile()
    return there
