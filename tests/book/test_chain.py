"""The chain of hashes, the signatures on it, and what `verify` finds: nothing in the book changes unnoticed."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sample_edits import BASE, FACT, edit, key

from errata.book import Book, Note, signing
from errata.book.chain import digest
from errata.book.schema import MIGRATIONS
from errata.book.verify import verify
from errata.errors import BadBook, BadConfig, BadFile, ErrataError

pytest.importorskip("cryptography")


def alter(book: Book, *statements: str) -> None:
    """Change the database behind the book's back."""
    with sqlite3.connect(book.path / "book.sqlite") as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)
    db.close()


@pytest.fixture
def filled(book: Book) -> Book:
    book.append([edit(n) for n in (1, 2, 3)])
    book.drop([key(2)], author="Ann", reason="wrong")
    book.append([edit(4)])
    return book


def test_the_hash_is_what_the_page_says() -> None:
    event = (1, "write", "a", "now", "me", "why", "{}")
    row = (1, "rome", "f" * 64, 3, "then", '{"x": 1}')
    text = json.dumps(["0" * 64, *event, [*row[:5], hashlib.sha256(b'{"x": 1}').hexdigest()]], separators=(",", ":"))
    assert digest("0" * 64, event, row) == hashlib.sha256(text.encode()).hexdigest()


def test_a_whole_book_is_whole(filled: Book) -> None:
    found = verify(filled)
    assert (found.problems, found.remarks, found.events, found.edits) == ([], [], 5, 4)
    assert found.head == filled.history()[-1].hash
    assert len({event.hash for event in filled.history()}) == 5


@pytest.mark.parametrize(
    ("statement", "event"),
    [
        ("UPDATE edits SET record = replace(record, 'Lyon', 'Nice') WHERE seq = 3", 3),
        ("UPDATE edits SET record = replace(record, '\"seed\": 1', '\"seed\": 9') WHERE seq = 1", 1),
        ("UPDATE edits SET method = 'memit' WHERE seq = 2", 2),
        ("UPDATE edits SET created_at = '1999' WHERE seq = 2", 2),
        ("UPDATE events SET kind = 'restore' WHERE seq = 4", 4),
        ("UPDATE events SET author = 'Eve' WHERE seq = 4", 4),
        ("UPDATE events SET at = '1999' WHERE seq = 5", 5),
        ("UPDATE events SET hash = replace(hash, substr(hash, 1, 1), 'x') WHERE seq = 2", 2),
        ("UPDATE meta SET value = 'beef' WHERE key = 'name'", 1),
        ("DELETE FROM events WHERE seq = 4", 4),
        ("UPDATE edits SET seq = 99 WHERE seq = 1", 1),
        ("UPDATE edits SET id = 'another' WHERE seq = 2", 2),
    ],
)
def test_whatever_is_altered_is_noticed_where_it_is(filled: Book, statement: str, event: int) -> None:
    alter(filled, statement)
    found = verify(filled)
    assert found.problems[0].startswith(f"event {event}:")
    with (
        pytest.raises(BadBook, match=rf"does not hold at event {event} .*errata verify"),
        Book.open(filled.path) as again,
    ):
        again.stand()


def test_an_edit_put_in_by_hand_is_noticed(filled: Book) -> None:
    columns = "method, sha256, bytes, created_at, record"
    alter(filled, f"INSERT INTO edits (id, {columns}) SELECT 'planted', {columns} FROM edits WHERE seq = 1")
    assert any("planted" in problem for problem in verify(filled).problems)


def test_a_flipped_bit_anywhere_in_the_text_is_noticed(filled: Book) -> None:
    """JSON that stays JSON, names that stay names: nothing but the chain tells."""
    filled.close()
    file = filled.path / "book.sqlite"
    whole = file.read_bytes()
    at = [i for i in range(len(whole)) if whole.startswith(b"Lyon", i)]
    assert len(at) >= 4
    for place in at:
        file.write_bytes(whole[:place] + b"L\x79\x6fo" + whole[place + 4 :])  # Lyon -> Lyoo
        with Book.open(filled.path, BASE) as again, pytest.raises(BadBook, match="does not hold"):
            again.stand()


