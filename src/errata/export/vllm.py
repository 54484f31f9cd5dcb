"""Loading an adapter into an engine that is running: vLLM's run-time LoRA endpoint.

    push("http://127.0.0.1:8000", "errata", "/shared/adapter")

The engine reads the directory itself, so it must see it under that path. It has to be started with ``--enable-lora``, a
``--max-lora-rank`` that is large enough, and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`` in its environment
(https://docs.vllm.ai/en/latest/features/lora.html).
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any, Final

from errata.errors import EngineRefused, InputError

LOAD: Final = "/v1/load_lora_adapter"
UNLOAD: Final = "/v1/unload_lora_adapter"
MODELS: Final = "/v1/models"


@dataclass(frozen=True, slots=True)
class Pushed:
    """What the engine said: its answer, and the models it serves now, of which `name` should be one."""

    url: str
    name: str
    path: str
    answer: str
    models: tuple[str, ...]


def push(url: str, name: str, path: str, *, replace: bool = False, timeout: float = 60.0) -> Pushed:
    """Let the engine at `url` load the adapter in the directory `path` under a name, by which requests then ask for it.

    Args:
        replace: unload an adapter of that name first, if there is one.
        timeout: seconds to wait for each answer. A key for the engine is taken from $VLLM_API_KEY.

    Raises:
        InputError: no such kind of address. EngineRefused: nothing answers there, or the answer is no.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InputError(f"{url!r} is no address of a server; write it as http://127.0.0.1:8000.")
    url = url.rstrip("/").removesuffix("/v1")
    if replace and name in _models(url, timeout):
        _post(url + UNLOAD, {"lora_name": name}, timeout)
    answer = _post(url + LOAD, {"lora_name": name, "lora_path": path}, timeout)
    models = _models(url, timeout)
    if name not in models:
        raise EngineRefused(f"{url} took the adapter but does not serve {name!r}; it serves {', '.join(models)}.")
    return Pushed(url, name, path, answer.strip(), models)


def _models(url: str, timeout: float) -> tuple[str, ...]:
    try:
        return tuple(str(model["id"]) for model in json.loads(_ask(url + MODELS, None, timeout))["data"])
    except (ValueError, LookupError, TypeError) as error:
        raise EngineRefused(
            f"{url}{MODELS} does not answer as an OpenAI-compatible server does: check --vllm."
        ) from error


def _post(url: str, body: dict[str, Any], timeout: float) -> str:
    return _ask(url, json.dumps(body).encode(), timeout)


def _ask(url: str, body: bytes | None, timeout: float) -> str:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    if key := os.environ.get("VLLM_API_KEY"):
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return bytes(response.read()).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        raise EngineRefused(_refusal(url, error.code, error.read().decode("utf-8", "replace"))) from error
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors
        why = getattr(error, "reason", None) or error
        raise EngineRefused(f"nothing answers at {url} ({why}): is the engine running there?") from error


def _refusal(url: str, code: int, body: str) -> str:
    """Return a sentence for an answer that is no."""
    if code == 404 and url.endswith((LOAD, UNLOAD)) and "adapter" not in body:
        return f"{url} is not there: start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."
    try:
        said = json.loads(body)
        message = str(said.get("error", said).get("message", body))
    except (ValueError, AttributeError):
        message = body
    hint = {401: " Set VLLM_API_KEY.", 403: " Set VLLM_API_KEY."}.get(code, "")
    hint = hint or (" Give another --name, or --replace." if "already" in message else "")
    return f"{url} answered {code}: {' '.join(message.split())[:300]}{hint}"
