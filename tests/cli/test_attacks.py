"""What texts that others wrote may do to a terminal, and what was not foreseen on the command line.

pytest tests/cli/test_attacks.py
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from errata.book import Book, Note, states
from errata.cli import main
from errata.content import bearer
from errata.edit import Edit
from errata.errors import InputError, redacted, visible
from errata.fact import Fact

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202eb\u2066\u200bc\U000e0041"
OBEYED = {*EVIL} - {*"abc]0;owned[2J31m"}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def go(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return go


@pytest.fixture
def book(tmp_path: Path) -> Path:
    fact = Fact(prompt=f"Town {EVIL} is", subject="Town", target=EVIL)
    edit = Edit(method="rome", config={"x": EVIL}, facts=(fact,), base="f00d" * 16, deltas={}, author=EVIL, reason=EVIL,
                tags=(EVIL,), source=EVIL)  # fmt: skip
    with Book.open(tmp_path / "book", "f00d" * 16, EVIL) as opened:
        opened.append([(edit.meta(), edit.to_bytes())])
        states.tag(opened, "one", Note(EVIL, EVIL))
    return tmp_path / "book"


@pytest.mark.parametrize("command", ["log", "show", "tag", "diff", "drop", "verify", "conflicts", "policy"])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_terminal_obeys_nothing_that_somebody_wrote(run: Run, book: Path, command: str, as_json: bool) -> None:
    with Book.open(book, look=True) as opened:
        (record,) = opened.records()
    words = {"show": [record.id], "drop": [record.id], "diff": ["base"]}.get(command, [])
    code, out, err = run(command, *words, "--book", book, *(["--json"] if as_json else []))
    assert code == 0, err
    assert not OBEYED & {*out, *err}
    if as_json:
        assert visible(json.dumps(json.loads(out), ensure_ascii=False)).isprintable()
        if command == "show":
            assert json.loads(out)["author"] == EVIL  # the same text


@pytest.mark.parametrize(
    "words", [["show", EVIL], ["diff", EVIL], ["tag", EVIL], ["merge", EVIL], [EVIL], ["log", f"--{EVIL}"]]
)
def test_nor_in_a_message(run: Run, book: Path, words: list[str]) -> None:
    code, out, err = run(*words, *(["--book", book] if len(words) > 1 else []))
    assert code == 2
    assert not OBEYED & {*out, *err}


def test_nor_in_a_traceback(run: Run, book: Path) -> None:
    code, _, err = run("show", EVIL, "--book", book, "--debug")
    assert code == 2
    assert "Traceback" in err
    assert not OBEYED & {*err}


def test_what_people_write_stays_as_it_is() -> None:
    for text in ("Zoë 書 مرحبا", "می\u200cخواهم", "👩\u200d🔬", "a\tb\n", "ümlaut"):
        assert visible(text) == text
    assert visible("\x7f\x85\u2028\ud800\ufeff") == r"\u007f\u0085\u2028\ud800\ufeff"


@pytest.mark.parametrize(
    "words",
    [
        ["show", "\udcff"], ["log", "--tag", "\udcff"], ["tag", "\udcff"], ["drop", "\udcff", "--reason", "\udcff"],
        ["merge", "\udcff"], ["diff", "\udcff"], ["verify", "--trust", "\udcff", "--head", "\udcff"], ["policy", "\udcff"],
        ["keygen", "\0"], ["unbundle", "\udcff", "\udcff"], ["bundle", "\0"],
    ],
)  # fmt: skip
def test_bytes_that_are_no_text_get_a_sentence(run: Run, book: Path, words: list[str]) -> None:
    _, _, err = run(*words, *([] if words[0] in ("keygen", "unbundle") else ["--book", book]))
    assert "not foreseen" not in err


def test_values_that_are_no_text_in_the_database_get_a_sentence(run: Run, book: Path) -> None:
    with sqlite3.connect(book / "book.sqlite") as db:
        db.execute("DROP TRIGGER events_no_update")
        db.execute("UPDATE events SET author = x'00ff', data = x'00'")
    db.close()
    for command in ("log", "tag", "verify", "conflicts", "policy"):
        code, _, err = run(command, "--book", book)
        assert "not foreseen" not in err, command
        assert code in (0, 1, 2)


def test_verify_writes_nothing(run: Run, book: Path) -> None:
    before = {path.name: path.read_bytes() for path in book.rglob("*") if path.is_file()}
    assert run("verify", "--book", book)[0] == 0
    assert {path.name: path.read_bytes() for path in book.rglob("*") if path.is_file()} == before
    with sqlite3.connect(book / "book.sqlite") as db:
        db.execute("PRAGMA user_version = 1")
    db.close()
    code, _, err = run("verify", "--book", book)
    assert (code, "a book of schema 1: somebody changed it" in err) == (2, True)


def test_merge_says_what_it_left(run: Run, book: Path, tmp_path: Path) -> None:
    with Book.open(tmp_path / "other", "f00d" * 16, EVIL) as other:
        meta = Edit(method="x", config={}, facts=(), base="f00d" * 16, deltas={}).meta()
        other.append([(meta, b"no edit at all")])
    code, out, err = run("merge", tmp_path / "other", "--book", book)
    assert (code, err) == (1, "")
    assert f"refused {meta['id']}" in out


def test_gates_are_not_gone_round(run: Run, book: Path) -> None:
    (book / "gates.toml").write_text("said = 1.0\n")
    with Book.open(book, look=True) as opened:
        (record,) = opened.records()
    assert run("drop", record.id, "--book", book)[0] == 0  # taking back is always possible
    for words in (["restore", record.id], ["merge", book.parent / "none"]):
        code, _, err = run(*words, "--book", book)
        assert code == 2
    code, _, err = run("restore", record.id, "--book", book)
    assert "has gates, which are asked of the model: name it with --model" in err


def test_the_policy_is_shown_and_set(run: Run, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    assert "asks nothing" in run("policy", "--book", book)[1]
    public = json.loads(run("keygen", tmp_path / "ada.pem", "--json")[1])["public"]
    file = tmp_path / "book.toml"
    file.write_text(f'signed_by = ["{public}"]\n[gates]\nsaid = 0.9\n')
    code, _, err = run("policy", file, "--book", book)
    assert (code, "set $ERRATA_KEY" in err) == (2, True)
    monkeypatch.setenv("ERRATA_KEY", str(tmp_path / "ada.pem"))
    assert run("policy", file, "--book", book)[0] == 0
    monkeypatch.delenv("ERRATA_KEY")
    shown = json.loads(run("policy", "--book", book, "--json")[1])
    assert (shown["signed_by"], shown["gates"], shown["demand"]) == ([public], {"said": 0.9}, ["open"])
    code, _, err = run("tag", "two", "--book", book)
    assert (code, "asks that changes are signed" in err) == (2, True)
    for text, words in (
        ("signed_by = ['x']", "no public key"),
        ("[gates]\nsaidd = 1", "Did you mean said"),
        ("x", "read"),
    ):
        file.write_text(text)
        code, _, err = run("policy", file, "--book", book)
        assert (code, words in err) == (2, True), err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_endless_files_are_not_waited_for(run: Run, book: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "facts.jsonl")
    os.mkfifo(tmp_path / "gates.toml")
    from errata.data.facts import read_facts
    from errata.editing.gates import read

    for look in (lambda: read_facts(tmp_path / "facts.jsonl"), lambda: read(tmp_path / "gates.toml")):
        with pytest.raises(InputError, match="no regular file"):
            look()
    assert "no regular file" in run("policy", tmp_path / "gates.toml", "--book", book)[2]


def test_secrets_in_addresses_are_not_shown() -> None:
    text = "see https://ada:s3cret@host/v1?api_key=abc&x=1#m, http://tok@h/ and a@b.c"
    assert redacted(text) == "see https://…@host/v1?api_key=…&x=1#m, http://…@h/ and a@b.c"
    assert str(InputError(text)) == redacted(text)
    assert "s3cret" not in repr(sys.argv)


ADDRESSES = (
    "http://h/\r\nX: y", "http://h\r\n", "http://h/ x", "http://h:99999", "http://[::1", "http://h:-1", "ftp://h", "http://",
    "http://user:pw@h", "http://h?api_key=s3cret", "http://h/\0", "http://h/\u202e", "//h", "h", "",
)  # fmt: skip


@pytest.mark.parametrize("url", ADDRESSES)
def test_an_address_that_is_none_is_named_and_nothing_is_sent(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from errata.evaluate import judge
    from errata.export import http

    monkeypatch.setattr(urllib.request, "build_opener", lambda *_: pytest.fail("something was sent"))
    for look in (lambda: http.address(url), lambda: judge.named(f"{url}#m")):
        with pytest.raises(InputError) as caught:
            look()
        assert "s3cret" not in str(caught.value)
        assert "user:pw" not in str(caught.value)


@pytest.mark.parametrize("key", ["s3cret\r\nX: y", "s3c\nret", "s3cret x", "s3cret\u2026", "s3cret\0"])
def test_a_key_that_no_header_takes_is_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python says of it has the key in it."""
    from errata.evaluate import judge
    from errata.export import http

    monkeypatch.setattr(os, "environ", {**os.environ, http.KEY: key, judge.KEY: key})
    for look in (
        lambda: http.ask("http://127.0.0.1:9/v1/models"),
        lambda: judge.EndpointJudge("http://127.0.0.1:9", "m", key=key, attempts=1).verdicts(["x"]),
    ):
        with pytest.raises(InputError, match="holds a line break, a space or other characters") as caught:
            look()
        assert "s3c" not in str(caught.value)
    assert bearer("s3cret\r\n", "X") == "Bearer s3cret"  # as Windows and files end it