def test_no_flipped_bit_anywhere_changes_what_stands_without_a_word(filled: Book) -> None:
    """Tables, indexes, headers, empty space: an error, or the same edits."""
    right = [(r.id, r.sha256, r.facts, dict(r.meta)) for r in filled.stand()]
    filled.close()
    file = filled.path / "book.sqlite"
    whole, draw, refused = file.read_bytes(), random.Random(0), 0
    used = [i for i, byte in enumerate(whole) if byte]
    for _ in range(150):
        data = bytearray(whole)
        data[draw.choice(used)] ^= 1 << draw.randrange(8)
        file.write_bytes(data)
        for name in ("book.sqlite-wal", "book.sqlite-shm"):
            (filled.path / name).unlink(missing_ok=True)
        try:
            with Book.open(filled.path, BASE, wait=1) as book:
                assert [(r.id, r.sha256, r.facts, dict(r.meta)) for r in book.stand()] == right
        except ErrataError:
            refused += 1
    assert refused > 50


def test_only_what_is_new_is_looked_at_again(filled: Book) -> None:
    assert len(filled.stand()) == 3
    filled.append([edit(5)])
    assert [r.id for r in filled.stand()][-1] == key(5)


def test_lost_altered_and_swapped_files_are_named(filled: Book) -> None:
    one, two, three, four = (filled.path / "edits" / f"{r.sha256}.safetensors" for r in filled.records())
    one.unlink()
    two.write_bytes(two.read_bytes()[:-1])
    content = three.read_bytes()
    three.write_bytes(four.read_bytes())
    four.write_bytes(content)
    problems = verify(filled).problems
    assert len(problems) == 4
    assert all(key(n) in problem for n, problem in enumerate(problems, 1))


def test_a_file_that_says_something_else_than_the_book_is_noticed(book: Book) -> None:
    meta, data = edit(1)
    book.append([({**meta, "reason": "another"}, data)])
    assert "not what its file says" in verify(book).problems[0]


