"""Pushing to a serving engine: a real HTTP server on the loopback that keeps vLLM's documented contract."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from errata.errors import EngineRefused, InputError
from errata.export.vllm import push


class Engine(HTTPServer):
    """Loads, unloads and lists adapters as https://docs.vllm.ai/en/latest/features/lora.html says vLLM does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.adapters: dict[str, str] = {}
        self.calls: list[tuple[str, str, Any]] = []
        self.runtime, self.key, self.forgetful, self.body = True, "", False, b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        self._take(None)

    def do_POST(self) -> None:
        self._take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _take(self, body: Any) -> None:
        engine = self.server
        engine.calls.append((self.command, self.path, body))
        if engine.key and self.headers["Authorization"] != f"Bearer {engine.key}":
            return self._say(401, {"error": "Unauthorized"})
        if self.path == "/v1/models":
            if engine.body:
                return self._say(200, engine.body)
            served = [] if engine.forgetful else list(engine.adapters)
            return self._say(200, {"object": "list", "data": [{"id": name} for name in ["base", *served]]})
        if not engine.runtime:
            return self._say(404, {"detail": "Not Found"})
        assert self.headers["Content-Type"] == "application/json"
        if self.path == "/v1/unload_lora_adapter":
            del engine.adapters[body["lora_name"]]
            return self._say(200, b"Success: LoRA adapter removed successfully.")
        if body["lora_name"] in engine.adapters:
            return self._refuse(400, f"The lora adapter '{body['lora_name']}' has already been loaded.")
        if not (Path(body["lora_path"]) / "adapter_config.json").exists():
            return self._refuse(404, f"No adapter found for {body['lora_path']}")
        engine.adapters[body["lora_name"]] = body["lora_path"]
        return self._say(200, f"Success: LoRA adapter '{body['lora_name']}' added successfully.".encode())

    def _refuse(self, code: int, message: str) -> None:
        self._say(code, {"error": {"message": message, "type": "BadRequestError", "code": code}})

    def _say(self, code: int, answer: Any) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with Engine() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    (tmp_path / "adapter é").mkdir()
    (tmp_path / "adapter é" / "adapter_config.json").write_text("{}")
    return tmp_path / "adapter é"


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_the_adapter_is_loaded_and_served(engine: Engine, adapter: Path, end: str) -> None:
    pushed = push(engine.url + end, "errata", str(adapter))
    assert engine.adapters == {"errata": str(adapter)}
    assert engine.calls[0] == ("POST", "/v1/load_lora_adapter", {"lora_name": "errata", "lora_path": str(adapter)})
    assert (pushed.models, pushed.answer) == (("base", "errata"), "Success: LoRA adapter 'errata' added successfully.")


def test_replacing_unloads_first_and_only_what_is_there(engine: Engine, adapter: Path) -> None:
    push(engine.url, "errata", str(adapter), replace=True)
    assert [path for _, path, _ in engine.calls] == ["/v1/models", "/v1/load_lora_adapter", "/v1/models"]
    with pytest.raises(EngineRefused, match=r"400: The lora adapter 'errata' has already been loaded\..*--replace"):
        push(engine.url, "errata", str(adapter))
    engine.calls.clear()
    push(engine.url, "errata", str(adapter), replace=True)
    assert engine.calls[1] == ("POST", "/v1/unload_lora_adapter", {"lora_name": "errata"})


def test_a_key_is_sent(engine: Engine, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.key = "secret"
    with pytest.raises(EngineRefused, match=r"answered 401.*VLLM_API_KEY"):
        push(engine.url, "errata", str(adapter))
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert push(engine.url, "errata", str(adapter)).name == "errata"


def test_every_no_is_a_sentence(engine: Engine, adapter: Path) -> None:
    with pytest.raises(EngineRefused, match="404: No adapter found for /nowhere"):
        push(engine.url, "errata", "/nowhere")
    engine.runtime = False
    with pytest.raises(EngineRefused, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
        push(engine.url, "errata", str(adapter))
    engine.runtime, engine.forgetful = True, True
    with pytest.raises(EngineRefused, match="does not serve 'errata'; it serves base"):
        push(engine.url, "errata", str(adapter))
    for engine.body in (b"<html>", b"[]", b'{"data": 3}'):
        with pytest.raises(EngineRefused, match="OpenAI-compatible"):
            push(engine.url, "other", str(adapter), replace=True)


def test_nobody_there(adapter: Path) -> None:
    with Engine() as closed:
        url = closed.url
    with pytest.raises(EngineRefused, match="nothing answers"):
        push(url, "errata", str(adapter), timeout=2)
    for url in ("127.0.0.1:8000", "file:///etc/passwd", "ftp://host", "http://", ""):
        with pytest.raises(InputError, match="no address"):
            push(url, "errata", str(adapter))
