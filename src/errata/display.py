"""How values show themselves: one or two lines at a prompt, and HTML where a notebook draws them (`_repr_html_`).

A value's class says what there is to show; here is how it looks. HTML carries its few styles with it, since a notebook lends
none, and every text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from errata.errors import visible

_CELL = "text-align:left;padding:2px 10px 2px 0"
_BAR = "display:inline-block;height:9px;background:#4a7;border-radius:2px"


def short(text: object, most: int = 48) -> str:
    """Return text on one line, which a terminal only shows, cut with an ellipsis."""
    line = visible(" ".join(str(text).split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def fields_of(value: Any, names: Iterable[str]) -> str:
    """Return ``name='text', …`` of the fields that say something; of a tuple how many it has."""
    given = ((name, getattr(value, name)) for name in names)
    shown = (
        (name, f"<{len(v)}>" if isinstance(v, tuple) else repr(v))
        for name, v in given
        if v not in ("", (), None, False)
    )
    return ", ".join(f"{name}={text}" for name, text in shown)


def stated(facts: Sequence[Any]) -> str:
    """Return what the first fact says, and how many more there are."""
    if not facts:
        return "no fact"
    more = f" and {len(facts) - 1} more" if len(facts) > 1 else ""
    return f"{short(facts[0].prompt)!r} → {short(facts[0].target, 30)!r}{more}"


def line_of(edit: Any, *more: str) -> str:
    """Return one line about an edit: what it is, by which method, what it says, and what else there is to say."""
    who = f"by {short(edit.author, 24)}" if edit.author else ""
    tail = ", ".join(text for text in (*more, who, edit.created_at[:10]) if text)
    return f"<{type(edit).__name__} {edit.id[:8]} {edit.method}: {stated(edit.facts)}{f' ({tail})' if tail else ''}>"


def said_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how many of an edit's facts are said, in words; "" where that was not looked at."""
    said = sum(bool(row.get("said")) for row in rows)
    return "" if not rows else ("said" if said else "not said") if len(rows) == 1 else f"{said} of {len(rows)} said"


def html_of(edit: Any, rows: Sequence[Mapping[str, Any]], *more: str) -> str:
    """Return an edit as a table: each fact, what the model said before and what it says now.

    Args:
        rows: of the edit's report, one a fact; without them only the facts are shown.
    """
    who = [text for text in (edit.method, *more, edit.author and f"by {edit.author}", edit.created_at[:16]) if text]
    head = f"<b>{type(edit).__name__} <code>{escape(edit.id[:8])}</code></b> {escape(' · '.join(who))}"
    if not rows:
        return head + table(("prompt", "target"), [(fact.prompt, fact.target) for fact in edit.facts])
    marks = {True: "✓", False: "✗"}
    cells = [(r["prompt"], r["target"], r["before"], r["after"], marks[bool(r["said"])]) for r in rows]
    return head + table(("prompt", "target", "before", "now", ""), cells)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an HTML table of texts; a float from 0 to 1 becomes a bar with its number."""
    top = "".join(f'<th style="{_CELL}">{escape(head)}</th>' for head in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    shown = escape(visible(str(value)))
    if isinstance(value, float):
        shown = f'<span style="{_BAR};width:{120 * value:.0f}px"></span> {value:.3f}'
    return f'<td style="{_CELL}">{shown}</td>'
