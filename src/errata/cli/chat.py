"""A conversation in the terminal, with corrections inside."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Final

import typer

import errata
from errata import wire
from errata.cli import common as opt
from errata.cli.common import Shown
from errata.errors import ErrataError, InputError

HELP: Final = {
    "/edit ANSWER": "correct the last reply; what it is about is found by itself",
    "/edit SUBJECT -> ANSWER": "the same, and name what it is about",
    "/undo": "take the last correction back",
    "/log": "what has been written",
    "/new": "forget what was said so far",
    "/quit": "leave; corrections stay in the book",
}


def chat(
    method: opt.Method = "rome",
    settings: opt.Settings = None,
    system: Annotated[str, typer.Option("--system", help="A message that stands before the conversation.")] = "",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest reply, in tokens.")] = 256,
    author: opt.Author = "",
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    separator: opt.Separator = "auto",
    as_json: opt.Json = False,
) -> Shown:
    """Talk to the model, and correct it: /edit ANSWER writes an edit, /undo takes it back, /help says what else.

    Reads lines from the terminal or a file, up to /quit or its end. A model without a chat template gets every line as a
    prompt of its own.
    """
    from errata.config import parse_flags

    options = {**parse_flags(errata.methods.get(method), settings or ()), "system": system, "tokens": max_new_tokens}
    loading: dict[str, Any] = {
        "author": author,
        "device": device,
        "dtype": dtype,
        "trust_remote_code": trust_remote_code,
    }
    opened = partial(opt.opened, model, book=book, separator=separator, **loading)
    return Shown(_talk(opened, method, options), as_json, each=True)


def _talk(opened: Callable[[], errata.Editor], method: str, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what comes of every line that is typed."""
    from errata.editing.conversation import Conversation

    with opened() as editor:
        talk = Conversation(editor, method, **options)
        begun = {
            "kind": "begun",
            "model": editor.name,
            "chat": talk.chats,
            "help": HELP,
            "notes": list(editor.notes),
        }
        yield begun
        for line in _lines():
            yield from _answered(editor, talk, line)


def _lines() -> Iterator[str]:
    """Yield what is typed, line by line, up to /quit."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.strip() == "/quit":
            return
        if line.strip():
            yield line


def _answered(editor: errata.Editor, talk: Any, line: str) -> Iterator[dict[str, Any]]:
    """Yield what comes of a line: a reply, or what a command did; a mistake is said, and the conversation goes on."""
    word, _, rest = line.strip().partition(" ")
    known: Mapping[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "/edit": lambda: _edit(editor, talk, rest.strip()),
        "/undo": lambda: _undo(talk),
        "/log": lambda: iter([{"kind": "log", "edits": [wire.record(record) for record in editor.log()]}]),
        "/new": lambda: iter([talk.forget() or {"kind": "new"}]),
        "/help": lambda: iter([{"kind": "help", "help": HELP}]),
    }
    try:
        if word.startswith("/") and word not in known:
            raise InputError(f"no command {word}; there are {', '.join(known)} and /quit.")
        yield from known[word]() if word in known else [_reply(talk.say(line))]
    except ErrataError as error:
        yield {"kind": "error", "message": str(error)}


def _reply(answer: Any) -> dict[str, Any]:
    return {"kind": "reply", **wire.answer(answer)}


def _edit(editor: errata.Editor, talk: Any, rest: str) -> Iterator[dict[str, Any]]:
    subject, arrow, target = rest.partition("->")
    if not arrow:
        subject, target = "", rest
    if not target.strip():
        raise InputError("/edit needs the right answer: /edit ANSWER, or /edit SUBJECT -> ANSWER.")
    written = talk.correct(target.strip(), subject.strip())
    row = wire.edit(written, editor.book.get(written.id).bytes)
    yield {"kind": "edit", **row, "notes": list(written.report.notes)}
    yield _reply(talk.again())


def _undo(talk: Any) -> Iterator[dict[str, Any]]:
    yield {"kind": "undo", "id": talk.undo()}
    yield _reply(talk.again())
