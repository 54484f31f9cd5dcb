"""The tensor files of a book: written so that a name always means the whole content, and checked when read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from errata.book.records import Record
from errata.errors import BadBook, CorruptEdit


def path_of(directory: Path, sha256: str) -> Path:
    """Return where in `directory` the file with this hash is."""
    return directory / f"{sha256}.safetensors"


def read(directory: Path, record: Record) -> bytes:
    """Return the content of an edit's file; raises CorruptEdit if it is missing or not what was written."""
    file = path_of(directory, record.sha256)
    advice = f"put the original file back, or drop the edit (errata drop {record.id})"
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CorruptEdit(f"cannot read {file} of edit {record.id} ({error.strerror}): {advice}.") from error
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise CorruptEdit(f"{file} is not what was written for edit {record.id} (its hash differs): {advice}.")
    return data


def store(directory: Path, data: bytes) -> tuple[str, int]:
    """Write one file and return its hash and size; its name is durable after `sync`.

    One temporary name is enough, and what a killed process leaves there is overwritten, because the caller holds the
    book's lock. Raises BadBook if the disk refuses.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    temporary = directory / "incoming"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path_of(directory, sha256))
    except OSError as error:
        file_name = path_of(directory, sha256)
        raise BadBook(f"cannot write {file_name} ({error.strerror}): make room; nothing was added.") from error
    return sha256, len(data)


def sync(directory: Path) -> None:
    """Make the names in a directory durable, as the files' content already is."""
    if os.name != "nt":  # Windows neither needs nor allows it
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
