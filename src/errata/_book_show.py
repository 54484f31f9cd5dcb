"""How the rows about the book look on a terminal; as `_show`, whose parts it uses."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from errata._show import Row, _one_line, _table, _value


def difference(row: Row) -> RenderableType:
    """The questions that are answered differently, then the matrices."""
    names = row["a"]["name"], row["b"]["name"]
    count = f"{names[0]} has {len(row['a']['ids'])} edits, {names[1]} {len(row['b']['ids'])}"
    if not (row["dropped"] or row["added"]):
        return Text(f"{count}: the same.")
    facts = _table("asked", *names)
    for change in row["facts"]:
        either = change["before"] or change["after"]
        facts.add_row(_one_line(either["prompt"]), *(_answer(change[side]) for side in ("before", "after")))
    sites = _table("matrix", *(f"‖Δ‖ {name}" for name in names), "between")
    for site in row["sites"]:
        grafts = f" and {site['grafts']} wrappers" if site["grafts"] else ""
        numbers = [_value(site[name]) for name in ("before", "after", "between")]
        sites.add_row(site["site"], *numbers[:2], numbers[2] + grafts)
    summary = Text(f"{count}: {len(row['dropped'])} gone, {len(row['added'])} new", "dim")
    return Group(facts if row["facts"] else Text("They say the same."), sites, summary)


def tags(rows: Sequence[Row]) -> RenderableType:
    """One line a tag."""
    if not rows:
        return Text("There are no tags.")
    found = _table("tag", "written", "event", "edits", "by", "why")
    for row in rows:
        found.add_row(
            row["name"], row["at"][:16].replace("T", " "), f"@{row['seq']}", str(row["edits"]),
            _one_line(row["author"]), _one_line(row["reason"]),
        )  # fmt: skip
    return found


def findings(row: Row) -> RenderableType:
    """What is wrong, what one should know, and the head."""
    lines = [Text(f"✗ {problem}", "red") for problem in row["problems"]]
    if row["whole"]:
        lines.append(Text(f"✓ {row['events']} events and {row['edits']} edits are as they were written", "green"))
    lines += [Text(f"  {remark}", "yellow") for remark in row["remarks"]]
    lines += [Text(f"  {count} events signed by {key}") for key, count in row["signers"].items()]
    if row["unsigned"] and row["signers"]:
        lines.append(Text(f"  {row['unsigned']} events signed by nobody"))
    return Group(*lines, Text(f"  head {row['head']}", "dim"))


def key(row: Row) -> RenderableType:
    """Where the key is, and what to tell others."""
    return Text(
        f"{row['file']} is the private key; keep it. The public one, for errata verify --trust:\n{row['public']}"
    )


def _answer(one: Row | None) -> Text:
    return Text("–", "dim") if one is None else Text.assemble(_one_line(one["target"]), (f"  {one['edit'][:8]}", "dim"))
