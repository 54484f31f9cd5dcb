"""What an edit is known by, and whether its file can be one: told from the bytes, without torch.

    known_by(fields, tensors)       # the id: 16 hexadecimal digits of the SHA-256 of the content
    problem(data, "0123456789abcdef")     # why a file is not that edit, or ""

A hash says that a file is what somebody wrote; this says that what was written is an edit: its id is that of its content, its
tensors have the shapes their kind needs, and every number is finite.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Final

from errata.errors import BadFile, InputError
from errata.fact import Fact

FORMAT: Final = 2  # 1, still read: ids hash the whole facts, and nothing is said of tags, tenant and days
DISK_REFUSES: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# What the hash leaves out: the circumstances of writing, not the edit.
CIRCUMSTANCES: Final = ("author", "reason", "source", "tags", "tenant", "valid_from", "valid_until")
_UNHASHED: Final = ("id", "created_at", "report", "versions", *CIRCUMSTANCES)
_UNLEARNED: Final = ("id", "source", "reason", "probes")  # of a fact
_HASHED: Final = "format method config base facts parents ground seed prefixes sites kinds grafts".split()
_ID: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
_SITE: Final = re.compile(r"\d{1,6}\.\S{1,100}")
# safetensors' names of number types: torch's, bytes of one, and where it is a float the bits that are all set if not finite.
_TYPES: Final[Mapping[str, tuple[str, int, int]]] = {
    "F64": ("torch.float64", 8, 0x7FF << 52), "F32": ("torch.float32", 4, 0xFF << 23),
    "F16": ("torch.float16", 2, 0x1F << 10), "BF16": ("torch.bfloat16", 2, 0xFF << 7),
    "I64": ("torch.int64", 8, 0), "I32": ("torch.int32", 4, 0), "I16": ("torch.int16", 2, 0), "I8": ("torch.int8", 1, 0),
    "U8": ("torch.uint8", 1, 0), "BOOL": ("torch.bool", 1, 0),
}  # fmt: skip
EDIT: Final = 1 << 34  # bytes of an edit's file that are read
_PARTS: Final = {"lowrank": ("left", "right"), "columns": ("index", "values"), "dense": ("matrix",)}
_MOST: Final = 100_000_000  # bytes of a header, which is what safetensors reads
StoredTensor = tuple[str, str, tuple[int, ...], Any]  # its name, torch's name of its type, its shape, its bytes


def read_file(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the content of a regular file: a pipe or a device may never end, and a longer one may fill the memory.

    Raises:
        OSError: it cannot be read, is no regular file, or has more than `most` bytes, as its `strerror` says.
    """
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file: save what it gives in one")
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than the {most:,} bytes that are read: split it")
    return data


def check_hash(path: str | os.PathLike[str], wanted: str, what: str) -> None:
    """Raise BadFile unless a file is there and has this SHA-256; `what` it is goes into the message."""
    try:
        found = hashlib.sha256(read_file(path, EDIT)).hexdigest()
    except (OSError, ValueError) as error:
        raise BadFile(f"cannot read {what} from {path} ({error}).") from error
    if found != wanted.lower():
        raise BadFile(f"{path} is not {what} any more (its hash differs): put the file back, or set the policy anew.")


def bearer(key: str, variable: str) -> str:
    """Return a key as a header's value; raises InputError, without the key in it, for one that no header takes.

    Args:
        variable: of the environment, where the key is from. A line break at its end is what files and Windows leave there.
    """
    key = key.strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError(f"${variable} holds a line break, a space or other characters that no key has: set it anew.")
    return f"Bearer {key}"


def as_path(given: object, what: str) -> Path:
    """Return a path that a caller gave; raises InputError, which says what for, if it is none."""
    if isinstance(given, str | os.PathLike) and isinstance(path := os.fspath(given), str) and path:
        return Path(path)
    raise InputError(f"{what} is given as a path, not {given!r}.")


def check_free(directory: object) -> Path:
    """Return the path of a directory that is to be made; raises InputError if there is something in its place."""
    path = as_path(directory, "the directory")
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise InputError(f"cannot write to {path} ({error.strerror}); name another directory.") from error
    if taken:
        raise InputError(f"{path} is there already and not empty; name a new directory.")
    return path


