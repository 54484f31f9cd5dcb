"""States of a book as adapters that engines serve, by content: a directory and a name never come to mean something else.

digest(base, ids)                     # of what stands: known without the model
stored(editor, "release-1", root)     # root/adapter-<digest>, written once
states_of(book, {digest, …})          # which states of the book these are
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from errata.book import states
from errata.book.book import Book
from errata.errors import BadModel, InputError
from errata.export import http, vllm
from errata.fact import Fact, answered

if TYPE_CHECKING:
    from errata.editing.editor import Editor
    from errata.export.files import Exported

FORMAT: Final = 1  # of adapters: another one when the same edits are written otherwise
NAMES: Final = "names"  # folder that keeps which contents a name was given to
_NAMED: Final = re.compile(r"(?:^|adapter-|@)([0-9a-f]{16})(-r\d+)?$")


@dataclass(frozen=True, slots=True)
class Reply:
    """The newest fact of what is served, and what the server said."""

    prompt: str
    target: str
    text: str
    said: bool


@dataclass(frozen=True, slots=True)
class Delivered:
    """What `deliver` did: the adapter, what the engine said, what it says when asked, and what to know of it."""

    exported: Exported
    pushed: vllm.Pushed
    rank: int
    asked: Reply | None
    notes: Sequence[str] = field(default=())


def digest(base: str, ids: Sequence[str]) -> str:
    """Return 16 hexadecimal digits for a base with these edits, in this order: ids are hashes of what edits are."""
    return hashlib.sha256(json.dumps([FORMAT, base, *ids]).encode()).hexdigest()[:16]


def default_root() -> Path:
    """Return where adapters are kept unless told otherwise: in the cache, as statistics are."""
    from errata.stats.store import directory

    return directory() / "adapters"


def contents(book: Book, at: str, rank: int | None = None) -> tuple[str, states.BookState]:
    """Return what the adapter of a state is called by, and the state under a name that will not come to mean another."""
    state = states.at(book, at)
    alone = at not in states.tags(book) and len(state.ids) == 1 and state.ids[0].startswith(at)
    fixed = state.ids[0] if alone else f"@{state.seq}"
    return digest(str(book.base), state.ids) + (f"-r{rank}" if rank else ""), states.BookState(
        fixed, state.seq, state.ids
    )


def stored(editor: Editor, at: str, root: str | os.PathLike[str], rank: int | None = None) -> tuple[Exported, int]:
    """Write the adapter of a state, unless it is there, and return it with its rank.

    Raises:
        InputError: nothing stands, an edit has no such form, or something else is where the adapter would be.
    """
    from errata.export.files import Exported

    name, state = contents(editor.book, at, rank)
    directory = Path(root) / f"adapter-{name}"
    if not directory.exists():
        try:
            done = editor.export(directory, "adapter", state.name, rank=rank)
            return replace(done, at=at), looked_at(directory, state.ids)
        except InputError:
            if not directory.exists():  # else another process was first
                raise
    found = looked_at(directory, state.ids)
    return Exported(directory, "adapter", editor.name, at, state.ids, ()), found


def looked_at(directory: Path, ids: Sequence[str]) -> int:
    """Return the rank of an adapter that is there; raises InputError if it is not the one of these edits."""
    try:
        log = json.loads((directory / "errata.json").read_text(encoding="utf-8"))
        rank = int(json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))["r"])
        whole = (directory / "adapter_model.safetensors").stat().st_size > 8
        if whole and [edit["id"] for edit in log["edits"]] == list(ids):
            return rank
    except (OSError, ValueError, LookupError, TypeError):
        pass
    raise InputError(
        f"{directory} is not the adapter it is named after: remove it, if no server uses it, and try again."
    )


def deliver(
    editor: Editor,
    url: str,
    *,
    at: str = states.NOW,
    name: str = "",
    root: str | os.PathLike[str] = "",
    seen_as: str = "",
    **how: Any,
) -> Delivered:
    """Write the adapter of a state, let the engine at `url` load it, and ask it the newest fact.

    Args:
        name: by which requests ask for it; base@tag or base@digest unless given, with the name the server has for the base.
        root: folder of adapters. seen_as: that folder as the engine sees it.
        how: ``engine``, ``rank`` (cut to that) and ``limit`` (the server's largest rank).

    Raises:
        InputError, EngineRefused: as `stored` and `errata.export.vllm.push`, or the name was given to other contents.
    """
    engine, cut = how.get("engine", "vllm"), how.get("rank")
    vllm.engine_of(engine)
    called, state = contents(editor.book, at, cut)
    if not name:
        tag = at if at in states.tags(editor.book) and not cut else called
        name = f"{vllm.base_of(vllm.served(url))}@{tag}"
    folder = Path(root or default_root()).absolute()
    done, rank = stored(editor, at, folder, cut)
    path = f"{seen_as.rstrip('/')}/{done.directory.name}" if seen_as else str(done.directory)
    kept = _claim(folder, url, name, done.directory.name)
    try:
        pushed = vllm.push(url, name, path, engine=engine, rank=rank, limit=how.get("limit", 0))
    except BaseException:
        if kept is not None:
            kept.unlink(missing_ok=True)
        raise
    newest = editor.book.get(state.ids[-1]).facts
    asked = _asked(editor, url, pushed.model, newest[-1]) if newest else None
    return Delivered(done, pushed, rank, asked, _notes(asked, pushed))


def _notes(asked: Reply | None, pushed: vllm.Pushed) -> list[str]:
    if asked is None or asked.said:
        return []
    return [
        f"{pushed.model} answers {' '.join(asked.text.split())[:80]!r} to {asked.prompt[-80:]!r}, not {asked.target!r}: is its "
        "base the model of this book, in the same dtype?"
    ]


def _claim(root: Path, url: str, name: str, contents: str) -> Path | None:
    """Keep that a name at a server means these contents; return the file that says so if it is new.

    Raises:
        InputError: it was given to others before.
    """
    file = root / NAMES / hashlib.sha256(f"{http.address(url)}\n{name}".encode()).hexdigest()[:32]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "x", encoding="utf-8") as new:
            json.dump({"url": url, "name": name, "contents": contents}, new)
        return file
    except FileExistsError:
        before = json.loads(file.read_text(encoding="utf-8") or "{}").get("contents")
    except OSError as error:
        raise InputError(f"cannot write to {root} ({error.strerror}); name another folder with --out.") from error
    if before == contents:
        return None
    raise InputError(
        f"{name!r} was pushed to {url} with other contents ({before}): the engine may still remember their keys and values. "
        "Make a new tag, push without one, or give another --name."
    )


def _asked(editor: Editor, url: str, model: str, fact: Fact) -> Reply:
    """Ask a server a fact as this book's model would be asked."""
    room = editor.lm.room([fact.target]).tokens
    asked: str | list[Mapping[str, str]] = read_as(editor, fact)
    if fact.chat:
        turns = (*fact.earlier, ("user", fact.prompt))
        asked = [{"role": role, "content": content} for role, content in turns]
    text = vllm.say(url, model, asked, tokens=room)
    return Reply(fact.prompt, fact.target, text, answered(fact, text))


def read_as(editor: Editor, fact: Fact) -> str:
    """Return a plain fact's prompt as text for a server whose tokenizer puts in what it puts in here."""
    tokens, tokenizer = editor.lm.tokens, editor.lm.tokenizer
    if tokens.separator is None or tokens.ids(fact.prompt) == list(tokenizer(fact.prompt, verbose=False)["input_ids"]):
        return fact.prompt
    return f"{tokenizer.convert_ids_to_tokens(tokens.separator)}{fact.prompt}"


def states_of(book: Book, digests: Collection[str]) -> dict[str, list[str]]:
    """Return for each digest which states of the book it is of: now and tags; else the first moments, as @N."""
    if book.base is None:
        raise BadModel(f"the book {book.path} is bound to no model yet.")
    found: dict[str, list[str]] = {}
    for name in (states.NOW, *states.tags(book)):
        found.setdefault(digest(book.base, states.at(book, name).ids), []).append(name)
    missing = set(digests) - found.keys()
    order, stands = [record.id for record in book.records()], dict[str, bool]()
    for event in book.history() if missing else ():
        if event.edit_id and event.kind in ("write", "restore", "drop"):
            stands[event.edit_id] = event.kind != "drop"
            one = digest(book.base, [id for id in order if stands.get(id)])
            if one in missing and one not in found:
                found[one] = [f"@{event.seq}"]
    for id in order if missing else ():
        found.setdefault(digest(book.base, [id]), [id])
    return {one: names for one, names in found.items() if one in digests}


def named(served: vllm.Served) -> tuple[str, str]:
    """Return the digest that a served model was pushed by, and how it was cut ("" or "-r8"); ("", "") of another."""
    for text in (vllm.last(served.path), served.name):
        if found := _NAMED.search(text):
            return found.group(1), found.group(2) or ""
    return "", ""


def recognised(book: Book | None, models: Sequence[vllm.Served]) -> list[dict[str, Any]]:
    """Return of each model its name, parent and path, and which states of the book it is."""
    by_digest = {} if book is None else states_of(book, {named(one)[0] for one in models if one.parent})
    rows = []
    for one in models:
        digest_, cut = named(one) if one.parent else ("", "")
        row = {
            "model": one.name,
            "parent": one.parent,
            "path": one.path,
            "digest": digest_,
            "cut": cut.removeprefix("-r"),
        }
        rows.append(row | {"states": by_digest.get(digest_, [])})
    return rows
