"""A conversation in the terminal: replies as they are, and what was done between them."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from errata.cli.tables import book
from errata.cli.tables.base import Json, stated, table_of


def chat(row: Json) -> RenderableType:
    """One reply, or what came of one command."""
    return {
        "begun": _begun, "help": _help, "reply": _reply, "edit": _edit, "log": _log,
        "undo": lambda row: Text(f"edit {row['id'][:8]} dropped", "dim"),
        "new": lambda row: Text("what was said is forgotten", "dim"),
        "error": lambda row: Text(row["message"], "red"),
    }[row["kind"]](row)  # fmt: skip


def _begun(row: Json) -> RenderableType:
    how = "" if row["chat"] else " has no chat template: every line is a prompt of its own"
    what = "/edit ANSWER corrects a reply, /undo takes it back, /help, /quit"
    return Text("\n".join([f"{row['model']}{how}", what, *(f"note: {note}" for note in row["notes"])]), "dim")


def _help(row: Json) -> RenderableType:
    table = table_of("", "")
    for name, what in row["help"].items():
        table.add_row(name, what)
    return table


def _reply(row: Json) -> RenderableType:
    text = row["text"].strip("\n")
    return Text(text if row["chat"] else f"{row['prompt']}{text}", "bold")


def _edit(row: Json) -> RenderableType:
    (fact,) = row["facts"]
    said = "said" if fact["said"] else "not said"
    lines = [Text(f"edit {row['id'][:8]} ({row['method']}) about {fact['subject']}: {stated(fact)}: {said}", "dim")]
    return Group(*lines, *(Text(f"note: {note}", "yellow") for note in row["notes"]))


def _log(row: Json) -> RenderableType:
    return book.log(row["edits"]) if row["edits"] else Text("nothing has been written", "dim")
