"""Curves over the number of edits: bands for the intervals, names at the ends, edits per dimension below the axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from errata.report.markup import Safe, el, join
from errata.report.svg import (
    LETTER,
    LINE_HEIGHT,
    WIDTH,
    Scale,
    canvas,
    colour,
    cross,
    mark,
    px,
    rule,
    short,
    spread,
    words,
)


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: where, how much, and its interval."""

    x: float
    y: float
    low: float | None = None  # None without an interval, as for a single fact
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One curve; `slot` is its colour, `broken` ends it in a cross."""

    label: str
    slot: int
    points: tuple[Point, ...]
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """What a plot of curves needs besides its lines."""

    title: str
    share: bool  # the y axis is 0 to 1
    baseline: float | None = None  # the unedited model
    x_ticks: tuple[int, ...] = ()
    dimensions: tuple[tuple[str, int], ...] = ()  # ("out", 192), ("in", 640): second axes in edits per dimension


def curves(panel: Panel, lines: Sequence[Line]) -> Safe:
    """Return curves over the number of edits, named at their ends."""
    below = 20 + LINE_HEIGHT * len(panel.dimensions)
    height = 216 + below
    longest = max((len(short(line.label)) for line in lines), default=0)
    right = WIDTH - min(124.0, max(80.0, 14 + longest * LETTER))
    seen = [p.x for line in lines for p in line.points] or [1.0]
    first, last = min(seen), max(seen)
    x = Scale(first, last, 42, right, log=True) if last > first else Scale(first - 1, last + 1, 42, right)
    y = _height_scale(panel, lines, 206)
    bands = el("g", *(_band(line, x, y) for line in lines), class_="many" if len(lines) > 4 else None)
    drawn = [_curve(line, x, y) for line in lines]
    return canvas(height, panel.title, _frame(panel, x, y, height - below), bands, *drawn, _names(lines, x, y))


def _height_scale(panel: Panel, lines: Sequence[Line], bottom: float) -> Scale:
    if panel.share:
        return Scale(0, 1, bottom, 18)
    values = [p.y for line in lines for p in line.points] + ([] if panel.baseline is None else [panel.baseline])
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low > 0 and high / low > 5:
        high = min(high, low * 1e9)  # a collapsed model's perplexity has hundreds of digits; it stays at the edge
        return Scale(low / 1.15, high * 1.15, bottom, 18, log=True)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return Scale(low - room, high + room, bottom, 18)


def _frame(panel: Panel, x: Scale, y: Scale, bottom: float) -> Safe:
    parts = []
    for tick in y.ticks():
        parts.append(rule(x.start, y(tick), x.end, y(tick), "grid"))
        parts.append(words(x.start - 6, y(tick) + 3.5, f"{tick:,g}", "tick", "end"))
    parts.append(rule(x.start, y.start, x.end, y.start, "axis"))
    for tick in _apart(panel.x_ticks, x, 30):
        parts.append(rule(x(tick), y.start, x(tick), y.start + 4, "axis"))
        parts.append(words(x(tick), bottom + 5, f"{tick:,}", "tick", "middle"))
    parts.append(words(x.end + 22, bottom + 5, "edits", "tick"))
    if panel.baseline is not None:
        parts.append(rule(x.start, y(panel.baseline), x.end, y(panel.baseline), "base"))
        parts.append(words(x.start + 2, y(panel.baseline) - 4, "unedited", "tick haloed"))
    within = sorted(size for _, size in panel.dimensions if x.low <= size <= x.high)
    for number, (name, size) in enumerate(panel.dimensions):
        level = bottom + 5 + LINE_HEIGHT * (number + 1)
        parts.append(_second_axis(name, size, x, level))
        if size in within:
            # Two names above the plot stand left and right of their lines, or they would overlap.
            anchor = "middle" if len(within) == 1 else "end" if size == within[0] else "start"
            parts.append(rule(x(size), y.end, x(size), level - 10, "dimension"))
            parts.append(words(x(size), y.end - 5, f"{size} = {name}", "tick", anchor))
    return join(*parts)


def _second_axis(name: str, size: int, x: Scale, level: float) -> Safe:
    """Return a row of edits per dimension below the axis."""
    ticks = [(10.0**power, size * 10.0**power) for power in range(-6, 4)]
    inside = [(share, at) for share, at in ticks if x.low <= at <= x.high]
    shown = [words(x(at), level, f"{share:g}", "tick", "middle") for share, at in inside]
    return join(words(x.end + 22, level, f"edits/{name}", "tick"), *shown)


def _apart(ticks: Iterable[int], x: Scale, gap: float) -> list[int]:
    """Return the ticks that fit beside one another, the last one for certain."""
    kept: list[int] = []
    for tick in sorted(set(ticks), reverse=True):
        if not kept or x(kept[-1]) - x(tick) >= gap:
            kept.append(tick)
    return kept


def _band(line: Line, x: Scale, y: Scale) -> Safe:
    """Return the intervals as an area, over the points that have one."""
    ends = [(x(p.x), y(p.low), y(p.high)) for p in line.points if p.low is not None and p.high is not None]
    if len(ends) < 2:
        return Safe()
    upper = [f"{px(at)},{px(high)}" for at, _, high in ends]
    lower = [f"{px(at)},{px(low)}" for at, low, _ in reversed(ends)]
    return el("polygon", points=" ".join(upper + lower), class_=f"band {colour(line.slot)}")


def _curve(line: Line, x: Scale, y: Scale) -> Safe:
    if not line.points:
        return Safe()
    dots = [mark(line.slot, x(p.x), y(p.y)) for p in line.points]
    if line.broken:
        dots[-1] = cross(x(line.points[-1].x), y(line.points[-1].y))
    return el("g", _path(line, x, y, "curve"), *dots, class_=colour(line.slot))


def _path(line: Line, x: Scale, y: Scale, class_: str) -> Safe:
    return el("polyline", points=" ".join(f"{px(x(p.x))},{px(y(p.y))}" for p in line.points), class_=class_)


def _names(lines: Sequence[Line], x: Scale, y: Scale) -> Safe:
    """Return each line's name at its end, moved up or down until no two that share a column overlap."""
    drawn = [line for line in lines if line.points]
    ends = [(x(line.points[-1].x), y(line.points[-1].y)) for line in drawn]
    parts = []
    for members in _columns(drawn, ends):
        settled = spread([ends[i][1] for i in members], LINE_HEIGHT, y.end, y.start)
        for i, level in zip(members, settled, strict=True):
            at, own = ends[i]
            lead = [rule(at + 5, own, at + 11, level, "lead")] if abs(level - own) > 3 else []
            name = words(at + (13 if lead else 8), level + 4, short(drawn[i].label), "name haloed")
            parts.append(el("g", *lead, name, class_=colour(drawn[i].slot)))
    return join(*parts)


