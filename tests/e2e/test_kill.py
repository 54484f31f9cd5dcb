"""`kill -9` at random moments: a book opens, and what was reported stands; a benchmark goes on to the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from errata.cli import main
from errata.editing.opening import open as open_editor
from errata.model.lm import LM
from tests.e2e.conftest import state

# Loads the model once and forks: each line it reads is a book, a seed and a pipe, for a writer that is told its id and killed.
WRITERS = """
import os, signal, sys
import errata
from errata.model.loading import load
from errata.primer.probes import edits
lm = load("primer")
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    book, seed, pipe = line.rstrip("\\n").split("\\t")
    if child := os.fork():
        print(child, flush=True)
        continue
    with open(pipe, "w") as told, errata.open(lm, book=book) as editor:
        print("open", file=told, flush=True)
        for fact in edits(500, seed=int(seed)):
            print(editor.write(fact, steps=3).id, file=told, flush=True)
"""


def test_a_killed_writer_loses_nothing_it_reported(shipped: LM, tmp_path: Path) -> None:
    rng, reported = random.Random(0), []
    book = tmp_path / "book"
    words = [sys.executable, "-c", WRITERS]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:
        assert writers.stdin is not None
        assert writers.stdout is not None
        for attempt in range(6):
            os.mkfifo(pipe := tmp_path / f"pipe {attempt}")
            writers.stdin.write(f"{book}\t{attempt}\t{pipe}\n")
            writers.stdin.flush()
            writer = int(writers.stdout.readline())
            with pipe.open() as told:
                assert told.readline() == "open\n"
                reported += [told.readline().strip() for _ in range(rng.randint(0, 3))]
                time.sleep(rng.uniform(0.0, 0.5))
                os.kill(writer, signal.SIGKILL)
                reported += told.read().split("\n")[:-1]  # a torn last line was not reported
            shipped.weights.stand([])
            with open_editor(shipped, book=book) as editor:
                standing = [r.id for r in editor.log() if r.stands]
                assert set(reported) <= set(standing)
                assert (
                    len(standing) <= len(reported) + attempt + 1
                )  # at most one a kill was written and not yet reported
    shipped.weights.stand([])
    with open_editor(shipped, book=book) as editor:
        edited = state(editor.lm)
        editor.drop(*standing)
        editor.restore(*standing)
        assert all(torch.equal(edited[name], tensor) for name, tensor in state(editor.lm).items())
    assert len(reported) >= 6


BENCH = "bench --cases primer:6 --edits 6 --method ft --set steps=3 --checkpoints 1,3 --json --out"


def test_a_killed_benchmark_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    rng = random.Random(1)
    calm, hurt = tmp_path / "calm", tmp_path / "hurt"
    assert main([*BENCH.split(), str(calm)]) == 0
    for edits in (1, 4):
        words = [sys.executable, "-c", "from errata.cli import main; main()", *BENCH.split(), str(hurt)]
        run = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        while run.poll() is None and len(list(hurt.rglob("*.safetensors"))) < edits:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.3))
        assert run.poll() is None, "it had ended before it was killed"
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        assert not (hurt / "ft" / "summary.json").exists()
    assert main([*BENCH.split(), str(hurt)]) == 0
    whole, resumed = ((out / "ft" / "rows.jsonl").read_bytes() for out in (calm, hurt))
    assert resumed == whole