@pytest.mark.parametrize(
    "words",
    [
        ["checkout", "@99999999999999999999999"], ["checkout", "@-1"], ["checkout", "\r\n"], ["tag", "a\nb"], ["tag", ".."],
        ["verify", "--head", "\r\n"], ["verify", "--trust", ""], ["restore", ""], ["restore", "%"], ["drop", "______"],
        ["show", "*"], ["conflicts", "--limit", "nan"], ["conflicts", "--limit", "-1"], ["diff", "@9", "@-9"],
        ["log", "--tag", "\x1b[2J"], ["policy", "/dev/zero"], ["policy", "/proc/self/mem"], ["merge", "/proc/self"],
        ["unbundle", "/dev/zero", "z"], ["unbundle", "/proc/self/mem", "z"], ["drop"], ["--book"], ["\x00"],
    ],
)  # fmt: skip
def test_what_nobody_would_type_gets_a_sentence(run: Run, book: Path, words: list[str], tmp_path: Path) -> None:
    before = Book.open(book, look=True).history()
    words = [str(tmp_path / word) if word == "z" else word for word in words]
    code, out, err = run(*words, *(["--book", book] if words[0] not in ("unbundle", "--book", "\x00") else []))
    assert "not foreseen" not in err
    assert "Traceback" not in err
    assert code in (0, 1, 2)
    assert code == 0 or err.strip() or out.strip()
    assert Book.open(book, look=True).history() == before
    assert not (tmp_path / "z").exists()
