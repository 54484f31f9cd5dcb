"""How the statistics of a model look on a terminal; as `_show`, whose parts it uses."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import RenderableType
from rich.text import Text

from errata._show import Row, _table

_ENDED = {
    "settled": "settled",
    "limit": "that was the most to read",
    "corpus": "the corpus ended",
    "part": "that is all of this part",
}


def statistics(found: Mapping[str, Row]) -> RenderableType:
    """One line a site: how many tokens were read, why no more, and what more could still change."""
    if not found:
        return Text("This method needs no statistics of the model.")
    table = _table("site", "tokens read", "ended because", "disturbs too much by")
    for site, row in found.items():
        left = row.get("excess")
        read = f"{row['tokens']:,}" if "tokens" in row else "–"
        table.add_row(site, read, _ENDED.get(row.get("by", ""), "–"), "–" if left is None else f"{100 * left:.1f} %")
    return table
