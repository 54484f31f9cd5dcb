"""Commands that look into a model: arch (how it is built), locate (where it keeps a fact), radius (how far keys lie apart)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from errata.cli import common as opt
from errata.cli.common import Shown
from errata.errors import InputError


def arch(
    model: Annotated[str, typer.Argument(help="'primer', 'smollm2', a directory, a GGUF file, or a hub id.")],
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    as_json: opt.Json = False,
) -> Shown:
    """Show where a model's matrices were found, and whether its own passes bear that out."""
    from errata import wire
    from errata.model.loading import load
    from errata.model.verify import checks

    lm = load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    row = wire.architecture(lm, checks(lm))
    return Shown(row, as_json, code=0 if all(check["holds"] for check in row["checks"]) else 1, notes=lm.notes)


def locate(
    prompt: Annotated[str | None, typer.Option("--prompt", help="Text that ends where the answer begins.")] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="What it is about, as the prompt has it.")] = None,
    target: Annotated[str, typer.Option("--target", help="The answer; what the model says if not given.")] = "",
    facts: Annotated[Path | None, typer.Option("--facts", help="Or the mean trace of a file of facts.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many facts of the file.")] = 50,
    method: Annotated[str, typer.Option("--method", help="kne: neurons; trace: causal tracing.")] = "kne",
    trace: Annotated[bool, typer.Option("--trace", help="The same as --method trace.")] = False,
    settings: opt.Settings = None,
    draw: Annotated[Path | None, typer.Option("--draw", help="Also write a picture: NAME.png or NAME.svg.")] = None,
    remember: Annotated[bool, typer.Option("--remember", help="Make the layer found this model's default.")] = False,
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    as_json: opt.Json = False,
) -> Shown:
    """Show which neurons hold a fact, or which layers carry it, and draw it."""
    from errata.editing.pictures import check_picture

    how: Any = "trace" if trace or facts is not None else method
    options = _settings(how, settings or [])
    if draw is not None:
        check_picture(draw)
    with opt.opened(model, book=book, device=device, dtype=dtype) as editor:
        found = _found(editor, (prompt, subject, target), facts, limit, how, options)
        picture = [str(found.draw(draw))] if draw is not None else []
        kept = [str(found.layer)] if remember and found.remember(editor) else []
    row = {**found.to_dict(), "picture": picture, "remembered": kept, "layer": found.layer}
    return Shown(row, as_json, notes=editor.notes)


def _settings(how: Literal["kne", "trace"], settings: list[str]) -> dict[str, Any]:
    from errata import methods
    from errata.config import parse_flags
    from errata.solve.causal import Tracing

    return parse_flags(Tracing if how == "trace" else methods.get("kne"), settings)


def _found(
    editor: Any, asked: tuple[str | None, str | None, str], facts: Path | None, limit: int, how: Any, options: Any
) -> Any:
    from errata.data.facts import read_facts
    from errata.editing.locate import locate as find
    from errata.editing.locate import trace_all

    prompt, subject, target = asked
    if facts is not None:
        return trace_all(editor, read_facts(facts)[:limit], **options)
    if prompt is None or subject is None:
        raise InputError("give --prompt and --subject, or --facts FILE.")
    return find(editor, prompt, subject, target, how, **options)


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
    from errata.editing.pictures import check_picture
    from errata.editing.radius import reach
    from errata.model.loading import load

    options = parse_flags(methods.get(method), settings or [])
    if draw is not None:
        check_picture(draw)
    lm = load(model, device=device, dtype=dtype)
    found = reach(lm, read_facts(facts)[:limit], method, **options)
    picture = [str(found.draw(draw))] if draw is not None else []
    return Shown({**found.to_dict(), "picture": picture}, as_json, notes=lm.notes)
