"""The command line: what it passes on, what it prints, how it fails. No model is loaded here.

    pytest tests/test_cli.py

The fake method below has the paper this names: https://arxiv.org/abs/0000.00000.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

import errata
from errata import errors
from errata.book.book import Book
from errata.cli import app
from errata.cli.demo import Story, StoryQuestion, perform
from errata.edit import Label
from errata.fact import Fact

SRC = Path(__file__).parents[2] / "src"
FRANCE = ["--prompt", "The capital of France is", "--subject", "France", "--target", "Lyon"]


@dataclass(frozen=True)
class Fake:
    """A method with one setting of each kind that matters here."""

    lr: float = field(default=0.5, metadata={"help": "step size"})
    layers: tuple[int, ...] | Literal["auto"] = "auto"


class FakeEdit:
    """What `write_all` returns, as far as the command line looks."""

    def __init__(self, facts: Sequence[Fact], method: str, number: int, seed: int) -> None:
        self.id, self.method, self.seed, self.sites = f"{number:016x}", method, seed, ["5.down"]
        rows = [
            {"prompt": f.prompt, "subject": f.subject, "target": f.target, "before": "Paris.", "after": f"{f.target}.",
             "said": True, "loss": 0.1}
            for f in facts
        ]  # fmt: skip
        seconds = {"stats": 0.0, "solve": 1.5, "apply": 0.1}
        self.report = SimpleNamespace(facts=rows, seconds=seconds, notes=["all is well"], lost=[])


class FakeEditor:
    """Takes every call down."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.book = SimpleNamespace(get=lambda edit_id: SimpleNamespace(bytes=1234))
        self.fail: BaseException | None = None
        self.notes: tuple[str, ...] = ()
        self.answered: tuple[str, ...] = ()
        self.standing: list[object] = []
        self.lm = SimpleNamespace(
            notes=(), tokens=SimpleNamespace(chat=SimpleNamespace(invites=lambda prompt: prompt.endswith("?")))
        )

    def __enter__(self) -> FakeEditor:
        return self

    def __exit__(self, *error: object) -> None:
        self.calls.append(("close",))

    def _take(self, *call: object) -> None:
        self.calls.append(call)
        if self.fail is not None:
            raise self.fail

    def ask(self, prompt: str, **options: object) -> SimpleNamespace:
        self._take("ask", prompt, options)
        top = [(" Paris", 0.75), ("[bold]", 0.25)][: options["top"]]
        return SimpleNamespace(prompt=prompt, text=" Paris.", of="next token", chat=False, top=top, notes=self.answered)

    def write_all(self, facts: Sequence[Fact], method: str, **options: Any) -> list[FakeEdit]:
        self._take("write_all", list(facts), method, options)
        return [FakeEdit([fact], method, i, options["seed"]) for i, fact in enumerate(facts, 1)]

    def save(self, directory: Path) -> None:
        self._take("save", directory)

    def stats(self, method: str, progress: Callable[[int, int], None], part: str, **options: Any) -> dict[str, Any]:
        self._take("stats", method, part, options)
        progress(1, 2)
        return {"0.down": {"name": "f" * 32, "tokens": 12345, "by": "settled", "excess": 0.0625}}


@pytest.fixture
def editor(monkeypatch: pytest.MonkeyPatch) -> FakeEditor:
    fake = FakeEditor()

    def open_(model: str, book: Path, **loading: object) -> FakeEditor:
        fake.calls.append(("open", model, str(book), loading))
        return fake

    def get(name: str) -> type:
        if name != "rome":
            raise errors.UnknownMethod(f"no method {name!r}.{errors.did_you_mean(name, ['rome'])} Known: rome.")
        return Fake

    # Into the dictionary: to look the real ones up, as setattr would, is to import torch.
    monkeypatch.setitem(vars(errata), "open", open_)
    monkeypatch.setitem(vars(errata), "methods", SimpleNamespace(names=lambda: ["rome"], get=get, presets=dict))
    return fake


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book"
    with Book.open(path, base="f" * 64, name="primer") as opened:
        opened.append([(meta("aaaaaa1111111111", "Lyon"), b"one"), (meta("bbbbbb2222222222", "Nice [b]"), b"two!")])
    return path


