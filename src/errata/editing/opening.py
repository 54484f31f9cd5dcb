"""Open a model with its book: `errata.open`."""

from __future__ import annotations

import inspect
import os
from typing import Any

from errata.book.book import Book
from errata.book.policy import Use
from errata.editing.editor import Editor
from errata.errors import InputError, did_you_mean
from errata.model.lm import LM
from errata.model.loading import load


def open(  # noqa: PLR0913
    model: str | os.PathLike[str] | LM = "primer",
    book: str | os.PathLike[str] = ".errata",
    *,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    separator: str = "auto",
    use: Use = "open",
    **settings: Any,
) -> Editor:
    """Open a model with its book and apply the edits that stand.

    Args:
        model: ``"primer"``, a local directory, a hub id, or a loaded `LM`.
        book: the book's directory, made on first use and bound to this model's weights.
        device, dtype, trust_remote_code, separator: as `errata.model.loading.load`.
        use: what for: "open", "ask", "edit" or "serve", which the book's policy may ask signatures of.
        settings: ``corpus``, ``author``, ``max_norm_ratio`` and ``progress`` of the `Editor`.

    Raises:
        InputError: an argument is none that is known, or not of its kind.
        BadModel, UnknownArchitecture: the model cannot be loaded.
        BookOfAnotherModel: the book belongs to other weights.
        CorruptEdit: a standing edit's file was altered.
    """
    own = [*inspect.signature(open).parameters][:-1]
    taken = [*own, *[*inspect.signature(Editor).parameters][2:]]
    for name in settings:
        if name not in taken:
            raise InputError(f"open takes no {name!r}.{did_you_mean(name, taken)} It takes {', '.join(taken)}.")
    if not isinstance(model, LM):
        given = {"device": device, "dtype": dtype, "separator": separator}
        for name, text in given.items():
            if not isinstance(text, str | None):
                raise InputError(f"the {name} is named by text, not by {text!r}.")
        model = load(_name(model), trust_remote_code=trust_remote_code, device=device, dtype=dtype, separator=separator)
    return Editor(model, Book.open(book, base=model.identity, name=model.name, use=use), **settings)


def _name(model: object) -> str:
    """Return the name or directory of a model that is to be loaded."""
    if isinstance(model, str | os.PathLike) and isinstance(name := os.fspath(model), str) and name:
        return name
    kind = type(model).__name__
    raise InputError(
        f"a model is named ('primer', a directory, a GGUF file, a hub id) or is an LM, not {kind}: save one that is in "
        "memory with save_pretrained, its tokenizer too, and open that directory."
    )
