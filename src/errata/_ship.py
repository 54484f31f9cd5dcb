"""The commands that carry edits elsewhere: ci, export, push. They return what is to be printed."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

import errata
from errata import _book_rows as rows
from errata import _options as opt
from errata._book import VIEWS
from errata._shown import Shown
from errata.config import parse_flags
from errata.errors import ErrataError, InputError, did_you_mean

app = typer.Typer(add_completion=False, rich_markup_mode=None)
At = Annotated[str, typer.Option("--at", metavar="STATE", help="A tag, @N, or an edit's id, instead of now.")]
Rank = Annotated[
    int | None, typer.Option("--rank", min=1, help="Largest rank of the adapter; cut by SVD, the error is stated.")
]


@app.command()
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
    options = {"seed": seed} | parse_flags(errata.methods.get(method), settings or ())
    gates = import_module("errata.gates").read(gate) if gate is not None else None
    cards = import_module("errata.cards")
    loading: dict[str, Any] = {
        "corpus": corpus,
        "device": device,
        "dtype": dtype,
        "trust_remote_code": trust_remote_code,
    }
    with errata.open(model, book=book, **loading) as editor:
        card = cards.review(editor, folder, gates, method, **options)
    row = cards.to_dict(card)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "editcard.md").write_text(cards.markdown(card), encoding="utf-8")
        (out / "editcard.json").write_text(json.dumps(row, indent=1, ensure_ascii=False), encoding="utf-8")
    return Shown(row, f"{VIEWS}.card", as_json, code=0 if card.passed else 1)


@app.command()
def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to write; a new one.")],
    form: Annotated[
        str, typer.Option("--as", help="checkpoint, delta, adapter (LoRA, for peft and vLLM), or blocks (MELO's).")
    ] = "adapter",
    rank: Rank = None,
    block: Annotated[
        str, typer.Option("--block", metavar="ID", help="Only this MELO edit's block, as an adapter.")
    ] = "",
    at: At = "now",
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    as_json: opt.Json = False,
) -> Shown:
    """Write what stands for others to use: the whole model, the change alone, or a LoRA adapter."""
    loading = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
    row = _export(directory, form, rank, at, block, model=model, book=book, **loading)
    return Shown(row, f"{VIEWS}.exported", as_json)


@app.command()
def push(
    vllm: Annotated[str, typer.Option("--vllm", help="Address of the engine, such as http://127.0.0.1:8000.")],
    name: Annotated[str, typer.Option("--name", help="The model name by which requests ask for the edits.")] = "errata",
    out: Annotated[Path, typer.Option("--out", help="Where the adapter is written; a new directory.")] = Path(
        "adapter"
    ),
    seen_as: Annotated[str, typer.Option("--seen-as", help="That directory as the engine sees it, if elsewhere.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of an adapter of that name.")] = False,
    rank: Rank = None,
    at: At = "now",
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    as_json: opt.Json = False,
) -> Shown:
    """Export an adapter and let a running vLLM load it."""
    row = _export(out, "adapter", rank, at, model=model, book=book)
    try:
        pushed = import_module("errata.push").push(vllm, name, seen_as or str(out.absolute()), replace=replace)
    except ErrataError:
        shutil.rmtree(out, ignore_errors=True)  # it was made here, and the next attempt makes it again
        raise
    return Shown(row | rows.pushed(pushed), f"{VIEWS}.pushed", as_json)


def _export(directory: Path, form: str, rank: int | None, at: str, block: str = "", **opening: Any) -> dict[str, Any]:
    exporting, comparing = import_module("errata.export"), import_module("errata.comparing")
    if form not in exporting.FORMATS:
        known = ", ".join(exporting.FORMATS)
        raise InputError(f"no form {form!r}.{did_you_mean(form, exporting.FORMATS)} Known: {known}.")
    if rank is not None and form != "adapter":
        raise InputError("--rank is for adapters: checkpoints and deltas are exact.")
    with errata.open(opening.pop("model"), **opening) as editor:
        state, edits = comparing.at(editor.book, at)
        edits = errata.methods.rebuilt(editor.lm, edits)
        edits = [exporting.opened(edits, block)] if block else edits
        parts = []
        if form == "checkpoint":
            with editor.standing_as(edits) as lm:
                exporting.checkpoint(lm, edits, directory)
        else:
            options = {"rank": rank} if form == "adapter" else {}
            write = import_module("errata.routing").blocks if form == "blocks" else getattr(exporting, form)
            parts = write(editor.lm, edits, directory, **options)
        return rows.exported(directory, form, state, editor.name, parts)
