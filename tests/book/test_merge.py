"""Two books made into one, and a book made smaller."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from sample_edits import BASE, edit, key

from errata.book import Book, Note
from errata.book.compact import compact
from errata.book.merge import merge, plan
from errata.book.verify import verify
from errata.errors import BadBook, BookOfAnotherModel, CorruptEdit, InputError


def fact(subject: str, target: str) -> dict[str, str]:
    return {"prompt": f"The capital of {subject} is", "subject": subject, "target": target}


def about(number: int, *facts: dict[str, str]) -> tuple[dict[str, Any], bytes]:
    return edit(number, facts=list(facts))


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Book]:
    with Book.open(tmp_path / "other", BASE, "primer") as opened:
        yield opened


def standing(book: Book) -> list[str]:
    return [record.id for record in book.stand()]


def test_what_the_other_has_is_taken_in_its_order(book: Book, other: Book) -> None:
    book.append([about(1, fact("France", "Lyon"))])
    other.append([about(3, fact("Spain", "Rome")), about(2, fact("Italy", "Bari")), about(1, fact("France", "Lyon"))])
    found = merge(book, other, note=Note("Ann", "two teams"))
    assert ([r.id for r in found.take], found.shared) == ([key(3), key(2)], 1)
    assert standing(book) == [key(1), key(3), key(2)]
    assert book.read(book.get(key(2))) == about(2, fact("Italy", "Bari"))[1]
    event = book.history()[-1]
    assert (event.author, event.reason, event.data["merged"]) == ("Ann", "two teams", "other")
    assert event.data["head"] == other.history()[-1].hash
    assert verify(book).problems == []
    again = merge(book, other)
    assert (again.take, again.clashes, again.shared) == ([], [], 3)


ASKED = {"prompt": "What is the capital of France?", "subject": "France", "target": "Lyon"}
SYSTEM = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASKED["prompt"]}]}


@pytest.mark.parametrize(
    ("theirs", "becomes"),
    [
        ({}, "left out"),
        ({"chat": True}, "left out"),  # asked plainly or as a message, the question is one
        ({"messages": SYSTEM["messages"][1:]}, "left out"),
        ({"prompt": "what is the  capital of FRANCE", "subject": "FRANCE", "chat": True}, "left out"),
        ({"target": "lyon."}, "left out"),
        ({"chat": True, "target": "Nice"}, "clash"),
        ({"target": "Lyon 2"}, "clash"),
        (SYSTEM, "taken"),  # after other messages it is another question
        ({**SYSTEM, "target": "Nice"}, "taken"),
        ({"prompt": "What is the capital of New France?", "subject": "New France"}, "taken"),
        ({"subject": ""}, "taken"),  # of which nothing is known but its words
    ],
)
@pytest.mark.parametrize("ours", [{}, {"chat": True}])
def test_a_question_is_one_in_whatever_form(
    book: Book, other: Book, ours: dict[str, Any], theirs: dict[str, Any], becomes: str
) -> None:
    book.append([about(1, {**ASKED, **ours})])
    other.append([about(2, {**ASKED, **theirs})])
    found = plan(book, other, "ours")
    got = "clash" if found.clashes else "left out" if found.left_out else "taken"
    assert got == becomes
    assert [r.id for r in found.take] == ([key(2)] if becomes == "taken" else [])


@pytest.mark.parametrize(("policy", "expected"), [("ours", [1]), ("theirs", [2]), ("both", [1, 2])])
def test_a_policy_decides_a_contradiction(book: Book, other: Book, policy: str, expected: list[int]) -> None:
    book.append([about(1, fact("France", "Lyon"))])
    other.append([about(2, fact("France", "Nice"), fact("Italy", "Bari"))])
    before = book.history()
    with pytest.raises(InputError, match=r"'Lyon' here .*'Nice' there .*--on-conflict"):
        merge(book, other)
    assert book.history() == before
    (clash,) = plan(book, other, policy).clashes
    assert (clash.kind, clash.ours, clash.theirs, clash.decided) == ("contradiction", key(1), key(2), policy)
    assert book.history() == before
    merge(book, other, policy)
    assert standing(book) == [key(n) for n in expected]


@pytest.mark.parametrize(("policy", "expected"), [("ours", [1]), ("theirs", [2]), ("both", [1, 2])])
def test_a_policy_decides_about_what_was_dropped(book: Book, other: Book, policy: str, expected: list[int]) -> None:
    both = [about(1, fact("France", "Lyon")), about(2, fact("Italy", "Bari"))]
    book.append(both)
    other.append(both)
    book.drop([key(2)])
    other.drop([key(1)])
    kinds = {clash.kind: clash.ours for clash in plan(book, other).clashes}
    assert kinds == {"dropped here": key(2), "dropped there": key(1)}
    merge(book, other, policy)
    assert standing(book) == [key(n) for n in expected]


def test_what_is_said_on_top_of_a_shared_edit_is_no_contradiction(book: Book, other: Book) -> None:
    shared = about(1, fact("France", "Lyon"))
    book.append([shared])
    other.append([shared, about(2, fact("France", "Nice"))])
    assert merge(book, other).clashes == []
    assert standing(book) == [key(1), key(2)]


def test_what_is_said_here_already_is_left_out(book: Book, other: Book) -> None:
    book.append([about(1, fact("France", "Lyon"))])
    other.append([about(2, fact("France", "Lyon.")), about(3, fact("France", "Lyon"), fact("Spain", "Rome"))])
    found = merge(book, other)
    assert found.left_out == [key(2)]
    assert standing(book) == [key(1), key(3)]


def test_what_cannot_be_merged(book: Book, other: Book, tmp_path: Path) -> None:
    (record,) = other.append([edit(1)])
    with pytest.raises(InputError, match="Did you mean theirs"):
        merge(book, other, "their")
    with pytest.raises(BadBook, match="itself"), Book.open(book.path) as same:
        merge(book, same)
    with Book.open(tmp_path / "third", "beef" * 16, "gpt2") as third:
        third.append([edit(1, base="beef" * 16)])
        with pytest.raises(BookOfAnotherModel, match="migrate"):
            merge(book, third)
    (other.path / "edits" / f"{record.sha256}.safetensors").write_bytes(b"altered")
    found = merge(book, other)
    assert list(found.refused) == [record.id]
    assert "its hash differs" in found.refused[record.id]
    assert book.records() == []
    assert list((book.path / "edits").iterdir()) == []


def test_a_merge_that_fails_at_its_end_leaves_nothing(book: Book, other: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    from errata.book import records

    other.append([edit(1), about(2, fact("Spain", "Rome"))])
    calls: list[int] = []
    real = records.add_event

    def fail_the_second_time(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        real(*arguments)

    monkeypatch.setattr(records, "add_event", fail_the_second_time)
    with pytest.raises(MemoryError):
        merge(book, other)
    assert (book.records(), book.history(), list((book.path / "edits").glob("*"))) == ([], [], [])


# --- compact ---


def test_compact_removes_what_no_edit_needs_and_nothing_else(book: Book) -> None:
    book.append([edit(n) for n in range(3)])
    book.drop([key(1)])
    for name in ("incoming", f"{'0' * 64}.safetensors"):
        (book.path / "edits" / name).write_bytes(b"left behind")
    found = compact(book)
    assert found.removed == [f"{'0' * 64}.safetensors", "incoming"]
    assert found.after < found.before
    book.restore([key(1)])
    assert verify(book).problems == verify(book).remarks == []


def test_forgetting_is_told_and_can_be_healed_by_the_same_file(book: Book) -> None:
    book.append([edit(n) for n in range(3)])
    book.drop([key(1)])
    found = compact(book, forget=True, note=Note("Ann", "privacy"))
    assert found.forgotten == [key(1)]
    assert [(e.kind, e.author, e.reason) for e in book.history(key(1))][-1] == ("forget", "Ann", "privacy")
    assert verify(book).problems == []
    assert [r.stands for r in book.records()] == [True, False, True]
    assert compact(book, forget=True).forgotten == []
    with pytest.raises(CorruptEdit):
        book.restore([key(1)])
    book.append([edit(1)])
    assert standing(book) == [key(0), key(1), key(2)]
    assert book.read(book.get(key(1))) == edit(1)[1]
    assert verify(book).problems == []


def test_a_lost_file_comes_back_with_a_merge(book: Book, other: Book) -> None:
    book.append([edit(1)])
    other.append([edit(1)])
    book.drop([key(1)])
    compact(book, forget=True)
    merge(book, other, "theirs")
    assert book.read(book.get(key(1))) == edit(1)[1]
    assert standing(book) == [key(1)]


def test_compact_can_be_killed_between_telling_and_removing(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    (record,) = book.append([edit(1)])
    book.drop([key(1)])

    def killed(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("errata.book.verify.orphans", killed)
    with pytest.raises(KeyboardInterrupt):
        compact(book, forget=True)
    monkeypatch.undo()
    assert verify(book).problems == []
    assert compact(book, forget=True).removed == [f"{record.sha256}.safetensors"]


# --- with a common ancestor ---


@pytest.fixture
def copy(book: Book, tmp_path: Path) -> Iterator[Book]:
    """A copy of the book with three edits in both."""
    book.append([about(1, fact("France", "Lyon")), about(2, fact("Italy", "Bari")), about(3, fact("Spain", "Vigo"))])
    book.drop([key(3)])
    copytree(book.path, tmp_path / "copy")
    with Book.open(tmp_path / "copy", BASE, "primer") as opened:
        yield opened


def test_what_one_side_changed_since_is_no_disagreement(book: Book, copy: Book) -> None:
    book.drop([key(1)])
    copy.drop([key(2)])
    copy.restore([key(3)])
    copy.append([about(4, fact("Italy", "Pisa"))])
    found = merge(book, copy)
    assert (found.clashes, found.drop, found.restore, [r.id for r in found.take]) == ([], [key(2)], [key(3)], [key(4)])
    assert found.ancestor == copy.history()[3].at
    assert standing(book) == [key(3), key(4)]
    assert verify(book).problems == []


def test_both_have_changed_the_same_answer(book: Book, copy: Book) -> None:
    for one, number, target in ((book, 4, "Nice"), (copy, 5, "Metz")):
        one.drop([key(1)])
        one.append([about(number, fact("France", target))])
    (clash,) = plan(book, copy).clashes
    assert (clash.kind, clash.ours, clash.theirs) == ("contradiction", key(4), key(5))
    merge(book, copy, "theirs")
    assert standing(book) == [key(2), key(5)]


def test_a_merge_is_the_ancestor_of_the_next_one(book: Book, other: Book) -> None:
    other.append([about(1, fact("France", "Lyon")), about(2, fact("Italy", "Bari"))])
    assert merge(book, other).ancestor == ""
    other.drop([key(1)])
    book.drop([key(2)])
    found = merge(book, other)
    assert (found.clashes, found.drop) == ([], [key(1)])
    assert standing(book) == []
    back = merge(other, book)
    assert (back.clashes, back.drop) == ([], [key(2)])
    assert standing(other) == []


def test_what_both_wrote_since_and_one_dropped_is_a_disagreement(book: Book, copy: Book) -> None:
    for one, who in ((book, "Ann"), (copy, "Bob")):  # in one second by one author it would be one and the same event
        one.change(write=[about(6, fact("Peru", "Lima"))], note=Note(who))
    copy.drop([key(6)])
    (clash,) = plan(book, copy).clashes
    assert (clash.kind, clash.ours) == ("dropped there", key(6))
