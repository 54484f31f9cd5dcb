"""The layer a model's facts were traced to, remembered between sessions.

    remember(lm, 5)
    remembered(lm)                                            # 5, for this very model and no other

One small file per model in the statistics' directory, named by the model's fingerprint; one that was written while that
was made by an older rule is found if the model is still called the same.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from errata.errors import UnknownSite
from errata.model.lm import LM
from errata.stats.store import directory, put

FORMAT = 1


def _path(lm: LM, fingerprint: str = "") -> Path:
    return directory() / f"traced-{fingerprint or lm.fingerprint}.json"


def remember(lm: LM, layer: int) -> Path:
    """Make `layer` this model's default from now on; return the file it is kept in.

    Raises:
        UnknownSite: the model has no such layer, or no prompt reaches it.
    """
    if not 0 <= layer < lm.reachable:
        raise UnknownSite(f"{lm.name} has layers 0 to {lm.reachable - 1}; layer {layer} cannot be remembered.")
    path = _path(lm)
    content = {"format": FORMAT, "fingerprint": lm.fingerprint, "name": lm.name, "layer": layer}
    put(path, json.dumps(content, indent=1, ensure_ascii=False).encode())
    return path


def remembered(lm: LM) -> int | None:
    """Return the layer remembered for this model; None if there is none, or the file cannot be read."""
    return _read(lm, lm.fingerprint) if _path(lm).exists() or not (older := _older(lm)) else _read(lm, older)


def _read(lm: LM, fingerprint: str) -> int | None:
    try:
        content = json.loads(_path(lm, fingerprint).read_text(encoding="utf-8"))
        layer = int(content["layer"])
        return layer if content["fingerprint"] == fingerprint and 0 <= layer < lm.reachable else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _older(lm: LM) -> str:
    """Return the model's older fingerprint if a layer is remembered by that, looking only at files that name the model."""
    for path in directory().glob("traced-*.json"):
        with suppress(OSError, ValueError, LookupError, TypeError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["name"] == lm.name and content["fingerprint"] == lm.identity.older():
                return lm.identity.older()
    return ""


def forget(lm: LM) -> None:
    """Take the memory back; nothing happens if there is none."""
    if older := _older(lm):
        _path(lm, older).unlink(missing_ok=True)
    _path(lm).unlink(missing_ok=True)
