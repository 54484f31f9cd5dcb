"""What is written on an edit beside what it does: who, why, from where, on whose behalf, and for which days.

Label(author="ada", tags=("news",), valid_until="2027-01-01")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any

from errata.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """The circumstances of an edit; no part of what it is known by.

    Args:
        author, reason, source: who writes it, why, and from where it is known.
        tags: words to find it by; a text with commas will do.
        tenant: on whose behalf it is written.
        valid_from, valid_until: first and last day it is true, as YYYY-MM-DD; empty where that has no end. Weights do not look
            at the calendar: an edit whose days have passed stands until it is dropped, and `errata check` says so.

    Raises:
        InputError: a day that is none, or the last before the first; an empty tag, or one with a line break.
    """

    author: str = ""
    reason: str = ""
    source: str = ""
    tags: tuple[str, ...] = ()
    tenant: str = ""
    valid_from: str = ""
    valid_until: str = ""

    def __post_init__(self) -> None:
        words = self.tags.split(",") if isinstance(self.tags, str) else self.tags
        tags = tuple(dict.fromkeys(word.strip() for word in words))
        if not all(tags) or any(len(tag.splitlines()) > 1 for tag in tags):
            raise InputError("a tag of an edit is a word or a few on one line: leave empty ones out.")
        object.__setattr__(self, "tags", tags)
        for name in ("valid_from", "valid_until"):
            object.__setattr__(self, name, _day(name, getattr(self, name)))
        if self.valid_from and self.valid_until and self.valid_until < self.valid_from:
            raise InputError(f"the last day {self.valid_until} is before the first, {self.valid_from}.")

    def to_dict(self) -> dict[str, Any]:
        """Return what is not empty, by name."""
        return {name: value for name, value in asdict(self).items() if value}


def split(options: Mapping[str, Any]) -> tuple[Label, dict[str, Any]]:
    """Return the label that is among some options, and the rest of them."""
    known = {f.name for f in fields(Label)}
    label = {name: value for name, value in options.items() if name in known and value}
    return Label(**label), {name: value for name, value in options.items() if name not in known}


def _day(name: str, text: str) -> str:
    try:
        return text and date.fromisoformat(text).isoformat()
    except (ValueError, TypeError) as error:
        raise InputError(f"{name.replace('_', '-')} takes a day as YYYY-MM-DD, not {text!r}.") from error
