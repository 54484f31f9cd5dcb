"""What a book of very many edits costs: its log, replay, kept sum, index of facts, verification and merge, and how that grows.

    python benchmarks/scale.py --numbers 100,1000,10000,100000 --room books --out scale.jsonl
    python benchmarks/scale.py --numbers "" --books 10,30,100,300        # many books merged into one, one by one and at once

Edits are a true ROME edit's likes: other facts, and numbers at random of the same size. Times are processor seconds, so that
others on the machine count little; `open_wall_s` is what one waits. Writing is measured without waiting for the disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from speeds.growth import history

from errata.book import facts
from errata.book.book import Book
from errata.book.merge import merge, merge_all
from errata.book.verify import verify
from errata.editing import materialised
from errata.editing.editor import Editor
from errata.model.loading import load

Row = dict[str, Any]
Result = TypeVar("Result")
AT_ONCE = 1_000  # edits in a transaction
# What is measured of each number of edits, and to how many the fit is carried on.
GROWING = ("log_mb", "files_mb", "append_s", "replay_s", "open_s", "check_s", "index_s", "verify_s", "merge_s")
FAR = (1_000_000, 10_000_000)
EACH = 10  # edits in each of many books


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Return what a function gives, and the processor seconds it took."""
    began = time.process_time()
    found = work()
    return found, round(time.process_time() - began, 4)


def made(lm: Any, count: int, place: Path) -> float:
    """Make a book of so many edits, unless it is there; return the processor seconds of writing it."""
    note = place / "append.json"
    if note.exists():
        return float(json.loads(note.read_text())["append_s"])
    shutil.rmtree(place, ignore_errors=True)
    taken = 0.0
    with Book.open(place, base=lm.identity, name=lm.name) as book, patch("os.fsync"):
        edits = history(lm, "rome", {}, count)
        for start in range(0, count, AT_ONCE):
            items = [(edit.meta(), edit.to_bytes()) for edit in edits[start : start + AT_ONCE]]
            taken += timed(lambda items=items: book.change(write=items))[1]  # type: ignore[misc]
    note.write_text(json.dumps({"append_s": taken}))
    return taken


def opening(place: Path) -> Row:
    """Open a book with its model, in a process of its own, and return what that took."""
    code = f"import scale; scale.opened({str(place)!r})"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    return dict(json.loads(found.stdout))


def opened(place: str) -> None:
    """Print what opening a book takes in this process."""
    lm = load("primer")
    wall, began = time.perf_counter(), time.process_time()
    with Editor(lm, Book.open(place, base=lm.identity, name=lm.name)) as editor:
        row = {"s": round(time.process_time() - began, 3), "wall_s": round(time.perf_counter() - wall, 3)}
        row["edits"] = len(editor.standing)
        if os.environ.get("SCALE_COMPARE"):
            row["differences"] = [str(site) for site in materialised.differences(editor)]
    print(json.dumps(row))


def measured(lm: Any, count: int, room: Path) -> Row:
    """Return everything of one number of edits."""
    place = room / str(count)
    row: Row = {"edits": count, "append_s": round(made(lm, count, place), 3)}
    row["log_mb"] = round((place / "book.sqlite").stat().st_size / 1e6, 3)
    row["files_mb"] = round(sum(entry.stat().st_size for entry in os.scandir(place / "edits")) / 1e6, 3)
    os.environ[materialised.REPLAY] = "1"
    row["replay_s"] = opening(place)["s"]
    del os.environ[materialised.REPLAY]
    opening(place)  # keeps the sum
    found = opening(place)
    row |= {"open_s": found["s"], "open_wall_s": found["wall_s"]}
    os.environ["SCALE_COMPARE"] = "1"
    row["differences"] = opening(place)["differences"]
    del os.environ["SCALE_COMPARE"]
    with Book.open(place, look=True) as book:
        records, row["check_s"] = timed(book.stand)
        row["index_s"] = timed(lambda: facts.conflicts(facts.said(records)))[1]
        findings, row["verify_s"] = timed(lambda: verify(book))
        assert not findings.problems
        shutil.rmtree(room / "merged", ignore_errors=True)
        with Book.open(room / "merged", base=lm.identity, name=lm.name) as other, patch("os.fsync"):
            plan, row["merge_s"] = timed(lambda: merge(other, book))
        assert len(plan.take) == count
        shutil.rmtree(room / "merged")
    return row


