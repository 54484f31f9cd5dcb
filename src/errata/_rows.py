"""What commands print with `--json`: these shapes are a contract, and the tables people see are made from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from errata.book.book import Event, Record
    from errata.edit import Edit
    from errata.methods.base import Method
    from errata.outcome import Answer

FACT_FIELDS = ("prompt", "subject", "target", "before", "after", "said")
PARTS = ("stats", "solve", "apply")
PLAIN = ("seq", "id", "method", "stands", "author", "reason", "source", "created_at", "bytes", "sha256")
LABELS = ("tenant", "valid_from", "valid_until")


def answer(given: Answer) -> dict[str, Any]:
    """Return {"prompt", "text", "of", "top": [{"token", "p"}]}."""
    top = [{"token": token, "p": p} for token, p in given.top]
    return {"prompt": given.prompt, "text": given.text, "of": given.of, "top": top}


def edit(written: Edit, size: int) -> dict[str, Any]:
    """Return {"id", "method", "seed", "facts": […], "seconds": {…}, "sites": […], "bytes"}; `size` is its file's."""
    report: Mapping[str, Any] = written.report
    return {
        "id": written.id,
        "method": written.method,
        "seed": written.seed,
        "facts": [{key: fact[key] for key in FACT_FIELDS} for fact in report["facts"]],
        "seconds": {part: report["seconds"][part] for part in PARTS},
        "sites": list(written.sites),
        "bytes": size,
    }


def record(kept: Record) -> dict[str, Any]:
    """Return one line of the log: who wrote what, when and why, whether it stands, and which older edits it overrode."""
    report: Mapping[str, Any] = kept.meta.get("report") or {}
    row = {name: getattr(kept, name) for name in (*PLAIN, *LABELS)}
    row["forgotten"] = [dict(lost) for lost in report.get("forgotten", ())]
    return row | {"tags": list(kept.tags), "facts": [fact.to_dict() for fact in kept.facts]}


def whole_record(kept: Record, history: Sequence[Event]) -> dict[str, Any]:
    """Return all the book knows of an edit, with what happened to it since."""
    return {**kept.meta, **record(kept), "history": [asdict(event) for event in history]}


def method(name: str, cls: type[Method]) -> dict[str, Any]:
    """Return {"name", "title", "paper", "settings": [{"name", "type", "default", "help"}]}.

    Title and paper are the first line and the first link of the docstring of the file the method is in.
    """
    from errata.config import describe

    settings = [
        {"name": key, "type": kind, "default": None if default is MISSING else default, "help": text}
        for key, kind, default, text in describe(cls)
    ]
    about = import_module(cls.__module__).__doc__ or ""
    paper = re.search(r"https?://[^\s,;)]+[^\s,;.)]", about)
    return {
        "name": name,
        "title": about.strip().partition("\n")[0],
        "paper": paper.group() if paper else "",
        "settings": settings,
    }
