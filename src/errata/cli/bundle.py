"""Commands that give a book away as one file, and open one: bundle, unbundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata import wire
from errata.cli import common as opt
from errata.cli.common import Shown
from errata.errors import InputError


def bundle(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; a new one.")],
    book: opt.BookPath = opt.HERE,
    as_json: opt.Json = False,
) -> Shown:
    """Write the book as one file: its log and edits, what its base is known by, and the commands that made it."""
    from errata.book import bundle as bundles

    with opt.open_book(book, look=True) as opened:
        done = bundles.bundle(opened, file)
    return Shown(wire.bundled(done), as_json)


def unbundle(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A bundle.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory for the book; a new one.")],
    trust: Annotated[
        list[str] | None, typer.Option("--trust", help="Public key that must have signed; repeatable.")
    ] = None,
    head: Annotated[str, typer.Option("--head", help="A head told elsewhere, which must be in the history.")] = "",
    limit: Annotated[float, typer.Option("--limit", min=0, help="Most GiB the file may have.")] = 8,
    as_json: opt.Json = False,
) -> Shown:
    """Open a bundle as a book, once every hash, the history and its signatures were found to hold."""
    from errata.book import bundle as bundles

    if limit != limit or limit > 2**30:
        raise InputError("--limit takes a number of GiB.")
    done = bundles.unbundle(file, directory, trust=trust or (), head=head, limit=int(limit * 2**30))
    return Shown(wire.bundled(done), as_json)
