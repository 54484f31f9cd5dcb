"""Commands that carry edits elsewhere: export, push, unpush, pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from errata import wire
from errata.cli import common as opt
from errata.cli.common import Shown
from errata.content import check_free

At = Annotated[str, typer.Option("--at", metavar="STATE", help="A tag, @N, or an edit's id, instead of now.")]
Rank = Annotated[
    int | None, typer.Option("--rank", min=1, help="Largest rank of the adapter; cut by SVD, the error is stated.")
]
Url = Annotated[str, typer.Option("--vllm", "--url", help="Address of the engine, such as http://127.0.0.1:8000.")]
EngineName = Annotated[str, typer.Option("--engine", help="vllm or sglang.")]

Onto = Annotated[Path | None, typer.Option("--onto", help="The GGUF file that --as gguf copies with the edits in it.")]
Store = Annotated[str, typer.Option("--store", help="With --onto: what an edited matrix becomes, f16 or q8_0.")]
AnyQuantisation = Annotated[
    bool, typer.Option("--any-quantisation", help="With --onto: a file of the same model in other blocks will do.")
]
FORMS = "checkpoint, delta, adapter (LoRA, for peft and vLLM), blocks (MELO's), gguf-lora or gguf (llama.cpp), or a plugin's."


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
    check_free(directory)
    from errata.export.onto import Onto

    target = Onto(onto, store, any_quantisation) if onto else None
    with opt.opened(model, book=book, device=device, dtype=dtype, trust_remote_code=trust_remote_code) as editor:
        done = editor.export(directory, form, at, rank=rank, block=block, onto=target)
    return Shown(wire.exported(done), as_json, notes=editor.notes)


def push(
    vllm: Url,
    name: Annotated[
        str,
        typer.Option("--name", help="By which requests ask; base@tag, or base@digest of what stands, unless given."),
    ] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Folder of adapters; in the cache unless given.")] = None,
    seen_as: Annotated[str, typer.Option("--seen-as", help="That folder as the engine sees it, if elsewhere.")] = "",
    engine: EngineName = "vllm",
    max_lora_rank: Annotated[int, typer.Option("--max-lora-rank", min=0, help="What the server was started with.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 3 if the newest fact is not said.")] = False,
    rank: Rank = None,
    at: At = "now",
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    dtype: opt.Dtype = None,
    as_json: opt.Json = False,
) -> Shown:
    """Let a running engine serve a state of the book beside its base, and ask it the newest fact.

    The adapter's folder and name are never given to other contents, because engines remember keys and values by them.
    """
    from errata.editing.served import deliver

    how: dict[str, Any] = {"engine": engine, "rank": rank, "limit": max_lora_rank}
    with opt.opened(model, book=book, dtype=dtype) as editor:
        done = deliver(editor, vllm, at=at, name=name, root=out or "", seen_as=seen_as, **how)
    unsaid = done.asked is not None and not done.asked.said
    return Shown(wire.delivered(done), as_json, code=3 * (strict and unsaid), notes=[*editor.notes, *done.notes])


def unpush(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the adapter, as errata pull shows it.")],
    vllm: Url,
    engine: EngineName = "vllm",
    as_json: opt.Json = False,
) -> Shown:
    """Let a running engine unload an adapter; its folder stays, and its name keeps its meaning."""
    from errata.export import vllm as engines

    models = engines.unpush(vllm, name, engine=engine)
    return Shown({"url": vllm, "name": name, "models": [one.name for one in models]}, as_json)


def pull(vllm: Url, book: opt.BookPath = opt.HERE, as_json: opt.Json = False) -> Shown:
    """Say what a server serves, and which of it are states of this book."""
    from errata.editing.served import recognised
    from errata.export import vllm as engines

    models = engines.served(vllm)
    if not book.exists():
        return Shown(recognised(None, models), as_json, notes=[f"there is no book at {book}."])
    with opt.open_book(book) as opened:
        return Shown(recognised(opened, models), as_json)
