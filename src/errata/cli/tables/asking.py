"""Answers on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from errata.cli.tables.base import Json, one_line, table_of


def ask(row: Json | Sequence[Json]) -> RenderableType:
    """The prompt with what the model says after it, and the likeliest next tokens or classes; or what is known."""
    if not isinstance(row, Mapping):
        return _known(row)
    space = " " if row["of"] == "class" else ""  # text stands as it was generated, directly behind
    said = Text.assemble(row["prompt"], "\n" if row["chat"] else space, (row["text"].rstrip(), "bold"))
    if not row["top"]:
        return said
    table = table_of(row["of"], "p")
    for choice in row["top"]:
        name = repr(choice["token"]) if row["of"] == "next token" else one_line(choice["token"])
        table.add_row(name, f"{choice['p']:.3f} {'▇' * round(choice['p'] * 20)}")
    return Group(said, table)


def _known(rows: Sequence[Json]) -> RenderableType:
    """One line a fact, or a relation with how many facts it has, and how to go on from there."""
    brief = "facts" in rows[0]
    table = table_of("ask", "answer", *(["facts"] if brief else []))
    for row in rows:
        table.add_row(row["prompt"], Text(row["answer"], "bold"), *([str(row["facts"])] if brief else []))
    if not brief:
        return table
    total = sum(row["facts"] for row in rows)
    more = "with a word, those that have it: errata ask --list France; each can be asked in five other ways."
    return Group(table, Text(f"{total:,} facts; {more}", "dim"))
