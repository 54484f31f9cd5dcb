"""Texts that the library `datasets` streams, from its hub or a directory. The only file that imports it (extra ``datasets``).

    "datasets:Salesforce/wikitext:wikitext-103-raw-v1"      # NAME, then where there are several, CONFIG and SPLIT (train)

Rows are read as they come and nothing is kept; each must have a field ``text``. Code that a data set brings is
not run: from its fourth version on, the library cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

from errata.errors import BadConfig, BadFile

PREFIX: Final = "datasets:"
SPLIT: Final = "train"
_FIELD: Final = "text"


def revision(name: str) -> str:
    """Return what changes when the data set does: of one on the hub, its commit.

    Raises:
        BadConfig: datasets is not installed. BadFile: there is no such data set, or it has no texts.
    """
    library, (path, config, split) = _library(), _parts(name)
    try:
        found = library.load_dataset_builder(path, config)
        first = next(iter(library.load_dataset(path, config, split=split, streaming=True)), None)
    except Exception as error:  # whatever datasets, the hub and the network raise: they do not say
        raise _unreadable(name, error) from error
    if first is None or not isinstance(first.get(_FIELD), str):
        has = f"it has {', '.join(map(str, first))}" if first else "it has no rows"
        raise BadFile(f"{name} has no texts in a field {_FIELD!r}: {has}; name another CONFIG or SPLIT.")
    return str(found.hash)[:16]


def texts(name: str) -> Iterator[str]:
    """Yield its texts in order, those that are not empty; raises what `revision` does, also where it breaks off."""
    path, config, split = _parts(name)
    try:
        for row in _library().load_dataset(path, config, split=split, streaming=True):
            if row[_FIELD].strip():
                yield row[_FIELD]
    except Exception as error:  # as above
        raise _unreadable(name, error) from error


def _parts(name: str) -> tuple[str, str | None, str]:
    path, config, split, *more = [*name.removeprefix(PREFIX).split(":"), "", ""]
    if not path or any(more):
        raise BadFile(
            f"{name!r} names no data set: write datasets:NAME, datasets:NAME:CONFIG or datasets:NAME:CONFIG:SPLIT."
        )
    return path, config or None, split or SPLIT


def _library() -> Any:
    try:
        found = import_module("datasets")
    except ImportError as error:
        raise BadConfig("texts of data sets need the library datasets: pip install 'errata-lm[datasets]'.") from error
    found.disable_progress_bars()  # stderr belongs to our sentences
    return found


def _unreadable(name: str, error: Exception) -> BadFile:
    said = " ".join(str(error).split())[:200]
    return BadFile(
        f"the data set {name!r} cannot be read ({type(error).__name__}: {said}); give another name, or a file."
    )
