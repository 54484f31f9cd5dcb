"""Power that goes at any moment: a book's disk, rebuilt as it would be if what nobody synced were lost, or done in part.

    log = record(root, library(tmp), tmp)            # a program that uses a book in every way, watched by `power.c`
    for cut, how in moments(log, 100, seed=0):
        restore(log, cut, how, elsewhere); check(elsewhere, log, cut)

Nothing is promised of what was written and not synced: each write may be there, or not, or in part (by sectors), names may be
there without their content and content without its name, in any order. What was synced is there: a file's content by `fsync` of
it, its name by `fsync` of its directory.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent / "book"))

from sample_edits import BASE, edit

from errata.book import policy, signing, states
from errata.book.book import Book, Note
from errata.book.bundle import bundle, unbundle
from errata.book.compact import compact
from errata.book.merge import merge
from errata.book.verify import verify
from errata.errors import BadBook

MODES: Final = ("nothing", "names", "data", "some", "most")  # what of all that was not synced survives
SECTOR: Final = 512  # bytes that a disk writes whole
_HEAD: Final = struct.Struct("<cQqII")
_SHARES: Final = {
    "nothing": (0.0, 0.0),
    "names": (1.0, 0.0),
    "data": (0.0, 1.0),
    "some": (0.5, 0.5),
    "most": (0.9, 0.9),
}


# ------------------------------------------------------------------ a program that uses a book


def use(root: Path, rounds: int = 3) -> None:
    """Use a book in every way, and write down what was begun and what was reported."""
    marks = os.open(root / "marks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = iter(range(1, 10_000))
    path = root / "new" / "book"

    def told(book: Book, **row: Any) -> None:
        history = [event.hash for event in book.history()]
        stands = [record.id for record in book.stand()]
        os.write(marks, (json.dumps({**row, "history": history, "stands": stands}) + "\n").encode())

    def fresh(count: int) -> list[Any]:
        towns = [f"Town {next(number)}" for _ in range(count)]
        return [edit(1, facts=[{"prompt": f"{town} is", "subject": town, "target": "x"}]) for town in towns]

    key = root / "ada.pem"
    signing.make_key(key)
    for round in range(rounds):
        with Book.open(path, BASE, "tiny", key=key) as book, book.query() as db:
            db.execute("PRAGMA wal_autocheckpoint = 12")  # so that a short program sees many of them
            told(book, over="open")
            for count in (1, 3, 1, 1):
                book.append(fresh(count))
                told(book, over="append")
            stands = [record.id for record in book.stand()]
            book.drop(stands[:2])
            told(book, over="drop")
            book.restore(stands[:1])
            told(book, over="restore")
            states.tag(book, f"t{round}", Note("Ada"))
            told(book, over="tag")
            book.change(drop=stands[2:3], restore=stands[1:2], write=fresh(1))
            told(book, over="change")
            states.checkout(book, f"t{round}", Note("Ada"))
            told(book, over="checkout")
            with Book.open(root.parent / f"other{round}", BASE, "tiny") as other:
                other.append(fresh(2))
                merge(book, other)
            told(book, over="merge")
            if round == 1:
                policy.adopt(book, policy._said({"signed_by": [signing.Signer(key).public]}, 0))
                told(book, over="policy")
            compact(book, forget=round == 1)
            told(book, over="compact")
            bundle(book, root / f"{round}.errata")
            unbundle(root / f"{round}.errata", root / "copies" / f"{round}")
            told(book, over="unbundle", copies=round + 1)


# ------------------------------------------------------------------ what it did


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done to the disk: its kind as in `power.c`, the inode, a number, a path, and data."""

    kind: str
    inode: int
    number: int
    path: str
    data: bytes


