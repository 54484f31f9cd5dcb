"""What a run keeps on the disk, safe from a kill: lines that are whole or not there, and the memory it took."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from errata.model.lm import LM


def peak_bytes(lm: LM) -> int:
    """Return the most bytes taken so far: of the accelerator if the model is on one, else of the process."""
    if lm.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(lm.device))
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
