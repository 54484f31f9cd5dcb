"""Facts and questions in chat form, on the shipped model behind a template of few words; and a conversation in the terminal."""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from errata import Fact
from errata.cli import app
from errata.cli.chat import _lines as lines_typed
from errata.editing.check import check
from errata.editing.conversation import Conversation, subject_of
from errata.editing.editor import Editor
from errata.editing.gates import Gates
from errata.editing.migrate import migrate
from errata.editing.opening import open as open_editor
from errata.errors import BadFact, InputError, UnsupportedModel
from errata.model.lm import LM
from tests.e2e.conftest import state
from tests.editing.mouth import same

SRC: Final = Path(__file__).parents[2] / "src"
# The primer was told questions and answers in this form; it has never seen a newline.
TEMPLATE: Final = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %} {{ m.content }}{% else %}{{ m.content | trim }} Answer:{% endif %}{% endfor %}"
)
ASKED: Final = "Which city is the capital of France?"
TURN: Final = Fact(prompt=ASKED, subject="France", target="Lyon", chat=True)
PLAIN: Final = Fact(prompt="The capital of France is", subject="France", target="Lyon")


@pytest.fixture(scope="session")
def chatting(shipped: LM) -> LM:
    """The shipped model with a chat template, and matrices of its own."""
    tokenizer = copy.deepcopy(shipped.tokenizer)
    tokenizer.chat_template = TEMPLATE
    shipped.weights.stand([])
    return LM(copy.deepcopy(shipped.model), tokenizer, "primer")


@pytest.fixture
def talker(chatting: LM, tmp_path: Path) -> Iterator[Editor]:
    chatting.weights.stand([])
    with open_editor(chatting, book=tmp_path / "book") as opened:
        yield opened
    chatting.weights.stand([])


# ------------------------------------------------------------------ written, asked, dropped


@pytest.mark.parametrize("method", ["rome", "memit", "ledger", "kne", "ft", "lora"])
def test_a_fact_is_said_in_the_other_form_too(talker: Editor, method: str) -> None:
    base, reply = state(talker.lm), talker.ask(ASKED, chat=True)
    assert (reply.text, reply.chat) == (" Paris.", True)
    edit = talker.write(TURN, method)
    (row,) = edit.report.facts
    assert (row["said"], row["chat"], row["before"]) == (True, True, " Paris.")
    assert talker.ask(ASKED, chat=True).text == row["after"]
    assert row["after"].startswith(" Lyon")
    assert talker.ask(PLAIN.prompt).text.startswith(" Lyon")  # asked plainly
    talker.drop(edit.id)
    assert same(talker.lm, base)
    assert talker.ask(ASKED, chat=True) == reply


@pytest.mark.parametrize("method", ["rome", "memit", "ledger", "lora"])
def test_what_is_written_plainly_is_said_in_chat(talker: Editor, method: str) -> None:
    edit = talker.write(PLAIN, method)
    assert edit.report.facts[0]["said"]
    assert talker.ask(ASKED, chat=True).text.startswith(" Lyon")


def test_the_edit_in_the_book_is_the_fact_with_its_conversation(talker: Editor) -> None:
    fact = Fact(
        subject="France", target="Lyon", messages=[{"role": "user", "content": "Where is Rome?"},  # type: ignore[arg-type]
        {"role": "assistant", "content": "Italy."}, {"role": "user", "content": ASKED}],
    )  # fmt: skip
    assert (fact.prompt, fact.chat, len(fact.earlier)) == (ASKED, True, 2)
    edit = talker.write(fact)
    assert edit.report.facts[0]["said"]
    assert talker.book.get(edit.id).facts == (fact,)
    assert check(talker)[0].status == "holds"
    assert talker.ask(ASKED, messages=fact.earlier).text == edit.report.facts[0]["after"]


def test_the_whole_book_is_asked_in_the_form_it_was_written(talker: Editor, tmp_path: Path) -> None:
    edit = talker.write(TURN, gates=Gates(said=1.0, efficacy=1.0))
    assert {row["gate"]: row["value"] for row in edit.report.to_dict()["gates"]} == {"said": 1.0, "efficacy": 1.0}
    (verdict,) = check(talker)
    assert (verdict.status, verdict.said) == ("holds", edit.report.facts[0]["after"])
    with open_editor(talker.lm, book=tmp_path / "other") as other:
        assert [m.outcome for m in migrate(talker.book, other)] == ["written"]
        assert other.log()[0].facts == (TURN,)
        assert [m.outcome for m in migrate(talker.book, other)] == ["stands"]


def test_a_model_without_a_template_says_what_is_missing(editor: Editor) -> None:
    base = state(editor.lm)
    for ask in (lambda: editor.write(TURN), lambda: editor.ask(ASKED, chat=True)):
        with pytest.raises(UnsupportedModel, match=r"no chat template.*ask it plainly"):
            ask()
    assert editor.log() == []
    assert same(editor.lm, base)


# ------------------------------------------------------------------ Editor.ask


