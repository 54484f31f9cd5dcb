"""Pictures in files: PNG or SVG by the file's name, drawn by matplotlib."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from errata.errors import InputError

FORMATS = (".png", ".svg")


def check_picture(target: Path) -> None:
    """Find out before the work whether a picture can be drawn.

    Raises:
        InputError: another kind of file, no such directory, or matplotlib is not installed.
    """
    if target.suffix.lower() not in FORMATS:
        raise InputError(f"cannot draw {target.name!r}; name a file that ends in .png or .svg.")
    if not target.parent.is_dir():
        raise InputError(f"there is no directory {str(target.parent)!r} to draw in; make it first.")
    if find_spec("matplotlib") is None:
        raise InputError("pictures need matplotlib; run: pip install 'errata-lm[plot]'")


def picture(path: str | os.PathLike[str], draw: Callable[[Any], None], **settings: Any) -> Path:
    """Write what `draw` puts on a matplotlib figure, made with `settings`; raises what `check_picture` raises."""
    target = Path(path)
    check_picture(target)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # The same result is the same file: no dates, no random ids, text as text.
    with rc_context({"svg.hashsalt": "errata", "svg.fonttype": "none"}):
        figure = Figure(layout="constrained", **settings)
        draw(figure)
        figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix.lower() == ".svg" else {})
    return target
