"""What was exported, and what an engine said, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from errata.cli.tables.base import Json, many, mark, one_line, prompt_of, shortened, table_of


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
    """What the engine said, and what it says when asked."""
    lines = [Text(one_line(f"{row['url']} serves it as model {row['model']!r}: {row['answer']}"))]
    if asked := row["asked"]:
        line = Text(f"{prompt_of(asked['prompt'])} → {shortened(asked['text'])} ")
        lines.append(line + mark(asked["said"]))
    return Group(export(row), *lines)


def unpush(row: Json) -> RenderableType:
    """What is served without it."""
    return Text(f"{row['url']} has unloaded {row['name']!r}; it serves {', '.join(row['models']) or 'nothing'}.")


def pull(rows: Sequence[Json]) -> RenderableType:
    """One line a model."""
    found = table_of("model", "of", "state of this book", "read from")
    for row in rows:
        cut = f" (cut to rank {row['cut']})" if row["cut"] else ""
        state = ", ".join(row["states"]) + cut if row["states"] else "unknown" if row["parent"] else "base"
        found.add_row(row["model"], row["parent"], state, row["path"])
    return found
