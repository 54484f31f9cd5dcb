"""What somebody who can write a book's files can make its owner do, and what an accident looks like: each was possible once.

pytest tests/book/test_attacks.py
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sample_edits import BASE, edit, file, floats, key

from errata.book import Book, Note, policy, signing, states
from errata.book.chain import digest
from errata.book.compact import compact
from errata.book.merge import merge
from errata.book.verify import verify
from errata.content import known_by
from errata.errors import BadBook, BadFile, BookBusy, CorruptEdit, ErrataError, InputError


def straight(book: Book | Path, *statements: str) -> None:
    """Change the database behind the book's back, triggers and all."""
    path = book.path if isinstance(book, Book) else book
    with sqlite3.connect(path / "book.sqlite") as db:
        for statement in statements:
            db.execute(statement)
    db.close()


@pytest.fixture
def filled(book: Book) -> Book:
    book.append([edit(n) for n in (1, 2, 3)])
    return book


# ------------------------------------------------------------------ 1: a healthy book beside a writer


def test_a_book_reads_as_whole_while_somebody_writes(filled: Book) -> None:
    """Each write comes between the two reads that are compared, where it did most harm."""
    from errata.book import chain

    number, real = iter(range(10, 100)), chain._edits

    def between(db: sqlite3.Connection, everything: bool) -> Any:
        found = real(db, everything)
        writer = threading.Thread(target=lambda: Book.open(filled.path, BASE).append([edit(next(number))]))
        writer.start()
        writer.join()
        return found

    with pytest.MonkeyPatch.context() as patch, Book.open(filled.path, BASE) as reader:
        patch.setattr(chain, "_edits", between)
        for _ in range(3):
            assert verify(reader).problems == []
            assert reader.stand()
        with Book.open(filled.path, BASE) as fresh:
            assert fresh.stand()
    assert len(filled.stand()) == 10