def many(lm: Any, books: int, room: Path) -> Row:
    """Return what merging so many books of `EACH` edits into an empty one takes, one after the other and at once."""
    places, edits = list[Path](), history(lm, "rome", {}, books * EACH)
    for number in range(books):
        places.append(room / f"many-{number}")
        if not (places[-1] / "whole").exists():
            shutil.rmtree(places[-1], ignore_errors=True)
            with Book.open(places[-1], base=lm.identity, name=lm.name) as book, patch("os.fsync"):
                mine = edits[number * EACH : (number + 1) * EACH]
                book.append([(edit.meta(), edit.to_bytes()) for edit in mine])
            (places[-1] / "whole").touch()
    row: Row = {"books": books, "edits": books * EACH}
    for name, work in (("one_by_one_s", one_by_one), ("at_once_s", merge_all)):
        shutil.rmtree(room / "merged", ignore_errors=True)
        with Book.open(room / "merged", base=lm.identity, name=lm.name) as whole, patch("os.fsync"):
            row[name] = timed(lambda whole=whole, work=work: work(whole, places))[1]  # type: ignore[misc]
            assert len(whole.stand()) == row["edits"]
        shutil.rmtree(room / "merged")
    return row


def one_by_one(whole: Book, places: Sequence[Path]) -> None:
    """Merge books as so many commands would."""
    for place in places:
        with Book.open(place, look=True) as other:
            merge(whole, other)


def fitted(rows: Sequence[Mapping[str, Any]], name: str, of: str = "edits") -> tuple[float, float]:
    """Return a and b of `a · edits ** b`, by least squares of the logarithms of the three largest numbers."""
    points = [(math.log(row[of]), math.log(max(float(row[name]), 1e-4))) for row in rows][-3:]
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((u - x) ** 2 for u, _ in points)
    slope = sum((u - x) * (v - y) for u, v in points) / spread if spread else 1.0
    return math.exp(y - slope * x), slope


def told(rows: Sequence[Row], names: Sequence[str], of: str) -> None:
    """Print how each number grows, and how large it would be."""
    for name in names if rows else ():
        factor, slope = fitted(rows, name, of)
        far = ", ".join(f"{number:.0e}: {factor * number**slope:,.0f}" for number in FAR)
        print(f"{name:12} grows as {of} ** {slope:.2f}; carried on, {far}")


def main() -> None:
    """Measure, fit and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--numbers", default="100,1000,10000,100000", help="of edits, with commas")
    parser.add_argument("--books", default="10,30,100", help=f"numbers of books of {EACH} edits, merged into one")
    parser.add_argument(
        "--room", type=Path, default=Path("scale-books"), help="where books are made; those there are used"
    )
    parser.add_argument("--out", type=Path, help="JSON lines to add rows to")
    options = parser.parse_args()
    options.room.mkdir(parents=True, exist_ok=True)
    lm, rows = load("primer"), dict[str, list[Row]](edits=[], books=[])
    for of, work, given in (("edits", measured, options.numbers), ("books", many, options.books)):
        for number in map(int, filter(None, given.split(","))):
            rows[of].append(work(lm, number, options.room))
            print(json.dumps(rows[of][-1]), flush=True)
            if options.out:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[of][-1]) + "\n")
    told(rows["edits"], GROWING, "edits")
    told(rows["books"], ("one_by_one_s", "at_once_s"), "books")


if __name__ == "__main__":
    main()