def _columns(lines: Sequence[Line], ends: Sequence[tuple[float, float]]) -> list[list[int]]:
    """Return the lines in groups whose names lie beside one another, so that only those make room."""
    groups: list[list[int]] = []
    reach = -1.0
    for i in sorted(range(len(lines)), key=lambda i: ends[i][0]):
        if ends[i][0] > reach:
            groups.append([])
        groups[-1].append(i)
        reach = max(reach, ends[i][0] + 13 + LETTER * len(short(lines[i].label)))
    return groups


def gap(title: str, upper: Line, lower: Line, names: tuple[str, str]) -> Safe:
    """Return two curves of one method with the space between them filled; `names` says which is which.

    Both hold the same checkpoints; both are shares.
    """
    xs = [p.x for p in upper.points]
    x, y = Scale(xs[0], xs[-1], 42, WIDTH - 84, log=True), Scale(0, 1, 124, 10)
    forth = [f"{px(x(p.x))},{px(y(p.y))}" for p in upper.points]
    back = [f"{px(x(p.x))},{px(y(p.y))}" for p in reversed(lower.points)]
    between = el("polygon", points=" ".join(forth + back), class_="between")
    ends = (y(upper.points[-1].y), y(lower.points[-1].y))
    levels = spread(ends, LINE_HEIGHT, y.end, y.start)
    named = [words(x.end + 10, level + 4, name, "name haloed") for level, name in zip(levels, names, strict=True)]
    panel = Panel(title, share=True, x_ticks=tuple(int(v) for v in xs))
    drawn = el("g", between, _path(upper, x, y, "curve thin"), _curve(lower, x, y), *named, class_=colour(lower.slot))
    return canvas(146, title, _frame(panel, x, y, 136), drawn)
