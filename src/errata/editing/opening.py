"""Open a model with its book: `errata.open`. What files say is looked at before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from errata.collector import growing
from errata.editing.foresight import foresee
from errata.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from errata.book.policy import Use
    from errata.editing.editor import Editor
    from errata.model.lm import LM

_OWN: Final = ("model", "book", "device", "dtype", "trust_remote_code", "separator", "use")
_NO_MODEL: Final = (
    "a model is named ('primer', a directory, a GGUF file, a hub id) or is an LM, not {}: save one that is in memory with "
    "save_pretrained, its tokenizer too, and open that directory."
)
_EDITORS: Final = ("corpus", "author", "max_norm_ratio", "progress")


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
        InputError: not such an argument. BadModel, UnknownArchitecture: the model cannot be loaded.
        BookOfAnotherModel: the book belongs to other weights. CorruptEdit: a standing edit's file was altered.
    """
    _check(settings, device, dtype, separator)
    path = os.fspath(model) if isinstance(model, str | os.PathLike) else ""
    if path:
        foresee(path, book, settings.get("corpus"), use)

    with growing():
        from errata.book.book import Book
        from errata.editing.editor import Editor
        from errata.model.lm import LM
        from errata.model.loading import load

        if not isinstance(model, LM):
            if not path:
                raise InputError(_NO_MODEL.format(type(model).__name__))
            model = load(path, trust_remote_code=trust_remote_code, device=device, dtype=dtype, separator=separator)
    return Editor(model, Book.open(book, base=model.identity, name=model.name, use=use), **settings)


def _check(settings: Mapping[str, Any], device: object, dtype: object, separator: object) -> None:
    """Raise InputError for a setting that there is not, or that is not of its kind."""
    for name in settings:
        if name not in _EDITORS:
            taken = (*_OWN, *_EDITORS)
            raise InputError(f"open takes no {name!r}.{did_you_mean(name, taken)} It takes {', '.join(taken)}.")
    for name, text in (("device", device), ("dtype", dtype), ("separator", separator)):
        if not isinstance(text, str | None):
            raise InputError(f"the {name} is named by text, not by {text!r}.")
