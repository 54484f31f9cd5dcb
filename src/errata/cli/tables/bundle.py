"""What was bundled, or opened, as a few lines."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from errata.cli.tables.base import Json, one_line


def bundle(row: Json) -> RenderableType:
    """What is in the file."""
    return _lines(row, "written", f"{row['bytes']:,} bytes")


def unbundle(row: Json) -> RenderableType:
    """What is in the book, and who signed it."""
    signed = [f"{_counted(count, 'event')} signed by {key}" for key, count in row["signers"].items()] or [
        "signed by nobody"
    ]
    return _lines(row, "every hash and the history hold", *signed)


def _lines(row: Json, *said: str) -> RenderableType:
    held = f"{_counted(row['edits'], 'edit')} and {_counted(row['events'], 'event')}"
    about = f"{held} of {row['base']} ({row['fingerprint'][:12]})"
    lines = [
        f"{row['path']}: {about}",
        *said,
        f"{row['commands']} of the events as command lines",
        f"head {row['head']}",
    ]
    return Group(*(Text(one_line(line), "" if i == 0 else "dim") for i, line in enumerate(lines)))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
