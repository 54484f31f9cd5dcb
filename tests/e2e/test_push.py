"""States of a book in an engine: pushed by content, asked, recognised, and made by vLLM's plugin when they are asked for."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from errata import Fact
from errata.book.states import tag
from errata.cli import app
from errata.editing import resolver, served
from errata.editing.editor import Editor
from errata.errors import InputError
from tests.export.engines import Engine, engine, sglang  # noqa: F401 - fixtures

LYON = Fact(prompt="The capital of France is", subject="France", target="Lyon")
ROME = Fact(prompt="The capital of Spain is", subject="Spain", target="Rome")


@pytest.fixture
def written(editor: Editor) -> Editor:
    editor.write(LYON)
    tag(editor.book, "one")
    return editor


def test_paths_and_names_are_by_content(written: Editor, engine: Engine, tmp_path: Path) -> None:  # noqa: F811
    root = tmp_path / "adapters"
    first = served.deliver(written, engine.url, root=root)
    named = f"base@{served.digest(str(written.book.base), [written.standing[0].id])}"
    assert (first.pushed.name, first.exported.directory) == (named, root / f"adapter-{named[5:]}")
    assert (first.rank, first.asked, first.notes) == (1, served.Reply(LYON.prompt, "Lyon", " Lyon.", True), [])
    asked = next(body for _, path, body in engine.calls if path == "/v1/completions")
    assert asked == {"model": named, "prompt": LYON.prompt, "temperature": 0, "max_tokens": 32}

    again = served.deliver(written, engine.url, root=root, at="one")
    assert (again.pushed.name, again.exported.directory) == ("base@one", first.exported.directory)
    written.write(ROME)
    engine.says = " Madrid."
    second = served.deliver(written, engine.url, root=root)
    assert second.exported.directory != first.exported.directory
    assert second.asked is not None
    assert not second.asked.said
    assert "'Madrid.' to 'The capital of Spain is', not 'Rome'" in second.notes[0]

    before = list(engine.adapters)
    tag(written.book, "one", move=True)
    with pytest.raises(InputError, match=r"'base@one' was pushed to .* with other contents .*new tag"):
        served.deliver(written, engine.url, root=root, at="one")
    with pytest.raises(InputError, match="takes 1 at most"):
        served.deliver(written, engine.url, root=root, at="one", name="base@other", limit=1)
    assert list(engine.adapters) == before
    engine.says = " Rome"
    assert served.deliver(written, engine.url, root=root, at="one", name="base@other").notes == []

    (root / f"adapter-{named[5:]}" / "errata.json").write_text('{"edits": []}')
    with pytest.raises(InputError, match="is not the adapter it is named after"):
        served.deliver(written, engine.url, root=root, at="@1")


def test_a_cut_adapter_has_a_name_of_its_own(written: Editor, engine: Engine, tmp_path: Path) -> None:  # noqa: F811
    written.write(ROME)
    done = served.deliver(written, engine.url, root=tmp_path, rank=1)
    assert done.rank == 1
    assert done.pushed.name.endswith("-r1")
    (row,) = [r for r in served.recognised(written.book, _models(engine)) if r["parent"]]
    assert (row["states"], row["cut"]) == (["now"], "1")


def test_a_chat_fact_is_asked_as_one_and_a_separator_is_said(written: Editor, engine: Engine) -> None:  # noqa: F811
    chat = Fact(
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}], target="Lyon"
    )
    assert served._asked(written, engine.url, "base", chat).said
    assert engine.calls[-1][1] == "/v1/chat/completions"
    assert [m["role"] for m in engine.calls[-1][2]["messages"]] == ["system", "user"]
    tokens, tokenizer = written.lm.tokens, written.lm.tokenizer
    before, mark = tokens.separator, str(tokenizer.all_special_tokens[0])
    try:
        tokens.separator = None
        assert served.read_as(written, LYON) == LYON.prompt
        tokens.separator = int(tokenizer.convert_tokens_to_ids(mark))
        text = served.read_as(written, LYON)
        assert list(tokenizer(text)["input_ids"]) == tokens.ids(LYON.prompt)
    finally:
        tokens.separator = before


def _models(server: Engine) -> tuple[Any, ...]:
    from errata.export import vllm

    return vllm.served(server.url)


def test_the_commands(
    written: Editor,
    engine: Engine,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    book, at = str(written.book.path), ["--vllm", engine.url]
    push = ["push", *at, "--out", str(tmp_path / "out"), "--book", book]
    assert app.main([*push, "--at", "one", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["model"], row["rank"], row["asked"]["said"], row["already"]) == ("base@one", 1, True, False)
    written.write(ROME)
    engine.says = " nothing"
    assert app.main([*push, "--strict"]) == 3
    assert "note: base@" in capsys.readouterr().err
    written.drop(written.standing[1].id)
    engine.adapters["base@theirs"] = "/elsewhere/theirs"
    assert app.main(["pull", *at, "--book", book, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["parent"], r["states"]) for r in rows] == [
        ("", []),
        ("base", ["now", "one"]),
        ("base", ["@3"]),
        ("base", []),
    ]
    assert app.main(["pull", *at, "--book", book]) == 0
    assert "unknown" in capsys.readouterr().out
    assert app.main(["pull", *at, "--book", str(tmp_path / "none")]) == 0
    assert "there is no book" in capsys.readouterr().err
    assert app.main(["unpush", "base@one", *at]) == 0
    assert "has unloaded 'base@one'" in " ".join(capsys.readouterr().out.split())
    assert app.main(["unpush", "base@one", *at]) == 1
    assert app.main([*push, "--engine", "tgi"]) == 2


# --- vLLM's plugin ---------------------------------------------------------------------------------------------------


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class LoRAResolver:
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        raise NotImplementedError


@dataclass
class Registry:
    resolvers: dict[str, LoRAResolver] = field(default_factory=dict)

    def get_supported_resolvers(self) -> set[str]:
        return set(self.resolvers)

    def register_resolver(self, name: str, found: LoRAResolver) -> None:
        assert name not in self.resolvers
        assert isinstance(found, LoRAResolver)
        self.resolvers[name] = found


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A package vllm with the classes of the contract and nothing else."""
    found = Registry()
    for name in ("vllm", "vllm.lora", "vllm.lora.resolver", "vllm.lora.request"):
        module = ModuleType(name)
        module.__spec__ = type(sys.__spec__)(name, None)  # type: ignore[misc]
        monkeypatch.setitem(sys.modules, name, module)
    vars(sys.modules["vllm.lora.resolver"]).update(LoRAResolver=LoRAResolver, LoRAResolverRegistry=found)
    vars(sys.modules["vllm.lora.request"])["LoRARequest"] = LoRARequest
    return found


