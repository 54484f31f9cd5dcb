"""The command that asks: one prompt, several, those of a file, or those of a pipe as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import errata
from errata import wire
from errata.cli import common as opt
from errata.cli.common import Shown
from errata.data.prompts import PIPE, AskedPrompt, read_prompts
from errata.errors import InputError

LIKELIEST = 5  # next tokens shown of a prompt asked alone

Prompts = Annotated[
    list[str] | None,
    typer.Argument(metavar="PROMPT", help="Text for the model to go on from; several, or - for stdin."),
]
FromFile = Annotated[
    Path | None, typer.Option("--prompts", metavar="FILE", help="Or the prompts of a file: one a line, or .jsonl.")
]
Top = Annotated[
    int | None, typer.Option("--top", min=0, help="How many likely next tokens to show; 5 of one prompt, else none.")
]


def ask(
    prompts: Prompts = None,
    from_file: FromFile = None,
    chat: opt.Chat = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")] = 32,
    top: Top = None,
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    separator: opt.Separator = "auto",
    as_json: opt.Json = False,
) -> Shown:
    """Ask the model, with the book's edits standing, and print what it says.

    The model is loaded once for all prompts. With --json several prompts give a line of JSON each, with the fields that their
    own line had beside the prompt.
    """
    asked, notes = _asked(prompts, from_file), list[str]()
    alone = from_file is None and len(prompts or ()) == 1 and prompts != [PIPE]
    loading: dict[str, Any] = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
    opened = partial(opt.opened, model, book=book, separator=separator, use="ask", **loading)
    shown = (LIKELIEST if alone else 0) if top is None else top
    told: Any = _answers(opened, asked, notes, chat, {"max_new_tokens": max_new_tokens, "top": shown})
    if alone:
        (told,) = told
    return Shown(told, as_json, each=not alone, notes=notes)


def _asked(words: list[str] | None, path: Path | None) -> Iterator[AskedPrompt]:
    """Return what is to be asked; a file is looked at whole before the model is loaded."""
    if bool(words) == (path is not None):
        raise InputError("give a PROMPT or several, - for those on stdin, or --prompts FILE.")
    if path is not None:
        return read_prompts(path)
    if words == [PIPE]:
        return read_prompts(PIPE, sys.stdin)
    if not all(word.strip() for word in words or ()):
        raise InputError("the prompt is empty; ask something.")
    return (AskedPrompt(word) for word in words or ())


def _answers(
    opened: Callable[[], errata.Editor],
    asked: Iterator[AskedPrompt],
    notes: list[str],
    chat: bool | None,
    how: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """Yield the answer to each prompt, with what else its row had; `notes` is told what to know, each thing once."""
    with opened() as editor:
        notes += editor.notes
        for one in asked:
            said = one.chat if chat is None else chat
            told: bool | None = True if one.messages else said
            turn = editor.lm.tokens.chat.invites(one.prompt) if told is None else told
            options = {**how, **({"messages": one.messages} if one.messages else {})}
            answer = editor.ask(one.prompt, chat=turn, **options)
            found = [*answer.notes, *([opt.AS_MESSAGE] if turn and told is None else [])]
            notes += [note for note in found if note not in notes]
            yield {**one.given, **wire.answer(answer)}
