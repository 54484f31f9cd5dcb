"""Parts of tables on a terminal. A view takes what `--json` would print and returns something rich can draw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]


def console(*, stderr: bool = False) -> Console:
    """Return the console that everything here is to be printed on."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar with the time left on stderr, and yield what moves it: a function of (done, wanted)."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # few commands draw one

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, wanted: bar.update(task, completed=done, total=wanted)


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