def test_a_clock_that_goes_backwards_is_remarked_and_does_no_harm(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    for n, at in enumerate(("2026-05-01T00:00:00+00:00", "2026-04-01T00:00:00+00:00"), 1):
        monkeypatch.setattr("errata.book.records._now", lambda at=at: at)
        book.append([edit(n)])
    found = verify(book)
    assert found.problems == []
    assert "event 2" in found.remarks[0]
    assert [r.id for r in book.stand()] == [key(1), key(2)]


# --- signatures ---


def signed(path: Path, name: str, *numbers: int) -> str:
    """Append edits signed with a key of that name, made if need be, and return its public half."""
    file = path / f"{name}.pem"
    public = signing.Signer(file).public if file.exists() else signing.make_key(file)
    with Book.open(path / "book", BASE, "primer", key=file) as book:
        book.append([edit(n) for n in numbers])
    return public


def test_signatures_are_made_and_checked(tmp_path: Path) -> None:
    ada, bob = signed(tmp_path, "ada", 1, 2), signed(tmp_path, "bob", 3)
    assert ada != bob
    assert (tmp_path / "ada.pem").stat().st_mode & 0o077 == 0
    with Book.open(tmp_path / "book") as book:
        found = verify(book, trust=[ada.upper(), bob])
        assert (found.problems, found.signers, found.unsigned) == ([], {ada: 2, bob: 1}, 0)
        assert "not trusted" in verify(book, trust=[ada]).problems[0]
        book.drop([key(1)])
        assert verify(book).unsigned == 1
        assert verify(book, trust=[ada, bob]).problems == ["event 4: nobody signed it."]
        # a signature of another event, or of nobody's
        for change in ("(SELECT signature FROM events WHERE seq = 1)", "'00'", "'no hex'"):
            alter(book, f"UPDATE events SET signature = {change} WHERE seq = 3")
            assert [p for p in verify(book).problems if "signature" in p]


def test_a_rewritten_history_holds_but_is_not_signed(tmp_path: Path) -> None:
    """Whoever can write the file can chain it anew; without the key the signatures do not follow."""
    ada = signed(tmp_path, "ada", 1, 2)
    with Book.open(tmp_path / "book") as book:
        head = book.history()[-1].hash
        event = book.history()[1]
        with book.query() as db:
            row = db.execute(
                "SELECT seq, method, sha256, bytes, created_at, record FROM edits WHERE id = ?", (event.edit_id,)
            ).fetchone()
        forged = digest(book.history()[0].hash, (2, "write", event.edit_id, event.at, "Eve", event.reason, "{}"), row)
        alter(book, f"UPDATE events SET author = 'Eve', hash = '{forged}' WHERE seq = 2")
    with Book.open(tmp_path / "book") as book:
        assert len(book.stand()) == 2
        assert [p for p in verify(book, trust=[ada]).problems if "signature" in p]
        assert any("cut off" in problem for problem in verify(book, head=head).problems)


def test_keys_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.pem").write_text("no key")
    with pytest.raises(BadFile, match="keygen"):
        Book.open(tmp_path / "book", BASE, key=tmp_path / "bad.pem")
    signing.make_key(tmp_path / "key.pem")
    with pytest.raises(BadFile, match="new file"):
        signing.make_key(tmp_path / "key.pem")
    monkeypatch.setenv("ERRATA_KEY", str(tmp_path / "key.pem"))
    with Book.open(tmp_path / "book", BASE) as book:
        book.append([edit(1)])
        assert book.history()[0].signer

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(signing, "import_module", missing)
    with pytest.raises(BadConfig, match=r"errata-lm\[sign\]"):
        signing.make_key(tmp_path / "other.pem")


# --- from the oldest book to the newest ---


def test_a_book_of_the_first_version_is_brought_up_to_date_and_whole(tmp_path: Path) -> None:
    (tmp_path / "edits").mkdir()
    with sqlite3.connect(tmp_path / "book.sqlite", isolation_level=None) as db:
        _first_version(db)
        db.executemany("INSERT INTO meta VALUES (?, ?)", [("base", BASE), ("name", "primer")])
        for n in (1, 2):
            meta, data = edit(n)
            sha256 = hashlib.sha256(data).hexdigest()
            (tmp_path / "edits" / f"{sha256}.safetensors").write_bytes(data)
            row = (meta["id"], "rome", sha256, len(data), "2025-01-01T00:00:00+00:00", json.dumps(meta))
            db.execute(
                "INSERT INTO edits (id, method, sha256, bytes, created_at, record) VALUES (?, ?, ?, ?, ?, ?)", row
            )
            db.execute(
                "INSERT INTO events (kind, edit_id, at, author, reason) VALUES ('write', ?, '2025', 'Zoë', '')",
                (meta["id"],),
            )
        db.execute(
            "INSERT INTO events (kind, edit_id, at, author, reason) VALUES ('drop', ?, '2025', '', '')", (key(1),)
        )
    db.close()
    with Book.open(tmp_path, BASE) as book:
        assert verify(book).problems == []
        assert [(e.seq, e.kind, e.author) for e in book.history()] == [
            (1, "write", "Zoë"), (2, "write", "Zoë"), (3, "drop", ""),
        ]  # fmt: skip
        assert [r.id for r in book.stand()] == [key(2)]
        assert book.get(key(1)).facts == (FACT,)
        book.restore([key(1)])
        book.note("tag", Note("me", "", {"name": "x"}))
        assert [e.seq for e in book.history()] == [1, 2, 3, 4, 5]
        assert verify(book).problems == []


def _first_version(db: sqlite3.Connection) -> None:
    """Make a book as version 1 left it."""
    db.execute("BEGIN")
    MIGRATIONS[0](db)
    db.execute("PRAGMA user_version = 1")
    db.execute("COMMIT")
