"""A folder of edits, looked over as a pull request is: tried on the model, measured at the gates, described on an EditCard.

    card = review(editor, "edits/", Gates(said=0.9), "memit")
    card.passed, markdown(card)

Files are read in the order of their names: facts (.jsonl, .json, .csv, also .gz), written by the given method, and edits
(.safetensors), taken as they are. All of them together are one change; the book and the model are left as they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from errata import methods
from errata.book import facts
from errata.book.facts import Conflict, Said
from errata.content import EDIT, read_file
from errata.data.facts import read_facts
from errata.delta import Site
from errata.edit import Edit
from errata.editing.editor import Editor
from errata.editing.gates import Figure, GateCheck, Gates, in_force, sentence
from errata.editing.gates import asked as said_asked
from errata.editing.writing import measured
from errata.errors import ErrataError, InputError, visible
from errata.fact import Fact, answered, check_consistent
from errata.methods.base import versions
from errata.model.lm import LM
from errata.model.query import Query

SUFFIXES: Final = (".jsonl", ".json", ".csv", ".jsonl.gz", ".json.gz", ".csv.gz", ".safetensors")


@dataclass(frozen=True, slots=True)
class File:
    """A file of the change: its name, the hash of its content, and how many facts it holds."""

    name: str
    sha256: str
    facts: int


@dataclass(frozen=True, slots=True)
class Card:
    """All one should know before a change is let in.

    Args:
        model, base: name and fingerprint of the base model. head, standing: of the book it was tried on.
        method, config: what computed it. files: what it consists of.
        facts: {"prompt", "subject", "target", "before", "after", "said"} of each. figures: at each gate.
        conflicts: with what stands, and within the change. sites: ‖ΔW‖/‖W‖ by matrix, the largest of one edit.
        refused: why it cannot be written at all; empty if it can. created_at, versions: when, and with what.
    """

    model: str
    base: str
    head: str
    standing: int
    method: str
    created_at: str
    config: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[File] = ()
    facts: Sequence[Mapping[str, Any]] = ()
    figures: Sequence[Figure] = ()
    conflicts: Sequence[Conflict] = ()
    sites: Mapping[str, float] = field(default_factory=dict)
    refused: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether it can be written and every gate is open."""
        return not self.refused and all(figure.passed for figure in self.figures)


