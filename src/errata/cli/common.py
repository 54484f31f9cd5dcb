"""Options that several commands share (one name, one meaning, one help text), and what a command returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from errata.book import Book

AS_MESSAGE = (
    "the prompt is a question, and was put to the model as a message in its chat template; --plain leaves it as it is."
)
HERE = Path(".errata")  # the book unless --book names another
Model = Annotated[str, typer.Option("--model", help="'primer', 'smollm2', a directory, a GGUF file, or a hub id.")]
Gated = Annotated[
    str | None,
    typer.Option("--model", help="Model that the book's gates are asked of, as elsewhere; none without gates."),
]
BookPath = Annotated[Path, typer.Option("--book", help="Directory of the log of edits; made on first use.")]
Device = Annotated[str | None, typer.Option("--device", help="Where to compute, such as cpu or cuda:0.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="Number type of the weights, such as bfloat16.")]
Remote = Annotated[bool, typer.Option("--trust-remote-code", help="Let the model's own Python code run.")]
Separator = Annotated[
    str,
    typer.Option("--separator", metavar="TOKEN", help="Token that texts open with: auto, none, or a special token."),
]
Corpus = Annotated[str | None, typer.Option("--corpus", help="Text file for statistics of the base model.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Method = Annotated[str, typer.Option("--method", help="Which method; `errata methods` lists them.")]
Seed = Annotated[int, typer.Option("--seed", help="What random numbers are drawn from.")]
Author = Annotated[str, typer.Option("--author", help="Who does this; kept in the log.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the log.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of an edit; its first six characters will do.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of edits; their first six characters will do.")]
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
    """

    value: Any
    as_json: bool = False
    each: bool = False
    code: int = 0
    notes: Sequence[str] = ()


def open_book(path: Path, **options: Any) -> Book:
    """Open a book without its model; nothing here imports torch."""
    return Book.open(path, create=False, **options)
