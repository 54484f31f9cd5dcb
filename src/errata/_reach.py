"""The command that shows how far routed edits reach. It returns what the command line is to print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata import _options as opt
from errata._shown import Shown

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def radius(
    facts: Annotated[Path, typer.Argument(help="File of facts; their rephrases are other wordings.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many facts of the file.")] = 50,
    method: Annotated[str, typer.Option("--method", help="melo or grace.")] = "melo",
    settings: opt.Settings = None,
    draw: Annotated[Path | None, typer.Option("--draw", help="Also write a picture: NAME.png or NAME.svg.")] = None,
    model: opt.Model = "primer",
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    as_json: opt.Json = False,
) -> Shown:
    """Show how far keys lie from those of rephrasings and of other texts, and the radius between."""
    from errata import methods
    from errata.config import parse_flags
    from errata.data.facts import read_facts
    from errata.locate import check_picture
    from errata.model.loading import load
    from errata.reach import reach

    options = parse_flags(methods.get(method), settings or [])
    if draw is not None:
        check_picture(draw)
    found = reach(load(model, device=device, dtype=dtype), read_facts(facts)[:limit], method, **options)
    picture = [str(found.draw(draw))] if draw is not None else []
    return Shown({**found.to_dict(), "picture": picture}, "reached", as_json)
