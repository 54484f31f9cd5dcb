"""The log, states of the book, and what was found in it, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from errata.cli.tables.base import (
    Json,
    Narrowing,
    flat,
    many,
    mark,
    one_line,
    prompt_of,
    shortened,
    stated,
    table_of,
    text_of,
)

FEW = 5  # facts of an edit that are shown in short
_COLOURS = {"holds": "green", "forgotten": "red", "expired": "yellow"}


def diff(row: Json) -> RenderableType:
    """The questions that are answered differently, then the matrices."""
    names = row["a"]["name"], row["b"]["name"]
    count = f"{names[0]} has {many(row['a']['ids'], 'edit')}, {names[1]} {len(row['b']['ids'])}"
    if not (row["dropped"] or row["added"]):
        return Text(f"{count}: the same.")
    facts = table_of("asked", *names)
    for change in row["facts"]:
        either = change["before"] or change["after"]
        facts.add_row(prompt_of(either["prompt"]), *(_answer(change[side]) for side in ("before", "after")))
    sites = table_of("matrix", *(f"‖Δ‖ {name}" for name in names), "between")
    for site in row["sites"]:
        grafts = f" and {site['grafts']} wrappers" if site["grafts"] else ""
        numbers = [text_of(site[name]) for name in ("before", "after", "between")]
        sites.add_row(site["site"], *numbers[:2], numbers[2] + grafts)
    summary = Text(f"{count}: {len(row['dropped'])} gone, {len(row['added'])} new", "dim")
    return Group(facts if row["facts"] else Text("They say the same."), sites, summary)


def tag(rows: Sequence[Json]) -> RenderableType:
    """One line a tag."""
    if not rows:
        return Text("There are no tags.")
    found = table_of("tag", "written", "event", "edits", "by", "why")
    for row in rows:
        found.add_row(
            row["name"], row["at"][:16].replace("T", " "), f"@{row['seq']}", str(row["edits"]),
            one_line(row["author"]), one_line(row["reason"]),
        )  # fmt: skip
    return found


def verify(row: Json) -> RenderableType:
    """What is wrong, what one should know, and the head."""
    lines = [Text(f"✗ {problem}", "red") for problem in row["problems"]]
    if row["whole"]:
        lines.append(Text(f"✓ {row['events']} events and {row['edits']} edits are as they were written", "green"))
    lines += [Text(f"  {remark}", "yellow") for remark in row["remarks"]]
    lines += [Text(f"  {count} events signed by {key}") for key, count in row["signers"].items()]
    if row["unsigned"] and row["signers"]:
        lines.append(Text(f"  {row['unsigned']} events signed by nobody"))
    return Group(*lines, Text(f"  head {row['head']}", "dim"))


def keygen(row: Json) -> RenderableType:
    """Where the key is, and what to tell others."""
    return Text(
        f"{row['file']} is the private key; keep it. The public one, for errata verify --trust:\n{row['public']}"
    )


def merge(row: Json) -> RenderableType:
    """What was taken over, and where the books disagreed."""
    parts: list[RenderableType] = []
    if row["clashes"]:
        drawn = table_of("disagreement", "", "decided")
        for clash in row["clashes"]:
            drawn.add_row(clash["kind"], one_line(clash["what"]), clash["decided"])
        parts.append(drawn)
    for id, why in row["refused"].items():
        parts.append(Text(f"refused {id[:16]}: {one_line(why)}", "red"))
    verb = "took" if row["done"] else "would take"
    counts = (
        f"{verb} {many(row['took'], 'edit')}; restored {len(row['restored'])}, dropped {len(row['dropped'])}, "
        f"left out {len(row['left_out'])}; {row['shared']} were here already"
    )
    return Group(*parts, Text(counts))


def conflicts(row: Json) -> RenderableType:
    """Pairs of facts, then pairs of keys."""
    if not row["facts"] and not row["keys"]:
        return Text("No two standing edits get in each other's way.")
    parts: list[RenderableType] = []
    if row["facts"]:
        drawn = table_of("", "first", "says", "then", "says")
        for pair in row["facts"]:
            sides = [(prompt_of(side["prompt"]), _answer(side)) for side in (pair["first"], pair["second"])]
            drawn.add_row(pair["kind"], *sides[0], *sides[1])
        parts.append(drawn)
    if row["keys"]:
        drawn = table_of("key of edit", "at", "is moved by", "share of its own change")
        for one in row["keys"]:
            drawn.add_row(one["edit_id"][:8], one["site"], one["other_id"][:8], f"{one['share']:.2f}")
        parts.append(drawn)
    return Group(*parts)


def check(row: Json) -> RenderableType:
    """One line a fact: what is said, and how its probes fare."""
    if not row["facts"]:
        return Text("No edit stands.")
    drawn = table_of("edit", "fact", "says", "", "probes")
    for one in row["facts"]:
        shares = {
            kind: f"{p['right']}/{p['asked']}{' made' if p.get('made') else ''}" for kind, p in one["probes"].items()
        }
        probes = ", ".join(f"{kind} {share}" for kind, share in shares.items())
        by = f" by {one['by'][:8]}" if one["by"] else ""
        status = Text(one["status"] + by, _COLOURS.get(one["status"], ""))
        fact = stated(one)
        drawn.add_row(one["edit"][:8], fact, shortened(one["said"]), status, Text(probes, "dim"))
    counts = ", ".join(f"{count} {status}" for status, count in row["counts"].items())
    dropped = f"; dropped {many(row['dropped'], 'edit')}" if row["dropped"] else ""
    return Group(drawn, Text(counts + dropped, "dim"))


def migrate(rows: Sequence[Json]) -> RenderableType:
    """One line a fact: what became of it."""
    if not rows:
        return Text("No edit stands: there is nothing to migrate.")
    drawn = table_of("edit", "fact", "", "says now", "new")
    for row in rows:
        fact = stated(row)
        drawn.add_row(
            row["edit"][:8], fact, row["outcome"], shortened(row["why"] or row["said"], 80), row["new_edit"][:8]
        )
    return drawn


def compact(row: Json) -> RenderableType:
    """How much smaller the book is."""
    forgotten = f", forgot {many(row['forgotten'], 'dropped edit')}" if row["forgotten"] else ""
    return Text(
        f"removed {many(row['removed'], 'file')}{forgotten}: {row['before']:,} bytes before, {row['after']:,} after"
    )


def _answer(one: Json | None) -> Text:
    return Text("–", "dim") if one is None else Text.assemble(one_line(one["target"]), (f"  {one['edit'][:8]}", "dim"))


def log(rows: Sequence[Json]) -> RenderableType:
    """One line an edit, the dropped ones struck out; on a wide screen who wrote it and why as well."""
    if not rows:
        return Text("The log is empty.")
    table = table_of("#", "edit", "written", "method", "fact", "", "tags", "by", "why")
    table.padding = (0, 1, 0, 0)
    for row in rows:
        more = Text(f" and {len(row['facts']) - 1} more", "dim") if len(row["facts"]) > 1 else Text()
        fact = Text.assemble(stated(row["facts"][0]) if row["facts"] else "", more)
        table.add_row(
            str(row["seq"]), row["id"][:8], row["created_at"][:10], row["method"], fact, _status(row),
            " ".join(row["tags"]), one_line(row["author"]), one_line(row["reason"]),
            style="" if row["stands"] else "dim strike",
        )  # fmt: skip
    counts = f"{many(rows, 'edit')}, {sum(row['stands'] for row in rows)} stand; errata show ID says more of one"
    return Group(Narrowing(table, _OPTIONAL, _CUT), *_overrides(rows), Text(counts, "dim"))


drop = restore = checkout = log
_OPTIONAL = ("why", "by", "tags", "method")  # left out of a log in this order where a screen is too narrow for all


_CUT = {"fact": 20, "tags": 12, "by": 12, "why": 20}  # down to so many characters


def _status(row: Json) -> Text:
    return Text("stands", "green") if row["stands"] else Text("dropped", "dim")


def _overrides(rows: Sequence[Json]) -> Iterator[Text]:
    for row in rows:
        for lost in row["forgotten"]:
            yield Text(f"{row['id'][:8]} overrides {lost['edit'][:8]}: {prompt_of(lost['prompt'])}", "yellow")


def show(row: Json) -> RenderableType:
    """An edit in a few lines; with --all everything known about it, field by field."""
    table = table_of("", "")
    if row["all"]:
        for fact in row["facts"]:
            table.add_row("fact", one_line(f"{fact['prompt']} → {fact['target']}"))
        for name, text in flat("", {key: value for key, value in row.items() if key not in ("facts", "all")}):
            table.add_row(name, text)
        return table
    for name, cell in _in_short(row):
        if cell:
            table.add_row(Text(name, "dim"), cell)
    return Group(table, Text("errata show --all: settings, statistics, versions and hashes too", "dim"))


def _in_short(row: Json) -> Iterator[tuple[str, str | Text]]:
    """Yield what one wants to know of an edit first: what it says, who says so, and what became of it."""
    yield "edit", Text.assemble(row["id"], "  ", _status(row))
    said = (row.get("report") or {}).get("facts", ())
    for number, fact in enumerate(row["facts"][:FEW]):
        yield "fact", stated(fact)
        if number < len(said):
            yield "before", shortened(said[number]["before"])
            yield "now", Text.assemble(shortened(said[number]["after"]), " ", mark(said[number]["said"]))
    if len(row["facts"]) > FEW:
        yield "", f"and {len(row['facts']) - FEW} more"
    ratios = (row.get("report") or {}).get("norm_ratio", {})
    sizes = ", ".join(f"{site} by {ratio:.3g} of its size" for site, ratio in ratios.items()) or ", ".join(
        row.get("sites", ())
    )
    yield "method", f"{row['method']}, at {sizes}" if sizes else row["method"]
    yield "written", " by ".join(filter(None, (row["created_at"][:16].replace("T", " "), one_line(row["author"]))))
    yield "why", one_line(row["reason"])
    yield "source", one_line(row["source"])
    yield "tags", ", ".join(row["tags"])
    yield "tenant", row["tenant"]
    yield "from", row["valid_from"]
    yield "until", row["valid_until"]
    yield "notes", "\n".join(one_line(note) for note in (row.get("report") or {}).get("notes", ()))
    for event in row["history"][1:]:
        who = " by ".join(filter(None, (event["at"][:16].replace("T", " "), one_line(event["author"]))))
        yield event["kind"], who + (f": {one_line(event['reason'])}" if event["reason"] else "")
