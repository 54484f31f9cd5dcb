"""How the rows about the book look on a terminal; as `_show`, whose parts it uses."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from errata._show import Row, _asked, _mark, _one_line, _short, _stated, _table, _value

_COLOURS = {"holds": "green", "forgotten": "red", "expired": "yellow"}


def difference(row: Row) -> RenderableType:
    """The questions that are answered differently, then the matrices."""
    names = row["a"]["name"], row["b"]["name"]
    count = f"{names[0]} has {_many(row['a']['ids'], 'edit')}, {names[1]} {len(row['b']['ids'])}"
    if not (row["dropped"] or row["added"]):
        return Text(f"{count}: the same.")
    facts = _table("asked", *names)
    for change in row["facts"]:
        either = change["before"] or change["after"]
        facts.add_row(_asked(either["prompt"]), *(_answer(change[side]) for side in ("before", "after")))
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


def merged(row: Row) -> RenderableType:
    """What was taken over, and where the books disagreed."""
    parts: list[RenderableType] = []
    if row["clashes"]:
        drawn = _table("disagreement", "", "decided")
        for clash in row["clashes"]:
            drawn.add_row(clash["kind"], _one_line(clash["what"]), clash["decided"])
        parts.append(drawn)
    verb = "took" if row["done"] else "would take"
    counts = (
        f"{verb} {_many(row['took'], 'edit')}; restored {len(row['restored'])}, dropped {len(row['dropped'])}, "
        f"left out {len(row['left_out'])}; {row['shared']} were here already"
    )
    return Group(*parts, Text(counts))


def conflicts(row: Row) -> RenderableType:
    """Pairs of facts, then pairs of keys."""
    if not row["facts"] and not row["keys"]:
        return Text("No two standing edits get in each other's way.")
    parts: list[RenderableType] = []
    if row["facts"]:
        drawn = _table("", "first", "says", "then", "says")
        for pair in row["facts"]:
            sides = [(_asked(side["prompt"]), _answer(side)) for side in (pair["first"], pair["second"])]
            drawn.add_row(pair["kind"], *sides[0], *sides[1])
        parts.append(drawn)
    if row["keys"]:
        drawn = _table("key of edit", "at", "is moved by", "share of its own change")
        for one in row["keys"]:
            drawn.add_row(one["edit_id"][:8], one["site"], one["other_id"][:8], f"{one['share']:.2f}")
        parts.append(drawn)
    return Group(*parts)


def verdicts(row: Row) -> RenderableType:
    """One line a fact: what is said, and how its probes fare."""
    if not row["facts"]:
        return Text("No edit stands.")
    drawn = _table("edit", "fact", "says", "", "probes")
    for one in row["facts"]:
        probes = ", ".join(f"{kind} {p['right']}/{p['asked']}" for kind, p in one["probes"].items())
        by = f" by {one['by'][:8]}" if one["by"] else ""
        status = Text(one["status"] + by, _COLOURS.get(one["status"], ""))
        fact = _stated(one)
        drawn.add_row(one["edit"][:8], fact, _short(one["said"]), status, Text(probes, "dim"))
    counts = ", ".join(f"{count} {status}" for status, count in row["counts"].items())
    dropped = f"; dropped {_many(row['dropped'], 'edit')}" if row["dropped"] else ""
    return Group(drawn, Text(counts + dropped, "dim"))


def moved(rows: Sequence[Row]) -> RenderableType:
    """One line a fact: what became of it."""
    if not rows:
        return Text("No edit stands: there is nothing to migrate.")
    drawn = _table("edit", "fact", "", "says now", "new")
    for row in rows:
        fact = _stated(row)
        drawn.add_row(row["edit"][:8], fact, row["outcome"], _short(row["why"] or row["said"], 80), row["new_edit"][:8])
    return drawn


def compacted(row: Row) -> RenderableType:
    """How much smaller the book is."""
    forgotten = f", forgot {_many(row['forgotten'], 'dropped edit')}" if row["forgotten"] else ""
    return Text(
        f"removed {_many(row['removed'], 'file')}{forgotten}: {row['before']:,} bytes before, {row['after']:,} after"
    )


def card(row: Row) -> RenderableType:
    """The verdict, the facts, the gates."""
    parts: list[RenderableType] = []
    facts = _table("fact", "before", "after", "")
    for one in row["facts"]:
        fact = _stated(one)
        facts.add_row(fact, _short(one["before"]), _short(one["after"]), _mark(one["said"]))
    parts.append(facts)
    gates = _table("measured", "found", "limit", "asked", "")
    for one in row["figures"]:
        found, limit = ("–" if x is None else f"{x:.3g}" for x in (one["value"], one["limit"]))
        gates.add_row(one["gate"], found, limit, str(one["asked"]), _mark(one["passed"]))
    parts += [gates] if row["figures"] else []
    parts += [conflicts({"facts": row["conflicts"], "keys": []})] if row["conflicts"] else []
    verdict = Text("passed", "green") if row["passed"] else Text(row["refused"] or "refused: a gate is closed", "red")
    return Group(*parts, verdict)


def exported(row: Row) -> RenderableType:
    """Where it is, and at what rank each matrix."""
    said = Text(f"{row['directory']}: {row['form']} of {row['model']} with {_many(row['edits'], 'edit')}")
    if not row["parts"]:
        return said
    drawn = _table("matrix", "in the model", "rank", "of", "error")
    for part in row["parts"]:
        rank = str(part["rank"] or "whole")
        drawn.add_row(part["site"], part["module"], rank, str(part["full"]), f"{part['error']:.2g}")
    return Group(drawn, said)


def pushed(row: Row) -> RenderableType:
    """What the engine said."""
    text = f"{row['url']} serves it as model {row['name']!r}: {row['answer']}"
    return Group(exported(row), Text(_one_line(text)))


def _many(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _answer(one: Row | None) -> Text:
    return Text("–", "dim") if one is None else Text.assemble(_one_line(one["target"]), (f"  {one['edit'][:8]}", "dim"))
