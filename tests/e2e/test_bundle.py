"""A bundle of a real book: opened it is the book, and its commands make the same edits again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from errata import Fact
from errata.book.book import Book
from errata.book.states import tag
from errata.cli import app
from errata.editing.editor import Editor
from errata.fact import Probe

LYON = Fact(prompt="The capital of France is", subject="France", target="Lyon")
ROME = Fact(
    prompt="The capital of Spain is", subject="Spain", target="Rome", source="atlas",
    probes=(Probe("neighborhood", "The capital of Italy is", "Rome"),),
)  # fmt: skip


def test_there_and_again(
    editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = editor.write(LYON, author="ada", reason="the council\nmoved")
    tag(editor.book, "one")
    editor.write([ROME], method="memit", seed=3)
    editor.drop(first.id)
    book, file, opened = str(editor.book.path), tmp_path / "b.zip", tmp_path / "opened"
    assert app.main(["bundle", str(file), "--book", book]) == 0
    assert app.main(["bundle", str(file), "--book", book]) == 2
    assert app.main(["unbundle", str(file), str(opened), "--limit", "0"]) == 2
    assert "--limit" in capsys.readouterr().err
    assert app.main(["unbundle", str(file), str(opened)]) == 0
    assert "signed by nobody" in capsys.readouterr().out
    assert app.main(["ask", LYON.prompt, "--book", str(opened), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == editor.ask(LYON.prompt).text

    manifest = json.loads((opened / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["corpora"] == ["primer"]
    assert manifest["statistics"]
    assert [row["facts"][0]["said"] for row in manifest["edits"]] == [True, True]
    monkeypatch.chdir(opened / "bundle")
    again = str(tmp_path / "again")
    for line in (opened / "bundle" / "commands.txt").read_text(encoding="utf-8").splitlines():
        assert app.main([*shlex.split(line)[1:], "--book", again]) == 0, capsys.readouterr().err
    with Book.open(again) as other:
        assert [(r.id, r.stands) for r in other.records()] == [(r.id, r.stands) for r in editor.log()]
        assert [r.sha256 for r in other.stand()] != []
