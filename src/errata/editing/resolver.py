"""A plugin of vLLM: ``model="base@tag"`` is the book's state of that name, made when it is first asked for.

    ERRATA_BOOK=/data/book ERRATA_MODEL=/models/smol VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve /models/smol --enable-lora

vLLM calls `register` by the entry point ``errata`` of the group ``vllm.general_plugins``, in each of its processes; it does
nothing where ERRATA_BOOK is not set. A state is a tag, ``now``, ``@12``, an edit's id, or the digest `errata push` names
adapters by. What is before its ``@`` is the model's name, the last part of that, ``base``, or $ERRATA_NAME.

The adapter is made in a process of its own, without the accelerator, so that the server keeps its memory. The engine is told
the name base@digest, whatever was asked for: it keeps keys and values of prompts by that name, and ``now`` changes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from errata.errors import ErrataError, InputError

GROUP: Final = "vllm.general_plugins"
TIME: Final = 1800  # seconds that making an adapter may take
_RUN: Final = "import sys; from errata.cli import main; sys.exit(main(sys.argv[1:]))"
_log = logging.getLogger("errata")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A state's adapter: the name that means its contents, where it is, and the same as a number."""

    name: str
    path: str
    number: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where states come from.

    Args:
        book: its directory. model: what the base is loaded from; the server's own name for it unless given.
        name: another name of the base in requests. root: folder of adapters; in the cache unless given.
        rank: adapters are cut to this; None leaves them whole. dtype: of the base; the checkpoint's unless given.
    """

    book: str
    model: str = ""
    name: str = ""
    root: str = ""
    rank: int | None = None
    dtype: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Place | None:
        """Return what the environment says; None where it names no book. Raises InputError for a rank that is no number."""
        words = [environment.get(f"ERRATA_{name}", "") for name in ("BOOK", "MODEL", "NAME", "ADAPTERS", "RANK")]
        book, model, name, root, rank = words
        if rank and not (rank.isascii() and rank.isdigit() and int(rank)):
            raise InputError(f"ERRATA_RANK is the largest rank of an adapter, not {rank!r}.")
        return (
            cls(book, model, name, root, int(rank) if rank else None, environment.get("ERRATA_DTYPE", ""))
            if book
            else None
        )


def register() -> None:
    """Register the resolver with vLLM, once, if it is there and ERRATA_BOOK names a book."""
    found = Place.of(os.environ)
    if found is None or find_spec("vllm") is None:
        return
    place = found
    contract, requests = import_module("vllm.lora.resolver"), import_module("vllm.lora.request")
    registry = contract.LoRAResolverRegistry
    if "errata" in registry.get_supported_resolvers():
        return

    class BookResolver(contract.LoRAResolver):  # type: ignore[name-defined]
        """Resolves base@state."""

        async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
            """Return the request that loads a state's adapter, or None where there is no such state."""
            try:
                made = await asyncio.to_thread(resolve, place, base_model_name, lora_name)
            except ErrataError as error:  # vLLM knows only found and not found
                _log.error("%s is not served: %s", lora_name, error)
                return None
            if made is None:
                return None
            return requests.LoRARequest(lora_name=made.name, lora_int_id=made.number, lora_path=made.path)

    registry.register_resolver("errata", BookResolver())


def resolve(place: Place, base: str, asked: str) -> Resolved | None:
    """Return the adapter of what a request asks for, made if need be; None if it asks for no state of this book.

    Raises:
        ErrataError: the book cannot be read, or the state has no adapter.
    """
    from errata.book.book import Book
    from errata.editing import served

    with Book.open(place.book, create=False) as book:
        split = _split(place, base, asked)
        at = split and _known(book, split[1])
        if not split or not at:
            return None
        name, state = served.contents(book, at, place.rank)
    if not state.ids:
        return None
    directory = Path(place.root or served.default_root()).absolute() / f"adapter-{name}"
    if not directory.exists():
        _make(place, base, directory, state.name)
    served.looked_at(directory, state.ids)
    return Resolved(f"{split[0]}@{name}", str(directory), int(name[:7], 16) + 1)


def _split(place: Place, base: str, asked: str) -> tuple[str, str] | None:
    """Return the name of the base and of the state in what is asked for."""
    names = (place.name, base, base.rstrip("/").rpartition("/")[2], "base")
    return next(((n, asked[len(n) + 1 :]) for n in names if n and asked.startswith(f"{n}@") and asked != f"{n}@"), None)


def _known(book: Any, name: str) -> str:
    """Return a state's name, also of one that is asked for by its digest; "" where there is none."""
    from errata.book import states
    from errata.editing import served

    try:
        return states.at(book, name).name
    except InputError:
        found = served.states_of(book, {name.partition("-r")[0]})
        return next((names[0] for names in found.values()), "")


def _make(place: Place, base: str, directory: Path, at: str) -> None:
    """Export a state's adapter, in another process."""
    words = [
        "export",
        str(directory),
        "--as",
        "adapter",
        "--at",
        at,
        "--book",
        place.book,
        "--model",
        place.model or base,
    ]
    words += ["--rank", str(place.rank)] if place.rank else []
    words += ["--dtype", place.dtype] if place.dtype else []
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "ERRATA_BOOK": ""}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RUN, *words],
            env=environment, capture_output=True, text=True, check=False, timeout=TIME, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"making the adapter of {at} took longer than {TIME} s: errata export it beforehand."
        ) from error
    if done.returncode and not directory.exists():  # else another process was first
        raise InputError(done.stderr.strip()[-500:] or f"errata export ended with {done.returncode}.")
