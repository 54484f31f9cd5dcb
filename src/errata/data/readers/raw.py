"""Reading records with a complaint for everything that is not as it should be: file, line and field are named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from errata.data import files
from errata.data.case import Case
from errata.errors import BadFact, BadFile, InputError
from errata.fact import Fact


def rows(path: Path) -> Iterator[files.Placed]:
    """Yield (place, row) for each row of a .jsonl or .json file; a broken line comes as its BadFile.

    Raises:
        BadFile: the file cannot be read at all.
    """
    return files.rows(path, (".jsonl", ".json"))


class RawRow:
    """One row of a file; every getter takes a dotted path of field names and complains with the place.

    Args:
        place: file and line, for messages.
        row: what was parsed there; kept as `row`.
        number: which record of its file it is, from 0.

    Raises:
        BadFile: the row is no object.
    """

    def __init__(self, place: str, row: Any, number: int = 0) -> None:
        self.place, self.number = place, number
        if not isinstance(row, Mapping):
            raise BadFile(f"{place}: a record must be an object with named fields, not {type(row).__name__}.")
        self.row: Mapping[str, Any] = row

    def __contains__(self, path: str) -> bool:
        return self._get(path) is not None

    def keys(self) -> list[str]:
        """Return the names of the fields."""
        return list(self.row)

    def bad(self, path: str, why: str) -> InputError:
        """Return the complaint about a field, ready to raise."""
        return BadFile(f"{self.place}, field {path!r}: {why}")

    def text(self, path: str, default: str | None = None) -> str:
        """Return the text of a field, stripped; `default` where it is missing or empty.

        Raises:
            BadFile: it is not text, or missing or empty without a default.
        """
        value = self._get(path)
        text = "" if value is None else self._clean(path, value)
        if text or default is not None:
            return text or default or ""
        raise self.bad(path, "missing." if value is None else "empty.")

    def texts(self, path: str) -> tuple[str, ...]:
        """Return the texts of a field that holds one or a list of them, empty ones left out; () where it is missing."""
        value = self._get(path)
        items = [] if value is None else value if isinstance(value, list) else [value]
        return tuple(text for item in items if (text := self._clean(path, item)))

    def answers(self, path: str) -> tuple[str, ...]:
        """Return every spelling in a field that holds an answer, a list, or lists of lists; numbers are written out."""
        found: list[str] = []
        waiting = [self._get(path)]
        while waiting:
            value = waiting.pop(0)
            if isinstance(value, list):
                waiting = [*value, *waiting]
            elif isinstance(value, int | float) and not isinstance(value, bool):
                found.append(str(value))
            elif value is not None:
                found.append(self._clean(path, value))
        return tuple(dict.fromkeys(text for text in found if text))

    def answer(self, *paths: str) -> str:
        """Return the first spelling in the first of these fields that holds an answer; "" where none does."""
        return next((found[0] for path in paths if (found := self.answers(path))), "")

    def name(self, path: str) -> str:
        """Return what a field calls the record, or its number in the file where there is no such field."""
        return next(iter(self.answers(path)), str(self.number))

    def sub(self, path: str) -> RawRow | None:
        """Return the object in a field, or None where it is missing."""
        value = self._get(path)
        if value is not None and not isinstance(value, Mapping):
            raise self.bad(path, f"must be an object, not {type(value).__name__}.")
        return None if value is None else RawRow(f"{self.place}, in {path!r}", value, self.number)

    def subs(self, path: str) -> list[RawRow]:
        """Return the objects in a field that holds one or a list of them."""
        value = self._get(path)
        items = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(item, Mapping) for item in items):
            raise self.bad(path, "must be an object or a list of objects.")
        return [RawRow(f"{self.place}, in {path!r}", item, self.number) for item in items]

    def _get(self, path: str) -> Any:
        value: Any = self.row
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def _clean(self, path: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.bad(path, f"must be text, not {type(value).__name__}.")
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise self.bad(path, "holds NUL or characters that are no valid Unicode.")
        return value.strip()


def fact(case: str, prompt: str, subject: str, target: str, truth: str = "") -> Fact:
    """Return the fact a method writes, without its subject where that does not stand in the prompt.

    It carries none of the case's probes: what is asked later must never be trained on.
    """
    try:
        return Fact(id=case, prompt=prompt, subject=subject, target=target, truth=truth)
    except BadFact:  # the texts themselves are clean and not empty, so what is left is where the subject stands
        return Fact(id=case, prompt=prompt.replace("{}", subject), target=target, truth=truth)


def build(source: str, number: str, prompt: str, target: str, **rest: Any) -> Case:
    """Return a case named after its source, with its fact."""
    name = f"{source.split(' ')[0]}-{number}"
    subject, truth = rest.get("subject", ""), rest.get("truth", "")
    return Case(
        id=name, prompt=prompt, target=target, source=source, fact=fact(name, prompt, subject, target, truth), **rest
    )