def library(directory: Path) -> Path | None:
    """Return the library that watches, compiled; None where there is no compiler for it, or no such system."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    made = directory / "power.so"
    source = Path(__file__).with_name("power.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl", "-lpthread"], check=True)
    return made


def record(watcher: Path, directory: Path, rounds: int = 3) -> list[Step]:
    """Run `use` in a process of its own and return all it did to the disk, its marks among it."""
    root, log = directory.resolve() / "disk", directory / "log"
    root.mkdir()
    code = f"from pathlib import Path; from tests.power import use; use(Path({str(root)!r}), {rounds})"
    places = [str(Path(__file__).parents[1]), *sys.path]
    environment = {**os.environ, "LD_PRELOAD": str(watcher), "POWER_ROOT": str(root), "POWER_LOG": str(log)}
    environment |= {"PYTHONPATH": os.pathsep.join(places)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return list(_steps(log.read_bytes(), str(root)))


def _steps(log: bytes, root: str) -> Iterator[Step]:
    at = 0
    while at < len(log):
        kind, inode, number, text, size = _HEAD.unpack_from(log, at)
        at += _HEAD.size
        path, data = log[at : at + text].decode(), log[at + text : at + text + size]
        at += text + size
        data = data.removeprefix(f"{root}/".encode()) if kind == b"R" else data
        yield Step(kind.decode(), inode, number, path.removeprefix(root).removeprefix("/"), data)


# ------------------------------------------------------------------ the disk


@dataclass(slots=True, eq=False)
class _Thing:
    """A file or a directory: what of it is synced, and what was done since, in order."""

    content: bytearray = field(default_factory=bytearray)
    writes: list[tuple[int, bytes | None]] = field(default_factory=list)  # None cuts or lengthens it
    names: dict[str, _Thing] | None = None  # of a directory
    changes: list[dict[str, _Thing | None]] = field(default_factory=list)
    now: dict[str, _Thing] = field(default_factory=dict)  # the names as a program sees them

    def change(self, change: dict[str, _Thing | None]) -> None:
        self.changes.append(change)
        _apply(self.now, change)

    def sync(self) -> None:
        for at, data in self.writes:
            _put(self.content, at, data)
        self.writes.clear()
        if self.names is not None:
            for change in self.changes:
                _apply(self.names, change)
            self.changes.clear()


def _apply(names: dict[str, _Thing], change: dict[str, _Thing | None]) -> None:
    for name, thing in change.items():
        if thing is None:
            names.pop(name, None)
        else:
            names[name] = thing


def _put(content: bytearray, at: int, data: bytes | None) -> None:
    end = at if data is None else at + len(data)
    content.extend(bytes(max(0, end - len(content))))
    if data is None:
        del content[at:]
    else:
        content[at:end] = data


class Disk:
    """What is on a disk after some steps, synced and not."""

    def __init__(self) -> None:
        self.root = _Thing(names={})
        self._by_inode: dict[int, _Thing] = {}

    def do(self, step: Step) -> None:
        """Take in a step."""
        if step.kind == "O":
            self._opened(step)
        elif step.kind == "W":
            self._by_inode[step.inode].writes.append((step.number, step.data))
        elif step.kind == "T":
            self._by_inode[step.inode].writes.append((step.number, None))
        elif step.kind == "S":
            self._by_inode[step.inode].sync()
        elif step.kind == "M":
            folder, name = self._place(step.path)
            folder.change({name: _Thing(names={})})
        elif step.kind in "UD":
            folder, name = self._place(step.path)
            folder.change({name: None})
        else:
            (old, name), (new, other) = self._place(step.path), self._place(step.data.decode())
            moved = old.now[name]
            if old is new:
                old.change({name: None, other: moved})
            else:
                new.change({other: moved})
                old.change({name: None})

    def _place(self, path: str) -> tuple[_Thing, str]:
        *folders, name = path.split("/")
        at = self.root
        for one in folders:
            at = at.now[one]
        return at, name

    def _opened(self, step: Step) -> None:
        if not step.path:
            self._by_inode[step.inode] = self.root
            return
        folder, name = self._place(step.path)
        if name not in folder.now:
            folder.change({name: _Thing()})
        self._by_inode[step.inode] = folder.now[name]

    def left(self, to: Path, how: str, draw: random.Random) -> None:
        """Write what is there once the power is back."""
        self._write(self.root, to, *_SHARES[how], draw)

    def _write(self, thing: _Thing, to: Path, names: float, data: float, draw: random.Random) -> None:
        if thing.names is None:
            content = bytearray(thing.content)
            for at, piece in thing.writes:
                if draw.random() < data:
                    _put(content, at, piece)
                elif data and piece and draw.random() < 0.5:  # torn
                    begin, end = sorted(draw.choices(range(0, len(piece) + 1, SECTOR), k=2))
                    _put(content, at + begin, piece[begin:end]) if begin < end else None
            to.write_bytes(content)
            return
        to.mkdir(exist_ok=True)
        found = dict(thing.names)
        for change in thing.changes:
            if draw.random() < names:
                _apply(found, change)
        for name, one in found.items():
            if not name.endswith("-shm") and name != "marks":  # shared memory is none of a disk's
                self._write(one, to / name, names, data, draw)


# ------------------------------------------------------------------ what must be there


def marks(steps: list[Step]) -> list[tuple[int, dict[str, Any]]]:
    """Return what was reported, each with the number of steps that were done by then."""
    inode = next(step.inode for step in steps if step.kind == "O" and step.path == "marks")
    rows = [(n, step.data) for n, step in enumerate(steps) if step.kind == "W" and step.inode == inode]
    return [(n, json.loads(data)) for n, data in rows]


def moments(steps: list[Step], count: int, seed: int) -> Iterator[tuple[int, str]]:
    """Yield so many moments and ways in which the power goes; each moment is before the step of that number."""
    draw = random.Random(seed)
    for _ in range(count):
        yield draw.randrange(len(steps) + 1), draw.choice(MODES)


def check(root: Path, steps: list[Step], cut: int) -> str:
    """Return what is there: "reported", "more" (what was being done is done, too), or "none" (nothing was reported yet).

    Raises:
        AssertionError: something that was reported is not there, or what is there does not hold.
    """
    told = marks(steps)
    before = [row for n, row in told if n < cut]
    following = next((row for n, row in told if n >= cut), None)
    whole = told[-1][1]["history"]
    try:
        book = Book.open(root / "new" / "book", BASE, "tiny", create=not before)
    except BadBook as error:
        raise AssertionError(f"what was reported cannot be opened: {error}") from error
    with book:
        found = verify(book)
        assert found.problems == [], found.problems
        history, stands = [event.hash for event in book.history()], [record.id for record in book.stand()]
        states = [row for row in (before[-1] if before else None, following) if row is not None]
        if not before and not history:
            book.append([edit(1)])
            return "none"
        assert len(before) == 0 or len(history) >= len(before[-1]["history"]), "events that were reported are gone"
        assert history == whole[: len(history)], "another history than was written"
        exact = [row for row in states if row["history"] == history]
        # To forget several edits is an event each; all else is there as a whole or not at all.
        assert exact or (following and following["over"] == "compact"), "an operation was done by half"
        assert not exact or stands == exact[0]["stands"]
        if before:
            signing.Signer(root / "ada.pem")
        for number in range(before[-1].get("copies", 0) if before else 0):
            with Book.open(root / "copies" / f"{number}", BASE, create=False) as copy:
                assert verify(copy).problems == []
                assert copy.history()[-1].hash in whole
            assert zipfile.ZipFile(root / f"{number}.errata").testzip() is None
        return "reported" if before and history == before[-1]["history"] else "more"
