"""errata policy: what a book asks of whoever uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.book import Note
from errata.book import policy as policies
from errata.cli import common as opt
from errata.cli.common import Shown, open_book


def policy(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="TOML file to take over; none shows what is in force.")
    ] = None,
    book: opt.BookPath = opt.HERE,
    author: opt.Author = "",
    reason: opt.Reason = "",
    as_json: opt.Json = False,
) -> Shown:
    """Show what the book asks of whoever uses it (signatures, a head, gates), or let it ask what a file says."""
    if file is None:
        with open_book(book, look=True) as opened:
            return Shown(_row(opened.policy()), as_json)
    said = policies.read(file)
    if said.gates is not None:
        from errata.config import from_dict
        from errata.editing.gates import Gates

        from_dict(Gates, said.gates)  # what makes no gate is said now
    with open_book(book) as opened:
        said = policies.adopt(opened, said, Note(author, reason))
        return Shown(_row(said), as_json, notes=opened.notes)


def _row(said: policies.PolicyInForce) -> dict[str, object]:
    return {"event": said.seq, "gates": None, **said.to_dict()}
