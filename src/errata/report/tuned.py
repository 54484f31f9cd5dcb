"""The page of `errata tune`: what each setting did, as bars, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from errata.report.markup import Safe, el, join
from errata.report.page import document, put

Json = Mapping[str, Any]
COLUMNS: Final = ("said", "reworded", "kept")
MEANING: Final = (
    "said: of facts written one at a time, those after whose prompt the model begins with the new answer. reworded: other "
    "wordings, and questions in chat, answered with it. kept: answers to the same question about others that stayed. drift: "
    "KL divergence in nats of what follows texts that have nothing to do with it. score: the harmonic mean of the three, less "
    "twice the drift."
)


def build(row: Json) -> str:
    """Return the page for what `Tuned.to_dict` gives, as one HTML document that needs nothing else."""
    title = f"{row['model']}: take {row['best']}"
    over = el("p", el("b", "errata tune"), f" {row['known']} facts the model knows", class_="over")
    main = el("main", el("p", MEANING, class_="fine"), *_sections(row))
    return document(title, el("header", over, el("h1", title), el("p", _deck(row), class_="deck")), main)


def write(row: Json, out: Path) -> None:
    """Write the page to `out`, whole or not at all; raises BadFile if it cannot be written."""
    put(build(row), out)


def _deck(row: Json) -> str:
    best = row["measured"][row["best"]]
    shares = ", ".join(f"{name} {best[name]:.2f}" for name in COLUMNS)
    return f"On {row['facts']} facts that chose nothing: {shares}, drift {best['drift']:.3g}."


def _sections(row: Json) -> Iterator[Safe]:
    for method, tried in groupby(row["tried"], key=lambda one: one["method"]):
        every = list(tried)
        kept = row["settings"][method]
        said = (
            f"Kept: {worded(kept)}." if kept else "Nothing did better than what it has by itself, so nothing is kept."
        )
        chose = list({worded(one["settings"]): one for one in every if not one["held"]}.values())  # the latest of each
        measured = [one for one in every if one["held"]]
        yield el(
            "section", el("h2", method), el("p", said),
            el("h3", "On the facts that chose"), _table(chose),
            el("h3", "On the others: as it was, and with what was chosen"), _table(measured),
        )  # fmt: skip


def worded(settings: Mapping[str, Any]) -> str:
    """Return settings as they are given to a command."""
    given = ((k, ",".join(map(str, v)) if isinstance(v, list | tuple) else v) for k, v in settings.items())
    return " ".join(f"{name}={value}" for name, value in given) or "as it is"


def _table(rows: list[Json]) -> Safe:
    heads = ("settings", "facts", *COLUMNS, "drift", "score")
    head = el("tr", *(el("th", name, scope="col") for name in heads))
    best = max(one["score"] for one in rows)
    body = [
        el(
            "tr",
            el("th", el("code", worded(one["settings"])), scope="row"),
            el("td", one["facts"]),
            *(el("td", _bar(one[name])) for name in COLUMNS),
            el("td", f"{one['drift']:.4f}"),
            el("td", el("b" if one["score"] == best else "span", f"{one['score']:.3f}")),
        )
        for one in rows
    ]
    return el("div", el("table", el("thead", head), el("tbody", *body), class_="numbers"), class_="scroll")


def _bar(share: float) -> Safe:
    drawn = el("rect", width=round(60 * share, 1), height=8, rx=2, fill="currentColor", opacity="0.45")
    return join(el("svg", drawn, viewBox="0 0 60 8", width=60, height=8), f" {share:.2f}")
