"""The command that asks: one prompt, several, those of a file, or those of a pipe as they come."""

from __future__ import annotations

import sys
from collections import Counter
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
Listed = Annotated[
    bool,
    typer.Option(
        "--list",
        help="Ask nothing: show what the primer knows, a line a relation, or each fact with these words in it.",
    ),
]
MostTokens = Annotated[
    int | None,
    typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens; 32, or what the longest written needs."),
]
Top = Annotated[
    int | None, typer.Option("--top", min=0, help="How many likely next tokens to show; 5 of one prompt, else none.")
]


def ask(
    prompts: Prompts = None,
    from_file: FromFile = None,
    listed: Listed = False,
    chat: opt.Chat = None,
    max_new_tokens: MostTokens = None,
    top: Top = None,
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    separator: opt.Separator = "auto",
    as_json: opt.Json = False,
) -> Shown:  # size: an option a line
    """Ask the model, with the book's edits standing, and print what it says.

    The model is loaded once for all prompts. With --json several prompts give a line of JSON each, with the fields that their
    own line had beside the prompt.
    """
    if listed:
        return _known(prompts or [], from_file, model, as_json)
    asked, notes = _asked(prompts, from_file), list[str]()
    alone = from_file is None and len(prompts or ()) == 1 and prompts != [PIPE]
    loading: dict[str, Any] = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
    opened = partial(opt.opened, model, book=book, separator=separator, use="ask", **loading)
    how = {"max_new_tokens": max_new_tokens, "top": LIKELIEST * alone if top is None else top}
    told: Any = _answers(opened, asked, notes, chat, how)
    if alone:
        (told,) = told
    return Shown(told, as_json, each=not alone, notes=notes)


def _known(words: list[str], path: Path | None, model: str, as_json: bool) -> Shown:
    """Return what the primer knows: an example of every relation, or all facts that have the words in them."""
    from errata.data.readers.own import primer_knows

    if path is not None or model != "primer":
        raise InputError(
            "--list shows what the primer knows: leave --model and --prompts out; `errata tune` asks another."
        )
    facts = primer_knows(" ".join(words))
    if words and not facts:
        raise InputError(
            f"the primer knows nothing with {' '.join(words)!r} in it; errata ask --list shows what it does."
        )
    rows = [{"relation": t.relation, "prompt": t.prompts()[0], "answer": t.answer} for t in facts]
    alike = Counter(row["relation"] for row in rows)
    one = {row["relation"]: row for row in reversed(rows)}
    brief = [{**one[name], "facts": alike[name]} for name in alike]
    return Shown(rows if words else brief, as_json, each=True, long=True)


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
