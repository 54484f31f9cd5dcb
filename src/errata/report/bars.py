"""Plots with a row for each method: ranges around a mean, two values joined, bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.report.markup import Safe, el, join
from errata.report.svg import LETTER, WIDTH, Scale, canvas, colour, mark, px, rule, short, words

ROW_HEIGHT = 26.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a plot that has a row for each method."""

    label: str
    slot: int
    value: float
    note: str = ""
    low: float | None = None
    high: float | None = None
    other: float | None = None  # a second value, joined to the first


def ranges(title: str, rows: Sequence[Bar], share: bool, baseline: float | None = None) -> Safe:
    """Return a dot and its interval for each row, with a line where the unedited model is."""
    seen = [v for row in rows for v in (row.low, row.high, row.value) if v is not None]
    low, high = (0.0, 1.0) if share else (0.0, 1.05 * max([*seen, baseline or 0.0], default=1.0))
    x, bottom = _columns(rows, low, high), 13 + ROW_HEIGHT * len(rows)
    parts = [_axis(x, bottom)]
    if baseline is not None:
        parts.append(rule(x(baseline), 0, x(baseline), bottom, "base"))
        end = x(baseline) > (x.start + x.end) / 2
        at, anchor = (x(baseline) - 5, "end") if end else (x(baseline) + 5, "start")
        parts.append(words(at, 9, "unedited", "tick", anchor))
    for row, y in _placed(rows):
        whisker = [] if row.low is None or row.high is None else [rule(x(row.low), y, x(row.high), y, "whisker")]
        parts.append(_row(row, y, *whisker, mark(row.slot, x(row.value), y, 4.2)))
    return canvas(bottom + 22, title, *parts)


def dumbbells(title: str, rows: Sequence[Bar]) -> Safe:
    """Return two shares for each row, joined: `value` filled, `other` hollow."""
    x, bottom = _columns(rows, 0, 1), 13 + ROW_HEIGHT * len(rows)
    parts = [_axis(x, bottom)]
    for row, y in _placed(rows):
        other = row.value if row.other is None else row.other
        bar = rule(x(row.value), y, x(other), y, "dumbbell")
        ends = (
            el("circle", cx=px(x(other)), cy=px(y), r="5", class_="mark hollow"),
            el("circle", cx=px(x(row.value)), cy=px(y), r="5", class_="mark"),
        )
        parts.append(_row(row, y, bar, *ends))
    return canvas(bottom + 22, title, *parts)


def bars(title: str, rows: Sequence[Bar]) -> Safe:
    """Return a bar from zero for each row; the notes carry the numbers, so there is no axis."""
    x = _columns(rows, 0, max((row.value for row in rows), default=1.0) or 1.0)
    parts = [rule(x.start, 11, x.start, 13 + ROW_HEIGHT * len(rows), "axis")]
    for row, y in _placed(rows):
        length = max(1.0, x(row.value) - x.start)
        parts.append(_row(row, y, el("rect", x=px(x.start), y=px(y - 7), width=px(length), height="14", class_="bar")))
    return canvas(14 + ROW_HEIGHT * len(rows), title, *parts)


def _columns(rows: Sequence[Bar], low: float, high: float) -> Scale:
    """Return the scale between the column of names and the column of notes."""
    left = 12 + LETTER * max((len(short(row.label)) for row in rows), default=0)
    right = 10 + 0.93 * LETTER * max((len(row.note) for row in rows), default=0)
    return Scale(low, high, left, WIDTH - max(right, 16))


def _placed(rows: Sequence[Bar]) -> list[tuple[Bar, float]]:
    return [(row, 11 + ROW_HEIGHT * (number + 0.5)) for number, row in enumerate(rows)]


def _axis(x: Scale, bottom: float) -> Safe:
    ticks = x.ticks()
    lines = [rule(x(tick), 13, x(tick), bottom, "grid") for tick in ticks]
    names = [words(x(tick), bottom + 15, f"{tick:,g}", "tick", "middle") for tick in ticks]
    return join(*lines, *names)


def _row(row: Bar, y: float, *drawn: Safe) -> Safe:
    name = words(0, y + 4, short(row.label), "name")
    note = words(WIDTH, y + 4, row.note, "note", "end")
    return el("g", name, *drawn, note, class_=colour(row.slot))
