"""Many books merged at once: as if one after the other, but this one is read once, and all or none are.

pytest tests/book/test_merge_many.py
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from sample_edits import BASE, edit

from errata.book import Book
from errata.book.merge import MergePlan, merge, merge_all
from errata.book.verify import verify
from errata.errors import BadBook, InputError

PLACES = ("France", "Italy", "Spain", "Peru", "Chad")
ANSWERS = ("Lyon", "Bari", "Lima")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # what survives a power cut is tested elsewhere


def about(number: int, subject: str, target: str) -> tuple[dict[str, Any], bytes]:
    fact = {"prompt": f"The capital of {subject} is", "subject": subject, "target": target}
    return edit(number, facts=[fact], sites=["1.down"])


def drawn(draw: random.Random) -> tuple[dict[str, Any], bytes]:
    """Return one of few edits, so that books share some and contradict one another."""
    number = draw.randrange(24)
    return about(number, PLACES[number % len(PLACES)], ANSWERS[number % len(ANSWERS)])


def changed(book: Book, draw: random.Random) -> None:
    for _ in range(draw.randrange(2, 7)):
        records = book.records()
        known = {record.id: record.stands for record in records}
        if records and draw.random() < 0.4:
            one = draw.choice(records)
            (book.drop if one.stands else book.restore)([one.id], author=str(draw.random()))
            continue
        item = drawn(draw)
        if not known.get(item[0]["id"]):
            book.append([item])


def books(folder: Path, draw: random.Random) -> tuple[Path, list[Path]]:
    """Make a book, and four others of which some were copies of it or of one another."""
    with Book.open(folder / "ours", BASE, "primer") as ours:
        changed(ours, draw)
    others = list[Path]()
    for number in range(4):
        path = folder / f"other-{number}"
        if draw.random() < 0.6:
            copytree(draw.choice([folder / "ours", *others]), path)
        with Book.open(path, BASE, "primer") as other:
            changed(other, draw)
        others.append(path)
    with Book.open(folder / "ours", BASE, "primer") as ours:
        changed(ours, draw)
    return folder / "ours", others


def told(plan: MergePlan) -> Sequence[object]:
    clashes = [(clash.kind, clash.ours, clash.theirs) for clash in plan.clashes]
    return [r.id for r in plan.take], plan.restore, plan.drop, plan.left_out, plan.shared, clashes, plan.refused


@pytest.mark.parametrize("policy", ["ours", "theirs", "both"])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_as_if_they_were_merged_one_after_the_other(tmp_path: Path, policy: str, seed: int) -> None:
    ours, others = books(tmp_path, random.Random(seed))
    copytree(ours, tmp_path / "single")
    with Book.open(tmp_path / "single", BASE) as single, Book.open(ours, BASE) as whole:
        one_by_one = []
        for path in others:
            with Book.open(path, look=True) as other:
                one_by_one.append(told(merge(single, other, policy)))
        at_once = merge_all(whole, others, policy)
        assert [told(each.plan) for each in at_once] == one_by_one
        states = [[(r.id, r.stands, r.sha256) for r in book.records()] for book in (single, whole)]
        assert states[0] == states[1]
        assert verify(whole).problems == []


def test_one_that_disagrees_keeps_all_out(tmp_path: Path) -> None:
    targets = ("Bari", "Lima", "Lyon")
    for number, (place, target) in enumerate((("Italy", "Bari"), ("Peru", "Lima"), ("Italy", "Rome"))):
        with Book.open(tmp_path / str(number), BASE, "primer") as other:
            other.append([about(number, place, target)])
    others = [tmp_path / str(number) for number in range(len(targets))]
    with Book.open(tmp_path / "ours", BASE, "primer") as ours:
        with pytest.raises(
            InputError, match=f"disagree in 1 places: .*Rome.* there .*in {others[2]}.*Nothing was changed"
        ):
            merge_all(ours, others)
        with pytest.raises(BadBook, match="there is no book"):
            merge_all(ours, [*others[:2], tmp_path / "none"])
        assert ours.history() == []
        merge_all(ours, others[:2])
        assert len(ours.stand()) == 2


def test_the_book_they_are_merged_into_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        with Book.open(tmp_path / str(number), BASE, "primer") as other:
            other.append([about(number, f"Land {number}", "Bari")])
    read, records = list[Path](), Book.records

    def counted(self: Book, **how: Any) -> Any:
        read.append(self.path)
        return records(self, **how)

    with Book.open(tmp_path / "ours", BASE, "primer") as ours:
        monkeypatch.setattr(Book, "records", counted)
        merge_all(ours, [tmp_path / str(number) for number in range(6)])
        monkeypatch.undo()
        assert len(ours.stand()) == 6
    assert read.count(tmp_path / "ours") == 1
