"""The whole model as a checkpoint that transformers loads: weights = cast(base + Σ deltas)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from errata.edit import Edit
from errata.errors import InputError
from errata.export.files import new_directory, write_log
from errata.model.lm import LM


def checkpoint(lm: LM, edits: Sequence[Edit], directory: str | os.PathLike[str]) -> Path:
    """Write the model, in which `edits` must stand now, as a checkpoint that transformers loads.

    Raises:
        InputError: the directory exists and is not empty, or an edit stands beside the weights, not in them.
        NotWritten: what was written does not read back as what stands; nothing is left of it.
    """
    beside = [edit.id[:8] for edit in edits if len(edit.matrices) < len(edit.deltas)]
    if beside:
        raise InputError(
            f"{len(beside)} standing edits ({', '.join(beside[:9])}) are routed beside the weights, and no checkpoint "
            "holds them: keep the book with the base model, or drop them first."
        )
    with new_directory(directory) as made:
        lm.save(made)
        write_log(made, lm, edits)
    return Path(directory)
