"""States: what stood when, by tag, by number, and going back to it."""

from __future__ import annotations

import pytest
from sample_edits import edit, key

from errata.book import Book, Note
from errata.book.states import at, checkout, tag, tags, untag
from errata.book.verify import verify
from errata.errors import CorruptEdit, InputError


def ids(*numbers: int) -> tuple[str, ...]:
    return tuple(key(n) for n in numbers)


def test_every_moment_can_be_named(book: Book) -> None:
    book.append([edit(1), edit(2)])
    tag(book, "release-1", Note("Ann", "first"))
    book.drop([key(1)])
    book.append([edit(3)])
    found = {name: at(book, name).ids for name in ("base", "@0", "@1", "@2", "release-1", "@4", "now", key(1)[:8])}
    assert found == {
        "base": (), "@0": (), "@1": ids(1), "@2": ids(1, 2), "release-1": ids(1, 2), "@4": ids(2), "now": ids(2, 3),
        key(1)[:8]: ids(1),
    }  # fmt: skip
    (event,) = tags(book).values()
    assert (event.kind, event.author, event.reason, event.data) == ("tag", "Ann", "first", {"name": "release-1"})


def test_checkout_goes_there_and_back_in_one_step_each(book: Book) -> None:
    book.append([edit(1), edit(2)])
    tag(book, "one")
    book.drop([key(1)])
    book.append([edit(3)])
    tag(book, "two")
    dropped, restored = checkout(book, "one", Note("Ann", "it was better"))
    assert ([r.id for r in dropped], [r.id for r in restored]) == ([key(3)], [key(1)])
    assert [r.id for r in book.stand()] == list(ids(1, 2))
    assert [(e.kind, e.reason) for e in book.history()[-2:]] == [
        ("drop", "checkout one: it was better"),
        ("restore", "checkout one: it was better"),
    ]
    checkout(book, "two")
    assert [r.id for r in book.stand()] == list(ids(2, 3))
    assert checkout(book, "two") == ([], [])
    checkout(book, "base")
    assert book.stand() == []
    assert verify(book).problems == []


def test_checkout_is_all_or_nothing(book: Book) -> None:
    first, _ = book.append([edit(1), edit(2)])
    tag(book, "one")
    book.drop([key(1), key(2)])
    book.append([edit(3)])
    (book.path / "edits" / f"{first.sha256}.safetensors").unlink()
    with pytest.raises(CorruptEdit):
        checkout(book, "one")
    assert [r.id for r in book.stand()] == [key(3)]


def test_tags_are_not_overwritten_by_chance(book: Book) -> None:
    book.append([edit(1)])
    tag(book, "one")
    book.append([edit(2)])
    with pytest.raises(InputError, match="--move"):
        tag(book, "one")
    assert at(book, "one").ids == ids(1)
    tag(book, "one", move=True)
    assert at(book, "one").ids == ids(1, 2)
    untag(book, "one")
    assert tags(book) == {}
    for name in ("", "now", "base", "@3", "a b", "-x", "a\nb"):
        with pytest.raises(InputError, match="cannot be a tag"):
            tag(book, name)


def test_states_that_are_none(book: Book) -> None:
    book.append([edit(1)])
    tag(book, "release")
    for name, words in [("relase", "Did you mean release"), ("@2000", "no event @2000"), ("", "no state")]:
        with pytest.raises(InputError, match=words):
            at(book, name)
    with pytest.raises(InputError, match="Did you mean release"):
        untag(book, "relase")
