"""Parts of tables on a terminal. A view takes what `--json` would print and returns something rich can draw."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]
PIPED = 160  # columns where there is no terminal to ask


def console(*, stderr: bool = False) -> Console:
    """Return the console that everything here is to be printed on."""
    found = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = PIPED  # whoever reads a pipe is to find every word of a fact
    return found


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


@contextmanager
def paged(drawn: RenderableType, long: bool) -> Iterator[tuple[Console, RenderableType]]:
    """Yield where to print, and what: in a pager if it is long, does not fit the screen, and there is a terminal.

    $PAGER says which; `less` unless it does. It is told to show colours and to leave at once what fits.
    """
    screen = console()
    if not long or not screen.is_terminal or len(screen.render_lines(drawn)) < screen.height:
        yield screen, drawn
        return
    os.environ.setdefault("LESS", "FRX")
    with screen.pager(styles=True):
        yield screen, drawn


class Waiting:
    """Says on stderr how far a command is, once it has taken longer than anybody likes to wait without a word."""

    def __init__(self, what: str, after: float = 2.0) -> None:
        self._what, self._lock = what, threading.Lock()
        self._bar: Any = None
        self._now: tuple[str, int, int | None] = (what, 0, None)
        self._until: float | None = None
        self._timer = threading.Timer(after, self._show)
        self._timer.daemon = True

    def tell(self, what: str, done: int, wanted: int, left: float | None = None) -> None:
        """Take in how far it is, and how many seconds are left if that can be told."""
        with self._lock:
            self._now = (f"{self._what}: {what}", done, wanted or None)
            self._until = None if left is None else time.monotonic() + left
            if self._bar is not None:
                self._draw(self._bar)

    def __enter__(self) -> Waiting:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            if self._bar is not None:
                self._bar.stop()

    def _draw(self, bar: Any) -> None:
        description, completed, total = self._now
        bar.update(self._task, description=description, completed=completed, total=total, until=self._until)

    def _show(self) -> None:
        from rich.progress import (  # few wait so long
            BarColumn,
            Progress,
            ProgressColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        class Left(ProgressColumn):
            """What is left, counted down."""

            def render(self, task: Any) -> Text:
                until = task.fields.get("until")
                return Text("" if until is None else f"{clock(max(0.0, until - time.monotonic()))} left", "dim")

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), Left())
        with self._lock:
            bar = Progress(*columns, console=console(stderr=True), transient=True)
            self._task = bar.add_task("", total=None, until=None)
            self._draw(bar)
            bar.start()
            self._bar = bar


def table_of(*heads: str) -> Table:
    """Return an empty table with these heads."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(heads))
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=head in ("#", "edit", "written", "method"))
    return table


def one_line(text: object) -> str:
    """Return text without line breaks; markup is off in `console`, so brackets that users wrote stay brackets."""
    return " ".join(str(text).split())


def mark(right: bool) -> Text:
    """Return a green tick or a red cross."""
    return Text("✓", "green") if right else Text("✗", "red")


def shortened(text: object, most: int = 60) -> str:
    """Return text on one line, cut with an ellipsis."""
    line = one_line(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def prompt_of(prompt: object, most: int = 120) -> str:
    """Return a prompt on one line; of a document its beginning and its end. `errata show` prints all of it."""
    line = one_line(prompt)
    return line if len(line) <= most else f"{line[: most - 40]} … {line[-37:]}"


def stated(fact: Json) -> str:
    """Return what a fact says, on one line."""
    return f"{prompt_of(fact['prompt'])} → {shortened(fact['target'])}"


def flat(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, text) for everything in a nest of mappings and lists that is not empty."""
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(part, Mapping) for part in value):
        parts = enumerate(value, 1)
    elif value not in ("", [], (), {}, None):
        yield name, text_of(value)
    for key, part in parts:
        yield from flat(f"{name}.{key}".removeprefix("."), part)


def text_of(value: object) -> str:
    """Return a value as a cell shows it; four digits of a float."""
    if isinstance(value, list | tuple):
        return ", ".join(text_of(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def many(things: Sequence[object], name: str) -> str:
    """Return how many of them, with their name: ``1 edit``, ``3 edits``."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


class Narrowing:
    """A table of one line a row: it leaves columns out until the rest has room, and cuts only what may be cut.

    Args:
        optional: columns that may go, in this order; one that is empty goes first. cut: columns that may be cut, down to so
            many characters; all others are shown whole.
    """

    def __init__(self, table: Table, optional: Sequence[str], cut: Mapping[str, int]) -> None:
        self._table, self._optional, self._columns = table, optional, list(table.columns)
        self._whole = [max(len(str(cell)) for cell in (column.header, *column.cells)) for column in self._columns]
        self._least = [min(n, cut.get(str(c.header), n)) for c, n in zip(self._columns, self._whole, strict=True)]

    def __rich_console__(self, screen: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield the table as it fits."""
        gap, own = 1 + int(self._table.padding[1]), self._optional
        kept = [n for n, one in enumerate(self._columns) if one.header not in own or any(map(str, one.cells))]
        for name in own:
            if sum(self._least[n] + gap for n in kept) <= options.max_width:
                break
            kept = [n for n in kept if self._columns[n].header != name]
        left = options.max_width - sum(self._least[n] + gap for n in kept)
        for n in kept:
            more = max(0, min(left, self._whole[n] - self._least[n]))
            left, column = left - more, self._columns[n]
            column.no_wrap, column.overflow, column.width = True, "ellipsis", self._least[n] + more
        self._table.columns = [self._columns[n] for n in kept]
        yield self._table
