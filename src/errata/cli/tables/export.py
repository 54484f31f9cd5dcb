"""What was exported, and what an engine said, as tables."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from errata.cli.tables.base import Json, many, one_line, table_of


def export(row: Json) -> RenderableType:
    """Where it is, and at what rank each matrix."""
    said = Text(f"{row['directory']}: {row['form']} of {row['model']} with {many(row['edits'], 'edit')}")
    if not row["parts"]:
        return said
    drawn = table_of("matrix", "in the model", "rank", "of", "error")
    for part in row["parts"]:
        rank = str(part["rank"] or "whole")
        drawn.add_row(part["site"], part["module"], rank, str(part["full"]), f"{part['error']:.2g}")
    return Group(drawn, said)


def push(row: Json) -> RenderableType:
    """What the engine said."""
    text = f"{row['url']} serves it as model {row['name']!r}: {row['answer']}"
    return Group(export(row), Text(one_line(text)))
