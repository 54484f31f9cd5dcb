"""The book after accidents: altered files, damaged databases, full disks. None goes unnoticed or does more harm."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import pytest
from sample_edits import BASE, edit, key

from errata.book import Book, Record, records
from errata.book.bundle import bundle
from errata.errors import BadBook, CorruptEdit, NotWritten, UnknownEdit


def file_of(book: Book, record: Record) -> Path:
    return book.path / "edits" / f"{record.sha256}.safetensors"


@pytest.mark.parametrize("accident", ["missing", "truncated", "bit", "longer", "empty", "folder"])
def test_an_altered_file_is_named_and_can_be_dropped(book: Book, accident: str) -> None:
    record, other = book.append([edit(1), edit(2)])
    file, data = file_of(book, record), edit(1)[1]
    file.unlink()
    if accident == "folder":
        file.mkdir()
    elif accident != "missing":
        bit = bytes([data[0] ^ 1]) + data[1:]
        file.write_bytes({"truncated": data[:-1], "bit": bit, "longer": data + b"\0", "empty": b""}[accident])
    with pytest.raises(CorruptEdit, match=re.escape(str(file)) + ".*" + f"errata drop {record.id}"):
        book.read(record)
    assert book.read(other) == edit(2)[1]
    book.drop([record.id])
    with pytest.raises(CorruptEdit):
        book.restore([record.id])
    assert [r.id for r in book.stand()] == [other.id]


@pytest.mark.parametrize("accident", ["other", "cut"])
def test_a_bundle_that_reads_back_otherwise_is_not_there(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accident: str
) -> None:
    book.append([edit(1)])
    (tmp_path / "new").mkdir()
    write, close = zipfile.ZipFile.writestr, zipfile.ZipFile.close

    def other(archive: zipfile.ZipFile, member: Any, data: bytes) -> None:
        write(archive, member, data[:-1] + bytes([data[-1] ^ 1]) if member.filename.startswith("edits/") else data)

    def cut(archive: zipfile.ZipFile) -> None:
        file = archive.fp if archive.mode == "w" else None
        close(archive)
        if file is not None:
            file.truncate(100)

    monkeypatch.setattr(zipfile.ZipFile, *(("writestr", other) if accident == "other" else ("close", cut)))
    with pytest.raises(NotWritten, match="reads back otherwise" if accident == "other" else "cannot be read"):
        bundle(book, tmp_path / "new" / "b.zip")
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_killed_writer_left_behind_does_no_harm(book: Book) -> None:
    book.append([edit(1)])
    (book.path / "edits" / "incoming").write_bytes(b"half a fi")
    (book.path / "edits" / f"{'0' * 64}.safetensors").write_bytes(b"a file without a row")
    book.close()
    with Book.open(book.path, BASE) as again:
        again.append([edit(2)])
        assert [again.read(r) for r in again.stand()] == [edit(1)[1], edit(2)[1]]


def test_a_full_disk_adds_nothing(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadBook, match="No space left on device"):
        book.append([edit(1)])
    monkeypatch.undo()
    assert book.records() == []
    book.append([edit(1)])


def test_the_file_is_on_the_disk_before_its_row(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_at_fsync = []
    real = os.fsync

    def watch(handle: int) -> None:
        with Book.open(book.path) as other:
            rows_at_fsync.append((len(other.records()), os.path.isdir(f"/proc/self/fd/{handle}")))
        real(handle)

    monkeypatch.setattr(os, "fsync", watch)
    book.append([edit(1), edit(2)])
    assert [rows for rows, _ in rows_at_fsync] == [0, 0, 0]
    if os.path.isdir("/proc/self/fd"):
        assert [is_directory for _, is_directory in rows_at_fsync] == [False, False, True]


def test_a_lost_or_emptied_database_is_not_replaced_by_a_new_one(book: Book) -> None:
    book.append([edit(1)])
    book.close()
    for lose in (lambda f: f.unlink(), lambda f: f.write_bytes(b"")):
        lose(book.path / "book.sqlite")
        with pytest.raises(BadBook, match="lost"):
            Book.open(book.path, BASE)


def test_a_damaged_database_is_never_another_error(book: Book, tmp_path: Path) -> None:
    book.append([edit(n) for n in range(20)])
    ids = [r.id for r in book.records()]
    book.close()
    whole = (book.path / "book.sqlite").read_bytes()
    rng = random.Random(0)
    for attempt in range(30):
        damaged = bytearray(whole)
        if attempt % 3 == 0:
            del damaged[rng.randrange(1, len(damaged)) :]
        elif attempt % 3 == 1:
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        else:
            start = rng.randrange(len(damaged))
            damaged[start : start + 300] = rng.randbytes(len(damaged[start : start + 300]))
        copy = tmp_path / f"copy{attempt}"
        shutil.copytree(book.path, copy)
        (copy / "book.sqlite").write_bytes(damaged)
        with contextlib.suppress(BadBook, UnknownEdit), Book.open(copy, BASE, wait=1) as again:
            [again.read(r) for r in again.stand()]
            again.append([edit(99)])
            again.drop(ids[:1])
            again.history()


def test_damaged_names_and_indexes_are_never_another_error(book: Book) -> None:
    book.append([edit(n) for n in range(5)])
    book.close()
    file = book.path / "book.sqlite"
    whole = file.read_bytes()
    ids = [key(n).encode() for n in range(5)]
    places = [match.start() for match in re.finditer(b"|".join([b"CREATE", *ids]), whole)]
    assert len(places) > 5 * 4  # the table, its index, the description, the events and their index
    refused = 0
    for place in (*places, *(place + 2 for place in places)):
        for letter in (b"~", b"\xff"):
            file.write_bytes(whole[:place] + letter + whole[place + 1 :])
            try:
                with Book.open(book.path, BASE) as again:
                    assert [again.get(key(n)).id for n in range(5)] == [key(n) for n in range(5)]
            except (BadBook, UnknownEdit):
                refused += 1
    assert refused


@pytest.mark.parametrize("act", ["append", "drop"])
def test_a_failure_half_way_changes_nothing(book: Book, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    book.append([edit(1), edit(2)])
    before = (book.records(), book.history())
    real, calls = records.add_event, []

    def fail_the_second_time(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise MemoryError
        real(*arguments)

    monkeypatch.setattr(records, "add_event", fail_the_second_time)
    with pytest.raises(MemoryError):
        book.append([edit(3), edit(4)]) if act == "append" else book.drop([key(1), key(2)])
    assert (book.records(), book.history()) == before


def test_a_row_that_makes_no_sense_is_named(book: Book) -> None:
    book.append([edit(1)])
    for text in ("{", "[]", '{"facts": 3}', '{"facts": [{"prompt": "p"}]}'):
        with sqlite3.connect(book.path / "book.sqlite") as db:
            db.execute("DROP TRIGGER IF EXISTS edits_no_update")
            db.execute("UPDATE edits SET record = ?", (text,))
        db.close()
        with pytest.raises(BadBook, match=f"entry of edit {key(1)}"):
            book.records()


@pytest.mark.parametrize("tear", [0, 1, 5_000])
def test_a_stale_or_torn_write_ahead_log_is_survived(book: Book, tmp_path: Path, tear: int) -> None:
    book.append([edit(1)])
    for n in range(2, 6):
        book.append([edit(n)])
    copy = tmp_path / "copy"  # as a crash leaves it: nothing was closed
    shutil.copytree(book.path, copy)
    book = copy / "book.sqlite-wal"
    size = book.stat().st_size
    assert size > 5_000
    os.truncate(book, size - tear)
    with Book.open(copy, BASE) as again:
        found = [r.id for r in again.stand()]
        assert found == [key(n) for n in range(1, len(found) + 1)]
        assert len(found) == 5 or (tear and len(found) >= 3)
        again.append([edit(6)])
        assert [again.read(r) for r in again.stand()][-1] == edit(6)[1]
