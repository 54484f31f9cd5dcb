"""The command that has a model no longer tell something."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import errata
from errata.cli import common as opt
from errata.cli.common import Shown
from errata.errors import InputError

Asked = Annotated[str | None, typer.Option("--prompt", help="Text, or a question, that makes the model tell it.")]
Answer = Annotated[str, typer.Option("--answer", help="What is to be forgotten; what the model says unless given.")]
Ways = Annotated[list[str] | None, typer.Option("--phrasing", help="Another way to ask for it; repeatable.")]
Near = Annotated[
    list[str] | None, typer.Option("--neighbour", help="A prompt whose answer must stay as it is; repeatable.")
]
Instead = Annotated[
    str, typer.Option("--say", help="What to say instead; else what the model says where it knows nothing.")
]
OfFile = Annotated[
    Path | None, typer.Option("--facts", help="Or all of a file of facts, whose targets are to be forgotten.")
]


def forget(
    prompt: Asked = None,
    subject: Annotated[str, typer.Option("--subject", help="What it is about, as the prompt has it.")] = "",
    answer: Answer = "",
    phrasings: Ways = None,
    neighbours: Near = None,
    facts: OfFile = None,
    say: Instead = "",
    chat: opt.Chat = None,
    method: Annotated[str, typer.Option("--method", help="A method that writes several facts at once.")] = "ledger",
    settings: opt.Settings = None,
    author: opt.Author = "",
    reason: opt.Reason = "",
    tenant: opt.Tenant = "",
    gate: opt.Gate = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 3 if it is still told in some wording.")] = False,
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    as_json: opt.Json = False,
) -> Shown:  # size: an option a line
    """Have the model no longer tell something, and look for traces of it.

    An edit as any other: errata drop takes it back, and the model tells again.
    """
    from errata.config import parse_flags
    from errata.data.facts import read_facts
    from errata.edit import Label
    from errata.editing import gates
    from errata.editing.forget import check_told
    from errata.editing.forget import forget as forgotten

    if (prompt is None) == (facts is None):
        raise InputError("give --prompt, what makes the model tell what is to be forgotten, or --facts FILE.")
    wanted = read_facts(facts) if facts is not None else []
    how: dict[str, Any] = {"gates": gates.read(gate) if gate is not None else None, "phrase": say}
    how |= {"label": Label(author=author, reason=reason, tenant=tenant)}
    how |= parse_flags(_batched(method), settings or ())
    with opt.opened(model, book=book, device=device, dtype=dtype, use="edit") as editor:
        if prompt is not None:
            turn = editor.lm.tokens.chat.invites(prompt) if chat is None else chat
            wanted = [_wanted(editor, (prompt, subject, answer), turn, phrasings or (), neighbours or ())]
        for one in wanted if len(wanted) > 1 else ():  # all of them, before the first is written
            check_told(editor, one)
        found = [forgotten(editor, one, method, **how) for one in wanted]
    notes = [*editor.notes, *(note for one in found for note in one.notes)]
    told = any(any(one.after.told) for one in found)
    return Shown([one.to_dict() for one in found], as_json, each=True, notes=notes, code=3 if strict and told else 0)


def _batched(name: str) -> type[errata.methods.Method]:
    """Return a method of that name, which must write several facts at once."""
    found = errata.methods.get(name)
    if not found.batched:
        several = ", ".join(one for one in errata.methods.names() if errata.methods.get(one).batched)
        raise InputError(f"{name} writes one fact an edit, and what is forgotten is several wordings; use {several}.")
    return found


def _wanted(editor: errata.Editor, one: tuple[str, str, str], chat: bool, ways: Any, near: Any) -> errata.Fact:
    """Return the fact that is to be forgotten; its answer is what the model says, where none is given."""
    from errata.editing.forget import told_by
    from errata.fact import Fact, Probe

    prompt, subject, answer = one
    asked = Fact(prompt=prompt, subject=subject, target=answer or "?", chat=chat, rephrases=tuple(ways))
    probes = tuple(Probe("neighborhood", text) for text in near)
    return Fact(
        prompt=asked.prompt, subject=subject, target=answer or told_by(editor, asked), chat=chat,
        rephrases=asked.rephrases, probes=probes,
    )  # fmt: skip