def test_a_reader_who_may_not_write_says_that_somebody_else_does(filled: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.close()
    os.access(filled.path, os.W_OK)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Book.open(filled.path, create=False) as reader:
        assert len(reader.stand()) == 3
        monkeypatch.undo()
        with Book.open(filled.path, BASE) as writer:
            writer.append([edit(4)])
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert len(reader.stand()) == 4  # opened anew

        def between() -> None:
            with reader.snapshot():
                reader.records()
                monkeypatch.undo()
                with Book.open(filled.path, BASE) as writer:
                    writer.append([edit(5)])
                monkeypatch.setattr(os, "access", lambda *_: False)

        with pytest.raises(BookBusy, match="somebody writes"):
            between()


# ------------------------------------------------------------------ 2: what is planted in the database


PLANTED = [
    "CREATE TRIGGER helpful AFTER INSERT ON edits BEGIN UPDATE edits SET record = '{}' WHERE id = new.id; END",
    "CREATE TRIGGER helpful AFTER INSERT ON events BEGIN INSERT INTO meta VALUES (new.seq, 'x'); END",
    "CREATE VIEW mine AS SELECT * FROM edits",
    "CREATE TABLE mine (x)",
    "CREATE INDEX mine ON edits (lower(method))",
]


@pytest.mark.parametrize("planted", PLANTED)
def test_nothing_planted_in_the_database_is_used(filled: Book, tmp_path: Path, planted: str) -> None:
    straight(filled, "DROP TRIGGER edits_no_update", planted)
    before = filled.version()
    with pytest.raises(BadBook, match=r"has a (trigger|view|table|index) \w+, which is not in a book"):
        filled.append([edit(4)])  # it was open before
    assert filled.version() == before
    for look in (False, True):
        with pytest.raises(BadBook, match="which is not in a book"):
            Book.open(filled.path, look=look)


def test_a_table_made_otherwise_is_not_used(tmp_path: Path, filled: Book) -> None:
    script = "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, 'bytes INTEGER', 'bytes TEXT');"
    with sqlite3.connect(filled.path / "book.sqlite") as db:
        db.executescript(script)
    db.close()
    with pytest.raises(BadBook, match="another table edits"):
        Book.open(filled.path)


def test_what_is_signed_is_what_was_written_not_what_is_read_back(
    filled: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the look at the tables had missed a trigger."""
    from errata.book import book as module

    monkeypatch.setattr(module, "check_shape", lambda *_: None)
    straight(filled, "DROP TRIGGER edits_no_update", PLANTED[0])
    with pytest.raises(BadBook, match="does not keep what is written"):
        filled.append([edit(4)])
    assert len(filled.records()) == 3


def test_a_trigger_that_is_gone_is_remarked(filled: Book) -> None:
    straight(filled, "DROP TRIGGER edits_no_update")
    assert "lost its trigger edits_no_update" in verify(filled).remarks[0]


def test_values_that_are_no_text_are_named(filled: Book) -> None:
    straight(filled, "DROP TRIGGER edits_no_update", "UPDATE edits SET method = x'00ff' WHERE seq = 2")
    assert verify(filled).problems[0].startswith("event 2:")
    for look in (filled.records, filled.stand, lambda: filled.get(key(2))):
        with pytest.raises(BadBook):
            look()
    straight(filled, "DROP TRIGGER meta_no_update", "UPDATE meta SET value = x'00' WHERE key = 'base'")
    with pytest.raises(BadBook, match="cannot be read"):
        Book.open(filled.path)


@pytest.mark.parametrize(
    "said",
    [{"author": 7}, {"tags": [{}]}, {"tags": "abc"}, {"valid_until": 3}, {"report": []}, {"report": {"lost": [1]}}],
)
def test_an_entry_of_other_types_is_named(book: Book, said: dict[str, Any]) -> None:
    meta, data = edit(1)
    try:
        book.change(write=[({**meta, **said}, data)], note=Note())
    except (BadBook, InputError):
        return  # refused at once
    for look in (lambda: book.records(expired=True), book.stand, lambda: book.get(key(1))):
        with pytest.raises(BadBook, match="cannot be read"):
            look()


# ------------------------------------------------------------------ 3: links and the like


def test_compact_removes_nothing_outside(filled: Book, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (filled.path / "edits").rename(tmp_path / "kept")
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("dear")
    (filled.path / "edits").symlink_to(elsewhere)
    for attack in (lambda: compact(filled), lambda: filled.append([edit(4)]), lambda: Book.open(filled.path)):
        with pytest.raises(BadBook, match=r"edits is a link"):
            attack()
    assert (elsewhere / "thesis.txt").read_text() == "dear"
    assert [path.name for path in elsewhere.iterdir()] == ["thesis.txt"]


def test_a_write_goes_through_no_link(filled: Book, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("dear")
    for name in ("incoming", f"{'0' * 64}.safetensors"):
        (filled.path / "edits" / name).symlink_to(victim)
    filled.append([edit(4)])
    assert victim.read_text() == "dear"
    assert "incoming" not in os.listdir(filled.path / "edits")
    assert verify(filled).problems == []
    compact(filled)
    assert victim.read_text() == "dear"


@pytest.mark.parametrize("name", ["lock", "book.sqlite", "book.sqlite-wal", "book.sqlite-shm", "book.sqlite-journal"])
@pytest.mark.parametrize("how", ["link", "pipe"])
def test_a_book_consists_of_files(tmp_path: Path, name: str, how: str) -> None:
    with Book.open(tmp_path / "book", BASE, "primer") as book:
        book.append([edit(1)])
    victim, part = tmp_path / "victim", tmp_path / "book" / name
    victim.write_text("dear")
    part.unlink(missing_ok=True)
    part.symlink_to(victim) if how == "link" else os.mkfifo(part)
    for look in (False, True):
        with pytest.raises(BadBook, match=r"is a link|not what it should be"):
            Book.open(tmp_path / "book", look=look)
    assert victim.read_text() == "dear"


def test_locking_empties_no_other_file(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("dear")
    (tmp_path / "book").mkdir()
    os.link(victim, tmp_path / "book" / "lock")
    with pytest.raises(BadBook, match="second name"):
        Book.open(tmp_path / "book", BASE)
    assert victim.read_text() == "dear"


def test_a_journal_removes_no_file_elsewhere(tmp_path: Path, book: Book) -> None:
    """A journal may name another one, which SQLite removes when none of those named in that is there any more."""
    book.append([edit(1)])
    book.close()
    victim = tmp_path / "victim"
    victim.write_text("dear")
    magic, name = bytes.fromhex("d9d505f920a163d7"), str(victim).encode()
    head = magic + struct.pack(">IIIII", 0, 0, 1, 512, 4096)
    end = struct.pack(">I", 1) + name + struct.pack(">II", len(name), sum(name)) + magic
    (book.path / "book.sqlite-journal").write_bytes(head.ljust(512, b"\0") + end)
    with pytest.raises(BadBook, match="asks SQLite to remove"):
        Book.open(book.path)
    assert victim.read_text() == "dear"


def test_an_edit_is_read_through_no_link_and_from_no_pipe(filled: Book, tmp_path: Path) -> None:
    for record in filled.records()[:2]:
        path = filled.path / "edits" / f"{record.sha256}.safetensors"
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name) if record.seq == 1 else os.mkfifo(path)
    found = verify(filled).problems
    assert len(found) == 2
    for number in (1, 2):
        with pytest.raises(CorruptEdit, match="cannot read"):
            filled.read(filled.get(key(number)))


# ------------------------------------------------------------------ 4: edits that are none


def made(
    number: int, left: bytes, right: bytes = floats(1, 0.5), shapes: tuple[Any, Any] = ((3, 1), (2, 1)), **said: Any
) -> Any:
    """Return an edit whose id is that of its content, whatever that is."""
    meta, _ = edit(number, **said)
    tensors = {"delta/1.down/left": (shapes[0], left), "delta/1.down/right": (shapes[1], right)}
    pieces = ((name, "torch.float32", shape, raw) for name, (shape, raw) in tensors.items())
    meta = {**meta, "id": known_by(meta, pieces)}
    return meta, file(meta, tensors)


def anothers() -> Any:
    meta, _ = edit(7)
    return meta, edit(8)[1]


def relabelled() -> Any:
    """The file says it is edit 7, with the tensors of 8."""
    meta, _ = edit(7)
    return meta, file(
        meta, {"delta/1.down/left": ((3, 1), floats(8, 1, 2)), "delta/1.down/right": ((2, 1), floats(1, 0.5))}
    )


LEFT = floats(7, 1, 2)
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "tensors of another": (anothers, "says it is edit"),
    "another's tensors under its name": (relabelled, "its content is that of"),
    "not a number": (lambda: made(7, floats(float("nan"), 1, 2)), "not finite"),
    "infinite": (lambda: made(7, LEFT, floats(float("inf"), 1)), "not finite"),
    "a million times": (lambda: made(7, floats(1e6, 1e6, 1e6)), "times as large as the matrix"),
    "another shape": (lambda: made(7, floats(1, 2, 3, 4), shapes=((4, 1), (2, 1))), "others are of 3 × 2"),
    "ranks that differ": (lambda: made(7, LEFT + LEFT, shapes=((3, 2), (2, 1))), "ranks 2 and 1"),
    "no matrix": (lambda: made(7, LEFT, shapes=((3,), (2, 1))), "no matrix"),
    "not what it says": (lambda: ({**edit(7)[0], "reason": "x"}, edit(7)[1]), "not what its file says"),
    "no id": (lambda: ({**edit(7)[0], "id": "../../x"}, edit(7)[1]), "its id is none"),
    "a kind there is none of": (lambda: made(7, LEFT, kinds=["magic"]), "no change of a matrix"),
    "too short": (lambda: (edit(7)[0], edit(7)[1][:-4]), "cannot be read"),
    "no file of tensors": (lambda: (edit(7)[0], b"x" * 100), "cannot be read|does not say"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_edit_is_named_and_left_where_it_is(book: Book, tmp_path: Path, case: str) -> None:
    attack, words = BAD[case]
    meta, data = edit(1, report={"norm_ratio": {"1.down": 0.5}})
    book.append([(meta, data)])
    bad = attack()
    with Book.open(tmp_path / "other", BASE, "primer") as other:
        other.append([bad, edit(2, facts=[{"prompt": "Spain is", "subject": "Spain", "target": "wide"}])])
        found = merge(book, other)
    assert [record.id for record in found.take] == [key(2)]
    assert list(found.refused) == [bad[0]["id"]]
    assert any(word in found.refused[bad[0]["id"]] for word in words.split("|"))
    assert [record.id for record in book.stand()] == [meta["id"], key(2)]
    assert verify(book).problems == []
    if case == "a million times":
        return  # which only a report of one's own tells
    # In one's own book `verify` names it, and it cannot be restored once it was dropped.
    book.append([bad])
    assert any(bad[0]["id"] in problem for problem in verify(book).problems)
    book.drop([bad[0]["id"]])
    if case != "another shape":  # which the other edits tell
        with pytest.raises(ErrataError):
            book.restore([bad[0]["id"]])


def test_columns_are_counted_from_0(book: Book) -> None:
    from errata.content import problem

    meta, _ = edit(1, kinds=["columns"])
    for numbers, fits in (((0, 2), True), ((-1, 2), False), ((2, 2), False), ((3, 1), False)):
        index, values = struct.pack("<2q", *numbers), floats(*range(6))
        pieces = [
            ("delta/1.down/index", "torch.int64", (2,), index),
            ("delta/1.down/values", "torch.float32", (3, 2), values),
        ]
        meta["id"] = known_by(meta, pieces)
        data = file(meta, {"delta/1.down/index": ((2,), index), "delta/1.down/values": ((3, 2), values)})
        data = data.replace(b'"F32", "shape": [2]', b'"I64", "shape": [2]')
        assert (problem(data, meta["id"]) == "") == fits, (numbers, problem(data, meta["id"]))


# ------------------------------------------------------------------ 10: verify changes nothing


def test_verify_makes_no_older_book_out_of_one_that_was_signed(tmp_path: Path) -> None:
    signing_key = tmp_path / "ada.pem"
    pytest.importorskip("cryptography")
    signing.make_key(signing_key)
    with Book.open(tmp_path / "book", BASE, "primer", key=signing_key) as book:
        book.append([edit(1), edit(2)])
    straight(tmp_path / "book", "PRAGMA user_version = 1")
    before = (tmp_path / "book" / "book.sqlite").read_bytes()
    for look in (True, False):
        with pytest.raises(BadBook, match="a book of schema 1"):
            Book.open(tmp_path / "book", look=look)
    assert (tmp_path / "book" / "book.sqlite").read_bytes() == before


def test_an_older_book_is_looked_at_in_a_copy(tmp_path: Path) -> None:
    from errata.book.schema import MIGRATIONS, migrate

    (tmp_path / "old" / "edits").mkdir(parents=True)
    db = sqlite3.connect(tmp_path / "old" / "book.sqlite", isolation_level=None)
    migrate(db, MIGRATIONS[:1])
    db.execute(f"INSERT INTO meta VALUES ('base', '{BASE}'), ('name', 'primer')")
    db.close()
    before = (tmp_path / "old" / "book.sqlite").read_bytes()
    with Book.open(tmp_path / "old", look=True) as book:
        assert verify(book).problems == []
        for change in (lambda: book.append([edit(1)]), lambda: book.note("tag", Note()), lambda: compact(book)):
            with pytest.raises(BadBook, match="only to look"):
                change()
    assert (tmp_path / "old" / "book.sqlite").read_bytes() == before
    with Book.open(tmp_path / "old", BASE) as book:  # and still opens as before
        book.append([edit(1)])
        assert "id" not in book.meta()
        assert verify(book).problems == []


def test_who_only_looks_makes_nothing(tmp_path: Path, filled: Book) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(BadBook, match="no book"):
            Book.open(path, look=True)
    assert not (tmp_path / "none").exists()
    filled.close()
    (filled.path / "lock").unlink()
    with Book.open(filled.path, look=True) as book:
        assert len(book.stand()) == 3
    assert not (filled.path / "lock").exists()


def test_a_closed_book_is_closed(filled: Book) -> None:
    filled.close()
    for use in (filled.records, filled.stand, filled.version, lambda: filled.append([edit(9)])):
        with pytest.raises(BadBook, match="is closed: open it again"):
            use()


# ------------------------------------------------------------------ signed by policy


@pytest.fixture
def signed(tmp_path: Path) -> Callable[..., Book]:
    pytest.importorskip("cryptography")

    def opened(name: str = "ada", book: str = "book", **options: Any) -> Book:
        path = tmp_path / f"{name}.pem"
        if name and not path.exists():
            signing.make_key(path)
        return Book.open(tmp_path / book, BASE, "primer", key=path if name else None, **options)

    return opened


def public(tmp_path: Path, name: str = "ada") -> str:
    return signing.Signer(tmp_path / f"{name}.pem").public


def adopt(book: Book, **asked: Any) -> None:
    policy.adopt(book, policy._said(asked, 0), Note("Ada"))


def test_a_policy_says_whose_signatures_count_from_there_on(tmp_path: Path, signed: Callable[..., Book]) -> None:
    with signed("") as book:
        book.append([edit(1)])  # unsigned: from before
    with signed() as book:
        adopt(book, signed_by=[public(tmp_path)])
        book.append([edit(2)])
        assert len(book.stand()) == 2
        assert verify(book).problems == []
    with signed("bob") as book, pytest.raises(BadBook, match="signed by a key of its list"):
        book.append([edit(3)])
    with signed("") as book, pytest.raises(BadBook, match="signed by a key of its list"):
        book.drop([key(1)])


def forged(book: Book, kind: str, data: str) -> None:
    """Chain an event that nobody signed."""
    last = book.history()[-1]
    event = (last.seq + 1, kind, None, last.at, "Eve", "", data)
    values = (*event, digest(last.hash, event, None), "", "")
    with sqlite3.connect(book.path / "book.sqlite") as db:
        db.execute(f"INSERT INTO events VALUES ({', '.join('?' * 10)})", values)
    db.close()


def test_a_policy_is_lifted_only_as_it_asks(tmp_path: Path, signed: Callable[..., Book]) -> None:
    with signed() as book:
        book.append([edit(1)])
        adopt(book, signed_by=[public(tmp_path)])
        forged(book, "policy", json.dumps({"policy": {}}))
        for use in (book.stand, book.policy, lambda: book.append([edit(2)])):  # nor does the owner sign on top of it
            with pytest.raises(BadBook, match="event 3 has none that counts"):
                use()
        assert any("event 3" in problem for problem in verify(book).problems)


def test_what_is_demanded_depends_on_the_use(tmp_path: Path, signed: Callable[..., Book]) -> None:
    with signed() as book:
        adopt(book, signed_by=[public(tmp_path)], demand=["serve"])
        forged(book, "tag", '{"name": "x"}')
    with signed(use="ask") as book:
        assert book.stand() == []
    with signed(use="serve") as book, pytest.raises(BadBook, match="asks for signatures"):
        book.stand()


def test_another_book_signed_by_the_same_key_is_not_this_one(
    tmp_path: Path, signed: Callable[..., Book], monkeypatch: pytest.MonkeyPatch
) -> None:
    with signed() as one, signed(book="other") as two:
        one.append([edit(1)])
        two.append([edit(1)])
        assert one.meta()["id"] != two.meta()["id"]
        head = verify(one).head
        assert "not in the history" in verify(two, head=head).problems[0]
        event = two.history()[0]
        straight(
            one,
            "DROP TRIGGER events_no_update",
            f"UPDATE events SET hash = '{event.hash}', signature = '{event.signature}'",
        )
        assert verify(one).problems[0].startswith("event 1:")


def test_an_earlier_head_is_asked_for(
    tmp_path: Path, signed: Callable[..., Book], monkeypatch: pytest.MonkeyPatch
) -> None:
    with signed() as book:
        book.append([edit(1)])
        early = verify(book).head
        adopt(book, head=True)
        book.append([edit(2)])
        late = verify(book).head
    saved = (tmp_path / "book" / "book.sqlite").read_bytes()
    with signed() as book:
        with pytest.raises(BadBook, match="asks for an earlier head: set"):
            book.stand()
        (tmp_path / "head").write_text(f"{early}\n")
        for named in (early, late, str(tmp_path / "head")):
            monkeypatch.setenv("ERRATA_HEAD", named)
            assert len(book.stand()) == 2
        book.append([edit(3)])
        newest = verify(book).head
    monkeypatch.setenv("ERRATA_HEAD", newest)
    (tmp_path / "book" / "book.sqlite").write_bytes(saved)  # an older copy is put in its place
    with signed() as book, pytest.raises(BadBook, match="cut off or replaced"):
        book.stand()


def test_keys_are_demanded_from_outside(
    tmp_path: Path, signed: Callable[..., Book], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A book that was made anew has no policy; the environment has."""
    with signed("eve") as book:
        book.append([edit(1)])
        signed().close()
        monkeypatch.setenv("ERRATA_TRUST", public(tmp_path))
        with pytest.raises(BadBook, match="not trusted"):
            book.stand()
        monkeypatch.setenv("ERRATA_TRUST", f"{public(tmp_path)},{public(tmp_path, 'eve')}")
        assert len(book.stand()) == 1


def test_a_key_that_others_can_write_is_said(tmp_path: Path, signed: Callable[..., Book]) -> None:
    signed().close()
    assert signed().notes == ()
    (tmp_path / "ada.pem").chmod(0o620)
    assert "can write the key" in signed().notes[0]
    (tmp_path / "ada.pem").chmod(0o640)
    assert "can read the key" in signed().notes[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_keys_and_heads_are_read_from_files_that_end(tmp_path: Path, signed: Callable[..., Book]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        for look in (lambda path=path: signing.Signer(path), lambda path=path: policy.head_of(path)):
            with pytest.raises(BadFile, match="cannot read"):
                look()


# ------------------------------------------------------------------ what else stands beside a book, and names


def test_a_tag_takes_no_edits_place(filled: Book) -> None:
    """Where a state is asked for by an edit's id, a tag of that name would give others."""
    for name in (key(1), key(1)[:8], "0123456789abcdef"):
        with pytest.raises(InputError, match="the id of an edit"):
            states.tag(filled, name)
    states.tag(filled, "decade")  # which is hexadecimal, and no edit's
    assert states.at(filled, key(1)[:8]).ids == (key(1),)


@pytest.mark.parametrize("name", ["jobs", "audit.jsonl"])
def test_what_a_server_keeps_is_no_link(filled: Book, tmp_path: Path, name: str) -> None:
    filled.close()
    (filled.path / name).symlink_to(tmp_path)
    for look in (False, True):
        with pytest.raises(BadBook, match="is a link"):
            Book.open(filled.path, look=look)


def test_a_new_books_name_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut took books away that had been reported: nobody had synced the directories their names stand in."""
    from errata.book import files

    synced, real = list[Path](), files.sync
    monkeypatch.setattr(files, "sync", lambda path: (synced.append(path), real(path)))
    path = tmp_path / "deep" / "er" / "book"
    with Book.open(path, BASE, "primer"):
        assert {path, path.parent, path.parent.parent, tmp_path} <= {*synced}
