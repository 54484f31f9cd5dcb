"""Commands that carry edits elsewhere: export, push."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

import errata
from errata import wire
from errata.cli import common as opt
from errata.cli.common import Shown
from errata.errors import ErrataError

At = Annotated[str, typer.Option("--at", metavar="STATE", help="A tag, @N, or an edit's id, instead of now.")]
Rank = Annotated[
    int | None, typer.Option("--rank", min=1, help="Largest rank of the adapter; cut by SVD, the error is stated.")
]

Onto = Annotated[Path | None, typer.Option("--onto", help="The GGUF file that --as gguf copies with the edits in it.")]
Store = Annotated[str, typer.Option("--store", help="With --onto: what an edited matrix becomes, f16 or q8_0.")]
AnyQuantisation = Annotated[
    bool, typer.Option("--any-quantisation", help="With --onto: a file of the same model in other blocks will do.")
]
FORMS = "checkpoint, delta, adapter (LoRA, for peft and vLLM), blocks (MELO's), gguf-lora or gguf (for llama.cpp)."


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to write; a new one.")],
    form: Annotated[str, typer.Option("--as", help=FORMS)] = "adapter",
    rank: Rank = None,
    block: Annotated[
        str, typer.Option("--block", metavar="ID", help="Only this MELO edit's block, as an adapter.")
    ] = "",
    onto: Onto = None,
    store: Store = "f16",
    any_quantisation: AnyQuantisation = False,
    at: At = "now",
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    as_json: opt.Json = False,
) -> Shown:
    """Write what stands for others to use: the whole model, the change alone, a LoRA adapter, or a GGUF file."""
    from errata.export.onto import Onto

    target = Onto(onto, store, any_quantisation) if onto else None
    with errata.open(model, book=book, device=device, dtype=dtype, trust_remote_code=trust_remote_code) as editor:
        done = editor.export(directory, form, at, rank=rank, block=block, onto=target)
    return Shown(wire.exported(done), as_json, notes=editor.lm.notes)


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
    from errata.export import vllm as engine

    with errata.open(model, book=book) as editor:
        done = editor.export(out, "adapter", at, rank=rank)
    try:
        pushed = engine.push(vllm, name, seen_as or str(out.absolute()), replace=replace)
    except ErrataError:
        shutil.rmtree(out, ignore_errors=True)  # it was made here, and the next attempt makes it again
        raise
    return Shown(wire.exported(done) | wire.pushed(pushed), as_json, notes=editor.lm.notes)