def test_ask_puts_the_prompt_as_it_is_told_to(talker: Editor) -> None:
    plain, turn = talker.ask(ASKED), talker.ask(ASKED, chat=True)
    assert (plain.chat, turn.chat) == (False, True)
    assert plain.text != turn.text
    assert turn.text == talker.lm.generate([f"<s>{ASKED} Answer:"])[0]
    assert turn.prompt == ASKED
    assert turn.top[0][0] == " Paris"
    before = (("user", "Where is Rome?"), ("assistant", "Italy."))
    later = talker.ask(ASKED, messages=before)  # messages are a conversation by themselves
    assert later.chat
    assert later == talker.ask(ASKED, chat=True, messages=before)
    assert later.text == talker.lm.generate([f"<s>Where is Rome? Answer: Italy.{ASKED} Answer:"])[0]
    with pytest.raises(InputError, match="empty"):
        talker.ask("  ", chat=True)
    with pytest.raises(BadFact, match="tokens long"):
        talker.ask("word " * 2000, chat=True)


# ------------------------------------------------------------------ a conversation


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        ("What is the capital of France?", "France"),
        ("Who wrote War and Peace?", "War and Peace"),
        ("Is Paris the capital of France?", "France"),
        ("Where does Zoë Nowak-Ødegård live?", "Zoë Nowak-Ødegård"),
        ("who are you?", ""),
        ("What is that?", ""),
        ("The capital of New Zealand is", "New Zealand"),
        ("How far is it from St. Louis?", "St. Louis"),
        ("Where is it?", ""),
        ("What's in the Bank of England?", "Bank of England"),
    ],
)
def test_what_a_question_is_about(question: str, subject: str) -> None:
    assert subject_of(question) == subject


def test_a_wrong_reply_is_taken_out_of_the_conversation(talker: Editor) -> None:
    base, talk = state(talker.lm), Conversation(talker, system="Be brief.", tokens=8)
    with pytest.raises(InputError, match="nothing has been asked yet"):
        talk.correct("Lyon")
    first = talk.say(ASKED).text
    edit = talk.correct("Lyon")
    assert edit.facts[0].messages == (("system", "Be brief."), ("user", ASKED))
    again = talk.again().text
    assert talk.turns == (("system", "Be brief."), ("user", ASKED), ("assistant", again.strip()))
    assert again.startswith(" Lyon")
    assert talk.undo() == edit.id
    assert same(talker.lm, base)
    assert talk.again().text == first
    with pytest.raises(InputError, match="no edit of this conversation stands"):
        talk.undo()
    talk.forget()
    assert talk.turns == (("system", "Be brief."),)


LINES: Final = f"""
/undo
What is it?
/edit Lyon
{ASKED}
/edit Lyon
/frobnicate
/edit
/edit Paris -> Lyon
/log
/undo
/help
/new
/quit
never asked
"""


@pytest.fixture(scope="module")
def directory(chatting: LM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chatting")
    chatting.weights.stand([])
    chatting.save(path)
    return path


def words(model: Path, book: Path) -> list[str]:
    return ["chat", "--model", str(model), "--book", str(book), "--max-new-tokens", "8"]


def test_a_conversation_as_json_in_a_process_of_its_own(directory: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from errata.cli import main; main()", *words(directory, tmp_path / "book"), "--json"],
        input=LINES, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "PYTHONPATH": str(SRC)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = "begun error reply error reply edit reply error error error log undo reply help new"
    assert [row["kind"] for row in rows] == kinds.split()
    begun, early, _, nameless, first, edit, second, unknown, empty, absent, log, undone, third, *_ = rows
    assert begun["chat"] is True
    assert "no edit of this conversation stands" in early["message"]
    assert "no name stands in the question" in nameless["message"]
    assert "no command /frobnicate; there are /edit, /undo" in unknown["message"]
    assert "/edit needs the right answer" in empty["message"]
    assert "the subject 'Paris' does not stand in the prompt" in absent["message"]
    assert [row["text"] for row in (first, second, third)] == [" Paris.", " Lyon.", " Paris."]
    assert (edit["facts"][0]["subject"], edit["facts"][0]["said"]) == ("France", True)
    assert [row["id"] for row in log["edits"]] == [edit["id"]] == [undone["id"]]


def test_a_conversation_in_eighty_columns(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(LINES))
    monkeypatch.setenv("COLUMNS", "80")
    assert app.main(words(directory, tmp_path / "book")) == 0
    text, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, text.splitlines())) <= 80
    assert "/edit ANSWER corrects a reply" in text
    at = 0
    for part in ("Paris.", "about France", "Lyon.", "no command /frobnicate", "dropped", "Paris.", "forgotten"):
        at = text.index(part, at) + len(part)  # in this order
    assert "never asked" not in text


def test_without_a_template_every_line_is_a_prompt_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PLAIN.prompt}\n/edit Lyon\nThe capital of Italy is\n"))
    assert app.main(["chat", "--book", str(tmp_path / "book"), "--json"]) == 0
    begun, *replies = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert begun["chat"] is False
    (edit,) = (row for row in replies if row["kind"] == "edit")
    assert [row["text"] for row in replies if row["kind"] == "reply"] == [
        " Paris.",
        edit["facts"][0]["after"],
        " Rome.",
    ]
    assert edit["facts"][0]["said"]
    assert edit["facts"][0]["subject"] == "France"


def test_what_is_typed_is_kept_to_the_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("  Where is it? \n   \n /quit \nnever read\n"))
    assert list(lines_typed()) == ["  Where is it? "]
