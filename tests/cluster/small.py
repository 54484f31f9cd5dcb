"""Small sweeps of the primer: a plan with the fewest probes, a second model, and workers to be killed."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from errata.cluster.sweep import JobState, Sweep
from errata.model.loading import load

ROOT = Path(__file__).parents[2]


def commands(page: str) -> list[str]:
    """Return the commands of a page of docs/, without what is said of them."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [line.split(" #")[0].strip() for line in re.findall(r"^\$ (.+)$", text, re.M)]


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


class Killer:
    """Told of jobs, kills a process at random of those below this one that are called so, after every so many that are done."""

    def __init__(self, name: str, every: int) -> None:
        self._name, self._every, self._draw = name, every, random.Random(every)
        self.told: list[JobState] = []
        self.killed: list[int] = []

    def __call__(self, state: JobState) -> None:
        self.told.append(state)
        done = sum(one.state == "done" for one in self.told)
        self.at_random(state.state == "done" and done % self._every == 0)

    def at_random(self, now: bool) -> None:
        """Kill one, if now and there is one."""
        found = [pid for pid in _below(os.getpid()) if _called(pid).startswith(self._name)] if now else []
        if found:
            self.killed.append(self._draw.choice(found))
            with suppress(ProcessLookupError):
                os.kill(self.killed[-1], signal.SIGKILL)

    def given_out(self) -> int:
        """Return how often a job was given to a worker."""
        return sum(state.state == "running" for state in self.told)


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
