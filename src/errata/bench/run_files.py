"""A run's directory: append and fsync rows.jsonl and marks.jsonl, write run.json and summary.json atomically, add up costs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from errata.errors import BadConfig
from errata.model.lm import LM

Mark = Mapping[str, Any]
NOT_COMPARED = ("command", "versions")  # the same run may be gone on with from another command line


def peak_bytes(lm: LM) -> int:
    """Return the most bytes taken so far: of the accelerator if the model is on one, else of the process; 0 if nobody knows."""
    if lm.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(lm.device))
    if lm.device.type == "mps":  # keeps no highest mark: what is taken now
        return int(torch.mps.driver_allocated_memory())
    try:
        import resource
    except ImportError:  # Windows has none
        return 0
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def append(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a file, and have them on the disk before returning."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def marks(path: Path) -> list[dict[str, Any]]:
    """Return the marks of a run, without a torn last one."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").split("\n")
    marks = [json.loads(line) for line in whole[:-1]]
    if whole[-1]:  # torn by a kill: cut it off, or the next one would be written behind it
        path.write_text("".join(line + "\n" for line in whole[:-1]), encoding="utf-8")
    return marks


def keep(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(value, indent=1, default=str), encoding="utf-8")
    os.replace(temporary, path)


def begun_as(path: Path, lm: LM) -> str:
    """Return the fingerprint by which the run in `path` knows the model: an older one, if it was begun before today's rule."""
    try:
        there = str(json.loads(path.read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, LookupError, TypeError):
        return lm.fingerprint
    return there if lm.identity.goes_by(there) else lm.fingerprint


def same_run(path: Path, identity: Mapping[str, Any]) -> None:
    """Keep what a run is in `path`, or see that it is what is there.

    Raises:
        BadConfig: the directory holds another run.
    """
    if not path.exists():
        return keep(path, identity)
    there, mine = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(identity, default=str))
    if any(there.get(key) != mine.get(key) for key in {*there, *mine} - set(NOT_COMPARED)):
        raise BadConfig(
            f"{path.parent} holds another run ({there.get('method')} on {there.get('cases')}); name another directory."
        )


def costs(marks: Sequence[Mark]) -> dict[str, float]:
    """Return what the units of work so far took: seconds, peak_bytes, and for each edit seconds and bytes."""
    spent = [each for mark in marks for each in mark["spent"]]
    facts, seconds = sum(count for _, count, _ in spent), sum(taken for taken, _, _ in spent)
    found = {"seconds": round(seconds, 3), "peak_bytes": max(mark["peak_bytes"] for mark in marks)}
    if facts:
        found["seconds_per_edit"] = round(seconds / facts, 4)
        found["bytes_per_edit"] = sum(size for _, _, size in spent) // facts
    return found
