"""Whether a sweep gives the same bytes in one process, on Ray with workers killed, and in shards of which one is killed.

    python benchmarks/sweeps.py --plan five --how serial,shards,ray      # 5 methods × 2 models × 3 seeds
    python benchmarks/sweeps.py --plan many --how serial,shards,ray      # × 20 seeds: 200 jobs

Models are the primer and the primer with its weights 1 % larger; each job writes one fact and asks as little as can be asked.
Workers on Ray are killed at random (SIGKILL), one after every fifth to tenth job that is done; the second of four shards is
killed when its first job is done, and started again. Lines say how many were killed, and whether rows are those of `serial`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from errata.cluster.spread import spread
from errata.cluster.sweep import JobState, Sweep
from errata.model.loading import load

SHARDS = 4
SEEDS: Mapping[str, int] = {"five": 3, "many": 20}  # of 5 methods and 2 models
PLAN = """methods = ["none", "ft", "rome", "memit", "melo"]
models = ["primer", "{second}"]
seeds = {seeds}
cases = ["primer:1"]
edits = 1
checkpoints = [1]
text = "{text}"

[settings]
ft = {{steps = 2}}
rome = {{steps = 3}}
memit = {{steps = 3}}
melo = {{steps = 3}}
"""


def written(name: str, room: Path) -> Path:
    """Write a plan, its text and its second model, unless they are there; return the plan's file."""
    path, second, text = room / f"{name}.toml", room / "second", room / "text.txt"
    if path.exists():
        return path
    text.write_text("The sun rises in the east.\n\nIt sets in the west.\n", encoding="utf-8")
    if not second.exists():
        lm = load("primer")
        with torch.no_grad():
            for parameter in lm.model.parameters():
                parameter.mul_(1.01)
        lm.model.save_pretrained(second)
        lm.tokenizer.save_pretrained(second)
    path.write_text(PLAN.format(second=second, seeds=list(range(SEEDS[name])), text=text), encoding="utf-8")
    return path


def rows(sweep: Sweep) -> dict[str, bytes]:
    """Return every job's rows, by its name."""
    return {job.name: (sweep.directory(job) / "rows.jsonl").read_bytes() for job in sweep.jobs}


def on_ray(path: Path, out: Path, workers: int) -> dict[str, Any]:
    """Do a plan on a Ray that is started here, and kill workers meanwhile."""
    sweep, draw = Sweep.planned(path, out), random.Random(1)
    state = {"killed": 0, "given_out": 0, "done": 0, "next": 3}

    def told(job: JobState) -> None:
        state["given_out"] += job.state == "running"
        state["done"] += job.state == "done"
        found = [pid for pid in below(os.getpid()) if _called(pid).startswith("ray::_OnRay")]
        if job.state == "done" and state["done"] >= state["next"] and found:
            state["next"] = state["done"] + draw.randint(5, 10)
            with suppress(ProcessLookupError):
                os.kill(draw.choice(found), signal.SIGKILL)
                state["killed"] += 1

    states = spread(sweep, told, workers=workers)
    assert all(one.state == "done" for one in states), [one.why for one in states if one.why]
    return {"killed": state["killed"], "given_out": state["given_out"]}


def in_shards(path: Path, out: Path) -> dict[str, Any]:
    """Do a plan in four processes one after the other, of which the second is killed and started again; then merge."""
    words = [sys.executable, "-m", "errata", "sweep", str(path), "--out", str(out), "--shard"]
    killed = 0
    for number in range(1, SHARDS + 1):
        process = subprocess.Popen([*words, f"{number}/{SHARDS}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        if number == 2:
            process.stderr.readline()  # a line for its first job
            process.kill()
            killed += process.wait() == -signal.SIGKILL
            left = subprocess.run([sys.executable, "-m", "errata", "sweep", "merge", str(out)], capture_output=True)
            assert left.returncode == 1, "jobs are missing"
            process = subprocess.Popen(
                [*words, f"{number}/{SHARDS}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        process.communicate()
    subprocess.run([sys.executable, "-m", "errata", "sweep", "merge", str(out)], check=True, stdout=subprocess.DEVNULL)
    return {"killed": killed}


def serial(path: Path, out: Path) -> dict[str, Any]:
    """Do a plan here, one job after the other."""
    assert all(state.state == "done" for state in Sweep.planned(path, out).go())
    return {}


def main() -> None:
    """Do a plan in each way, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plan", choices=SEEDS, default="five")
    parser.add_argument(
        "--how", default="serial,shards,ray", help="with commas; serial is what the others are compared with"
    )
    parser.add_argument("--workers", type=int, default=2, help="on Ray")
    parser.add_argument(
        "--room", type=Path, default=Path("sweeps-room"), help="where sweeps are kept, to be gone on with"
    )
    parser.add_argument("--out", type=Path, help="JSON lines to add rows to")
    options = parser.parse_args()
    options.room.mkdir(parents=True, exist_ok=True)
    room = options.room.absolute()
    path = written(options.plan, room)
    ways = {"serial": serial, "shards": in_shards, "ray": lambda path, out: on_ray(path, out, options.workers)}
    for how in options.how.split(","):
        began = time.perf_counter()
        row = {"plan": options.plan, "how": how, **ways[how](path, room / f"{options.plan}-{how}")}
        row["seconds"] = round(time.perf_counter() - began, 1)
        found = rows(Sweep.kept(room / f"{options.plan}-{how}"))
        row |= {"jobs": len(found), "bytes": sum(map(len, found.values()))}
        row["equal"] = found == rows(Sweep.kept(room / f"{options.plan}-serial"))
        print(json.dumps(row), flush=True)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def below(root: int) -> Iterator[int]:
    """Yield the processes that a process started, and those that these did."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    fresh = [root]
    while fresh:
        fresh = [pid for pid, parent in parents.items() if parent in fresh]
        yield from fresh


def _called(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


if __name__ == "__main__":
    main()
