"""Prompts to ask, of a file or a pipe: one a line, or JSON lines whose other fields come back with the answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

from errata.data import files
from errata.errors import BadFact, BadFile
from errata.fact import Message, checked_text, turns_of

PIPE: Final = "-"  # names standard input
_OWN: Final = ("prompt", "chat", "messages")


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """A prompt as it is to be asked.

    Args:
        chat: whether it is a user's turn; None leaves that to the prompt and the model.
        messages: the turns of a conversation before it. given: the row's other fields.
    """

    prompt: str
    chat: bool | None = None
    messages: tuple[Message, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)


def read_prompts(source: str | Path, pipe: TextIO | None = None) -> Iterator[AskedPrompt]:
    """Yield the prompts of a file (.jsonl or text, also as .gz), or of `pipe` for "-", as they come; empty lines are left out.

    A line of a pipe that begins with "{" is a JSON object.

    Raises:
        BadFile: it cannot be read, or a line is no prompt; the message names file and line. Of a file before the first prompt.
    """
    if str(source) == PIPE:
        return _lines("stdin", pipe or ())
    path = Path(source)
    text = files.read_text(path)
    rows = path.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson"))
    found = list(_lines(str(path), text.split("\n"), rows=rows))
    if not found:
        raise BadFile(f"{path} has no prompts in it: write one a line, or JSON objects with a prompt.")
    return iter(found)


def _lines(name: str, lines: Iterable[str], rows: bool | None = None) -> Iterator[AskedPrompt]:
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix("\n").removesuffix("\r")
        if not line.strip():
            continue
        as_row = line.lstrip().startswith("{") if rows is None else rows
        yield _row(f"{name}, line {number}", line) if as_row else AskedPrompt(line)


def _row(place: str, line: str) -> AskedPrompt:
    row = files.parse_json(place, line)
    if isinstance(row, str):
        return AskedPrompt(row)
    if not isinstance(row, dict):
        raise BadFile(f"{place}: a prompt is text or an object with a prompt, not {type(row).__name__}.")
    try:
        turns, prompt = turns_of(row.get("messages", [])), row.get("prompt", "")
        if not prompt and turns and turns[-1][0] == "user":  # a conversation as chat APIs have it
            turns, prompt = turns[:-1], turns[-1][1]
        if not checked_text("prompt", prompt).strip():
            raise BadFact(f"the row has no prompt among {', '.join(row) or 'nothing'}: give one.")
    except BadFact as error:
        raise BadFile(f"{place}: {error}") from error
    if not isinstance(row.get("chat"), bool | None):
        raise BadFile(f"{place}: chat is true or false, not {row['chat']!r}.")
    return AskedPrompt(prompt, row.get("chat"), turns, {name: value for name, value in row.items() if name not in _OWN})
