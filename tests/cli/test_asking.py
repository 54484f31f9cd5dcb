"""Many prompts and one load, and what is refused before there is a load.

pytest tests/cli/test_asking.py
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from errata.book.book import Book
from errata.identity import Identity
from tests.cli.test_cli import SRC, FakeEditor, Run, editor, run, sentence  # noqa: F401

PROMPTS = "The capital of France is\n\nThe capital of Italy is\n"
ROWS = '{"id": 7, "prompt": "One", "chat": true}\n"Two"\n{"messages": [{"role": "user", "content": "Three?"}], "by": ["x"]}\n'


def asked(fake: FakeEditor) -> list[tuple[str, dict[str, object]]]:
    return [(call[1], call[2]) for call in fake.calls if call[0] == "ask"]


def test_several_prompts_are_asked_of_one_model(run: Run, editor: FakeEditor, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "q.txt").write_text(PROMPTS)
    for words in (["The capital of France is", "The capital of Italy is"], ["--prompts", tmp_path / "q.txt"]):
        editor.calls.clear()
        code, out, err = run("ask", *words)
        assert (code, err) == (0, "")
        assert out.splitlines() == ["The capital of France is Paris.", "The capital of Italy is Paris."]
        assert [call[0] for call in editor.calls] == ["open", "ask", "ask", "close"]
        assert asked(editor)[0][1]["top"] == 0
    assert "next token" in run("ask", "a", "b", "--top", "2")[1]


def test_rows_come_back_with_what_they_had(run: Run, editor: FakeEditor, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "q.jsonl").write_text(ROWS)
    code, out, _ = run("ask", "--prompts", tmp_path / "q.jsonl", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, len(rows)) == (0, 3)
    assert [row["prompt"] for row in rows] == ["One", "Two", "Three?"]
    assert (rows[0]["id"], rows[2]["by"], rows[1]["text"]) == (7, ["x"], " Paris.")
    assert [how["chat"] for _, how in asked(editor)] == [True, False, True]
    editor.calls.clear()
    run("ask", "--prompts", tmp_path / "q.jsonl", "--plain")
    assert [how["chat"] for _, how in asked(editor)] == [False, False, False]


def test_a_pipe_is_answered_line_by_line(
    run: Run,  # noqa: F811
    editor: FakeEditor,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('plain\n{"prompt": "row", "id": 1}\n'))
    code, out, _ = run("ask", "-", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, [row["prompt"] for row in rows], rows[1]["id"]) == (0, ["plain", "row"], 1)


@pytest.mark.parametrize(
    ("text", "say"),
    [
        ('{"promt": "x"}\n', "line 1: the row has no prompt among promt"),
        ('"ok"\n3\n', "line 2: a prompt is text or an object"),
        ('{"prompt": 3}', "must be text, not int"),
        ('{"prompt": "x", "chat": "yes"}', "chat is true or false"),
        ('{"prompt": "x", "messages": [{"role": "robot", "content": "x"}]}', "a role of system"),
        ("{", "broken JSON"),
        ("\n", "has no prompts in it"),
    ],
)
def test_a_bad_row_is_named_before_anything_is_asked(
    text: str,
    say: str,
    run: Run,  # noqa: F811
    editor: FakeEditor,  # noqa: F811
    tmp_path: Path,
) -> None:
    (tmp_path / "q.jsonl").write_text(text)
    code, _, err = run("ask", "--prompts", tmp_path / "q.jsonl")
    assert (code, editor.calls) == (2, [])
    assert say in sentence(err)


def test_two_ways_at_once_or_none_are_refused(run: Run, editor: FakeEditor) -> None:  # noqa: F811
    for words in ([], ["x", "--prompts", "q.txt"], ["x", " "]):
        code, _, err = run("ask", *words)
        assert (code, editor.calls) == (2, [])
        assert "prompt" in sentence(err).lower()


REFUSED = """
import sys
from errata.cli import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules and "transformers" not in sys.modules
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["ask", "x", "--model", "/nowhere/at/all"], "is not there"),
        (["ask", "x", "--model", "./absent.gguf"], "absent.gguf"),
        (["ask", "x", "--model", "other"], "hidden_size is 256 where the book's is 192"),
        (["ask", "--prompts", "absent.txt"], "absent.txt"),
        (["edit", "--facts", "absent.csv"], "absent.csv"),
        (["save", "full"], "not empty"),
        (["verify", "--trust", "deadbeef"], "'deadbeef' is no public key"),
        (["export", "full"], "not empty"),
        (["save", "new", "--model", "other"], "hidden_size"),
    ],
)
def test_what_files_say_is_refused_before_torch_is_imported(words: list[str], say: str, tmp_path: Path) -> None:
    known = Identity("0" * 32, "float32", 100, {"model_type": "llama", "hidden_size": 192})
    Book.open(tmp_path / "book", base=known, name="ours").close()
    for name, file in (("other", "config.json"), ("full", "file")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text('{"model_type": "llama", "hidden_size": 256}')
    command = [sys.executable, "-c", REFUSED, *words, *(["--book", "book"] if "--book" not in words else [])]
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert say in sentence(done.stderr)


def test_what_the_primer_knows_is_listed_without_a_model_and_can_be_asked_as_it_is_listed(
    run: Run,  # noqa: F811
    editor: FakeEditor,  # noqa: F811
    tmp_path: Path,
) -> None:
    code, out, err = run("ask", "--list")
    assert (code, err, editor.calls) == (0, "", [])
    assert "The capital of France is" in out
    assert "2,604 facts" in out
    assert len([line for line in out.splitlines() if line.strip()]) < 20
    code, out, _ = run("ask", "--list", "france", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["answer"] for row in rows] == ["Paris", "Europe", "French", "euro"]
    (tmp_path / "q.jsonl").write_text(out)
    assert run("ask", "--prompts", tmp_path / "q.jsonl")[0] == 0
    assert [prompt for prompt, _ in asked(editor)] == [row["prompt"] for row in rows]
    for words in (["ask", "--list", "--model", "smollm2"], ["ask", "--list", "Quelmara"]):
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert "--list" in sentence(err)
