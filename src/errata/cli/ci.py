"""errata ci: try a folder of edits as a pull request is tried."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import errata
from errata.cli import common as opt
from errata.cli.common import Shown
from errata.config import parse_flags


def ci(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Files of facts (.jsonl, .json, .csv) and edits.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where editcard.md and editcard.json go.")] = None,
    gate: opt.Gate = None,
    method: opt.Method = "rome",
    settings: opt.Settings = None,
    seed: opt.Seed = 0,
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    corpus: opt.Corpus = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    as_json: opt.Json = False,
) -> Shown:
    """Try a folder of edits as a pull request is tried, and write its EditCard; exit code 1 if a gate is closed."""
    from errata.editing import editcard, gates

    options: dict[str, Any] = {"seed": seed, **parse_flags(errata.methods.get(method), settings or ())}
    limits = gates.read(gate) if gate is not None else None
    loading: dict[str, Any] = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
    with opt.opened(model, book=book, corpus=corpus, **loading) as editor:
        card = editcard.review(editor, folder, limits, method, **options)
    if out is not None:
        editcard.write(card, out)
    return Shown(editcard.to_dict(card), as_json, code=0 if card.passed else 1, notes=editor.notes)
