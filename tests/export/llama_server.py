"""llama.cpp's server out of the package xllamacpp, on loopback, asked over HTTP; one a process, which ends with it.

python -m tests.export.llama_server MODEL.gguf [ADAPTER.gguf]      # prints its address, then serves until its input ends
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Server:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, body: object) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)

    def says(self, prompt: str, **more: Any) -> str:
        """Return the first word that follows."""
        found = self.ask("/completion", {"prompt": prompt, "n_predict": 5, "temperature": 0, **more})
        return str(found["content"]).split()[0].strip(".,")


@contextmanager
def running(model: Path, adapter: Path | None = None) -> Iterator[Server]:
    command = [sys.executable, "-m", "tests.export.llama_server", str(model), *([str(adapter)] if adapter else [])]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Server(next(line.strip() for line in process.stdout if line.startswith("http")))
    finally:
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def serve(model: str, adapter: str = "") -> None:
    import xllamacpp

    how = xllamacpp.CommonParams()
    how.model.path, how.n_ctx, how.port, how.n_parallel, how.cpuparams.n_threads = model, 256, 0, 1, 1
    if adapter:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = adapter, 1.0
        how.lora_adapters = [lora]
    server = xllamacpp.Server(how)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    serve(*sys.argv[1:])
