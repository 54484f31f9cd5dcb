"""The command that serves a model and its book over HTTP, with the studio in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli import common as opt
from errata.cli.common import Shown


def serve(
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8321,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="Tokens, a line each; made if not there. In the book unless given."),
    ] = None,
    runs: Annotated[Path | None, typer.Option("--runs", help="Directory of benchmark runs to show.")] = None,
    rate: Annotated[float, typer.Option("--rate", min=0.1, help="Requests a second of one address.")] = 500.0,
    browse: Annotated[bool, typer.Option("--browse", help="Open the studio in a browser.")] = False,
    corpus: opt.Corpus = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    separator: opt.Separator = "auto",
) -> Shown:
    """Serve the model and its book: OpenAI's API for every state, edits over HTTP, and the studio in a browser."""
    from errata.serve import run

    place = run.Address(host, port, token_file or book / "token", token_file is not None, runs, rate, browse)
    how = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code, "separator": separator}
    return Shown(run.serve(place, model, book, corpus=corpus, **how), each=False)
