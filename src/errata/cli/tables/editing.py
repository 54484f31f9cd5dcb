"""Edits, methods, statistics and located facts as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from errata.cli.tables.base import Json, mark, one_line, prompt_of, shortened, table_of, text_of

_ENDED = {
    "settled": "settled",
    "limit": "that was the most to read",
    "corpus": "the corpus ended",
    "part": "that is all of this part",
}


def edit(rows: Sequence[Json]) -> RenderableType:
    """One line a fact: what the model said before, and what it says now."""
    table = table_of("edit", "method", "fact", "before", "now", "")
    for row in rows:
        for fact in row["facts"]:
            table.add_row(
                row["id"][:8], row["method"], prompt_of(fact["prompt"]), shortened(fact["before"]),
                Text(shortened(fact["after"]), "bold"), mark(fact["said"]),
            )  # fmt: skip
    seconds = sum(sum(row["seconds"].values()) for row in rows)
    said = [fact["said"] for row in rows for fact in row["facts"]]
    return Group(table, Text(f"{sum(said)} of {len(said)} said in free generation; {seconds:.1f} s", "dim"))


def methods(rows: Sequence[Json] | Json) -> RenderableType:
    """One line a method; of one alone, its settings."""
    if isinstance(rows, Mapping):
        return _method(rows)
    table = table_of("method", "", "paper")
    for row in rows:
        table.add_row(Text(row["name"], "bold"), one_line(row["title"]), one_line(row["paper"]))
    presets = table_of("preset", "settings as in the literature")
    for preset in (preset for row in rows for preset in row["presets"]):
        presets.add_row(Text(preset["name"], "bold"), one_line(preset["title"]))
    return Group(table, presets)


def _method(row: Json) -> RenderableType:
    """One method and its settings, and those of its presets beside the defaults."""
    table = table_of("setting", "default", "takes", "")
    for setting in row["settings"]:
        table.add_row(
            setting["name"], text_of(setting["default"]), one_line(setting["type"]), one_line(setting["help"])
        )
    return Group(Text(row["title"], "bold"), Text(row["paper"], "dim"), table, *_presets(row))


def _presets(row: Json) -> Iterator[RenderableType]:
    presets = row["presets"]
    if not presets:
        return
    yield Text("\n".join(f"{preset['name']}: {preset['title']}" for preset in presets), "dim")
    table = table_of("setting", "default", *(preset["name"] for preset in presets))
    for setting in row["settings"]:
        own = [preset["settings"].get(setting["name"]) for preset in presets]
        if any(own):
            given = ["" if one is None else f"{text_of(one[0])} ({one[1]})" for one in own]
            table.add_row(setting["name"], text_of(setting["default"]), *given)
    yield table
    yield Text(
        "second: an account of the paper by others; code: released by its authors; ours: none of them says", "dim"
    )


def demo(row: Json) -> RenderableType:
    """One scene of the demo: its title, a table whose answers are marked right or wrong, a remark."""
    parts: list[RenderableType] = [Text(f"\n{row['title']}", "bold cyan")]
    if row["lines"]:
        table = table_of(*row["heads"])
        for above, line in zip([None, *row["lines"]], row["lines"], strict=False):
            if above and above["kind"] != "fact" == line["kind"]:
                table.add_section()
            answers = [Text.assemble(mark(a["right"]), " ", shortened(a["said"], 28)) for a in line["answers"]]
            table.add_row(Text(line["kind"], "dim"), one_line(line["prompt"]), *answers)
        parts.append(table)
    if row["remark"]:
        parts.append(Text(row["remark"], "italic"))
    return Group(*parts)


def stats(found: Mapping[str, Json]) -> RenderableType:
    """One line a site: how many tokens were read, why no more, and what more could still change."""
    if not found:
        return Text("This method needs no statistics of the model.")
    opened = any("opened" in row for row in found.values())
    table = table_of("site", "tokens read", *(["opened it"] if opened else []), "ended because", "disturbs too much by")
    for site, row in found.items():
        left = row.get("excess")
        counts = [f"{row[name]:,}" if name in row else "–" for name in ("tokens", *(["opened"] if opened else []))]
        table.add_row(site, *counts, _ENDED.get(row.get("by", ""), "–"), "–" if left is None else f"{100 * left:.1f} %")
    return table


def save(text: str) -> RenderableType:
    """Where it was saved."""
    return Text(text)
