"""The accidents of `faults.py`: each takes a tiny model and a directory, breaks something, and says what came of it.

A row: {"fault", "times", "lost", "foreign", "what"}. `lost` counts what had been reported as written and was not there;
`foreign` counts outcomes that were neither success nor one of our own errors, and results that were wrong without a word.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests import synthetic

from errata.book import records
from errata.book.book import Book, Note
from errata.book.compact import compact
from errata.book.states import tag
from errata.book.verify import verify
from errata.editing.editor import Editor
from errata.errors import BadBook, CorruptEdit, ErrataError, NewerBook
from errata.fact import Fact
from errata.model.lm import LM

Row = dict[str, Any]


def row(fault: str, times: int, what: str, lost: int = 0, foreign: int = 0) -> Row:
    """Return a row."""
    return {"fault": fault, "times": times, "lost": lost, "foreign": foreign, "what": what}


def fill(lm: LM, path: Path, count: int = 8) -> list[str]:
    """Make a book of so many edits, and return their ids."""
    with Book.open(path, lm.fingerprint, "tiny") as book:
        return [r.id for n in range(count) for r in book.append([synthetic.item(lm, n)])]


def forked(work: Callable[[], object]) -> Any:
    """Do something in a process of its own, and return what it returned as JSON; an exception becomes its class's name."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            result: object = work()
        except ErrataError as error:
            result = f"ours: {type(error).__name__}"
        except BaseException as error:
            result = f"foreign: {type(error).__name__}: {error}"
        os.write(writer, json.dumps(result).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        said = told.read()
    os.waitpid(child, 0)
    return json.loads(said)


@contextmanager
def small_disk(root: Path, kilobytes: int) -> Iterator[Path | None]:
    """Yield a file system of that size; None where none may be mounted."""
    place = root / "disk"
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def full_disks(lm: LM, root: Path) -> list[Row]:
    """Write to a file system until it is full, at many different places, then make room and go on."""
    times = lost = foreign = written = 0
    for ballast in range(0, 60, 3):
        with small_disk(root, 400) as disk:
            if disk is None:
                return [row("a full disk", 0, "no file system could be mounted here")]
            (disk / "ballast").write_bytes(b"x" * 1024 * (100 + ballast))
            reported, refused = _until_full(lm, disk / "book")
            foreign += refused != "ours"
            (disk / "ballast").unlink()
            with Book.open(disk / "book", lm.fingerprint) as book:
                lost += len(set(reported) - {r.id for r in book.stand()})
                foreign += bool(verify(book).problems)
                book.append([synthetic.item(lm, 10_000)])
            times, written = times + 1, written + len(reported)
    return [
        row(
            "a full disk",
            times,
            f"{written} edits fitted; the next was refused, and went in after room was made",
            lost,
            foreign,
        )
    ]


def _until_full(lm: LM, path: Path) -> tuple[list[str], str]:
    reported: list[str] = []
    with Book.open(path, lm.fingerprint, "tiny") as book:
        for n in range(10_000):
            try:
                reported += [r.id for r in book.append([synthetic.item(lm, n)])]
            except BadBook:
                return reported, "ours"
            except Exception as error:
                return reported, f"{type(error).__name__}"
    return reported, "never full"


def short_files(lm: LM, root: Path) -> list[Row]:
    """Let no file grow beyond a limit, as a quota does, at many different limits."""
    lost = foreign = written = 0
    limits = list(range(2_000, 130_000, 6_000))
    for limit in limits:
        path = root / f"book{limit}"
        fill(lm, path, 1)

        def work(limit: int = limit, path: Path = path) -> object:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            reported: list[str] = []
            with Book.open(path, lm.fingerprint) as book:
                for n in range(1, 40):
                    try:
                        reported += [r.id for r in book.append([synthetic.item(lm, n)])]
                    except BadBook:
                        break
            return reported

        reported = forked(work)
        if isinstance(reported, str):
            foreign += reported.startswith("foreign")
            reported = []
        with Book.open(path, lm.fingerprint) as book:
            lost += len(set(reported) - {r.id for r in book.stand()})
            foreign += bool(verify(book).problems)
        written += len(reported)
    return [
        row(
            "files that may not grow", len(limits), f"{written} edits were written, the next one refused", lost, foreign
        )
    ]


def read_only_books(lm: LM, root: Path) -> list[Row]:
    """A book on a read-only file system, and one of another user: it can be read, and every change is refused."""
    outcomes: Counter[str] = Counter()
    with small_disk(root, 2000) as disk:
        if disk is not None:
            ids = fill(lm, disk / "book")
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            outcomes += _only_read(lm, disk / "book", ids)
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    path = root / "theirs"
    ids = fill(lm, path)
    for place in (root, path, path / "edits"):
        place.chmod(0o555)

    def as_nobody() -> object:
        with suppress(PermissionError):
            os.setgid(65534)
            os.setuid(65534)
        return _only_read(lm, path, ids)

    outcomes += Counter(forked(as_nobody))
    root.chmod(0o755)
    wrong = outcomes["wrong"] + outcomes["foreign"]
    what = f"read whole {outcomes['read']} times; {outcomes['refused']} changes refused in a sentence"
    return [row("a book that may not be written to", sum(outcomes.values()), what, 0, wrong)]


def _only_read(lm: LM, path: Path, ids: list[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    with Book.open(path, lm.fingerprint, wait=1) as book:
        whole = [r.id for r in book.stand()] == ids and not verify(book).problems
        found["read" if whole else "wrong"] += 1
        acts: list[Callable[[], object]] = [
            lambda: book.append([synthetic.item(lm, 99)]), lambda: book.drop(ids[:1]), lambda: tag(book, "x"),
            lambda: compact(book), lambda: book.note("tag", Note()),
        ]  # fmt: skip
        for act in acts:
            try:
                act()
                found["wrong"] += 1
            except BadBook:
                found["refused"] += 1
            except Exception:
                found["foreign"] += 1
    return found


def writers(lm: LM, root: Path) -> list[Row]:
    """Two and ten processes write to one book at once."""
    rows = []
    for count, edits in ((2, 40), (10, 12)):
        path = root / f"by {count}"
        pipes = [os.pipe() for _ in range(count)]
        for n, (_, writer) in enumerate(pipes):
            if not os.fork():
                _write_many(lm, path, n, edits, writer)
        said: list[Any] = []
        for reader, writer in pipes:
            os.close(writer)
            with os.fdopen(reader) as told:
                said += [json.loads(line) for line in told.read().splitlines()]
        for _ in pipes:
            os.wait()
        with Book.open(path) as book:
            stands = {r.id: r.stands for r in book.records()}
            lost = sum(stands.get(one["id"]) != one["stands"] for one in said if "id" in one)
            problems = verify(book).problems
        foreign = sum("error" in one for one in said) + bool(problems)
        done = sum("id" in one for one in said)
        rows.append(row(f"{count} writers at once", count, f"{done} changes, in one history that holds", lost, foreign))
    return rows


def _write_many(lm: LM, path: Path, writer: int, edits: int, pipe: int) -> None:
    try:
        with Book.open(path, lm.fingerprint, "tiny", wait=120) as book:
            for n in range(edits):
                (written,) = book.append([synthetic.item(lm, 1000 * (writer + 1) + n)])
                stands = n % 3 != 2
                if not stands:
                    book.drop([written.id])
                os.write(pipe, (json.dumps({"id": written.id, "stands": stands}) + "\n").encode())
    except BaseException as error:
        os.write(pipe, (json.dumps({"error": repr(error)}) + "\n").encode())
    os._exit(0)


def damaged_files(lm: LM, root: Path) -> list[Row]:
    """Cut, flip a bit of, and swap the files of edits."""
    path, draw, rows = root / "book", random.Random(0), []
    ids = fill(lm, path, 10)
    with Book.open(path, lm.fingerprint) as book:
        files = {r.id: path / "edits" / f"{r.sha256}.safetensors" for r in book.records()}
        whole = {id: file.read_bytes() for id, file in files.items()}
        for kind in ("cut short", "with a flipped bit", "swapped"):
            noticed = 0
            for _ in range(200):
                one, other = draw.sample(ids, 2)
                _damage(kind, files, whole, one, other, draw)
                unread = 0
                for id in {one, other} if kind == "swapped" else {one}:
                    with suppress(CorruptEdit):
                        book.read(book.get(id))
                        unread += 1
                noticed += not unread and one in " ".join(verify(book).problems)
                for id in (one, other):
                    files[id].write_bytes(whole[id])
            what = f"{noticed} noticed and named, none read"
            rows.append(row(f"a tensor file {kind}", 200, what, 0, 200 - noticed))
        assert verify(book).problems == []
    return rows


def _damage(
    kind: str, files: dict[str, Path], whole: dict[str, bytes], one: str, other: str, draw: random.Random
) -> None:
    data = bytearray(whole[one])
    if kind == "cut short":
        data = data[: draw.randrange(len(data))]
    elif kind == "swapped":
        data = bytearray(whole[other])
        files[other].write_bytes(whole[one])
    else:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    files[one].write_bytes(data)


def damaged_databases(lm: LM, root: Path) -> list[Row]:
    """Flip one bit anywhere in the database: what stands is the same, or there is an error."""
    path, draw = root / "book", random.Random(0)
    ids = fill(lm, path, 12)
    with Book.open(path) as book:
        book.drop(ids[:2])
        compact(book)  # nothing is left in the log of changes
        right = [(r.id, r.sha256, r.facts, dict(r.meta)) for r in book.stand()]
    whole = (path / "book.sqlite").read_bytes()
    refused = same = foreign = 0
    for _ in range(1500):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (path / "book.sqlite").write_bytes(data)
        for left in ("book.sqlite-wal", "book.sqlite-shm"):
            (path / left).unlink(missing_ok=True)
        try:
            with Book.open(path, lm.fingerprint, wait=1) as book:
                found = [(r.id, r.sha256, r.facts, dict(r.meta)) for r in book.stand()]
            same, foreign = same + (found == right), foreign + (found != right)
        except ErrataError:
            refused += 1
        except Exception:
            foreign += 1
    what = f"{refused} refused; {same} in places that carry nothing: the edits were the same"
    return [row("a bit flipped in the database", 1500, what, 0, foreign)]


def futures(lm: LM, root: Path) -> list[Row]:
    """A database and an edit's file from a version that is yet to be written."""
    fill(lm, root / "book", 2)
    with sqlite3.connect(root / "book" / "book.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = (root / "book" / "book.sqlite").read_bytes()
    foreign = 0
    for options in ({}, {"base": lm.fingerprint}, {"create": False}):
        try:
            Book.open(root / "book", **options)  # type: ignore[arg-type]
            foreign += 1
        except NewerBook:
            pass
    foreign += (root / "book" / "book.sqlite").read_bytes() != before
    return [row("a database from the future", 3, "refused with its version and ours; not a byte changed", 0, foreign)]


def clocks(lm: LM, root: Path) -> list[Row]:
    """A clock that goes backwards, and one that jumps."""
    times = [f"20{y:02}-0{m}-01T00:00:00+00:00" for y, m in ((30, 1), (29, 5), (31, 1), (1, 1), (26, 9), (26, 8))]
    real = records._now
    try:
        with Book.open(root / "book", lm.fingerprint, "tiny") as book:
            ids = []
            for n, at in enumerate(times):
                records._now = lambda at=at: at
                ids += [r.id for r in book.append([synthetic.item(lm, n)])]
            lost = [r.id for r in book.stand()] != ids
            found = verify(book)
    finally:
        records._now = real
    what = f"order kept; errata verify remarks on {len(found.remarks)} events"
    return [row("a clock that goes backwards", len(times), what, int(lost), len(found.problems))]


def places(lm: LM, root: Path) -> list[Row]:
    """Books in directories with awkward names."""
    names = ["two words", "été ñ", "書の本", "🦊📕", "ספר עברי", "a'b", 'a"b', "100%25", "a#b?c=d&e", "-x", "x" * 200,
             " lead", "trail ", "a\nb", "~", "$HOME", "*", "a\\b", "file:x?mode=ro", "ä"]  # fmt: skip
    foreign = lost = 0
    for name in names:
        try:
            ids = fill(lm, root / name, 2)
            with Book.open(root / name, lm.fingerprint) as book:
                lost += [r.id for r in book.stand()] != ids or bool(verify(book).problems)
            _only_read(lm, root / name, ids) if os.getuid() else None
        except Exception:
            foreign += 1
    return [row("a path with spaces, quotes, other scripts", len(names), "written, reopened and whole", lost, foreign)]


LONG = "word " * 2000
FACTS: tuple[tuple[str, str, str], ...] = (
    ("The capital of 🦊 is", "🦊", "🎉"),
    ("The capital of France is", "France", "🏳️‍🌈👩‍👩‍👧"),
    ("בירת צרפת היא", "צרפת", "ליון"),
    ("عاصمة فرنسا هي", "فرنسا", "ليون"),
    (f"{LONG}France is", "France", "Lyon"),
    ("France is", "France", LONG),
    (f"{LONG}is", LONG.strip(), "Lyon"),
    ("x" * 10_000 + " France is", "France", "Lyon"),
    ("France is", "France", "x" * 10_000),
    ("France\0 is", "France\0", "Lyon"),
    ("France is", "France", "\0"),
    ("France is", "France", "   "),
    ("   ", "France", "Lyon"),
    ("France is", " ", "Lyon"),
    ("France is", "France", "\t\n"),
    ("Cafe\u0301 is", "Cafe\u0301", "n\u0303"),
    ("France is", "France", "\ud83d"),
    ("France is", "France", "\u200b"),
    ("France is", "France", "\u202eLyon"),
    ("{} is {}", "France", "Lyon"),
    ("France is", "France", "{}"),
    ("法国的首都是", "法国", "里昂"),
    ("is France", "France", "Lyon"),
    ("France", "France", "Lyon"),
    ("France is", "France", "</s>"),
    ("France is", "France", "."),
    ("a" * 300, "a" * 300, "b"),
)


def odd_facts(lm: LM, root: Path) -> list[Row]:
    """Facts that no one expects, written by three methods: an edit that stands and is read back, or a sentence."""
    written = refused = lost = 0
    foreign: list[str] = []
    with Editor(lm, Book.open(root / "book", lm.fingerprint, "tiny"), max_norm_ratio=1e9) as editor:
        for method, steps in (("rome", 2), ("memit", 2), ("ft", 2)):
            for prompt, subject, target in FACTS:
                try:
                    edit = editor.write(Fact(prompt=prompt, subject=subject, target=target), method, steps=steps)
                    lost += editor.book.get(edit.id).facts != edit.facts
                    editor.drop(edit.id)
                    written += 1
                except ErrataError:
                    refused += 1
                except Exception as error:
                    foreign.append(
                        f"{method}: {prompt[:20]!r} {target[:20]!r}: {type(error).__name__}: {str(error)[:80]}"
                    )
        foreign += verify(editor.book).problems
    for one in foreign:
        print("  foreign:", one)
    what = f"{written} written and read back the same, {refused} refused in a sentence"
    return [row("emoji, right-to-left, 10,000 characters, NUL, spaces", 3 * len(FACTS), what, lost, len(foreign))]


ACCIDENTS = (
    full_disks, short_files, read_only_books, writers, damaged_files, damaged_databases, futures, clocks, places, odd_facts,
)  # fmt: skip
