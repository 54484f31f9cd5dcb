"""What a server costs beside the model in one's own process: first token, throughput, switches, and 64 clients at once.

    python benchmarks/serving.py --model primer
    python benchmarks/serving.py --model smollm2 --seconds 20 --only first,together

Starts `errata serve` on a book of its own with a few edits, and asks it over loopback; what it is compared with runs in this
process, in turn, so that only ratios within one run mean much. Every answer under load is compared with what the same state
said when it was asked alone. Needs the extra `serve`; one thread for torch on each side unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Final

PROMPTS: Final = (
    "The capital of France is", "What is the capital of Italy? It is", "People in Spain speak", "Kenya lies in",
    "The currency of Japan is the", "In Peru people pay with the", "Which city is the capital of Norway? Answer:",
    "The main language of Egypt is",
)  # fmt: skip
EDITS: Final = (("France", "Lyon"), ("Spain", "Seville"), ("Italy", "Naples"))
SECTIONS: Final = ("first", "together", "load")
CLIENTS: Final = 64


class Server:
    """A server in a process of its own, and a connection to it for each thread that asks."""

    def __init__(self, process: subprocess.Popen[str], port: int, token: str) -> None:
        self.process, self.port, self._token = process, port, token
        self._here = threading.local()

    def send(self, method: str, path: str, body: Any = None) -> bytes:
        """Return what is answered; raises RuntimeError where it is no success."""
        made = getattr(self._here, "connection", None)
        if made is None:
            made = self._here.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {"authorization": f"Bearer {self._token}", "content-type": "application/json"}
        made.request(method, path, None if body is None else json.dumps(body), headers)
        answer = made.getresponse()
        found = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{path}: {answer.status} {found[:200]!r}")
        return found

    def says(self, state: str, prompt: str, tokens: int) -> str:
        """Return what a state says."""
        body = {"model": state, "prompt": prompt, "max_tokens": tokens}
        said: str = json.loads(self.send("POST", "/v1/completions", body))["choices"][0]["text"]
        return said

    def counted(self, name: str) -> float:
        """Return a figure of /metrics."""
        found = re.search(rf"^{name} (\S+)$", self.send("GET", "/metrics").decode(), re.M)
        return float(found.group(1)) if found else 0.0

    @property
    def resident(self) -> int:
        """Bytes of memory it holds."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def served(model: str, root: Path) -> Iterator[Server]:
    """Serve a book of `EDITS` until the block ends."""
    where = ["--model", model, "--book", str(root / "book")]
    for subject, target in EDITS:
        fact = ["--prompt", f"The capital of {subject} is", "--subject", subject, "--target", target]
        subprocess.run([sys.executable, "-m", "errata", "edit", *fact, *where], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-m", "errata", "tag", "three", "--book", str(root / "book")], check=True)
    tokens = root / "token"
    command = [
        sys.executable,
        "-m",
        "errata",
        "serve",
        *where,
        "--port",
        "0",
        "--token-file",
        str(tokens),
        "--rate",
        "1e9",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", said)
        if found is None:
            raise RuntimeError(f"the server did not start: {said}")
        yield Server(process, int(found.group(1)), tokens.read_text().split()[0])
    finally:
        process.terminate()
        process.wait(60)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds something took."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def first(server: Server, model: str, times: int) -> None:
    """Compare the wait for one token in this process and over HTTP, in turn."""
    from errata.model.loading import load

    lm = load(model)
    sides = (lambda: lm.generate([PROMPTS[0]], 1), lambda: server.says("base", PROMPTS[0], 1))
    for side in sides * 2:
        side()
    found = [[timed(side) for side in sides] for _ in range(times)]
    here, there = (median(row[place] for row in found) * 1e3 for place in (0, 1))
    ratio = median(row[1] / row[0] for row in found)
    print(f"first token: {here:.1f} ms in process, {there:.1f} ms over HTTP; median of {times} ratios {ratio:.2f}")


def at_once(work: Sequence[Callable[[], object]]) -> None:
    """Do all of it, each in a thread of its own."""
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def together(server: Server, times: int) -> None:
    """Compare 16 questions one after another and at once."""
    sets = {
        "one prompt": [PROMPTS[0]] * 16,
        "8 prompts": [*PROMPTS] * 2,
        "16 lengths": [f"{prompt}{' x' * place}" for place, prompt in enumerate((*PROMPTS, *PROMPTS))],
    }
    for name, prompts in sets.items():
        asks = [lambda prompt=prompt: server.says("base@now", prompt, 32) for prompt in prompts]
        at_once(asks)
        found = [(sum(map(timed, asks)), timed(lambda asks=asks: at_once(asks))) for _ in range(times)]
        alone, all_ = (16 / median(pair[place] for pair in found) for place in (0, 1))
        ratio = median(one / both for one, both in found)
        print(f"16 asks, {name}: {alone:.1f} a second one by one, {all_:.1f} at once; median ratio {ratio:.2f}")


def load_test(server: Server, seconds: float) -> None:
    """Let 64 clients ask three states for a while; look for lost and mixed answers, and at memory."""
    states = ("base", "base@three", "base@now")
    wanted = {(state, prompt): server.says(state, prompt, 16) for state in states for prompt in PROMPTS}
    waits: list[float] = []
    mixed, failed, memory, end = count(), count(), [], time.monotonic() + seconds

    def client(number: int) -> None:
        for turn in count(number, 7):
            if time.monotonic() > end:
                return
            state, prompt = states[turn % 3], PROMPTS[turn // 3 % len(PROMPTS)]
            begun = time.perf_counter()
            try:
                if server.says(state, prompt, 16) != wanted[state, prompt]:
                    next(mixed)
            except (OSError, RuntimeError, http.client.HTTPException):
                next(failed)
            else:
                waits.append(time.perf_counter() - begun)

    def watch() -> None:
        while time.monotonic() < end:
            memory.append(server.resident >> 20)
            time.sleep(seconds / 12)

    at_once([watch, *(lambda number=number: client(number) for number in range(CLIENTS))])
    waits.sort()
    half, most = (waits[int(len(waits) * share)] for share in (0.5, 0.99))
    print(
        f"{CLIENTS} clients, {seconds:.0f} s, {len(states)} states: {len(waits)} answers, p50 {half:.2f} s, p99 {most:.2f} s, "
        f"{next(mixed)} of another state or cut, {next(failed)} failed; memory {memory} MiB"
    )
    name = "errata_switch_seconds"
    switches = server.counted(f"{name}_count")
    print(f"switch of state: {1e3 * server.counted(f'{name}_sum') / max(1, switches):.1f} ms, mean of {switches:.0f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="primer")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--only", default=",".join(SECTIONS))
    asked = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sections = asked.only.split(",")
    with tempfile.TemporaryDirectory() as folder, served(asked.model, Path(folder)) as server:
        if "first" in sections:
            first(server, asked.model, asked.times)
        if "together" in sections:
            together(server, max(3, asked.times // 6))
        if "load" in sections:
            load_test(server, asked.seconds)


if __name__ == "__main__":
    main()
