"""What was trained for a model, kept with its statistics: a file by the SHA-256 of its bytes, and which one is the model's.

digest = keep(lm, "mend", data)       # from now on this model's
kept(lm, "mend")                      # that digest; None where nothing was trained for this very model
data_of("mend", digest)               # the bytes
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Final

from errata.content import read_file
from errata.errors import BadConfig, BadFile
from errata.model.lm import LM
from errata.stats.store import directory, put

LARGEST: Final = 1 << 34  # bytes of a file that are read
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def keep(lm: LM, kind: str, data: bytes) -> str:
    """Keep a file as this model's, and return its SHA-256."""
    digest = _store(kind, data)
    put(_pointer(lm, kind), json.dumps({"model": lm.name, "sha256": digest}, indent=1).encode())
    return digest


def kept(lm: LM, kind: str) -> str | None:
    """Return the SHA-256 of what was trained for this very model; None where nothing was, or not any more."""
    try:
        digest = str(json.loads(_pointer(lm, kind).read_bytes())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return digest if _DIGEST.fullmatch(digest) and _path(kind, digest).exists() else None


def digest_of(kind: str, given: str) -> str:
    """Return the SHA-256 of a file, of which a copy is kept, or of the kept file that is named by its SHA-256.

    Raises:
        BadFile: the file cannot be read. BadConfig: nothing of that SHA-256 is kept here.
    """
    if _DIGEST.fullmatch(given):
        if not _path(kind, given).exists():
            raise BadConfig(
                f"the {kind} file {given[:16]}… is not kept here: give it once by name, with --set network=FILE."
            )
        return given
    return _store(kind, _read(Path(given).expanduser(), given))


def data_of(kind: str, digest: str) -> bytes:
    """Return a kept file; raises BadFile where it cannot be read or is not what its name says."""
    data = _read(_path(kind, digest), str(_path(kind, digest)))
    if hashlib.sha256(data).hexdigest() != digest:
        raise BadFile(f"{_path(kind, digest)} was altered: delete it, and give the file once more by name.")
    return data


def _read(path: Path, shown: str) -> bytes:
    try:
        return read_file(path, LARGEST)
    except OSError as error:
        raise BadFile(f"{shown} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # a name that no file can have
        raise BadFile(f"{shown!r} is no name of a file: {error}.") from error


def _store(kind: str, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    if not _path(kind, digest).exists():
        put(_path(kind, digest), data)
    return digest


def _path(kind: str, digest: str) -> Path:
    return directory() / f"{kind}-{digest}.safetensors"


def _pointer(lm: LM, kind: str) -> Path:
    return directory() / f"{kind}-{lm.fingerprint}.json"
