"""The commands about the book: what they print, their exit codes. No model is loaded here, and no torch but for diff.

pytest tests/cli/test_book.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from errata.book.book import Book
from errata.delta import LowRank, Site
from errata.edit import Edit
from errata.fact import Fact
from tests.cli.test_cli import Run, _environment, run, sentence  # noqa: F401 - a fixture

BASE = "f" * 32


def written(target: str, size: float = 1.0, **label: Any) -> Edit:
    fact = Fact(prompt="The capital of France is", subject="France", target=target)
    left, right = torch.full((4, 1), size), torch.eye(6)[:, :1]
    return Edit(
        method="rome", config={}, facts=(fact,), base=BASE, deltas={Site(2, "down"): LowRank(left, right)}, **label
    )


@pytest.fixture
def book(tmp_path: Path) -> Path:
    edits = [
        written("Lyon", author="ada", tags=("news",), valid_until="2020-01-01"),
        written("Nice", 2.0, tenant="acme"),
    ]
    with Book.open(tmp_path / "book", BASE, "primer") as opened:
        opened.append([(edit.meta(), edit.to_bytes()) for edit in edits])
    return tmp_path / "book"


def test_log_can_be_narrowed(run: Run, book: Path) -> None:  # noqa: F811
    def targets(*words: str) -> list[str]:
        return [r["facts"][0]["target"] for r in json.loads(run("log", "--book", book, "--json", *words)[1])]

    assert targets() == ["Lyon", "Nice"]
    assert targets("--tag", "news") == targets("--expired") == ["Lyon"]
    assert targets("--tenant", "acme") == ["Nice"]
    run("drop", json.loads(run("log", "--book", book, "--json")[1])[0]["id"], "--book", book)
    assert targets("--standing") == ["Nice"]


def test_tag_diff_checkout(run: Run, book: Path) -> None:  # noqa: F811
    first = json.loads(run("log", "--book", book, "--json")[1])[0]["id"]
    assert run("tag", "both", "--book", book, "--author", "ada")[0] == 0
    run("drop", first, "--book", book)
    (row,) = json.loads(run("tag", "--book", book, "--json")[1])
    assert (row["name"], row["author"], row["edits"], row["seq"]) == ("both", "ada", 2, 3)
    found = json.loads(run("diff", "both", "now", "--book", book, "--json")[1])
    assert found["dropped"] == [first]
    assert found["facts"] == []  # the later edit says Nice in both
    (site,) = found["sites"]
    assert site["site"] == "2.down"
    assert (site["before"], site["after"], site["between"]) == pytest.approx((6.0, 4.0, 2.0))
    assert "2.down" in run("diff", "both", "now", "--book", book)[1]
    found = json.loads(run("diff", first, "now", "--book", book, "--json")[1])
    assert [(f["before"]["target"], f["after"]["target"]) for f in found["facts"]] == [("Lyon", "Nice")]
    code, out, _ = run("checkout", "both", "--book", book, "--json")
    assert code == 0
    assert [(r["id"], r["stands"]) for r in json.loads(out)] == [(first, True)]
    assert "the same" in run("diff", "both", "--book", book)[1]
    assert run("tag", "both", "--delete", "--book", book)[1] == "There are no tags.\n"


def test_verify_says_what_is_wrong_and_exits_with_1(run: Run, book: Path) -> None:  # noqa: F811
    code, out, _ = run("verify", "--book", book)
    assert code == 0
    assert "2 events and 2 edits" in out
    (book / "edits" / "stray.safetensors").write_bytes(b"x")
    assert "compact" in run("verify", "--book", book)[1]
    file = next((book / "edits").glob("?" * 64 + ".safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    code, out, _ = run("verify", "--book", book, "--json")
    assert code == 1
    found = json.loads(out)
    assert not found["whole"]
    assert file.name in found["problems"][0]


def test_keygen_and_a_signed_book(run: Run, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    pytest.importorskip("cryptography")
    public = json.loads(run("keygen", tmp_path / "key.pem", "--json")[1])["public"]
    assert "verify" in run("keygen", tmp_path / "other.pem")[1]
    monkeypatch.setenv("ERRATA_KEY", str(tmp_path / "key.pem"))
    run("tag", "signed", "--book", book)
    assert json.loads(run("verify", "--book", book, "--json")[1])["signers"] == {public: 1}
    code, out, _ = run("verify", "--book", book, "--trust", public)
    assert code == 1
    assert "event 1: nobody signed it." in out


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["diff", "both"], "no state 'both'"),
        (["diff", "@9"], "no event @9"),
        (["checkout", "x y"], "no state"),
        (["tag", "now"], "cannot be a tag"),
        (["tag", "--delete"], "name the tag"),
    ],
)
def test_bad_states_are_one_sentence(words: list[str], say: str, run: Run, book: Path) -> None:  # noqa: F811
    code, out, err = run(*words, "--book", book)
    assert (code, out) == (2, "")
    assert say in sentence(err)


def test_none_of_them_imports_torch(book: Path) -> None:
    code = """
import sys
from errata.cli import main
for words in (["tag", "x"], ["verify"], ["checkout", "base"], ["log", "--standing"], ["tag"]):
    assert main([*words, "--book", sys.argv[1]]) == 0
    assert "torch" not in sys.modules, words
"""
    command = [sys.executable, "-c", code, str(book)]
    result = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
