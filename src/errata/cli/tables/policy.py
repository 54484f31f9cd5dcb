"""What a book asks, a line each."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from errata.cli.tables.base import Json, flat, table_of


def policy(row: Json) -> RenderableType:
    """What is asked, and in which event it was set."""
    if not row["event"]:
        return Text("The book asks nothing: errata policy book.toml lets it.")
    drawn = table_of("", "")
    drawn.add_row("set by event", str(row["event"]))
    for name, text in flat("", {key: value for key, value in row.items() if key != "event"}):
        drawn.add_row(name, text)
    return drawn
