"""The range of a setting, stated beside its help and checked when a method is made.

steps: int = field(default=20, metadata={"help": "steps of v*", "least": 1})
lr: float = field(default=0.5, metadata={"help": "step size", "above": 0})
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from errata.errors import BadConfig


def check(settings: Any) -> None:
    """Look at every setting of a frozen dataclass.

    Raises:
        BadConfig: a number outside its range, or a list that is empty or names something twice.
    """
    for f in fields(settings):
        value = getattr(settings, f.name)
        if isinstance(value, tuple) and (not value or len(set(value)) < len(value)):
            raise BadConfig(f"{f.name} = {value} is empty or names something twice; give each once.")
        if not isinstance(value, int | float):
            continue
        if "least" in f.metadata and not value >= f.metadata["least"]:
            raise BadConfig(f"{f.name} = {value} makes no sense; it is at least {f.metadata['least']}.")
        if "above" in f.metadata and not value > f.metadata["above"]:
            raise BadConfig(f"{f.name} = {value} makes no sense; it is above {f.metadata['above']}.")
