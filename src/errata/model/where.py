"""Where a model's files lie, and what they say before anything is loaded. Nothing here imports torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from errata.content import read_file
from errata.errors import BadModel
from errata.model import gguf

PRIMER: Final = Path(__file__).parent.parent / "primer" / "model"
_LONGEST: Final = 1 << 24  # bytes of a config.json


def folder_of(name: str) -> Path | None:
    """Return the directory that a name means, or None if it means a GGUF file or, for all that is known, a hub id.

    Raises:
        BadModel: it is not there, or is no directory.
    """
    if name == "primer":
        if not PRIMER.is_dir():
            raise BadModel("the primer's weights are not in this installation; run: make primer")
        return PRIMER
    path = os.path.expanduser(name)
    if gguf.file_of(name) is not None or not (os.path.exists(path) or path[:1] in ("/", ".", "~")):
        return None
    if not os.path.isdir(path):
        what = "is a file" if os.path.exists(path) else "is not there"
        raise BadModel(f"{name!r} {what}; give a directory as save_pretrained writes it.")
    return Path(path)


def config_of(name: str) -> Mapping[str, Any]:
    """Return what a model's config.json says; nothing where there is none to read, as of a hub id.

    Raises:
        BadModel: as `folder_of`.
    """
    folder = folder_of(name)
    try:
        found = json.loads(read_file(folder / "config.json", _LONGEST)) if folder else {}
    except (OSError, ValueError, RecursionError):  # whoever loads it says what is wrong
        return {}
    return found if isinstance(found, dict) else {}
