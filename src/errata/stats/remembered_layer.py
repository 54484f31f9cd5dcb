"""The layer a model's facts were traced to, remembered between sessions.

    remember(lm, 5)
    remembered(lm)                                            # 5, for this very model and no other

One small file per model in the statistics' directory, named by the model's fingerprint.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from errata.errors import UnknownSite
from errata.model.lm import LM
from errata.stats.store import directory

FORMAT = 1


def _path(lm: LM) -> Path:
    return directory() / f"traced-{lm.fingerprint}.json"


def remember(lm: LM, layer: int) -> Path:
    """Make `layer` this model's default from now on; return the file it is kept in.

    Raises:
        UnknownSite: the model has no such layer, or no prompt reaches it.
    """
    if not 0 <= layer < lm.reachable:
        raise UnknownSite(f"{lm.name} has layers 0 to {lm.reachable - 1}; layer {layer} cannot be remembered.")
    path = _path(lm)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    content = {"format": FORMAT, "fingerprint": lm.fingerprint, "name": lm.name, "layer": layer}
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(temporary, path)
    return path


def remembered(lm: LM) -> int | None:
    """Return the layer remembered for this model; None if there is none, or the file cannot be read."""
    try:
        content = json.loads(_path(lm).read_text(encoding="utf-8"))
        layer = int(content["layer"])
        return layer if content["fingerprint"] == lm.fingerprint and 0 <= layer < lm.reachable else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget(lm: LM) -> None:
    """Take the memory back; nothing happens if there is none."""
    _path(lm).unlink(missing_ok=True)
