"""Presets: a method's settings as its paper has them, by a name that stands for the method.

    presets()["melo-gpt2xl"].settings["alpha"]       # 700.0
    presets()["melo-gpt2xl"].source["alpha"]         # "code"

The table is `presets.toml`, in which each setting stands under its source.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

SOURCES: Final = ("paper", "code", "second", "ours")


@dataclass(frozen=True, slots=True)
class Preset:
    """Settings of a method under a name.

    Args:
        method: whose. title: what they are, in a line.
        settings: by name. source: of each: "paper", "code" (released by the authors), "second" (an account of the paper by
            others) or "ours".
    """

    name: str
    method: str
    title: str
    settings: Mapping[str, Any]
    source: Mapping[str, str]


def presets() -> dict[str, Preset]:
    """Return the presets there are, by name."""
    table = tomllib.loads((files("errata.methods") / "presets.toml").read_text(encoding="utf-8"))
    return {name: _preset(name, given) for name, given in table.items()}


def _preset(name: str, given: Mapping[str, Any]) -> Preset:
    found = {key: (value, source) for source in SOURCES for key, value in given.get(source, {}).items()}
    settings, source = ({key: pair[place] for key, pair in found.items()} for place in (0, 1))
    return Preset(name, given["method"], given["title"], settings, source)
