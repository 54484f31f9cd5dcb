"""Plots as inline SVG: curves with bands, ranges, dumbbells and bars.

Every plot has a viewBox about as wide as a phone, so its text has one size everywhere: a page sets plots side by side
where there is room. Colours come from the page's style sheet (`.m0` … `.m7` set `--c`), so one drawing serves light,
dark and paper.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from errata.report.markup import Safe, el

WIDTH = 380.0
COLOURS = 8
LINE_HEIGHT = 13.0
LETTER = 7.2  # width of a letter, about, at the plots' font size


@dataclass(frozen=True, slots=True)
class Scale:
    """A data interval laid onto pixels, evenly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; values outside the interval stop at its ends."""
        value = min(max(value, self.low), self.high)
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return three to seven round values within the interval."""
        return _log_ticks(self.low, self.high) if self.log else _even_ticks(self.low, self.high)


def _even_ticks(low: float, high: float) -> list[float]:
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step = next(step * m for m in (1, 2, 2.5, 5, 10) if span / (step * m) <= 5)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        found = [m * 10.0**p for p in powers for m in steps if low * 0.999 <= m * 10.0**p <= high * 1.001]
        if len(found) >= 3:
            break
    return found[:: math.ceil(len(found) / 6)] if found else [low, high]


def words(x: float, y: float, content: str, class_: str = "", anchor: str = "start") -> Safe:
    """Return one line of text at a point."""
    return el("text", content, x=px(x), y=px(y), class_=class_ or None, text_anchor=anchor)


def colour(slot: int) -> str:
    """Return the class that sets a method's colour; slot 8 has that of slot 0, dashed."""
    return f"m{slot % COLOURS}" + (" again" if slot >= COLOURS else "")


def mark(slot: int, x: float, y: float, size: float = 3.6) -> Safe:
    """Return the method's marker: shape as well as colour tells methods apart, also two of one colour."""
    turn = slot // COLOURS % 4
    shape, hollow = (slot + turn) % 4, (slot % COLOURS >= 4) ^ bool(turn % 2)
    kind = "mark hollow" if hollow else "mark"
    if shape == 0:
        return el("circle", cx=px(x), cy=px(y), r=px(size), class_=kind)
    turns = {1: (45, 4), 2: (-90, 3), 3: (0, 4)}
    start, corners = turns[shape]
    angles = [math.radians(start + 360 * i / corners) for i in range(corners)]
    reach = size * (1.25 if corners == 4 else 1.45)
    dots = " ".join(f"{px(x + reach * math.cos(a))},{px(y + reach * math.sin(a))}" for a in angles)
    return el("polygon", points=dots, class_=kind)


def cross(x: float, y: float, size: float = 4.5) -> Safe:
    """Return the sign of a run that broke."""
    left, right, top, bottom = px(x - size), px(x + size), px(y - size), px(y + size)
    d = f"M{left} {top}L{right} {bottom}M{left} {bottom}L{right} {top}"
    return el("path", d=d, class_="cross")


def canvas(height: float, title: str, *content: object, width: float = WIDTH) -> Safe:
    """Return the drawing with its title for those who cannot see it."""
    box = f"0 0 {px(width)} {px(height)}"
    label = el("title", title)
    return el("svg", label, *content, viewBox=box, role="img", class_="plot", xmlns="http://www.w3.org/2000/svg")


def spread(levels: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Return the levels in the same order, `gap` apart and between top and bottom, moved as little as possible.

    Isotonic regression of level minus gap · rank (pool adjacent violators): least squares among all such placements.
    `spread([10, 12], 10, 0, 100)` is `[6.0, 16.0]`.
    """
    order = sorted(range(len(levels)), key=lambda i: levels[i])
    pools: list[tuple[float, int]] = []  # (mean, members) of labels that touch
    for rank, i in enumerate(order):
        mean, members = levels[i] - gap * rank, 1
        while pools and pools[-1][0] > mean:
            other, theirs = pools.pop()
            mean, members = (mean * members + other * theirs) / (members + theirs), members + theirs
        pools.append((mean, members))
    starts = [mean for mean, members in pools for _ in range(members)]
    room = max(top, bottom - gap * (len(levels) - 1))
    settled = [0.0] * len(levels)
    for rank, i in enumerate(order):
        settled[i] = min(max(starts[rank], top), room) + gap * rank
    return settled


def rule(x1: float, y1: float, x2: float, y2: float, class_: str) -> Safe:
    """Return a straight line."""
    return el("line", x1=px(x1), y1=px(y1), x2=px(x2), y2=px(y2), class_=class_)


def short(label: str, letters: int = 16) -> str:
    """Return the label as it fits beside a plot: "rome lr=0.1 variant=masked" keeps its values, then its beginning."""
    if len(label) > letters:
        label = re.sub(r"(?<= )\S+?=", "", label)
    return label if len(label) <= letters else label[: letters - 1] + "…"


def px(value: float) -> str:
    """Return a coordinate with one decimal: a tenth of a pixel is finer than a page shows."""
    return f"{value:.1f}".removesuffix(".0")
