"""The kept sum of many edits: the bits of a full replay, used for exactly those edits, and thrown away without loss.

pytest tests/editing/test_materialised.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from errata.book.book import Book
from errata.delta import Site, Unread
from errata.edit import Edit
from errata.editing import materialised
from errata.editing.editor import Editor
from errata.errors import CorruptEdit
from errata.model.lm import LM
from tests import synthetic

MANY = 40


@pytest.fixture
def lm(models: Callable[[str], LM], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LM]:
    found = models("llama")
    monkeypatch.setattr(materialised, "EVERY", MANY)
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(materialised.REPLAY, raising=False)
    found.weights.stand([])
    yield found
    found.weights.stand([])


@pytest.fixture
def place(lm: LM, tmp_path: Path) -> Path:
    with Book.open(tmp_path / "book", lm.identity, lm.name) as book:
        book.append([synthetic.item(lm, number) for number in range(MANY)])
    return tmp_path / "book"


def opened(lm: LM, place: Path) -> Editor:
    """Open the book in the model as a new process does."""
    lm.weights.stand([])
    lm.memory.clear()
    return Editor(lm, Book.open(place, lm.identity, lm.name))


def unread(editor: Editor) -> int:
    return sum(isinstance(edit.deltas, Unread) for edit in editor.standing)


def matrices(lm: LM) -> dict[Site, Tensor]:
    return {site: lm.weights[site].detach().clone() for site in lm.weights.touched()}


def same(one: dict[Site, Tensor], other: dict[Site, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[site], other[site]) for site in one)


def test_a_book_is_opened_by_its_kept_sum_to_the_bits_of_a_replay(lm: LM, place: Path) -> None:
    with opened(lm, place) as editor:
        assert unread(editor) == 0
        whole = matrices(lm)
    with opened(lm, place) as editor:
        assert unread(editor) == MANY
        assert same(matrices(lm), whole)
        assert materialised.differences(editor) == []
        assert same(matrices(lm), whole)
    with Book.open(place) as book:
        book.append([synthetic.item(lm, number) for number in range(MANY, MANY + 5)])
    with opened(lm, place) as editor:
        assert unread(editor) == MANY
        after = matrices(lm)
        materialised.forget(lm, editor.book)
    with opened(lm, place) as editor:
        assert unread(editor) == 0
        assert same(matrices(lm), after)


def test_what_is_read_later_is_the_edit(lm: LM, place: Path) -> None:
    with opened(lm, place) as editor:
        first = editor.standing
    with opened(lm, place) as editor:
        for one, other in zip(first, editor.standing, strict=True):
            assert one.meta() == other.meta()
            assert (one.sites, one.id) == (other.sites, other.id)
            assert one.to_bytes() == other.to_bytes()
            assert Edit.from_bytes(other.to_bytes()).id == one.id


def test_dropping_and_restoring_give_the_bits_of_a_replay(lm: LM, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(lm, place).close()
    with opened(lm, place) as editor:
        assert unread(editor) == MANY
        whole, victim = matrices(lm), editor.standing[7].id
        editor.drop(victim)
        without = matrices(lm)
        editor.restore(victim)
        assert same(matrices(lm), whole)
        editor.drop(victim)
    monkeypatch.setenv(materialised.REPLAY, "1")
    with opened(lm, place) as editor:
        assert unread(editor) == 0
        assert same(matrices(lm), without)


def test_a_sum_that_is_not_of_these_edits_is_not_used(lm: LM, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(lm, place).close()
    (kept,) = (materialised.directory() / "sums").iterdir()
    good = kept.read_bytes()
    for bad in (
        good[:-1],
        good[:-1] + bytes([good[-1] ^ 1]),
        b"",
        good.replace(b'\\"edits\\": 40', b'\\"edits\\": 39'),
    ):
        assert bad != good
        kept.write_bytes(bad)
        with opened(lm, place) as editor:
            assert unread(editor) == 0
    kept.write_bytes(good)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 99)
        with opened(lm, place) as editor:
            assert unread(editor) == 0
    with Book.open(place) as book:
        book.drop([book.records()[3].id])
    with opened(lm, place) as editor:
        assert unread(editor) == 0, "it was of an edit that stands no more"


def test_a_lost_or_cut_file_is_still_noticed(lm: LM, place: Path) -> None:
    opened(lm, place).close()
    file = next(iter((place / "edits").glob("*.safetensors")))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(CorruptEdit, match=file.name[:16]):
        opened(lm, place)
    file.unlink()
    with pytest.raises(CorruptEdit, match=file.name[:16]):
        opened(lm, place)
    file.write_bytes(whole)
    with opened(lm, place) as editor:
        assert unread(editor) == MANY
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(CorruptEdit, match="its hash differs"):
            materialised.differences(editor)


def test_nothing_is_kept_of_a_book_whose_edits_stand_beside_the_matrices_or_are_derived(lm: LM, place: Path) -> None:
    with opened(lm, place) as editor:
        records, edits = editor.book.stand(), editor.standing
        materialised.forget(lm, editor.book)
        assert materialised.keep(lm, editor.book, records, edits, 0) == MANY
        assert materialised.keep(lm, editor.book, records, edits, 1) == 1
        assert materialised.keep(lm, editor.book, records, edits[:-1], 0) == 0


def test_no_room_for_it_is_no_error(lm: LM, place: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with opened(lm, place) as editor:
        assert unread(editor) == 0
