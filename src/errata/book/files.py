"""The files of a book: written so that a name always means the whole content, checked when read, and no link followed.

A link inside a book would let whoever put it there have files elsewhere read, overwritten or removed by the book's owner.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from errata.book.records import Record
from errata.errors import BadBook, CorruptEdit

DATABASE: Final = "book.sqlite"
JOBS, AUDIT = "jobs", "audit.jsonl"  # what a server keeps beside it
_JOURNAL_END: Final = bytes.fromhex(
    "d9d505f920a163d7"
)  # ends a rollback journal that names a file for SQLite to remove
_TEMPORARY: Final = "incoming"


def path_of(directory: Path, sha256: str) -> Path:
    """Return where in `directory` the file with this hash is."""
    return directory / f"{sha256}.safetensors"


def check_kinds(directory: Path) -> None:
    """Look at what a book consists of, before anything of it is opened.

    Raises:
        BadBook: a part of it is a link, a pipe or the like, or makes SQLite or the lock touch files elsewhere.
    """
    journal, lock = directory / f"{DATABASE}-journal", directory / "lock"
    wanted = {directory / name: stat.S_ISDIR for name in ("edits", JOBS)}
    wanted |= {directory / AUDIT: stat.S_ISREG, lock: stat.S_ISREG, journal: stat.S_ISREG}
    wanted |= {directory / f"{DATABASE}{end}": stat.S_ISREG for end in ("", "-wal", "-shm")}
    for path, right in wanted.items():
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        if not right(found.st_mode):
            what = "a link" if stat.S_ISLNK(found.st_mode) else "not what it should be"
            raise BadBook(f"{path} is {what}, which no book has: what it leads to is not touched. Remove it.")
        if path in (lock, directory / AUDIT) and found.st_nlink > 1 and (found.st_size or path != lock):
            raise BadBook(f"{path} is another file's second name, and would be written to or emptied: remove it.")
        if path == journal and found.st_size and _tail(path) == _JOURNAL_END:
            raise BadBook(f"{path} asks SQLite to remove a file elsewhere, which none of ours does: remove it.")


def _tail(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-min(len(_JOURNAL_END), path.stat().st_size), os.SEEK_END)
        return file.read()


def read(directory: Path, record: Record) -> bytes:
    """Return the content of an edit's file; raises CorruptEdit if it is missing or not what was written."""
    file = path_of(directory, record.sha256)
    advice = f"put the original file back, or drop the edit (errata drop {record.id})"
    try:
        data = read_whole(directory, file.name, record.bytes)
    except OSError as error:
        raise CorruptEdit(f"cannot read {file} of edit {record.id} ({error.strerror or error}): {advice}.") from error
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise CorruptEdit(f"{file} is not what was written for edit {record.id} (its hash differs): {advice}.")
    return data


def read_whole(directory: Path, name: str, most: int) -> bytes:
    """Return a file's content, of a longer one no more than `most` + 1 bytes; raises OSError, for a link or a pipe, too."""
    with folder(directory) as at, os.fdopen(_opened(directory, name, os.O_RDONLY, at), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is no regular file")
        return file.read(most + 1)


def store(directory: Path, data: bytes) -> tuple[str, int]:
    """Write one file and return its hash and size; its name is durable after `sync`. Raises BadBook if the disk refuses."""
    sha256 = hashlib.sha256(data).hexdigest()
    file = path_of(directory, sha256)
    try:
        put(directory, file.name, data)
    except OSError as error:
        raise BadBook(f"cannot write {file} ({error.strerror}): make room; nothing was added.") from error
    return sha256, len(data)


def put(directory: Path, name: str, data: bytes) -> None:
    """Write a file that appears whole or not at all, through no link; its name is durable after `sync`. Raises OSError.

    One temporary name is enough, and what a killed process leaves there is removed, because the caller holds a lock.
    """
    with folder(directory) as at:
        with suppress(FileNotFoundError):
            _unlink(directory, _TEMPORARY, at)
        with os.fdopen(_opened(directory, _TEMPORARY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, at), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if at is None:
            os.replace(directory / _TEMPORARY, directory / name)
        else:
            os.replace(_TEMPORARY, name, src_dir_fd=at, dst_dir_fd=at)


def remove(directory: Path, name: str) -> bool:
    """Remove a file of the folder, or a link itself; return False if there is none. Raises OSError."""
    with folder(directory) as at:
        try:
            _unlink(directory, name, at)
        except FileNotFoundError:
            return False
        return True


def sync(directory: Path) -> None:
    """Make the names in a directory durable, as the files' content already is."""
    with folder(directory) as at:
        if at is not None:  # Windows neither needs nor allows it
            os.fsync(at)


def sync_whole(directory: Path) -> None:
    """Make a folder's own name durable, and the names of those it lies in: whoever made one may have been killed since."""
    whole = directory.resolve()
    for one in (whole, *whole.parents):
        with suppress(OSError):  # one that may not be read was not made by us
            sync(one)


def sync_tree(directory: Path) -> None:
    """Make all that is in a folder durable, its files' content and every name."""
    for at, _, names in os.walk(directory):
        for name in names:
            with open(Path(at) / name, "rb+") as file:
                os.fsync(file.fileno())
        sync(Path(at))


@contextmanager
def folder(directory: Path) -> Iterator[int | None]:
    """Yield a handle of a folder that is none by a link, to name files by; None where the system has no such handles."""
    if os.open not in os.supports_dir_fd:
        yield None
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield handle
    finally:
        os.close(handle)


def _opened(directory: Path, name: str, flags: int, at: int | None) -> int:
    if at is None:
        return os.open(directory / name, flags | getattr(os, "O_BINARY", 0))
    return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666, dir_fd=at)


def _unlink(directory: Path, name: str, at: int | None) -> None:
    if at is None:
        (directory / name).unlink()
    else:
        os.unlink(name, dir_fd=at)
