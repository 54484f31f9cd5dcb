"""An EditCard as tables."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from errata.cli.tables.base import Json, mark, shortened, stated, table_of
from errata.cli.tables.book import conflicts


def ci(row: Json) -> RenderableType:
    """The verdict, the facts, the gates."""
    parts: list[RenderableType] = []
    facts = table_of("fact", "before", "after", "")
    for one in row["facts"]:
        fact = stated(one)
        facts.add_row(fact, shortened(one["before"]), shortened(one["after"]), mark(one["said"]))
    parts.append(facts)
    gates = table_of("measured", "found", "limit", "asked", "")
    for one in row["figures"]:
        found, limit = ("–" if x is None else f"{x:.3g}" for x in (one["value"], one["limit"]))
        asked = str(one["asked"]) + (f", {one['made']} made" if one.get("made") else "")
        empty = one["value"] is None and not one["asked"]  # then there is nothing to tick
        gates.add_row(one["gate"], found, limit, asked, Text("") if empty and one["passed"] else mark(one["passed"]))
    parts += [gates] if row["figures"] else []
    parts += [conflicts({"facts": row["conflicts"], "keys": []})] if row["conflicts"] else []
    verdict = Text("passed", "green") if row["passed"] else Text(row["refused"] or "refused: a gate is closed", "red")
    return Group(*parts, verdict)
