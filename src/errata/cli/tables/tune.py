"""What was tried to suit a model, and what is kept, as a table."""

from __future__ import annotations

from itertools import groupby

from rich.console import Group, RenderableType
from rich.text import Text

from errata.cli.tables.base import Json, table_of
from errata.report.tuned import COLUMNS, worded


def tune(row: Json | str) -> RenderableType:
    """A line for each setting that was tried, the last and largest number of facts it wrote, and those that chose nothing."""
    if isinstance(row, str):  # nothing was tried
        return Text(row)
    parts: list[RenderableType] = [Text(f"{row['model']} says {row['known']} of the facts it was asked")]
    for method, tried in groupby(row["tried"], key=lambda one: one["method"]):
        every = list(tried)
        last = {worded(one["settings"]): one for one in every if not one["held"]}  # the latest of each
        table = table_of(method, "facts", *COLUMNS, "drift", "score")
        for name, one in last.items():
            table.add_row(name, *_numbers(one))
        for name, one in zip(("as it was", "as chosen"), (one for one in every if one["held"]), strict=True):
            table.add_row(f"others, {name}", *_numbers(one), style="bold")
        kept = row["settings"][method]
        parts += [table, Text(f"kept: {worded(kept)}" if kept else "kept: what it has by itself", "dim")]
    parts.append(Text(f"take {row['best']}; from now on these are the model's defaults ({', '.join(row['files'])})"))
    return Group(*parts)


def _numbers(one: Json) -> list[str]:
    return [str(one["facts"]), *(f"{one[name]:.2f}" for name in COLUMNS), f"{one['drift']:.4f}", f"{one['score']:.3f}"]
