"""Adapters in an engine that is running, by the run-time LoRA endpoints of vLLM or SGLang.

    push("http://127.0.0.1:8000", "smol@release-1", "/shared/adapter-0123456789abcdef", rank=8)
    served("http://127.0.0.1:8000")                      # the models it has, with what they are made of
    unpush("http://127.0.0.1:8000", "smol@release-1")

The engine reads the directory itself, so it must see it under that path. Neither a path nor a name may ever come to mean
other contents: engines keep keys and values of prompts by the adapter's name, and would serve half of a dropped edit from
them. vLLM has to be started with ``--enable-lora``, a ``--max-lora-rank`` that is large enough, and
``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`` in its environment (https://docs.vllm.ai/en/latest/features/lora.html).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Final

from errata.errors import EngineRefused, InputError
from errata.export import http

RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank may be
MODELS, COMPLETE, CHAT = "/v1/models", "/v1/completions", "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Engine:
    """What differs between engines: where adapters are loaded and unloaded, and where settings may be read."""

    name: str
    load: str
    unload: str
    about: str
    start: str


ENGINES: Final[Mapping[str, Engine]] = {
    "vllm": Engine(
        "vLLM", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/server_info",
        "--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
    ),
    "sglang": Engine(
        "SGLang", "/load_lora_adapter", "/unload_lora_adapter", "/get_server_info",
        "--enable-lora, --max-lora-rank and --lora-target-modules all",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Served:
    """A model a server has: its name, the model it is an adapter of ("" of a base), and where it was read from."""

    name: str
    parent: str
    path: str


@dataclass(frozen=True, slots=True)
class Pushed:
    """What the engine said: its answer, and the models it serves now; requests ask for `model`."""

    url: str
    name: str
    path: str
    answer: str
    models: tuple[str, ...]
    model: str
    already: bool = False


def engine_of(name: str) -> Engine:
    """Return an engine by its name; raises InputError for another one."""
    if name not in ENGINES:
        raise InputError(f"no engine {name!r}; known: {', '.join(ENGINES)}.")
    return ENGINES[name]


def served(url: str) -> tuple[Served, ...]:
    """Return the models of a server; raises EngineRefused if it does not answer as an OpenAI-compatible one does."""
    url = http.address(url)
    try:
        rows = json.loads(_ask(url + MODELS, None))["data"]
        return tuple(Served(str(r["id"]), str(r.get("parent") or ""), str(r.get("root") or "")) for r in rows)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EngineRefused(
            f"{url}{MODELS} does not answer as an OpenAI-compatible server does: check --vllm."
        ) from error


def base_of(models: Sequence[Served]) -> str:
    """Return the name of the base model a server has; raises EngineRefused if there is none."""
    found = [model.name for model in models if not model.parent]
    if not found:
        raise EngineRefused("the server names no base model (/v1/models): give a --name.")
    return found[0]


def push(url: str, name: str, path: str, *, engine: str = "vllm", rank: int = 0, limit: int = 0) -> Pushed:
    """Let the engine at `url` load the adapter in the directory `path` under a name; nothing is done if it has it.

    Args:
        rank: the adapter's. limit: the largest rank the server takes, where the caller knows; else the server is asked.
            A key for the engine is taken from $VLLM_API_KEY.

    Raises:
        InputError: no such address or engine, or the rank is over the limit. EngineRefused: nothing answers there, the answer
            is no, or the name is served with other contents.
    """
    url, kind = http.address(url), engine_of(engine)
    before = served(url)
    model = f"{base_of(before)}:{name}" if engine == "sglang" else name
    for one in before:
        if one.name != name:
            continue
        if not one.parent or last(one.path) != last(path):
            raise EngineRefused(
                f"{url} serves {name!r} already, from {one.path or 'elsewhere'}: other contents need another name, since what "
                "the engine remembers of a name would be mixed into them. Push without a tag, make a new tag, or give a --name."
            )
        return Pushed(url, name, path, "it is served already", tuple(m.name for m in before), model, already=True)
    _check_rank(rank, limit or _limit(url, kind), kind)
    answer = _ask(url + kind.load, {"lora_name": name, "lora_path": path}, kind, rank)
    if _failed(answer):
        raise EngineRefused(f"{url} did not load the adapter: {' '.join(answer.split())[:300]}")
    models = tuple(one.name for one in served(url))
    if engine == "vllm" and name not in models:  # not every SGLang lists adapters
        raise EngineRefused(f"{url} took the adapter but does not serve {name!r}; it serves {', '.join(models)}.")
    return Pushed(url, name, path, answer.strip(), models, model)


def unpush(url: str, name: str, *, engine: str = "vllm") -> tuple[Served, ...]:
    """Let the engine forget an adapter; return what it serves then.

    Raises:
        InputError: no such address or engine. EngineRefused: nothing answers, or the answer is no.
    """
    url, kind = http.address(url), engine_of(engine)
    answer = _ask(url + kind.unload, {"lora_name": name}, kind)
    if _failed(answer):
        raise EngineRefused(f"{url} did not unload {name!r}: {' '.join(answer.split())[:300]}")
    return served(url)


def say(url: str, model: str, asked: str | Sequence[Mapping[str, str]], *, tokens: int = 32) -> str:
    """Return what a served model says: after a text, or in answer to messages; greedily.

    Raises:
        EngineRefused: nothing answers, the answer is no, or it is no completion.
    """
    url = http.address(url)
    body: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": tokens}
    plain = isinstance(asked, str)
    where = url + (COMPLETE if plain else CHAT)
    answer = _ask(where, body | ({"prompt": asked} if plain else {"messages": list(asked)}))
    try:
        choice = json.loads(answer)["choices"][0]
        return str(choice["text"] if plain else choice["message"]["content"] or "")
    except (ValueError, LookupError, TypeError) as error:
        raise EngineRefused(f"{where} does not answer as an OpenAI-compatible server does.") from error


def last(path: str) -> str:
    """Return the last part of a path, of whichever system the engine runs on."""
    return PurePosixPath(PureWindowsPath(path).as_posix()).name


def smallest(rank: int) -> int | None:
    """Return the smallest --max-lora-rank that takes an adapter of this rank; None where none does."""
    return next((limit for limit in RANKS if limit >= rank), None)


def _advice(rank: int, limit: int, kind: Engine) -> str:
    enough = smallest(rank)
    cut = f"cut the adapter with --rank {limit or RANKS[-1]} (the error is stated)"
    if enough is None:
        return f"{cut}, or export a checkpoint: no server takes more than rank {RANKS[-1]}."
    return f"start {kind.name} with --max-lora-rank {enough}, or {cut}."


def _check_rank(rank: int, limit: int, kind: Engine) -> None:
    if rank > (limit or RANKS[-1]):
        what = f"this server takes {limit} at most" if limit else "that is more than any server takes"
        raise InputError(f"the adapter has rank {rank}, and {what}: {_advice(rank, limit, kind)}")


def _limit(url: str, kind: Engine) -> int:
    """Return the largest rank a server takes where it says so, as SGLang and a vLLM in development mode do; else 0."""
    try:
        found = re.search(r"max_lora_rank[\"']?\s*[:=]\s*(\d{1,5})", http.ask(url + kind.about, None))
    except EngineRefused:
        return 0
    return int(found.group(1)) if found else 0


def _failed(answer: str) -> bool:
    """Return whether an answer that came with 200 says that it was in vain, as SGLang's may."""
    try:
        said = json.loads(answer)
    except ValueError:
        return False
    return isinstance(said, Mapping) and said.get("success") is False


def _ask(url: str, body: Any, kind: Engine = ENGINES["vllm"], rank: int = 0) -> str:
    try:
        return http.ask(url, body)
    except http.Refusal as no:
        raise EngineRefused(f"{no}{_hint(url, no, kind, rank)}") from no


def _hint(url: str, no: http.Refusal, kind: Engine, rank: int) -> str:
    """Return what to do about a refusal."""
    loads = url.endswith((kind.load, kind.unload))
    if no.code in (401, 403):
        return f" Set {http.KEY}."
    if no.code in (404, 405) and loads and "adapter" not in no.said.lower():
        return f" Start {kind.name} with {kind.start}."
    over = re.search(r"rank (\d{1,5}).{0,60}max_lora_rank\D{0,4}(\d{1,5})", no.said)
    if over:
        return f" So {_advice(int(over.group(1)) or rank, int(over.group(2)), kind)}"
    if no.code == 400 and "enable" in no.said.lower() and "lora" in no.said.lower():
        return f" Start {kind.name} with {kind.start}."
    return " Give another --name, or errata unpush it." if "already" in no.said else ""
