"""Pushing to a serving engine: a real HTTP server on the loopback that keeps to the contracts that were seen."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from errata.errors import EngineRefused, InputError
from errata.export import http
from errata.export.vllm import Served, last, push, say, served, smallest, unpush
from tests.export.engines import Engine, engine, serving, sglang  # noqa: F401 - fixtures


def made(folder: Path, rank: int = 4) -> str:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return str(folder)


@pytest.fixture
def adapter(tmp_path: Path) -> str:
    return made(tmp_path / "é" / "adapter-1")


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_the_adapter_is_loaded_and_served(engine: Engine, adapter: str, end: str) -> None:  # noqa: F811
    pushed = push(engine.url + end, "base@1", adapter)
    assert engine.adapters == {"base@1": adapter}
    assert ("POST", "/v1/load_lora_adapter", {"lora_name": "base@1", "lora_path": adapter}) in engine.calls
    assert (pushed.models, pushed.answer) == (("base", "base@1"), "Success: LoRA adapter 'base@1' added successfully.")
    assert served(engine.url) == (Served("base", "", "/models/base"), Served("base@1", "base", adapter))
    assert say(engine.url, pushed.model, "The capital of France is") == " Lyon."
    assert say(engine.url, pushed.model, [{"role": "user", "content": "x"}]) == " Lyon."


def test_what_is_served_already_is_left_alone(engine: Engine, adapter: str, tmp_path: Path) -> None:  # noqa: F811
    assert not push(engine.url, "base@1", adapter).already
    assert push(engine.url, "base@1", adapter).already
    assert push(engine.url, "base@1", f"/mnt/elsewhere/{last(adapter)}").already
    assert engine.loaded() == ["load"]
    for name in ("base@1", "base"):
        with pytest.raises(EngineRefused, match=r"other contents need another name.*--name"):
            push(engine.url, name, made(tmp_path / name))
    assert engine.loaded() == ["load"]


def test_unloading(engine: Engine, adapter: str) -> None:  # noqa: F811
    push(engine.url, "base@1", adapter)
    assert unpush(engine.url, "base@1") == (Served("base", "", "/models/base"),)
    with pytest.raises(EngineRefused, match="404: The lora adapter 'base@1' cannot be found"):
        unpush(engine.url, "base@1")
    push(engine.url, "base@1", adapter)
    with pytest.raises(EngineRefused, match="404: The model `base@2` does not exist"):
        say(engine.url, "base@2", "x")


def test_the_recorded_server_refuses_a_path_or_a_name_with_other_contents(engine: Engine, adapter: str) -> None:  # noqa: F811
    push(engine.url, "base@1", adapter)
    unpush(engine.url, "base@1")
    (Path(adapter) / "adapter_config.json").write_text('{"r": 5}')
    for name in ("base@1", "base@2"):
        with pytest.raises(EngineRefused, match="had other contents"):
            push(engine.url, name, adapter)


def test_a_key_is_sent_and_goes_along_with_no_redirect(
    engine: Engine,  # noqa: F811
    adapter: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.key = "secret"
    with pytest.raises(EngineRefused, match=r"answered 401.*VLLM_API_KEY"):
        push(engine.url, "base@1", adapter)
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert push(engine.url, "base@1", adapter).name == "base@1"
    for thief in serving():
        engine.elsewhere = thief.url
        with pytest.raises(EngineRefused, match=r"sends to http://127\.0\.0\.1:\d+/v1/models, which is not followed"):
            push(engine.url, "base@2", adapter)
        assert thief.calls == []


def test_the_rank_is_looked_at_where_it_is_known(engine: Engine, tmp_path: Path) -> None:  # noqa: F811
    adapter = made(tmp_path / "a", 24)
    with pytest.raises(
        InputError, match=r"rank 24, and this server takes 8 at most: start vLLM with --max-lora-rank 32"
    ):
        push(engine.url, "n", adapter, rank=24, limit=8)
    with pytest.raises(
        InputError, match=r"rank 600, and that is more than any server takes: cut .*--rank 512.*checkpoint"
    ):
        push(engine.url, "n", adapter, rank=600)
    assert engine.loaded() == []
    wanted = "greater than max_lora_rank 16. So start vLLM with --max-lora-rank 32, or cut the adapter with --rank 16"
    with pytest.raises(EngineRefused, match=wanted):
        push(engine.url, "n", adapter, rank=24)
    engine.tells = True
    with pytest.raises(InputError, match="this server takes 16 at most"):
        push(engine.url, "n", adapter, rank=24)
    engine.limit = 32
    assert push(engine.url, "n", adapter, rank=24).models == ("base", "n")
    assert [smallest(rank) for rank in (1, 2, 8, 9, 257, 512, 513)] == [1, 8, 8, 16, 320, 512, None]


def test_sglang_is_asked_by_base_and_adapter(sglang: Engine, adapter: str) -> None:  # noqa: F811
    pushed = push(sglang.url, "base@1", adapter, engine="sglang")
    assert pushed.model == "base:base@1"
    assert say(sglang.url, pushed.model, "x") == " Lyon."
    assert sglang.calls[2][1] == "/load_lora_adapter"
    assert [one.name for one in unpush(sglang.url, "base@1", engine="sglang")] == ["base"]
    sglang.runtime = False
    with pytest.raises(EngineRefused, match="Start SGLang with --enable-lora"):
        push(sglang.url, "base@1", adapter, engine="sglang")
    with pytest.raises(InputError, match="no engine 'tgi'"):
        push(sglang.url, "base@1", adapter, engine="tgi")


def test_every_no_is_a_sentence(engine: Engine, adapter: str) -> None:  # noqa: F811
    with pytest.raises(EngineRefused, match="404: No adapter found for /nowhere"):
        push(engine.url, "base@1", "/nowhere")
    engine.runtime = False
    with pytest.raises(EngineRefused, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
        push(engine.url, "base@1", adapter)
    engine.runtime, engine.forgetful = True, True
    with pytest.raises(EngineRefused, match="does not serve 'base@1'; it serves base"):
        push(engine.url, "base@1", adapter)
    for engine.body in (b"<html>", b"[]", b'{"data": 3}', b'{"data": [3]}'):
        with pytest.raises(EngineRefused, match="OpenAI-compatible"):
            push(engine.url, "other", adapter)
    engine.body = b'{"data": []}'
    with pytest.raises(EngineRefused, match="names no base model"):
        push(engine.url, "other", adapter, engine="sglang")
    engine.body = b"x" * (17 << 20)
    with pytest.raises(EngineRefused, match="more than 16 MiB"):
        served(engine.url)


def test_nobody_there(adapter: str) -> None:
    with Engine() as closed:
        url = closed.url
    with pytest.raises(EngineRefused, match="nothing answers"):
        push(url, "base@1", adapter)
    for url in (
        "127.0.0.1:8000",
        "file:///etc/passwd",
        "ftp://host",
        "http://",
        "",
        "http://h:99999",
        "http://[",
        "http://h?x",
    ):
        with pytest.raises(InputError, match="no address"):
            push(url, "base@1", adapter)
    with pytest.raises(InputError, match="out of the address"):
        served("http://me:secret@host")


def test_a_late_server_is_not_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WAIT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(EngineRefused, match="did not answer within"):
        http.ask(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/models")
