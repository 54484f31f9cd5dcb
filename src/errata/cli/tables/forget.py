"""What a model told before something was forgotten, what it tells now, and which traces are left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from errata.cli.tables.base import Json, mark, prompt_of, shortened, table_of


def forget(rows: Sequence[Json]) -> RenderableType:
    """Of each wish: the questions with what is said, the membership check, and the neighbours."""
    return Group(*(part for row in rows for part in _one(row)))


def _one(row: Json) -> Iterator[RenderableType]:
    ids = ", ".join(id[:8] for id in row["edits"])
    yield Text.assemble(
        "forgotten: ", (shortened(row["answer"]), "bold"), f"; said instead: {row['phrase']!r}; edit {ids}"
    )
    table = table_of("asked", "before", "now", "")
    for asked in row["asked"]:
        prompt = (
            prompt_of(asked["prompt"]) if asked["written"] else Text.assemble(prompt_of(asked["prompt"]), (" *", "dim"))
        )
        now = Text(shortened(asked["after"], 28), "bold")
        table.add_row(prompt, shortened(asked["before"], 28), now, mark(not asked["told"]))
    yield table
    if not all(asked["written"] for asked in row["asked"]):
        yield Text("* only asked: it did not give the answer away", "dim")
    others = len(row["others"])
    traces = table_of("traces", "before", "now", "where nothing is known")
    lines = {
        f"likelier than other answers, of {others}": ("membership", "about 0.5"),
        "other answers, times as likely": ("truth_ratio", "1 or more"),
        "probability a token": ("probability", "as that of others"),
    }
    for name, (key, known) in lines.items():
        traces.add_row(name, _number(row["before"][key]), _number(row["after"][key]), known)
    yield traces
    near = row["neighbours"]
    yield Text(
        f"{row['kept']} of {len(near)} questions about others are answered as before." if near else "No others asked."
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"
