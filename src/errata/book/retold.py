"""A book as the command lines that would make it again: a line an event; what flags cannot say of facts, in files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from errata.book.records import Event, Record
from errata.content import is_id
from errata.identity import Identity

_PLAIN: Final = {
    "prompt",
    "subject",
    "target",
}  # what of a fact `errata edit` has flags for; source and reason are labels
_LABELS: Final = ("author", "reason", "source", "tenant", "valid_from", "valid_until")


def commands(
    name: str, identity: Identity | None, records: Sequence[Record], events: Sequence[Event]
) -> tuple[list[str], dict[str, str]]:
    """Return the lines, and files of facts by their names ("facts/<id>.jsonl") that they read.

    Edits are computed from what they are given, so that the same model, versions and statistics give the same ids; where they
    do not, lines that drop or restore an edit by its id need another one. A line that begins with # says what no command can.
    """
    known = {record.id: record for record in records}
    dtype = identity.dtype if identity is not None else ""
    model = ["--model", name, *(["--dtype", dtype] if dtype and "+" not in dtype else [])]
    files: dict[str, str] = {}
    lines = []
    for event in events:
        words = _words(event, known.get(event.edit_id), model, files)
        lines.append(
            shlex.join(["errata", *words])
            if words
            else _one_line(f"# event {event.seq}: {event.kind} {event.edit_id}").rstrip()
        )
    return lines, files


def _words(event: Event, record: Record | None, model: Sequence[str], files: dict[str, str]) -> list[str]:
    who = _flags({"author": " ".join(event.author.split()), "reason": " ".join(event.reason.split())})
    if event.kind == "write" and record is not None:
        return _edit(record, model, files)
    if event.kind in ("drop", "restore") and is_id(event.edit_id):
        return [event.kind, event.edit_id, *who]
    name = event.data.get("name")
    if event.kind == "tag" and isinstance(name, str) and not name.startswith("-"):
        return ["tag", _one_line(name), "--move", *who]
    return []


def _edit(record: Record, model: Sequence[str], files: dict[str, str]) -> list[str]:
    config = record.meta.get("config") or {}
    settings = _settings({key: value for key, value in config.items() if key != "seed"})
    if not record.facts or settings is None or not is_id(record.id):
        return []
    labels = {key: " ".join(getattr(record, key).split()) for key in _LABELS}
    words = ["edit", *_facts(record, files), "--method", record.method, "--seed", str(record.meta.get("seed", 0))]
    tags = [word for tag in record.tags for word in ("--tag", " ".join(tag.split()))]
    return [*words, *settings, *_flags(labels), *tags, *model]


def _facts(record: Record, files: dict[str, str]) -> list[str]:
    """Return the flags that say a record's facts; those that flags cannot say go into a file."""
    rows = [fact.to_dict() for fact in record.facts]
    if (
        len(rows) == 1
        and rows[0].keys() <= _PLAIN
        and not any("\n" in text or "\r" in text for text in rows[0].values())
    ):
        return [*_flags(rows[0]), "--plain"]
    file = f"facts/{record.id}.jsonl"
    files[file] = "".join(f"{json.dumps(row, ensure_ascii=False, sort_keys=True)}\n" for row in rows)
    return ["--facts", file]


def _one_line(text: str) -> str:
    """Return text that does not begin another line, and so another command."""
    return " ".join(text.split())


def _settings(config: Mapping[str, Any]) -> list[str] | None:
    """Return settings as flags; None where one cannot be said."""
    found = []
    for key, value in sorted(config.items()):
        items = [_text(item) for item in value] if isinstance(value, list) else []
        text = ",".join(items) if isinstance(value, list) else _text(value)
        if any("," in item or item != item.strip() for item in items) or text != text.strip() or "\n" in text:
            return None
        found += ["--set", f"{key}={text}"]
    return found


def _text(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _flags(values: Mapping[str, Any]) -> list[str]:
    return [word for key, value in values.items() if value for word in (f"--{key.replace('_', '-')}", str(value))]


def figures(record: Record) -> dict[str, Any]:
    """Return the figures of an edit's report that tell whether another computation of it came out the same."""
    report = record.meta.get("report") or {}
    rows = [row for row in report.get("facts") or () if isinstance(row, Mapping)]
    said = [{key: row.get(key) for key in ("prompt", "target", "before", "after", "said")} for row in rows]
    kept = {key: report[key] for key in ("norm_ratio", "converged", "lost", "notes", "gates") if report.get(key)}
    return {"id": record.id, "method": record.method, "stands": record.stands, "facts": said, **kept}


def ingredients(records: Sequence[Record]) -> dict[str, Any]:
    """Return what went into the edits besides the base: versions, corpora, and statistics by their names."""
    versions, corpora, statistics = set(), set(), dict[str, str]()
    for record in records:
        versions.add(json.dumps(record.meta.get("versions") or {}, sort_keys=True))
        if isinstance(corpus := (record.meta.get("config") or {}).get("corpus"), str):
            corpora.add(corpus)
        statistics.update(_named((record.meta.get("report") or {}).get("statistics")))
    return {
        "versions": [json.loads(text) for text in sorted(versions) if text != "{}"],
        "corpora": sorted(corpora),
        "statistics": [{"name": name, "site": site} for name, site in sorted(statistics.items())],
    }


def _named(statistics: Any) -> Iterator[tuple[str, str]]:
    for site, one in (statistics or {}).items() if isinstance(statistics, Mapping) else ():
        if isinstance(one, Mapping) and isinstance(one.get("name"), str):
            yield one["name"], str(site)
