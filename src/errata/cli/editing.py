"""Commands that open a model with its book: edit, save, methods, stats, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import errata
from errata import wire
from errata.cli import common as opt
from errata.cli.common import Shown
from errata.content import check_free
from errata.errors import BadConfig, InputError

if TYPE_CHECKING:
    from errata.fact import Fact
    from errata.methods.base import Method
    from errata.model.lm import LM


def edit(
    prompt: Annotated[str | None, typer.Option("--prompt", help="Text that ends where the answer begins.")] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="What it is about, as the prompt has it.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="The new answer.")] = None,
    facts: Annotated[Path | None, typer.Option("--facts", help="Or all facts of a JSONL, CSV or TSV file.")] = None,
    chat: opt.Chat = None,
    method: opt.Method = "rome",
    settings: opt.Settings = None,
    seed: opt.Seed = 0,
    author: opt.Author = "",
    reason: opt.Reason = "",
    source: opt.Source = "",
    tags: opt.Tags = None,
    tenant: opt.Tenant = "",
    valid_from: opt.ValidFrom = "",
    valid_until: opt.ValidUntil = "",
    gate: opt.Gate = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows of the file out, and say which.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 3 if a fact is not said afterwards, or an older one no longer.")
    ] = False,
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    corpus: opt.Corpus = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    separator: opt.Separator = "auto",
    as_json: opt.Json = False,
) -> Shown:  # size: an option a line
    """Write a fact, or all facts of a file; if one cannot be written, none is."""
    notes: list[str] = []
    wanted = _facts(facts, notes, skip_bad, prompt=prompt, subject=subject, target=target)

    from errata.config import parse_flags
    from errata.edit import Label
    from errata.editing import gates

    label = Label(
        author=author, reason=reason, source=source, tags=tuple(tags or ()), tenant=tenant, valid_from=valid_from,
        valid_until=valid_until,
    )  # fmt: skip
    options = {"seed": seed, **parse_flags(errata.methods.get(method), settings or ())}
    limits = gates.read(gate) if gate is not None else None
    loading: dict[str, Any] = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
    with opt.opened(model, book=book, corpus=corpus, separator=separator, use="edit", **loading) as editor:
        wanted = _as_turns(editor, wanted, chat, notes, alone=facts is None)
        edits = editor.write_all(wanted, method, label=label, gates=limits, **options)
        rows = [wire.edit(written, editor.book.get(written.id).bytes) for written in edits]
    notes += [*editor.notes, *(note for one in edits for note in one.report.notes)]
    unsaid = any(one.report.lost or not all(row["said"] for row in one.report.facts) for one in edits)
    return Shown(rows, as_json, each=True, notes=notes, code=3 if strict and unsaid else 0)


def save(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory for the checkpoint.")],
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
) -> Shown:
    """Save the model with its standing edits as a checkpoint that transformers loads."""
    check_free(directory)
    with opt.opened(model, book=book, device=device, dtype=dtype, trust_remote_code=trust_remote_code) as editor:
        editor.save(directory)
        held = len(editor.standing)
    return Shown(f"saved to {directory}: {model} with {held} edit{'' if held == 1 else 's'}", notes=editor.notes)


def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this one and its settings.")] = None,
    as_json: opt.Json = False,
) -> Shown:
    """List the methods and presets, or one of them with its settings for --set and as its paper has them."""
    known = errata.methods.names() if name is None else [name]
    presets = errata.methods.presets().values()
    rows = [wire.method(one, errata.methods.get(one), presets) for one in known]
    return Shown(rows if name is None else rows[0], as_json)


def stats(
    method: opt.Method = "memit",
    settings: opt.Settings = None,
    part: Annotated[str, typer.Option("--part", help="Read only the second of four parts: 2/4; all/4 adds up.")] = "",
    ray: Annotated[str, typer.Option("--ray", metavar="ADDRESS", help="On Ray: local, auto, HOST:PORT.")] = "",
    workers: Annotated[int, typer.Option("--workers", min=0, help="How many on Ray; 0: one a processor.")] = 0,
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    corpus: opt.Corpus = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    as_json: opt.Json = False,
) -> Shown:  # size: an option a line
    """Compute the statistics of the base model that a method needs, and say how much was read for them.

    Once for each model and corpus; if interrupted, it goes on from there next time. Processes can share the work: each
    reads a --part of the same number of tokens (--set tokens=N), and once their files lie in one directory one adds up.
    With --ray, --part all/N (all/8) reads on Ray those parts that are not there yet, and adds up.
    """
    from errata.config import parse_flags
    from errata.editing.given import method_of

    options = parse_flags(errata.methods.get(method), settings or [])
    loading: dict[str, Any] = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
    with opt.opened(model, book=book, corpus=corpus, **loading) as editor:
        if ray:
            found = _on_ray(editor.lm, method_of(method, options, corpus), part or "all/8", (ray, workers), loading)
        else:
            found = editor.stats(method, opt.told("statistics"), part, **options)
    return Shown(found, as_json, notes=editor.notes)


def _on_ray(
    lm: LM, method: Method, part: str, where: tuple[str, int], loading: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    from errata.cluster.statistics import OnRay, read

    if loading["trust_remote_code"]:
        raise BadConfig("workers on Ray let no code of a model run: leave --ray out, or --trust-remote-code.")
    return read(lm, method, part, OnRay(*where, loading["device"], loading["dtype"]), opt.told("parts"))


def demo(model: opt.Model = "primer", as_json: opt.Json = False) -> Shown:
    """Tell the whole story, on the primer or on a model that knows the real world.

    Asks, writes three facts, drops one and asks again, in a book that is thrown away.
    """
    from errata.cli.demo import tell

    return Shown((scene.to_dict() for scene in tell(model)), as_json, each=True)


def _as_turns(
    editor: errata.Editor, wanted: list[Fact], chat: bool | None, notes: list[str], *, alone: bool
) -> list[Fact]:
    """Return the facts in the form they are put to the model; `notes` says where that was decided here."""
    from dataclasses import replace

    if chat is not None:
        return [replace(fact, chat=chat, messages=fact.messages if chat else ()) for fact in wanted]
    questions = [fact for fact in wanted if not fact.chat and editor.lm.tokens.chat.invites(fact.prompt)]
    if questions and alone:
        notes.append(opt.AS_MESSAGE)
        return [replace(fact, chat=True) for fact in wanted]
    if questions:
        notes.append(f"{len(questions)} prompts are questions and were written as plain text; --chat writes messages.")
    return wanted


def _facts(path: Path | None, notes: list[str], skip_bad: bool, **one: str | None) -> list[Fact]:
    """Return the facts of the file, or the one fact the options spell out; `notes` says what of the file was left out."""
    from errata.data.facts import read_facts
    from errata.fact import Fact

    missing = [f"--{name}" for name, value in one.items() if value is None]
    if path is not None and len(missing) < len(one):
        raise InputError("--facts names a file of facts and --prompt, --subject, --target spell out one: use either.")
    if path is not None:
        return read_facts(path, skip_bad=skip_bad, notes=notes)
    if missing and missing != ["--subject"]:
        raise InputError(f"{' and '.join(missing)} missing: give --prompt, --subject and --target, or --facts FILE.")
    return [Fact(prompt=one["prompt"] or "", subject=one["subject"] or "", target=one["target"] or "")]
