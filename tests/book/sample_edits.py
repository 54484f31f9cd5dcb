"""Edits for the book's tests: small, and the same for the same number."""

from __future__ import annotations

import hashlib
from typing import Any

from errata.fact import Fact

BASE = "f00d" * 16
FACT = Fact(prompt="The capital of France is", subject="France", target="Lyon", source="atlas")


def edit(number: int, **changes: Any) -> tuple[dict[str, Any], bytes]:
    """Return what `Book.append` takes: the description, with `changes`, and the file's content."""
    id = hashlib.sha256(str(number).encode()).hexdigest()[:16]
    meta = {"id": id, "method": "rome", "base": BASE, "facts": [FACT.to_dict()], "seed": number, "author": "Zoë"}
    return meta | changes, f"tensors of {number}".encode() * 50


def key(number: int) -> str:
    """Return the id of `edit(number)`."""
    return str(edit(number)[0]["id"])
