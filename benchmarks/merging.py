"""Many people's books on one base: what of each one's facts is still said when 1, 2, 5, 10 and 20 of them are merged.

    python benchmarks/merging.py --books 20 --edits 50 --method rome --room merging-books

Each book is written as if nobody else were there, over different facts of the primer's world. They are merged in two orders; a
book that was made is not made again. Rows say, for each number of books: facts asked, said by their own book alone, said by all
together in one order and in the other, facts on which the two orders differ, and what the lost ones were lost to.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from errata.book.book import Book
from errata.book.merge import merge
from errata.edit import Edit
from errata.editing.editor import Editor
from errata.editing.interactions import Interactions, interactions
from errata.editing.standing import load as read
from errata.model.lm import LM
from errata.model.loading import load
from errata.primer.probes import edits

COUNTS = (1, 2, 5, 10, 20)
Row = dict[str, Any]


def written(lm: LM, count: int, each: int, method: str, room: Path) -> list[list[Edit]]:
    """Return the edits of every book, making those that are not there."""
    facts, found = edits(count * each, seed=11), list[list[Edit]]()
    for number in range(count):
        lm.weights.stand([])
        with Editor(lm, Book.open(room / f"{method}-{number}", base=lm.identity, name=lm.name)) as editor:
            known = {fact.prompt for edit in editor.standing for fact in edit.facts}
            mine = [fact for fact in facts[number * each : (number + 1) * each] if fact.prompt not in known]
            if mine:
                editor.write_all(mine, method)
            found.append(read(editor.book, editor.book.stand()))
    lm.weights.stand([])
    return found


def merged(lm: LM, books: Sequence[int], method: str, room: Path, name: str) -> tuple[int, int]:
    """Merge books one after the other into a new one; return how many edits stand, and disagreements."""
    clashes = 0
    with Book.open(room / name, base=lm.identity, name=lm.name) as whole:
        for number in books:
            with Book.open(room / f"{method}-{number}", look=True) as other:
                clashes += len(merge(whole, other, "both").clashes)
        return len(whole.stand()), clashes


def rows(lm: LM, found: Sequence[Sequence[Edit]], method: str, room: Path) -> Iterator[Row]:
    """Yield what is measured of each number of books."""
    order = list(range(len(found)))
    other = random.Random(5).sample(order, len(order))
    for count in (n for n in COUNTS if n <= len(found)):
        chosen = order[:count]
        shuffled = [number for number in other if number in chosen]
        one, two = (_asked(lm, found, books) for books in (chosen, shuffled))
        standing, clashes = merged(lm, chosen, method, room, f"merged-{method}-{count}")
        lost = [{(lost.edit_id, lost.fact.prompt) for lost in each.lost} for each in (one, two)]
        yield {
            "method": method, "books": count, "edits": standing, "disagreements": clashes,
            "asked": sum(one.asked.values()), "alone": sum(one.alone.values()),
            "together": sum(one.together.values()), "other_order": sum(two.together.values()),
            "orders_differ": len(lost[0] ^ lost[1]), "won": one.won,
            "lost_to": dict(Counter(lost.why or "unknown" for lost in one.lost)),
        }  # fmt: skip


def _asked(lm: LM, found: Sequence[Sequence[Edit]], books: Sequence[int]) -> Interactions:
    sides: Mapping[str, Sequence[Edit]] = {str(number): found[number] for number in books}
    return interactions(lm, sides)


def main() -> None:
    """Write the books, merge them, and print a row for each number of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--books", type=int, default=20)
    parser.add_argument("--edits", type=int, default=50, help="in each book")
    parser.add_argument("--method", default="rome", help="that all books are written with")
    parser.add_argument("--room", type=Path, default=Path("merging-books"), help="where books are made")
    parser.add_argument("--out", type=Path, help="JSON lines to add rows to")
    options = parser.parse_args()
    options.room.mkdir(parents=True, exist_ok=True)
    lm = load("primer")
    for row in rows(
        lm, written(lm, options.books, options.edits, options.method, options.room), options.method, options.room
    ):
        print(json.dumps(row), flush=True)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
