"""An engine to push to, without one: an HTTP server on the loopback that answers as vLLM 0.32 and SGLang were seen to.

It loads, lists and unloads adapters, refuses a name that is loaded and a rank over its limit, and knows which contents every
path and name had: vLLM goes on with keys and values of the old ones where a path or a name comes to mean others, which no
answer shows, so that here it is refused.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

PREFIX = {"vllm": "/v1", "sglang": ""}


class Engine(HTTPServer):
    """Serves `base` and the adapters it is given."""

    def __init__(self, kind: str = "vllm") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.kind, self.adapters = kind, dict[str, str]()
        self.seen: dict[str, str] = {}  # what a path or a name held
        self.calls: list[tuple[str, str, Any]] = []
        self.keys: list[str | None] = []
        self.runtime, self.key, self.forgetful, self.body, self.elsewhere = True, "", False, b"", ""
        self.limit, self.tells, self.says = 16, False, " Lyon."

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def loaded(self) -> list[str]:
        """The calls that loaded or unloaded, in short."""
        return [
            path.rpartition("/")[2].partition("_")[0] for _, path, _ in self.calls if path.endswith("_lora_adapter")
        ]


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        self._take(None)

    def do_POST(self) -> None:
        self._take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _take(self, body: Any) -> None:
        engine = self.server
        engine.calls.append((self.command, self.path, body))
        engine.keys.append(self.headers["Authorization"])
        if engine.elsewhere:
            return self._say(307, b"", {"Location": engine.elsewhere + self.path})
        if engine.key and self.headers["Authorization"] != f"Bearer {engine.key}":
            return self._say(401, {"error": "Unauthorized"})
        if self.path == "/v1/models":
            return self._say(200, engine.body or {"object": "list", "data": self._models()})
        if self.path in ("/server_info", "/get_server_info") and engine.tells:
            return self._say(200, {"vllm_config": f"LoRAConfig(max_lora_rank={engine.limit}, max_loras=1)"})
        if self.path in ("/v1/completions", "/v1/chat/completions"):
            return self._complete(body)
        prefix = PREFIX[engine.kind]
        if not engine.runtime or self.path not in (f"{prefix}/load_lora_adapter", f"{prefix}/unload_lora_adapter"):
            return self._say(404, {"detail": "Not Found"})
        assert self.headers["Content-Type"] == "application/json"
        return self._unload(body) if "unload" in self.path else self._load(body)

    def _models(self) -> list[dict[str, Any]]:
        served = {} if self.server.forgetful else self.server.adapters
        rows = [{"id": name, "root": path, "parent": "base"} for name, path in served.items()]
        return [{"id": "base", "root": "/models/base", "parent": None}, *rows]

    def _complete(self, body: Any) -> None:
        engine = self.server
        known = {"vllm": engine.adapters, "sglang": {f"base:{name}" for name in engine.adapters}}[engine.kind]
        if body["model"] not in {"base", *known}:
            return self._refuse(404, f"The model `{body['model']}` does not exist.")
        text = engine.says
        choice = (
            {"text": text} if self.path == "/v1/completions" else {"message": {"role": "assistant", "content": text}}
        )
        return self._say(200, {"choices": [choice]})

    def _unload(self, body: Any) -> None:
        if self.server.adapters.pop(body["lora_name"], None) is None:
            return self._refuse(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        return self._say(200, b"Success: LoRA adapter removed successfully.")

    def _load(self, body: Any) -> None:
        engine, name, path = self.server, body["lora_name"], Path(body["lora_path"])
        if name in engine.adapters:
            return self._refuse(400, f"The lora adapter '{name}' has already been loaded.")
        if not (path / "adapter_config.json").exists():
            return self._refuse(404, f"No adapter found for {path}")
        rank = json.loads((path / "adapter_config.json").read_text()).get("r", 1)
        if rank > engine.limit:
            return self._refuse(400, f"LoRA rank {rank} is greater than max_lora_rank {engine.limit}.")
        held = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(path.iterdir()))).hexdigest()
        if any(engine.seen.setdefault(known, held) != held for known in (str(path), name)):
            return self._refuse(500, f"{path} or {name} had other contents: half of them would be served")
        engine.adapters[name] = str(path)
        if engine.kind == "sglang":
            return self._say(200, {"success": True, "loaded_adapters": engine.adapters})
        return self._say(200, f"Success: LoRA adapter '{name}' added successfully.".encode())

    def _refuse(self, code: int, message: str) -> None:
        self._say(code, {"error": {"message": message, "type": "BadRequestError", "code": code}})

    def _say(self, code: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def serving(kind: str = "vllm") -> Iterator[Engine]:
    """Yield an engine that answers until the generator goes on."""
    with Engine(kind) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine as vLLM is one."""
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    yield from serving()


@pytest.fixture
def sglang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine as SGLang is one."""
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    yield from serving("sglang")
