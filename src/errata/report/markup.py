"""Text into markup, where nothing that comes from data can become markup by accident.

`el` escapes every child that is not itself the result of `el` (a `Safe`), so a prompt holding `<script>` stays text.
What it writes is well-formed XML as well as HTML: the whole page can be read by either kind of parser.
"""

from __future__ import annotations

import html
import re

# Elements written without an end tag; every other one gets its own, as HTML parsers demand.
_EMPTY = frozenset("meta br hr col line path circle rect polygon polyline".split())
# What XML 1.0 cannot carry, lone surrogates among it: models do say such things.
_UNWRITABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Safe(str):
    """Markup that has been escaped already."""

    __slots__ = ()


def text(value: object) -> Safe:
    """Return `value` as text fit for an element or a quoted attribute; unwritable characters become U+FFFD."""
    if isinstance(value, Safe):
        return value
    return Safe(html.escape(_UNWRITABLE.sub("\ufffd", str(value))))


def join(*parts: object) -> Safe:
    """Return the parts one after another, each escaped unless it is `Safe`."""
    return Safe("".join(text(part) for part in parts))


def el(name: str, /, *children: object, **attributes: object) -> Safe:
    """Return one element. `class_` is written `class`, `_` in other names becomes `-`, None leaves one out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY:
        return Safe(f"<{name}{written}/>")
    return Safe(f"<{name}{written}>{join(*children)}</{name}>")
