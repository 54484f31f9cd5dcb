"""What a base model is known by: its weights, their dtype, its vocabulary and the settings that change what it computes.

A book keeps these parts beside the one fingerprint that is made of them, so that it can say what differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from errata.errors import BadBook

LISTED = 4  # settings named in a message, at most


def _no_older() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Identity:
    """The parts of a base model's identity.

    Args:
        weights: digest of all weights. dtype: theirs, several joined by "+". vocabulary: rows of the embedding.
        settings: those that change what is computed and are not what the model's class has anyway, by dotted names.
        older: gives the fingerprint by the rule of books made before there were parts; slow, and asked only by those.
    """

    weights: str
    dtype: str
    vocabulary: int
    settings: Mapping[str, Any]
    older: Callable[[], str] = field(default=_no_older, compare=False, repr=False)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that change with any of the parts."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """Return the parts as one line of JSON, always the same for the same parts."""
        parts = {name: getattr(self, name) for name in ("weights", "dtype", "vocabulary")}
        return json.dumps({**parts, "settings": dict(self.settings)}, sort_keys=True, default=str)

    @classmethod
    def from_json(cls, text: str) -> Identity:
        """Read what `to_json` wrote; raises BadBook for anything else."""
        try:
            parts = json.loads(text)
            return cls(str(parts["weights"]), str(parts["dtype"]), int(parts["vocabulary"]), dict(parts["settings"]))
        except (ValueError, LookupError, TypeError) as error:
            raise BadBook("what the book says of its base model cannot be read; restore it from a copy.") from error

    def goes_by(self, fingerprint: str | None) -> bool:
        """Return whether a fingerprint is this model's, by today's rule or by that of older books."""
        return bool(fingerprint) and (fingerprint == self.fingerprint or fingerprint == self.older())

    def unlike(self, book: Identity) -> list[str]:
        """Say what is other than in the identity a book keeps, a clause each."""
        found = []
        if self.vocabulary != book.vocabulary:
            found.append(f"its vocabulary has {self.vocabulary} tokens where the book's has {book.vocabulary}")
        if self.dtype != book.dtype:
            found.append(f"its dtype is {self.dtype} where the book's is {book.dtype}")
        names = sorted({*self.settings, *book.settings})
        other = [name for name in names if self.settings.get(name) != book.settings.get(name)]
        found += [f"{name} is {_said(self, name)} where the book's is {_said(book, name)}" for name in other[:LISTED]]
        if len(other) > LISTED:
            found.append(f"and {len(other) - LISTED} more settings differ")
        if self.weights != book.weights and (self.vocabulary, self.dtype) == (book.vocabulary, book.dtype):
            found.append("its weights are others")
        return found

    def advice(self, book: Identity) -> str:
        """Say what to do about a book that keeps another identity."""
        if self.dtype != book.dtype and (self.vocabulary, self.settings) == (book.vocabulary, book.settings):
            return f"load the model with --dtype {book.dtype}, or give another book."
        return "open that model, or give another book."


def _said(identity: Identity, name: str) -> str:
    found = identity.settings.get(name)
    return "the default" if found is None else json.dumps(found, ensure_ascii=False, default=str)[:80]
