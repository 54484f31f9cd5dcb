"""What a command returns: the command line prints it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shown:
    """A value, the view that draws it (of `_show`, or "module.view"), whether JSON was asked for, and the exit code."""

    value: Any
    view: str
    as_json: bool = False
    code: int = 0