def review(
    editor: Editor, folder: str | Path, gates: Gates | None = None, method: str = "rome", **options: Any
) -> Card:
    """Try every file of a folder on the model with its standing edits, and return what came of it.

    Raises:
        InputError: the folder holds no such files, or one of them cannot be read. UnknownMethod, BadConfig: as ever.
    """
    methods.make(method, options)  # a wrong name or setting is the caller's mistake, not the change's
    parts = _parts(Path(folder))
    new = [fact for _, part in parts for fact in (part.facts if isinstance(part, Edit) else part)]
    standing = editor.standing
    keeper = GateCheck(editor.lm, in_force(editor.book, gates), new, standing, every=True)
    asked, room = [Query.asked(fact) for fact in new], editor.lm.room(fact.target for fact in new)
    before = editor.lm.generate(asked, room)
    own = [Said(fact, "new") for fact in new]
    old = [Said(fact, edit.id) for edit in standing for fact in edit.facts]
    events = editor.book.history()
    common: dict[str, Any] = {
        "model": editor.name, "base": editor.lm.fingerprint, "head": events[-1].hash if events else "",
        "standing": len(standing), "method": method, "versions": versions(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": [file for file, _ in parts], "conflicts": [*facts.conflicts(old, own), *facts.conflicts(own)],
    }  # fmt: skip
    try:
        check_consistent(new)
        with editor.rehearse([part for _, part in parts], method, **options) as edits:
            after = editor.lm.generate(asked, room)
            figures, sites = keeper.figures(), _sites(editor.lm, edits)
    except ErrataError as error:
        rows = [_row(fact, said, "") for fact, said in zip(new, before, strict=True)]
        return Card(**common, facts=rows, refused=str(error))
    rows = [_row(fact, b, a) for fact, b, a in zip(new, before, after, strict=True)]
    config = next((edit.config for edit in edits if edit.method == method), {})
    return Card(**common, facts=rows, figures=figures, sites=sites, config=config)


def _parts(folder: Path) -> list[tuple[File, Edit | list[Fact]]]:
    if not folder.is_dir():
        raise InputError(f"{folder} is no directory; name one with files of facts or edits.")
    paths = sorted(p for p in folder.rglob("*") if not p.is_dir() and p.name.lower().endswith(SUFFIXES))
    if links := [path for path in paths if path.is_symlink()]:
        raise InputError(f"{links[0]} is a link: what it leads to is no part of the change. Put the file itself there.")
    if not paths:
        raise InputError(f"{folder} holds no edits; they are files of facts (.jsonl, .json, .csv) or .safetensors.")
    found: list[tuple[File, Edit | list[Fact]]] = []
    for path in paths:
        part = Edit.load(path) if path.suffix.lower() == ".safetensors" else read_facts(path)
        count = len(part.facts) if isinstance(part, Edit) else len(part)
        name = path.relative_to(folder).as_posix()
        found.append((File(name, hashlib.sha256(read_file(path, EDIT)).hexdigest(), count), part))
    return found


def _row(fact: Fact, before: str, after: str) -> dict[str, Any]:
    about = {"prompt": fact.prompt, "subject": fact.subject, "target": fact.target}
    why = {"reason": fact.reason, "source": fact.source}
    return {**about, **why, "before": before, "after": after, "said": answered(fact, after)}


def _sites(lm: LM, edits: Sequence[Edit]) -> dict[str, float]:
    """Return how large the changes are, as measured: what an edit's report says of itself is its author's word."""
    found, known = dict[str, float](), dict[Site, float]()
    for edit in edits:
        for site, ratio in measured(lm, edit, known).items():
            found[str(site)] = max(ratio, found.get(str(site), 0.0))
    return found


def to_dict(card: Card) -> dict[str, Any]:
    """Return the card as JSON-able values."""
    row = {name: getattr(card, name) for name in card.__dataclass_fields__}
    pairs = [
        {"kind": c.kind, **{side: {"prompt": s.fact.prompt, "target": s.fact.target, "edit": s.edit_id}
                            for side, s in (("first", c.first), ("second", c.second))}}
        for c in card.conflicts
    ]  # fmt: skip
    figures = [figure.to_dict() for figure in card.figures]
    return {**row, "passed": card.passed, "files": [asdict(f) for f in card.files], "figures": figures,
            "conflicts": pairs, "facts": list(card.facts), "config": dict(card.config)}  # fmt: skip


def write(card: Card, directory: Path) -> None:
    """Write ``editcard.md`` and ``editcard.json`` into a directory, made if it is not there.

    A file or link of that name is taken out of the way first, so that nothing is written through it.

    Raises:
        InputError: they cannot be written there.
    """
    texts = {
        "editcard.md": markdown(card),
        "editcard.json": visible(json.dumps(to_dict(card), indent=1, ensure_ascii=False)),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _write(directory / name, text)
    except OSError as error:
        raise InputError(f"cannot write the card to {directory} ({error.strerror}): name another directory.") from error


def _write(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def markdown(card: Card) -> str:
    """Return the card as a page to be read, or posted under a pull request."""
    verdict = "✅ passed" if card.passed else "❌ refused"
    said = sum(bool(row["said"]) for row in card.facts)
    lines = [f"# EditCard: {verdict}", ""]
    lines += [re.sub(r"^(?=[-+=>])", r"\\", _plain(card.refused)), ""] if card.refused else []
    closed = [f"- {_plain(sentence(figure))}" for figure in card.figures if not figure.passed]
    lines += [*closed, ""] if closed else []
    lines += [
        f"Facts: {len(card.facts)}, of which {said} are said after; files: {len(card.files)}; written by {_plain(card.method)} "
        f"on {_plain(card.model)} ({_plain(card.base[:12])}) with {card.standing} standing edits.", "",
        *_table(("fact", "before", "after", ""), [
            (f"{row['prompt']} → {row['target']}", row["before"], row["after"], "✓" if row["said"] else "✗")
            for row in card.facts
        ]),
    ]  # fmt: skip
    if card.figures:
        rows = [(f.gate, _number(f.value), _number(f.limit), said_asked(f), _verdict(f)) for f in card.figures]
        lines += ["", "## Gates", "", *_table(("measured", "found", "limit", "asked", ""), rows)]
        lost = [(f.gate, one) for f in card.figures if f.gate != "norm_ratio" for one in f.lost]
        lines += ["", "## What moved or failed", "", *_table(("at", "question"), lost[:40])] if lost else []
    if card.conflicts:
        pairs = [(c.kind, *(f"{s.fact.prompt} → {s.fact.target} ({s.edit_id[:8]})" for s in (c.first, c.second)))
                 for c in card.conflicts]  # fmt: skip
        lines += ["", "## Conflicts", "", *_table(("", "first", "then"), pairs)]
    sites = [(site, f"{ratio:.3g}") for site, ratio in card.sites.items()]
    lines += ["", "## Matrices", "", *_table(("matrix", "largest ‖ΔW‖/‖W‖ of an edit"), sites)] if sites else []
    files = [(file.name, str(file.facts), f"`{file.sha256[:16]}`") for file in card.files]
    lines += ["", "## Files", "", *_table(("file", "facts", "sha256"), files), ""]
    used = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    return "\n".join([*lines, f"{card.created_at}, {_plain(used)}; {_at(card.head)}", ""])


def _verdict(figure: Figure) -> str:
    """Return a mark; where nothing was asked there is nothing to tick."""
    if figure.empty:
        return "nothing asked" if figure.passed else "✗ nothing asked"
    return "✓" if figure.passed else "✗"


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(_cell(cell) for cell in line)} |" for line in (heads, *rows)]
    return [lines[0], f"|{' --- |' * len(heads)}", *lines[1:]]


def _cell(text: str) -> str:
    """Return text that stays in its cell, whatever users wrote; the hash of a file stays code."""
    if re.fullmatch(r"`[0-9a-f]+`", text):
        return text
    flat = " ".join(text.split())
    return _plain(flat if len(flat) <= 160 else f"{flat[:159]}…")


def _plain(text: str) -> str:
    """Return text on one line that means itself: no markup, link, mention, reference or cell of its own, nothing invisible."""
    flat = re.sub(r"([\\`*\[\]<|~&$#]|(?<!\w)_|_(?!\w))", r"\\\1", visible(" ".join(text.split())))
    # Forges look for names, addresses and numbers in text after markup is gone: an empty comment keeps them apart.
    return re.sub(r"(@|://|www\.|\\#|GH-)(?=\S)", r"\1<!-- -->", flat)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _at(head: str) -> str:
    return f"book at {_plain(head[:16])}" if head else "the book is new: nothing is written in it"
