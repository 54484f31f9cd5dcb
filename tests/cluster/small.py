"""Small sweeps of the primer: a plan with the fewest probes, a second model, and workers to be killed."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from errata.cluster.sweep import JobState, Sweep
from errata.model.loading import load


def plan(folder: Path, **changes: object) -> Path:
    """Write a plan in which each job asks as little as can be asked, and return its file."""
    text = folder / "text.txt"
    text.write_text("The sun rises in the east.\n\nIt sets in the west.\n", encoding="utf-8")
    given: dict[str, object] = {
        "methods": ["none", "ft"], "models": ["primer"], "cases": ["primer:1"], "seeds": [0, 1], "edits": 1,
        "checkpoints": [1], "text": str(text), "settings": {"ft": {"steps": 2}},
    } | changes  # fmt: skip
    settings = given.pop("settings")
    assert isinstance(settings, dict)
    lines = [f"{key} = {_toml(value)}" for key, value in given.items()]
    for name, table in settings.items():
        lines += [f"[settings.{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    path = folder / "plan.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | list) else f'"{value}"'


def second_model(folder: Path) -> Path:
    """Save the primer with other weights, and return where."""
    lm = load("primer")
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.mul_(1.01)
    lm.model.save_pretrained(folder / "second")
    lm.tokenizer.save_pretrained(folder / "second")
    return folder / "second"


def rows(sweep: Sweep) -> dict[str, bytes]:
    """Return every job's rows, by its name."""
    return {job.name: (sweep.directory(job) / "rows.jsonl").read_bytes() for job in sweep.jobs}


def finished(states: Sequence[JobState]) -> bool:
    return all(state.state == "done" for state in states)


@contextmanager
def killer(name: str, seconds: float, seed: int = 0) -> Iterator[list[int]]:
    """Kill a process at random, every so often, of those below this one that are called so; yield those killed."""
    over, killed, draw = threading.Event(), list[int](), random.Random(seed)

    def kill() -> None:
        while not over.wait(seconds * draw.uniform(0.5, 1.5)):
            if found := [pid for pid in _below(os.getpid()) if _called(pid).startswith(name)]:
                killed.append(draw.choice(found))
                os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def _below(root: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, fresh = list[int](), [root]
    while fresh:
        fresh = [pid for pid, parent in parents.items() if parent in fresh]
        found += fresh
    return found


def _called(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
