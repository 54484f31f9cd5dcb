"""Answers on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from errata.cli.tables.base import Json, one_line, table_of


def ask(row: Json) -> RenderableType:
    """The prompt with what the model says after it, and the likeliest next tokens or classes."""
    space = " " if row["of"] == "class" else ""  # text stands as it was generated, directly behind
    said = Text.assemble(row["prompt"], "\n" if row["chat"] else space, (row["text"].rstrip(), "bold"))
    if not row["top"]:
        return said
    table = table_of(row["of"], "p")
    for choice in row["top"]:
        name = repr(choice["token"]) if row["of"] == "next token" else one_line(choice["token"])
        table.add_row(name, f"{choice['p']:.3f} {'▇' * round(choice['p'] * 20)}")
    return Group(said, table)
