"""How the page names, orders and writes the numbers of the table in `errata.evaluate.metrics`."""

from __future__ import annotations

import math
from collections.abc import Iterable

from errata.evaluate.metrics import HARNESS, named, table
from errata.report.read import Measured

OTHER = "Other"


def section(name: str) -> str:
    """Return the section of the page's table a number stands in; what the table of metrics does not know is "Other"."""
    row = named(name)
    return OTHER if row is None else row.section


def meaning(name: str) -> str:
    """Return what a number measures, "" where nothing is known but its name."""
    row = named(name)
    return "" if row is None else row.meaning


def sign(name: str) -> float:
    """Return 1 where more is better, -1 where less is, 0 where neither can be said."""
    row = named(name)
    return 0.0 if row is None else {"up": 1.0, "down": -1.0}.get(row.better, 0.0)


def is_share(name: str) -> bool:
    """Return whether the number lies between 0 and 1."""
    row = named(name)
    return row is not None and row.share


def ordered(names: Iterable[str]) -> list[str]:
    """Return the names in the order of the page: by section, those of the table first."""
    rows = table()
    known = [row.name for row in rows]
    sections: list[str] = list(dict.fromkeys(row.section for row in rows))

    def place(name: str) -> tuple[int, int, str]:
        found = known.index(name) if name in known else len(known)
        part = section(name)
        return sections.index(part) if part in sections else len(sections), found, name

    return sorted(set(names), key=place)


def spoken(name: str) -> str:
    """Return the name as the page shows it."""
    return name.removeprefix(HARNESS).replace("_", " ").replace(".", ": ")


def number(value: float | None, digits: int = 3) -> str:
    """Return about three significant digits, thousands with commas; "–" where there is no number."""
    if value is None:
        return "–"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1e7:
        return f"{value:.1e}"
    if abs(value) < 1e-4:
        return f"{value:.0e}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def mean(name: str, value: Measured | None) -> str:
    """Return the mean alone: two decimals for a share, else as many as its interval bears."""
    if value is None or value.mean is None:
        return "–"
    decimals = _decimals(name, value)
    return number(value.mean) if decimals is None else f"{value.mean:,.{decimals}f}"


def half(name: str, value: Measured | None) -> str:
    """Return "± 0.02", with as many decimals as the mean has, or "" where there is no interval."""
    if value is None or value.mean is None or value.half is None:
        return ""
    decimals = _decimals(name, value)
    return f"± {number(value.half, 2)}" if decimals is None else f"± {value.half:,.{decimals}f}"


def _decimals(name: str, value: Measured) -> int | None:
    """Return how many decimals to write; None where the interval does not say."""
    if is_share(name):
        return 2
    if not value.half or value.half >= 1e7 or value.half < 1e-6:
        return None
    # One digit of the interval is enough, two where the first is a 1.
    power = math.floor(math.log10(value.half))
    return max(0, -power + (value.half < 2 * 10.0**power))


def size(count: float | None) -> str:
    """Return a number of bytes in the unit that suits it."""
    if count is None:
        return "–"
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(len(units) - 1, int(math.log(max(count, 1), 1024)))
    return f"{number(count / 1024**power)} {units[power]}"


def seconds(time: float | None) -> str:
    """Return a duration in milliseconds, seconds or minutes."""
    if time is None:
        return "–"
    if time < 1:
        return f"{number(time * 1000, 2)} ms"
    return f"{number(time)} s" if time < 120 else f"{number(time / 60)} min"


def edits(count: int) -> str:
    """Return "1 edit" or "1,000 edits"."""
    return f"{count:,} edit{'s' * (count != 1)}"
