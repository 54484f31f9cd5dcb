"""Options that several commands share (one name, one meaning, one help text), and what a command returns."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

import errata
from errata.book import Book

AS_MESSAGE = (
    "the prompt is a question, and was put to the model as a message in its chat template; --plain leaves it as it is."
)
Tell = Callable[..., None]  # at what, how much is done, of how much, and seconds left where that can be told
# Who is told how far a command is, where somebody watches; set by `app` for the time of a command.
TELL: Final[ContextVar[Tell | None]] = ContextVar("tell", default=None)
HERE = Path(".errata")  # the book unless --book names another


def ids_here(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the edits whose ids begin so, with what they say, for a shell that completes; none where there is no book."""
    from errata.display import stated

    try:
        with open_book(context.params.get("book") or HERE, look=True) as book:
            found = book.records()
    except errata.errors.ErrataError:
        return []
    return [(one.id[:8], stated(one.facts)) for one in found if one.id.startswith(incomplete)]


Model = Annotated[str, typer.Option("--model", help="'primer', 'smollm2', a directory, a GGUF file, or a hub id.")]
Gated = Annotated[
    str | None,
    typer.Option("--model", help="Model that the book's gates are asked of, as elsewhere; none without gates."),
]
BookPath = Annotated[Path, typer.Option("--book", help="Directory of the log of edits; made on first use.")]
Device = Annotated[str | None, typer.Option("--device", help="Where to compute, such as cpu or cuda:0.")]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="Number type of the weights, such as bfloat16; or nf4, fp4, int8.")
]
Remote = Annotated[bool, typer.Option("--trust-remote-code", help="Let the model's own Python code run.")]
Separator = Annotated[
    str,
    typer.Option("--separator", metavar="TOKEN", help="Token that texts open with: auto, none, or a special token."),
]
Corpus = Annotated[
    str | None, typer.Option("--corpus", help="Text file, or datasets:NAME, for statistics of the base.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Method = Annotated[str, typer.Option("--method", help="Which method; `errata methods` lists them.")]
Seed = Annotated[int, typer.Option("--seed", help="What random numbers are drawn from.")]
Author = Annotated[str, typer.Option("--author", help="Who does this; kept in the log.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the log.")]
Id = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="Id of an edit, or its first six characters; last is the newest.", autocompletion=ids_here
    ),
]
Ids = Annotated[
    list[str],
    typer.Argument(
        metavar="ID", help="Ids of edits, or their first six characters; last is the newest.", autocompletion=ids_here
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; repeatable.")
]
Source = Annotated[str, typer.Option("--source", help="From where it is known; kept in the log.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A word to find it by; repeatable.")]
Tenant = Annotated[str, typer.Option("--tenant", help="On whose behalf it is written.")]
ValidFrom = Annotated[str, typer.Option("--valid-from", metavar="DAY", help="First day it is true, YYYY-MM-DD.")]
ValidUntil = Annotated[str, typer.Option("--valid-until", metavar="DAY", help="Last day it is true, YYYY-MM-DD.")]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--plain",
        help="Put the prompt into the model's chat template, as a user's message, or leave it as it is; "
        "unless told, a question to a model that has one is a message.",
    ),
]
Gate = Annotated[Path | None, typer.Option("--gate", help="TOML file of gates; else gates.toml in the book.")]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a command returns, and `app` prints: as JSON, or as the view of the command's name in `cli.tables` draws it.

    Args:
        value: JSON-able; an iterator is printed piece by piece, as it comes.
        as_json: whether JSON was asked for. each: a JSON object a line for each piece of the value.
        code: the exit code. notes: what to know although all went well; on stderr.
        long: what does not fit the screen may be paged.
    """

    value: Any
    as_json: bool = False
    each: bool = False
    code: int = 0
    notes: Sequence[str] = ()
    long: bool = False


def open_book(path: Path, **options: Any) -> Book:
    """Open a book without its model; nothing here imports torch."""
    return Book.open(path, create=False, **options)


def opened(model: str, **how: Any) -> errata.Editor:
    """Open a model with its book, and let whoever watches be told how far it is."""
    if (tell := TELL.get()) is not None:
        how["progress"] = tell
    editor = errata.open(model, **how)
    gc.freeze()  # what was imported and loaded stays while the command does its work
    return editor


def told(what: str) -> Callable[[int, int], None]:
    """Return what is told (done, wanted) of one thing that takes long."""
    tell = TELL.get()
    return lambda done, wanted: tell(what, done, wanted) if tell is not None else None
