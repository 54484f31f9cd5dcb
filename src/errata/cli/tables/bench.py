"""Summaries of benchmark runs as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from errata.cli.tables.base import Json, table_of
from errata.evaluate.metrics import HARNESS, named
from errata.evaluate.metrics import table as metrics

# What a comparison of methods is first judged by; what does not fit is left to the report.
FIRST = (
    *("said", "efficacy", "paraphrase", "neighborhood"),
    *("perplexity", "portability_said", "retention_oldest", "judged"),
)


@dataclass(frozen=True, slots=True)
class _Fitting:
    """A table that leaves out columns from the right until it fits where it is drawn, and says so below."""

    heads: Sequence[str]
    lines: Sequence[Sequence[str]]
    fixed: int  # columns from the left that always stay
    note: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = len(self.heads)
        while shown > self.fixed and self.table_of(shown, console, options)[1] > options.max_width:
            shown -= 1
        yield self.table_of(shown, console, options)[0]
        left = ", ".join(self.heads[shown:])
        yield Text(f" {self.note}" + (f" Not shown here: {left}." if left else ""), "dim")

    def table_of(self, shown: int, console: Console, options: ConsoleOptions) -> tuple[Table, int]:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for number, head in enumerate(self.heads[:shown]):
            table.add_column(head, no_wrap=True, justify="left" if number == 0 else "right")
        for line in self.lines:
            table.add_row(*line[:shown])
        return table, Measurement.get(console, options.update(max_width=10_000), table).maximum


def bench(rows: Sequence[Json]) -> RenderableType:
    """The unedited model, and each method after its last edit, with the numbers people look at first."""
    return Group(_first(rows), *_wild(rows))


def _wild(rows: Sequence[Json]) -> Iterator[RenderableType]:
    """Yield what critics ask, a line a number, where that was asked."""
    ends = [rows[0]["checkpoints"][0], *(row["checkpoints"][-1] for row in rows)] if rows else []
    asked = [metric.name for metric in metrics() if metric.section == "In the wild"]
    held = [name for name in asked if any(name in point["metrics"] for point in ends)]
    if not held:
        return
    drawn = table_of("in the wild", "unedited", *(row["method"] for row in rows))
    for name in held:
        drawn.add_row(name.replace("_", " "), *(_estimate(point["metrics"].get(name)) for point in ends))
    yield drawn


def _first(rows: Sequence[Json]) -> RenderableType:
    ends = [("unedited", row["checkpoints"][0]) for row in rows[:1]]
    ends += [(row["method"] + (" (stopped)" if row["stopped"] else ""), row["checkpoints"][-1]) for row in rows]
    tasks = [name for _, point in ends for name in point["metrics"] if name.startswith(HARNESS)]
    added = [row.name for row in metrics() if row.score]
    shown = [row for name in dict.fromkeys((*FIRST, *added, *tasks)) if (row := named(name)) is not None]
    held = {row.name: row.short or row.name for row in shown if any(row.name in point["metrics"] for _, point in ends)}
    lines = [
        (name, str(point["edits"]), *(_estimate(point["metrics"].get(metric)) for metric in held))
        for name, point in ends
    ]
    facts = max((point["metrics"]["said"]["n"] for _, point in ends if "said" in point["metrics"]), default=0)
    refused = "".join(f" {row['method']} refused {row['refused']} cases." for row in rows if row["refused"])
    refused += "".join(
        f" {row['method']} made {row['unwritable']} updates that errata edit refuses."
        for row in rows
        if row.get("unwritable")
    )
    note = f"± 95 % interval, n = {facts} facts.{refused} Every checkpoint and number is in the report."
    return _Fitting(("", "edits", *held.values()), lines, 3, note)


def _estimate(found: Json | None) -> str:
    if found is None or found["mean"] is None:
        return "–"
    mean, half = found["mean"], found["half_width"]
    digits = 2 if abs(mean) < 100 else 0
    return f"{mean:.{digits}f}" + ("" if half is None else f"±{half:.{digits}f}")


def data(rows: Sequence[Json]) -> RenderableType:
    """A few lines a benchmark: what it is, where it was found, or where to get it."""
    table = table_of("cases", "")
    table.columns[0].no_wrap = True
    for row in rows:
        place = [f"{row['records']:,} records", *row["files"]] if row["files"] else [f"get it from {row['where']}"]
        about = [Text(row["title"]), *(Text(line, "dim") for line in (*place, f"licence: {row['licence']}"))]
        table.add_row(row["name"], Text("\n").join(about))
    return table


def report(text: str) -> RenderableType:
    """Where the page is, and of how many runs."""
    return Text(text)
