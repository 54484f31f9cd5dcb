"""Edits for the book's tests: small, the same for the same number, and sound: their ids are those of their content."""

from __future__ import annotations

import json
import struct
from typing import Any

from errata.content import known_by
from errata.fact import Fact

BASE = "f00d" * 16
FACT = Fact(prompt="The capital of France is", subject="France", target="Lyon", source="atlas")
_MADE: dict[int, str] = {}  # the id of each number, as it was last made


def file(meta: dict[str, Any], tensors: dict[str, tuple[tuple[int, ...], bytes]]) -> bytes:
    """Return float32 tensors, by name (shape, bytes), as the safetensors file of an edit."""
    header: dict[str, Any] = {"__metadata__": {"errata": json.dumps(meta, sort_keys=True, ensure_ascii=False)}}
    at = 0
    for name, (shape, raw) in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(raw for _, raw in tensors.values())


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def edit(number: int, **changes: Any) -> tuple[dict[str, Any], bytes]:
    """Return what `Book.append` takes: the description, with `changes`, and the file's content."""
    tensors = {"delta/1.down/left": ((3, 1), floats(number, 1, 2)), "delta/1.down/right": ((2, 1), floats(1, 0.5))}
    meta = {
        "method": "rome", "base": BASE, "facts": [FACT.to_dict()], "seed": number, "author": "Zoë", "format": 2, "config": {},
        "parents": [], "ground": "", "prefixes": [], "sites": ["1.down"], "kinds": ["lowrank"], "grafts": {}, "report": {},
    } | changes  # fmt: skip
    facts = [Fact.from_dict(fact).to_dict() for fact in meta["facts"]]
    pieces = ((name, "torch.float32", shape, raw) for name, (shape, raw) in tensors.items())
    meta = {"id": known_by(meta | {"facts": facts}, pieces)} | meta
    _MADE[number] = meta["id"]
    try:
        return meta, file(meta, tensors)
    except TypeError:  # what JSON cannot say: the test is about that
        return meta, b"none"


def key(number: int) -> str:
    """Return the id of the edit of that number as it was last made, or as it is made without changes."""
    return _MADE[number] if number in _MADE else str(edit(number)[0]["id"])
