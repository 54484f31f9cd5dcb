"""The forms of an export by name: which there are, what each may be asked with, and which function writes it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from errata.edit import Edit
from errata.errors import InputError, did_you_mean
from errata.export.adapter import adapter
from errata.export.blocks import blocks
from errata.export.change import delta
from errata.export.checkpoint import checkpoint
from errata.export.files import FORMATS, ExportedMatrix
from errata.export.gguf import gguf_lora
from errata.export.onto import Onto, gguf_onto
from errata.model.lm import LM


def check_form(form: str, rank: int | None, onto: Onto | None) -> None:
    """Refuse what cannot be asked for together.

    Raises:
        InputError: no such form, a rank for one that has none, or a GGUF file to copy for another form than "gguf".
    """
    if form not in FORMATS:
        raise InputError(f"no form {form!r}.{did_you_mean(form, FORMATS)} Known: {', '.join(FORMATS)}.")
    if rank is not None and (not isinstance(rank, int) or rank < 1):
        raise InputError(f"the rank of an adapter is a whole number from 1 on, not {rank!r}.")
    if onto is not None and not isinstance(onto, Onto):
        raise InputError(f"give the GGUF file as Onto(path), of errata.export.onto, not as {onto!r}.")
    if rank is not None and form not in ("adapter", "gguf-lora"):
        raise InputError("--rank is for adapters: checkpoints and deltas are exact.")
    if (onto is None) == (form == "gguf"):
        raise InputError("--as gguf copies a GGUF file, and no other form does: give --as gguf with --onto MODEL.gguf.")


def write_form(
    lm: LM, edits: Sequence[Edit], directory: str | os.PathLike[str], form: str, how: tuple[int | None, Onto | None]
) -> Sequence[ExportedMatrix]:
    """Write edits in a form that `check_form` has let through with the same rank and file; see the form's own function.

    A checkpoint is of the model as it stands, so the edits must stand in it.
    """
    rank, onto = how
    if onto is not None:
        return gguf_onto(lm, edits, directory, onto)
    if form in ("adapter", "gguf-lora"):
        return (adapter if form == "adapter" else gguf_lora)(lm, edits, directory, rank)
    if form == "checkpoint":
        checkpoint(lm, edits, directory)
        return ()
    return (blocks if form == "blocks" else delta)(lm, edits, directory)
