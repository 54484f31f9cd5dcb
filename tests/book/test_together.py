"""The book with several at once: processes, threads, and one that is killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import filelock
import pytest
from sample_edits import BASE, edit, key

from errata.book import Book, records
from errata.errors import BookBusy

SRC = Path(__file__).parents[2] / "src"


def run(code: str, *arguments: str) -> subprocess.Popen[str]:
    code = "import hashlib, sys\nfrom errata.book import Book\n" + code
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, text=True, **pipes)


WRITER = """
path, name = sys.argv[1:]
with Book.open(path, "base") as book:
    n = 0
    while n < 1000 if name == "killed" else n < 8:
        id = hashlib.sha256(f"{name} {n}".encode()).hexdigest()[:16]
        first, second = {"id": id, "method": "ft"}, {"id": id + "b", "method": "ft"}
        book.append([(first, id.encode() * 2000), (second, b"b" + id.encode())])
        if n % 3 == 2:
            book.drop([id])
        print(id, int(n % 3 != 2), flush=True)
        n += 1
"""


def test_two_processes_start_one_book_and_both_write(tmp_path: Path) -> None:
    writers = [run(WRITER, str(tmp_path / "book"), name) for name in ("one", "two", "three")]
    said = [dict(line.split() for line in writer.communicate()[0].splitlines()) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    with Book.open(tmp_path / "book", "base", create=False) as book:
        records = book.records()
        assert [r.seq for r in records] == list(range(1, 49))
        stands = {r.id: str(int(r.stands)) for r in records}
        for part in said:
            assert len(part) == 8
            assert part.items() <= stands.items()
        for first, second in zip(records[::2], records[1::2], strict=True):
            assert second.id == first.id + "b"  # one transaction each, never interleaved
            assert book.read(first) == first.id.encode() * 2000


@pytest.mark.parametrize("lines", [0, 1, 2, 4, 7])
def test_killed_at_any_moment_loses_nothing_that_was_reported(tmp_path: Path, lines: int) -> None:
    writer = run(WRITER, str(tmp_path), "killed")
    assert writer.stdout is not None
    said = [writer.stdout.readline().split() for _ in range(lines)]
    if not lines:  # some moment of the start: anywhere between the import and the first edits
        threading.Event().wait(random.Random().uniform(0.05, 0.4))
    os.kill(writer.pid, signal.SIGKILL)
    said += [line.split() for line in writer.communicate()[0].splitlines() if len(line.split()) == 2]
    with Book.open(tmp_path, "base", wait=5) as book:
        stands = {r.id: r.stands for r in book.records()}
        for id, expected in said:
            assert stands[id] == bool(int(expected))
        assert len(stands) % 2 == 0  # both edits of a transaction, or none
        assert [len(book.read(r)) for r in book.records()] == [r.bytes for r in book.records()]
        book.append([({"id": "after", "method": "ft"}, b"after")])


HOLDER = """
with Book.open(sys.argv[1]) as book, book.lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_busy_book_says_so_and_still_reads(book: Book) -> None:
    book.append([edit(1)])
    with run(HOLDER, str(book.path)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with Book.open(book.path, BASE, wait=0.1) as other:
            for attempt in (
                lambda: other.append([edit(2)]),
                lambda: other.drop([key(1)]),
                lambda: other.lock(0).__enter__(),
            ):
                with pytest.raises(BookBusy, match="another process"):
                    attempt()
            assert [r.id for r in other.stand()] == [key(1)]
        holder.kill()
    with book.lock(5):  # a dead holder holds nothing
        book.append([edit(2)])
    assert len(book.stand()) == 2


def test_the_lock_may_be_nested_but_not_taken_twice(book: Book) -> None:
    with Book.open(book.path, BASE, wait=0) as other:
        with book.lock(), book.lock():
            book.append([edit(1)])
            with pytest.raises(BookBusy):
                other.append([edit(2)])
            with pytest.raises(BookBusy), other.lock(-1):  # waiting for oneself for ever
                pass
        other.append([edit(2)])
        with pytest.raises(ZeroDivisionError), book.lock():
            raise ZeroDivisionError
        other.append([edit(3)])


def test_a_foreign_lock_on_the_database_is_busy_too(tmp_path: Path) -> None:
    with Book.open(tmp_path, BASE, wait=0.1) as book:
        outside = sqlite3.connect(tmp_path / "book.sqlite", isolation_level=None)
        outside.execute("BEGIN IMMEDIATE")
        with pytest.raises(BookBusy):
            book.append([edit(1)])
        outside.execute("ROLLBACK")
        outside.close()
        book.append([edit(1)])


def test_a_new_book_is_made_by_one_process_at_a_time(tmp_path: Path) -> None:
    with filelock.FileLock(tmp_path / "lock"), pytest.raises(BookBusy):
        Book.open(tmp_path, wait=0.1)
    Book.open(tmp_path, BASE).close()


def test_a_thread_sees_no_half_of_what_another_writes(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    early: list[int] = []
    reader = threading.Thread(target=lambda: seen.append(len(book.records())))
    real = records.add_event

    def read_meanwhile(*arguments: Any) -> None:
        if not reader.is_alive():
            reader.start()
            reader.join(0.2)
            early.extend(seen)
            monkeypatch.undo()
        real(*arguments)

    monkeypatch.setattr(records, "add_event", read_meanwhile)
    book.append([edit(1), edit(2)])
    reader.join()
    assert (early, seen) == ([], [2])


def test_threads_share_a_book(book: Book) -> None:
    errors: list[Exception] = []

    def work(first: int) -> None:
        try:
            for n in range(first, first + 5):
                book.append([edit(n)])
                book.drop([key(n)])
                book.records()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (len(book.records()), book.stand(), book.version()) == (20, [], 40)