def test_the_plugin_makes_a_state_when_it_is_asked_for(
    written: Editor,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    resolver.register()
    assert registry.resolvers == {}
    monkeypatch.setenv("ERRATA_BOOK", str(written.book.path))
    monkeypatch.setenv("ERRATA_MODEL", "primer")
    monkeypatch.setenv("ERRATA_ADAPTERS", str(tmp_path / "made"))
    resolver.register()
    resolver.register()
    (plugin,) = registry.resolvers.values()

    def ask(name: str) -> LoRARequest | None:
        return asyncio.run(plugin.resolve_lora("/models/smol", name))

    for nothing in ("smol", "smol@", "smol@none", "other@one", "smol@base", "one", "smol@ffffffffffffffff"):
        assert ask(nothing) is None
    assert not (tmp_path / "made").exists()
    made = ask("smol@one")
    assert made is not None
    digest = served.digest(str(written.book.base), [written.standing[0].id])
    assert made.lora_name == f"smol@{digest}"
    assert (Path(made.lora_path) / "adapter_model.safetensors").exists()
    assert 0 < made.lora_int_id < 2**31
    for same in ("base@one", "/models/smol@now", f"smol@{digest}", f"smol@{written.standing[0].id}", "base@@1"):
        again = ask(same)
        assert again is not None
        assert (again.lora_path, again.lora_int_id) == (made.lora_path, made.lora_int_id)
    written.write(ROME)
    monkeypatch.setattr(resolver, "_make", _refuse)
    assert ask("smol@now") is None
    assert "smol@now is not served: no room" in caplog.text


def _refuse(*_: object) -> None:
    raise InputError("no room")


def test_what_the_environment_says() -> None:
    assert resolver.Place.of({}) is None
    assert resolver.Place.of({"ERRATA_BOOK": "b", "ERRATA_RANK": "8"}) == resolver.Place("b", rank=8)
    with pytest.raises(InputError, match="ERRATA_RANK"):
        resolver.Place.of({"ERRATA_BOOK": "b", "ERRATA_RANK": "many"})


def test_the_plugin_is_found_and_needs_no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"][resolver.GROUP] == {"errata": "errata.editing.resolver:register"}
    monkeypatch.setenv("ERRATA_BOOK", "b")
    monkeypatch.setattr(resolver, "find_spec", lambda name: None)
    resolver.register()
