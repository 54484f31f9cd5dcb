"""The forms of an export by name: which there are, what each may be asked with, and which function writes it.

A package of its own adds one as an `ExportForm` under the entry-point group ``errata.exports``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from errata import plugins
from errata.edit import Edit
from errata.errors import InputError, did_you_mean
from errata.export.adapter import adapter
from errata.export.blocks import blocks
from errata.export.change import delta
from errata.export.checkpoint import checkpoint
from errata.export.files import ExportedMatrix
from errata.export.gguf import gguf_lora
from errata.export.onto import Onto, gguf_onto
from errata.model.lm import LM

FormWriter = Callable[[LM, Sequence[Edit], str | os.PathLike[str], int | None], Sequence[ExportedMatrix] | None]


@dataclass(frozen=True, slots=True)
class ExportForm:
    """A form in which edits leave errata.

    Args:
        name: what `errata export --as` calls it.
        write: from the model, the edits oldest first, a directory that is not there yet, and the rank (None: what is exact),
            to a row for each matrix; `errata.sdk.new_directory` lets the directory appear whole or not at all.
        ranked: whether a rank may be asked for. standing: whether the edits must stand in the model while it writes.
    """

    name: str
    write: FormWriter
    ranked: bool = False
    standing: bool = False


FORMS: Final[Mapping[str, ExportForm]] = {
    form.name: form
    for form in (
        ExportForm("checkpoint", lambda lm, edits, at, _: _none(checkpoint(lm, edits, at)), standing=True),
        ExportForm("delta", lambda lm, edits, at, _: delta(lm, edits, at)),
        ExportForm("adapter", adapter, ranked=True),
        ExportForm("blocks", lambda lm, edits, at, _: blocks(lm, edits, at)),
        ExportForm("gguf-lora", gguf_lora, ranked=True),
    )
}
ONTO: Final = "gguf"  # the one form that is made of another file


def _none(_: object) -> Sequence[ExportedMatrix]:
    return ()


def form_of(name: str) -> ExportForm:
    """Return the form of a name, a plugin's too.

    Raises:
        InputError: there is none; the message proposes the nearest.
    """
    if name in FORMS:
        return FORMS[name]
    taken = (*FORMS, ONTO)
    added = plugins.installed("errata.exports", taken, _unfolded)
    if name in added:
        found: ExportForm = added[name].value
        return found
    known = (*taken, *added)
    raise InputError(f"no form {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")


def _unfolded(value: object) -> Mapping[str, ExportForm]:
    """Return the forms that a plugin gives: one, or those in a module."""
    found = [one for one in plugins.things(value) if isinstance(one, ExportForm)]
    if not found:
        raise TypeError("it gives no errata.sdk.ExportForm")
    return {form.name: form for form in found}


def check_form(form: str, rank: int | None, onto: Onto | None) -> None:
    """Refuse what cannot be asked for together.

    Raises:
        InputError: no such form, a rank for one that has none, or a GGUF file to copy for another form than "gguf".
    """
    ranked = form != ONTO and form_of(form).ranked
    if rank is not None and (not isinstance(rank, int) or rank < 1):
        raise InputError(f"the rank of an adapter is a whole number from 1 on, not {rank!r}.")
    if onto is not None and not isinstance(onto, Onto):
        raise InputError(f"give the GGUF file as Onto(path), of errata.export.onto, not as {onto!r}.")
    if rank is not None and not ranked:
        raise InputError("--rank is for adapters: checkpoints and deltas are exact.")
    if (onto is None) == (form == ONTO):
        raise InputError("--as gguf copies a GGUF file, and no other form does: give --as gguf with --onto MODEL.gguf.")


def write_form(
    lm: LM, edits: Sequence[Edit], directory: str | os.PathLike[str], form: str, how: tuple[int | None, Onto | None]
) -> Sequence[ExportedMatrix]:
    """Write edits in a form that `check_form` has let through with the same rank and file; see the form's own function.

    A form that says `standing` is of the model as it stands, so the edits must stand in it.
    """
    rank, onto = how
    if onto is not None:
        return gguf_onto(lm, edits, directory, onto)
    return form_of(form).write(lm, edits, directory, rank) or ()