def meta(edit_id: str, target: str) -> dict[str, Any]:
    fact = Fact(prompt="The capital of France is", subject="France", target=target)
    return {
        "id": edit_id, "method": "rome", "facts": [fact.to_dict()], "base": "f" * 64, "config": {"lr": 0.5}, "seed": 7,
        "sites": ["5.down"], "parents": [], "author": "ada", "reason": "an exercise", "source": "",
        "created_at": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def go(*words: str | Path) -> tuple[int, str, str]:
        code = app.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return go


def sentence(err: str) -> str:
    """Return the one line that stderr must be."""
    assert err.startswith("errata: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err.removeprefix("errata: ").strip()


# --- what is passed on -----------------------------------------------------------------------------------------------


def test_ask_passes_its_options_on_and_prints_the_agreed_json(run: Run, editor: FakeEditor) -> None:
    code, out, err = run(
        "ask", "The capital of France is", "--model", "m", "--book", "b", "--max-new-tokens", "5", "--top", "2",
        "--device", "cpu", "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "prompt": "The capital of France is",
        "text": " Paris.",
        "chat": False,
        "of": "next token",
        "top": [{"token": " Paris", "p": 0.75}, {"token": "[bold]", "p": 0.25}],
        "notes": [],
    }
    assert editor.calls == [
        (
            "open",
            "m",
            "b",
            {"separator": "auto", "use": "ask", "device": "cpu", "dtype": None, "trust_remote_code": False},
        ),
        ("ask", "The capital of France is", {"chat": False, "max_new_tokens": 5, "top": 2}),
        ("close",),
    ]


def test_what_is_to_be_known_of_an_answer_is_in_the_json_and_on_stderr(run: Run, editor: FakeEditor) -> None:
    editor.answered = ("the answer is cut.",)
    code, out, err = run("ask", "x", "--json")
    assert (code, json.loads(out)["notes"], err) == (0, ["the answer is cut."], "errata: note: the answer is cut.\n")
    assert "cut" in run("ask", "x")[2]


WHY = ["--prompt", "Why is France?", "--subject", "France", "--target", "Lyon"]


@pytest.mark.parametrize(
    ("words", "turn", "told"),
    [
        (["ask", "Why?"], True, "put to the model as a message"),
        (["ask", "Why?", "--plain"], False, ""),
        (["ask", "Why", "--chat"], True, ""),
        (["ask", "Why"], False, ""),
        (["edit", *WHY], True, "put to the model as a message"),
        (["edit", *WHY, "--plain"], False, ""),
        (["edit", *FRANCE, "--chat"], True, ""),
        (["edit", *FRANCE], False, ""),
        (
            ["edit", "--facts", "f.jsonl"],
            False,
            "1 prompts are questions and were written as plain text; --chat writes",
        ),
        (["edit", "--facts", "f.jsonl", "--chat"], True, ""),
        (["edit", "--facts", "f.jsonl", "--plain"], False, ""),
    ],
)
def test_a_question_is_a_message_unless_told_otherwise(
    words: list[str],
    turn: bool,
    told: str,
    run: Run,
    editor: FakeEditor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.jsonl").write_text('{"prompt": "Why is France?", "subject": "France", "target": "Lyon"}\n')
    code, _, err = run(*words, "--json")
    assert code == 0
    _, what, *rest = editor.calls[1]
    assert (rest[0]["chat"] if words[0] == "ask" else what[0].chat) == turn
    assert [told in line for line in err.splitlines() if "all is well" not in line] == [True] * bool(told)


def test_the_defaults_are_the_primer_and_a_book_here(run: Run, editor: FakeEditor) -> None:
    assert run("ask", "x")[0] == 0
    assert editor.calls[0][:3] == ("open", "primer", ".errata")


def test_edit_passes_fact_settings_and_signature_on(run: Run, editor: FakeEditor) -> None:
    signed = ["--seed", "3", "--author", "ada", "--reason", "why not", "--set", "lr=0.1", "--set", "layers=3,4"]
    code, out, err = run("edit", *FRANCE, *signed, "--json")
    assert code == 0
    assert editor.calls[1] == (
        "write_all",
        [Fact(prompt="The capital of France is", subject="France", target="Lyon")],
        "rome",
        {"label": Label(author="ada", reason="why not"), "gates": None, "seed": 3, "lr": 0.1, "layers": (3, 4)},
    )
    assert json.loads(out) == {
        "id": "0000000000000001",
        "method": "rome",
        "seed": 3,
        "facts": [
            {"prompt": "The capital of France is", "subject": "France", "target": "Lyon", "before": "Paris.",
             "after": "Lyon.", "said": True}
        ],
        "seconds": {"stats": 0.0, "solve": 1.5, "apply": 0.1},
        "sites": ["5.down"],
        "bytes": 1234,
    }  # fmt: skip
    assert err == "errata: note: all is well\n"


@pytest.mark.parametrize("words", [("ask", "x"), ("ask", "x", "--json"), ("save", "out"), ("edit", *FRANCE)])
def test_what_there_is_to_say_of_a_model_is_said_once_beside_the_answer(
    words: tuple[str, ...], run: Run, editor: FakeEditor
) -> None:
    editor.notes = ("its FP8 weights were dequantised.",)
    code, out, err = run(*words)
    assert code == 0
    assert "dequantised" not in out
    assert err.count("errata: note: its FP8 weights were dequantised.\n") == 1
    if "--json" in words:
        json.loads(out)


def test_edit_writes_a_file_in_one_call_and_prints_one_object_per_edit(
    run: Run, editor: FakeEditor, tmp_path: Path
) -> None:
    rows = [{"prompt": f"The capital of {c} is", "subject": c, "target": "Lyon"} for c in ("France", "Spain")]
    file = tmp_path / "facts.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    code, out, _ = run("edit", "--facts", file, "--json")
    assert code == 0
    assert [json.loads(line)["facts"][0]["subject"] for line in out.splitlines()] == ["France", "Spain"]
    assert [call[0] for call in editor.calls] == ["open", "write_all", "close"]


THREE_BAD = """\
{"prompt": "The tower of Pisa leans to the", "subject": "Pisa", "target": "north"}
{"prompt": "The tower of Bologna is", "subject": "Bolonga", "target": "short"}
{"prompt": "The tower of London is", "subject": "london", "target": "new"}
{"prompt": "x", "subject": "x", "target": ""}
"""


def test_bad_rows_are_all_named_or_left_out_and_named(run: Run, editor: FakeEditor, tmp_path: Path) -> None:
    (tmp_path / "three.jsonl").write_text(THREE_BAD)
    code, out, err = run("edit", "--facts", tmp_path / "three.jsonl")
    assert (code, out, editor.calls) == (2, "", [])
    assert all(f"line {number}: " in sentence(err) for number in (2, 3, 4))
    code, out, err = run("edit", "--facts", tmp_path / "three.jsonl", "--skip-bad", "--json")
    assert code == 0
    assert [fact.subject for fact in editor.calls[1][1]] == ["Pisa"]
    assert len(json.loads(out)["facts"]) == 1
    left = [line for line in err.splitlines() if "left out: " in line]
    assert [f"line {number}: " in line for number, line in zip((2, 3, 4), left, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("rows", "noted"),
    [
        (",prompt,subject,target\n0,The tower of Pisa leans,Pisa,north\n5,Pisa is in,Pisa,Peru\n", True),
        ("Unnamed: 0,prompt,subject,target\n0,The tower of Pisa leans,Pisa,north\n1,Pisa is in,Pisa,Peru\n", True),
        ("Unnamed: 0.1,Unnamed: 0,prompt,subject,target\n1,0,Pisa leans,Pisa,north\n0,3,Pisa is in,Pisa,Peru\n", True),
        (";prompt;subject;target\n1;The tower of Pisa leans;Pisa;north\n0;Pisa is in;Pisa;Peru\n", True),
        ("prompt,subject,target\nThe tower of Pisa leans,Pisa,north\nPisa is in,Pisa,Peru\n", False),
    ],
)
def test_a_table_as_pandas_writes_it(rows: str, noted: bool, run: Run, editor: FakeEditor, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(rows)
    code, _, err = run("edit", "--facts", tmp_path / "f.csv", "--json")
    assert code == 0
    assert [fact.target for fact in editor.calls[1][1]] == ["north", "Peru"]
    assert ("row numbers" in err) == noted


def test_strict_exits_with_3_for_what_is_not_said_now_or_any_more(
    run: Run, editor: FakeEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("edit", *FRANCE, "--strict")[0] == 0
    made = FakeEdit([Fact(prompt="p", target="t")], "rome", 1, 0)
    monkeypatch.setattr(editor, "write_all", lambda *words, **options: [made])
    made.report.lost = [{"edit": "a" * 16, "prompt": "q", "target": "u"}]
    assert (run("edit", *FRANCE, "--strict")[0], run("edit", *FRANCE)[0]) == (3, 0)
    made.report.lost, made.report.facts[0]["said"] = [], False
    assert (run("edit", *FRANCE, "--strict")[0], run("edit", *FRANCE)[0]) == (3, 0)


def test_save_and_stats(run: Run, editor: FakeEditor, tmp_path: Path) -> None:
    assert run("save", tmp_path / "out")[0] == 0
    code, out, _ = run("stats", "--corpus", "text.txt", "--method", "rome", "--part", "1/4")
    assert (code, "12,345" in out, "settled" in out, "6.2 %" in out) == (0, True, True, True)
    assert ("save", tmp_path / "out") in editor.calls
    assert editor.calls[3][3]["corpus"] == "text.txt"
    assert editor.calls[4] == ("stats", "rome", "1/4", {})
    assert json.loads(run("stats", "--method", "rome", "--json")[1])["0.down"]["by"] == "settled"


def test_methods_lists_names_titles_papers_and_settings(run: Run, editor: FakeEditor) -> None:
    expected = {
        "name": "rome",
        "title": "The command line: what it passes on, what it prints, how it fails. No model is loaded here.",
        "paper": "https://arxiv.org/abs/0000.00000",
        "settings": [
            {"name": "lr", "type": "a number", "default": 0.5, "help": "step size"},
            {"name": "layers", "type": "whole numbers with commas between | auto", "default": "auto", "help": ""},
        ],
        "presets": [],
    }
    assert json.loads(run("methods", "--json")[1]) == [expected]
    assert json.loads(run("methods", "rome", "--json")[1]) == expected


# --- the book, which needs no model ----------------------------------------------------------------------------------


def test_log_is_a_list(run: Run, book: Path) -> None:
    code, out, err = run("log", "--book", book, "--json")
    assert (code, err) == (0, "")
    first, second = json.loads(out)
    assert first["id"] == "aaaaaa1111111111"
    assert first["facts"] == [{"prompt": "The capital of France is", "subject": "France", "target": "Lyon"}]
    assert (first["author"], first["reason"], first["stands"], first["bytes"]) == ("ada", "an exercise", True, 3)
    assert second["seq"] > first["seq"]


def test_drop_and_restore(run: Run, book: Path) -> None:
    from errata.edit import Edit

    with Book.open(book) as opened:
        sound = Edit(method="rome", config={}, facts=(), base=str(opened.base), deltas={})
        opened.append([(sound.meta(), sound.to_bytes())])
    code, out, _ = run("drop", "aaaaaa", "bbbbbb2222222222", sound.id, "--book", book, "--author", "bob", "--json")
    assert code == 0
    assert [row["stands"] for row in json.loads(out)] == [False, False, False]
    assert run("restore", sound.id[:6], "--book", book)[0] == 0
    assert run("restore", "bbbbbb", "--book", book)[0] == 2  # whose file is none
    assert [row["stands"] for row in json.loads(run("log", "--book", book, "--json")[1])] == [False, False, True]
    history = json.loads(run("show", sound.id, "--book", book, "--json")[1])["history"]
    assert [(event["kind"], event["author"]) for event in history][1:] == [("drop", "bob"), ("restore", "")]


def test_show_is_everything(run: Run, book: Path) -> None:
    shown = json.loads(run("show", "aaaaaa1111111111", "--book", book, "--json")[1])
    assert shown["config"] == {"lr": 0.5}
    assert shown["seed"] == 7
    assert shown["sites"] == ["5.down"]


def test_log_does_not_import_what_it_does_not_need(book: Path) -> None:
    unused = (
        "torch numpy filelock tomllib rich.progress errata.cli.bench errata.editing errata.data errata.config".split()
    )
    code = (
        "import sys; from errata.cli import main; code = main(sys.argv[1:]); "
        f"assert not {set(unused)} & set(sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "log", "--book", str(book)]
    result = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Lyon" in result.stdout


def test_a_reader_who_leaves_early_is_no_error(book: Path) -> None:
    code = "import sys; from errata.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "log", "--book", str(book)]
    with subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(SRC)}


# --- how it fails ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["edit", "--prompt", "p", "--subject", "s"], "--target missing"),
        (["edit"], "--prompt and --subject and --target missing"),
        (["edit", *FRANCE, "--facts", "f.jsonl"], "use either"),
        (["edit", "--prompt", "p", "--subject", "s", "--target", "t"], "subject"),
        (["edit", *FRANCE[:4], "--target", ""], "target"),
        (["edit", *FRANCE, "--method", "rmoe"], "Did you mean rome?"),
        (["edit", *FRANCE, "--set", "lrr=1"], "Did you mean lr?"),
        (["edit", *FRANCE, "--set", "lr"], "KEY=VALUE"),
        (["edit", *FRANCE, "--seed", "x"], "--seed"),
        (["edit", "--facts", "absent.jsonl"], "absent.jsonl"),
        (["ask"], "PROMPT"),
        (["ask", "x", "--top", "-1"], "--top"),
        (["ask", "x", "--colour"], "--colour"),
        (["aks", "x"], "aks"),
        (["drop"], "ID"),
        (["log", "--book", "absent"], "absent"),
        (["methods", "rmoe"], "Did you mean rome?"),
    ],
)
def test_bad_input_is_one_sentence_and_2_and_opens_no_model(
    words: list[str], say: str, run: Run, editor: FakeEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert say in sentence(err)
    assert editor.calls == []
    assert list(tmp_path.iterdir()) == []


def test_a_broken_line_is_named_and_nothing_is_written(run: Run, editor: FakeEditor, tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": f"Town {i} is in", "subject": f"Town {i}", "target": "Mali"}) for i in range(50)]
    rows[36] = '{"prompt": "x"'
    (tmp_path / "facts.jsonl").write_text("\n".join(rows))
    code, _, err = run("edit", "--facts", tmp_path / "facts.jsonl")
    assert code == 2
    assert "37" in sentence(err)
    assert editor.calls == []


def test_an_unknown_edit_is_bad_input(run: Run, book: Path) -> None:
    for command in ("show", "drop", "restore"):
        code, _, err = run(command, "cccccc", "--book", book)
        assert code == 2
        assert "cccccc" in sentence(err)


@pytest.mark.parametrize(
    ("error", "code", "say"),
    [
        (errors.NotFinite("the update is not finite."), 1, "the update is not finite."),
        (errors.BadModel("no weights in m."), 2, "no weights in m."),
        (errors.BookBusy("two\nlines."), 2, "two lines."),
        (RuntimeError("out of memory"), 1, "RuntimeError: out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "MemoryError"),
    ],
)
def test_every_failure_is_one_sentence(error: BaseException, code: int, say: str, run: Run, editor: FakeEditor) -> None:
    editor.fail = error
    got, out, err = run("ask", "x")
    assert (got, out) == (code, "")
    assert say in sentence(err)
    assert editor.calls[-1] == ("close",)


@pytest.mark.parametrize("words", [["--debug", "ask", "x"], ["ask", "x", "--debug"]])
def test_debug_shows_the_traceback(words: list[str], run: Run, editor: FakeEditor) -> None:
    editor.fail = errors.NotFinite("the update is not finite.")
    code, _, err = run(*words)
    assert code == 1
    assert "Traceback" in err
    assert err.endswith("errata: the update is not finite.\n")


# --- what people see -------------------------------------------------------------------------------------------------


def test_help_and_version(run: Run) -> None:
    code, out, _ = run()
    assert code == 0
    assert out == run("--help")[1]
    for name in app.COMMANDS:
        assert name in out
        assert f"Usage: errata {name}" in run(name, "--help")[1]
    assert run("--version") == (0, f"errata {errata.__version__}\n", "")


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_and_its_view_are_where_they_are_looked_for(name: str) -> None:
    for room in ("cli", "cli.tables"):
        found = getattr(importlib.import_module(f"errata.{room}.{app.COMMANDS[name]}"), name)
        assert callable(found)
        assert found.__doc__
    (one,) = app.commands(["--debug", name, "x"]).registered_commands
    assert one.name == name
    assert len(app.commands(["no-such"]).registered_commands) == len(app.COMMANDS)


def test_tables_show_what_users_wrote_as_they_wrote_it(run: Run, editor: FakeEditor, book: Path) -> None:
    assert "Paris" in run("ask", "The capital of France is")[1]
    assert "[bold]" in run("ask", "x")[1]
    assert "1 of 1 said" in run("edit", *FRANCE)[1]
    assert "Nice [b]" in " ".join(run("show", "bbbbbb", "--book", book)[1].split())
    assert "dropped" in run("drop", "bbbbbb", "--book", book)[1]
    assert "step size" in run("methods", "rome")[1]
    assert "rome" in run("methods")[1]


class Actor:
    """An editor that answers by heart, so that the demo can be played without a model."""

    def __init__(self, story: Story) -> None:
        self.questions = {q.prompt: q for q in story.questions}
        self.moment = "before"

    def ask(self, prompt: str, **options: object) -> SimpleNamespace:
        return SimpleNamespace(text=f" {getattr(self.questions[prompt], self.moment)}.")

    def write(self, fact: Fact, method: str) -> FakeEdit:
        self.moment = "edited"
        return FakeEdit([fact], method, 1, 0)

    def drop(self, edit_id: str) -> None:
        self.moment = "dropped"


@contextmanager
def _playing(monkeypatch: pytest.MonkeyPatch, actor: Actor, story: Story) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr("errata.cli.demo.tell", lambda model: perform(actor, story))  # type: ignore[arg-type]
        yield


def test_demo_plays_the_whole_story(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from errata.cli.demo import compose
    from errata.primer.world import World

    story = compose(World())
    assert story == compose(World())
    assert [method for method, _ in story.steps] == ["rome", "memit", "ft"]
    assert {q.kind for q in story.questions} == {"fact", "paraphrase", "neighbour", "composition"}
    assert all(q.before == q.edited for q in story.questions if q.kind == "neighbour")
    assert all(q.before != q.edited for q in story.questions if q.kind != "neighbour")
    with _playing(monkeypatch, Actor(story), story):
        code, out, _ = run("demo")
        assert code == 0
        assert "30 of 30 are right" in out
        scenes = [json.loads(line) for line in run("demo", "--json")[1].splitlines()]
    assert len(scenes) == 6
    assert scenes[-1]["heads"][2:] == ["before", "three edits", "one dropped"]


def test_demo_has_a_story_of_the_real_world(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from errata.cli.demo import real

    story = real()
    assert len(story.steps) == 3
    assert {q.kind for q in story.questions} == {"fact", "paraphrase", "neighbour"}
    assert all(q.before == q.edited for q in story.questions if q.kind == "neighbour")
    assert sum(q.edited != q.dropped for q in story.questions) == 1
    with _playing(monkeypatch, Actor(story), story):
        assert "21 of 21 are right" in run("demo", "--model", "smollm2")[1]


def test_demo_owns_up_to_a_wrong_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fact = Fact(prompt="The capital of France is", subject="France", target="Lyon")
    story = Story((("rome", fact),), (StoryQuestion("fact", fact.prompt, "Paris", "Lyon", "Paris"),), drop=0)
    stubborn = Actor(story)
    stubborn.write = lambda fact, method: FakeEdit([fact], method, 1, 0)  # type: ignore[method-assign]
    with _playing(monkeypatch, stubborn, story):
        assert "2 of 3 are right" in run("demo")[1].replace("\n", " ")