def known_by(content: Mapping[str, Any], tensors: Iterable[StoredTensor]) -> str:
    """Return the id of an edit: of its fields (circumstances left out) and its tensors."""
    hashed = {name: value for name, value in content.items() if name not in _UNHASHED}
    if hashed["format"] > 1:
        hashed["facts"] = [{k: v for k, v in fact.items() if k not in _UNLEARNED} for fact in hashed["facts"]]
    digest = hashlib.sha256(json.dumps(hashed, sort_keys=True, ensure_ascii=False).encode())
    for name, kind, shape, data in sorted(tensors, key=lambda piece: piece[0]):
        digest.update(f"{name}{kind}{shape}".encode())
        digest.update(data)
    return digest.hexdigest()[:16]


def is_id(text: object) -> bool:
    """Return whether a text is the id of an edit: 16 hexadecimal digits."""
    return isinstance(text, str) and bool(_ID.fullmatch(text))


def stated(data: bytes) -> dict[str, Any] | None:
    """Return what an edit's file says of itself; None of a file that says nothing."""
    try:
        return dict(json.loads(_header(data)[0]["__metadata__"]["errata"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def problem(data: bytes, id: str | None = None) -> str:
    """Return why a file is not an edit, or not the one of that id; "" if it is. Nothing of it is believed."""
    try:
        pieces, meta = list(_pieces(data)), stated(data)
        if meta is None:
            return "it does not say what it is"
        if meta["format"] > FORMAT:
            return f"it has format {meta['format']}, which a newer errata writes"
        if id is not None and meta["id"] != id:
            return f"it says it is edit {str(meta['id'])[:16]}"
        fields = {name: meta[name] for name in _HASHED}
        fields["facts"] = [Fact.from_dict(fact).to_dict() for fact in meta["facts"]]
        found = known_by(fields, pieces)
        if found != meta["id"]:
            return f"its content is that of edit {found}"
        return next(_misshapen(meta, {name: (kind, shape, raw) for name, kind, shape, raw in pieces}), "")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError, InputError) as error:
        return f"it cannot be read ({type(error).__name__})"


def shapes(meta: Mapping[str, Any], data: bytes) -> dict[str, tuple[int, int | None]]:
    """Return how large a matrix each site's change is of: (out, in), or (out, None) of columns alone; of a sound file."""
    pieces = {name: shape for name, _, shape, _ in _pieces(data)}
    found: dict[str, tuple[int, int | None]] = {}
    for site, kind in zip(meta["sites"], meta["kinds"], strict=True):
        if kind == "lowrank":
            found[site] = pieces[f"delta/{site}/left"][0], pieces[f"delta/{site}/right"][0]
        elif kind == "columns":
            found[site] = pieces[f"delta/{site}/values"][0], None
        elif kind == "dense":
            found[site] = pieces[f"delta/{site}/matrix"][0], pieces[f"delta/{site}/matrix"][1]
    return found


def norms(meta: Mapping[str, Any], data: bytes) -> dict[str, float]:
    """Return ‖ΔW‖ at each site where a sound file changes a matrix."""
    import numpy as np

    kinds = {"torch.float64": "<f8", "torch.float32": "<f4", "torch.float16": "<f2"}
    arrays = {
        name: np.frombuffer(raw, dtype=kinds[kind]).reshape(shape).astype("f8")
        for name, kind, shape, raw in _pieces(data)
        if kind in kinds and name.startswith("delta/")
    }
    found: dict[str, float] = {}
    for site, kind in zip(meta["sites"], meta["kinds"], strict=True):
        parts = [arrays.get(f"delta/{site}/{part}") for part in _PARTS.get(kind, ()) if part != "index"]
        if kind == "lowrank" and all(part is not None for part in parts):
            left, right = parts
            found[site] = float(max(((left.T @ left) * (right.T @ right)).sum(), 0.0) ** 0.5)  # type: ignore[union-attr]
        elif parts and parts[0] is not None:
            found[site] = float(np.linalg.norm(parts[0]))
    return found


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, _MOST):
        raise ValueError("the header is longer than the file")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return header, 8 + length


def _pieces(data: bytes) -> Iterator[StoredTensor]:
    """Yield the tensors of a file, which must lie one after the other and fill it."""
    header, start = _header(data)
    rows = [(name, row) for name, row in header.items() if name != "__metadata__"]
    end, view = 0, memoryview(data)
    for name, row in sorted(rows, key=lambda one: one[1]["data_offsets"]):
        (kind, size, _), shape = _TYPES[row["dtype"]], tuple(row["shape"])
        first, last = row["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in (*shape, first, last)):
            raise ValueError("a shape or an offset is no number")
        if first != end or last - first != size * prod(shape):
            raise ValueError("tensors overlap, or leave gaps")
        end = last
        yield name, kind, shape, view[start + first : start + last]
    if start + end != len(data):
        raise ValueError("the file goes on after its tensors")


def _misshapen(meta: Mapping[str, Any], tensors: Mapping[str, tuple[str, tuple[int, ...], Any]]) -> Iterator[str]:
    """Yield what is wrong with the tensors of an edit."""
    sites, kinds = meta["sites"], meta["kinds"]
    if len(set(sites)) < len(sites):
        yield "it names a site twice"
    wanted = set()
    for site, kind in zip(sites, kinds, strict=True):
        names = [f"delta/{site}/{part}" for part in _PARTS.get(kind, ())]
        wanted |= {*names}
        if not _SITE.fullmatch(site) or (kind not in _PARTS and kind != "graft"):
            yield f"{site!r} with a {kind!r} is no change of a matrix"
        elif any(name not in tensors for name in names):
            yield f"tensors are missing at {site}"
        elif kind != "graft":
            yield from _misfit(site, kind, [tensors[name] for name in names])
    grafts = tuple(f"delta/{site}/" for site, kind in zip(sites, kinds, strict=True) if kind == "graft")
    for name in tensors.keys() - wanted:
        if not name.startswith(("carry/", *grafts)):
            yield f"nothing is said of its tensor {name[:80]!r}"
    for name, (kind, _, raw) in tensors.items():
        if not name.startswith("carry/") and not _finite(kind, raw):
            yield f"its tensor {name[:80]} holds numbers that are not finite"


def _misfit(site: str, kind: str, parts: Sequence[tuple[str, tuple[int, ...], Any]]) -> Iterator[str]:
    shapes = [shape for _, shape, _ in parts]
    if kind == "columns":
        yield from _uncounted(site, parts[0], shapes[1])
        parts, shapes = parts[1:], shapes[1:]
    if any(len(shape) != 2 for shape in shapes) or any(not dtype.startswith("torch.float") for dtype, _, _ in parts):
        yield f"the {kind} at {site} is no matrix of floats"
    elif kind == "lowrank" and shapes[0][1] != shapes[1][1]:
        yield f"the factors at {site} have ranks {shapes[0][1]} and {shapes[1][1]}"


def _uncounted(site: str, index: tuple[str, tuple[int, ...], Any], values: tuple[int, ...]) -> Iterator[str]:
    dtype, shape, raw = index
    if dtype != "torch.int64" or len(shape) != 1 or len(values) != 2 or values[1] != shape[0]:
        yield f"the columns at {site} are not those of its numbers"
        return
    numbers = [int.from_bytes(raw[i : i + 8], "little", signed=True) for i in range(0, len(raw), 8)]
    if any(number < 0 for number in numbers[:1]) or any(a >= b for a, b in pairwise(numbers)):
        yield f"the columns at {site} are not different ones, in order, from 0"


def _finite(kind: str, raw: Any) -> bool:
    """Return whether every float is finite: not all bits of its exponent are set."""
    import numpy as np  # most of what asks for an id or a header asks for nothing else

    _, size, exponent = next(row for row in _TYPES.values() if row[0] == kind)
    if not exponent:
        return True
    bits = np.frombuffer(raw, dtype=f"<u{size}")
    return not bool(((bits & exponent) == exponent).any())
