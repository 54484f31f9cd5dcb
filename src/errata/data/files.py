"""Rows of a file: JSON lines, a list of JSON objects or CSV, in UTF-8, packed as .gz or not.

Whatever is broken comes as a `BadFile` that names the file and the line (the record, of a list).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from errata.content import read_file
from errata.errors import BadFile

_NAMELESS: Final = re.compile(
    r"Unnamed: [\d.]+"
)  # what pandas calls a column without a name that it reads and writes again
_NAMES: Final = frozenset("prompt prompts subject target src question id".split())  # one of which a table of facts has
_UNNAMED: Final = (" is", " in", " of", " the", "?")  # how a prompt ends, and no name of a column
MOST: Final = 1 << 30  # bytes of text that are read, unpacked
COLUMNS: Final = 10_000
Placed = tuple[str, Any]  # file and line or record, and what was parsed there


def rows(path: Path, suffixes: Sequence[str], notes: list[str] | None = None) -> Iterator[Placed]:
    """Yield each row of a file with its place.

    A broken line of a .jsonl file comes as its BadFile, so that the caller may go on.

    Args:
        suffixes: the kinds that are read, of ".jsonl", ".json" and ".csv"; each also packed as .gz.
        notes: is told what of a table is left out.

    Raises:
        BadFile: the file is of another kind or cannot be read at all.
    """
    kind = _kind(path, suffixes)
    text = read_text(path)
    return (
        _csv(path, text, [] if notes is None else notes)
        if kind == ".csv"
        else {".jsonl": _jsonl, ".json": _json}[kind](path, text)
    )


def _kind(path: Path, suffixes: Sequence[str]) -> str:
    name = path.name.lower().removesuffix(".gz")
    for suffix in suffixes:
        if name.endswith(suffix) or (suffix == ".csv" and name.endswith(".tsv")):
            return suffix
    known = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
    raise BadFile(f"cannot tell what kind of file {path} is: name it {known} (or that with .gz).")


def read_text(path: Path) -> str:
    """Return a file's text, unpacked if it is named .gz; raises BadFile if it cannot be read or is not UTF-8."""
    try:
        data = read_file(path, MOST)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise BadFile(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error
    if path.name.lower().endswith(".gz"):
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(MOST + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise BadFile(f"{path} is not a whole gzip file: {error}. Fetch or pack it again.") from error
        if len(data) > MOST:
            raise BadFile(f"{path} unpacks to more than the {MOST:,} bytes that are read: split it.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadFile(f"{path}, line {line}: not UTF-8 text: save the file in UTF-8.") from error


def _jsonl(path: Path, text: str) -> Iterator[Placed]:
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: U+2028 may stand inside a string
        if line.strip():
            yield _parsed(f"{path}, line {number}", line)


def _parsed(place: str, line: str) -> Placed:
    try:
        return place, parse_json(place, line)
    except BadFile as error:
        return place, error


def _json(path: Path, text: str) -> Iterator[Placed]:
    if not text.strip():
        return
    value = parse_json(str(path), text)
    for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
        yield f"{path}, record {number}", row


def parse_json(place: str, text: str) -> Any:
    """Return the value of a JSON text; raises BadFile, which names `place`, if it is broken."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{place}, line {error.lineno}" if "\n" in text.strip() else place
        hint = " A file with one object a line is named .jsonl." if error.msg == "Extra data" else ""
        if error.msg == "Extra data" and text.rstrip().endswith(","):
            hint = " The line ends in a comma: leave it out, one object a line stands alone."
        raise BadFile(f"{where}: broken JSON at column {error.colno} ({error.msg}).{hint}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets without end
        raise BadFile(f"{place}: JSON that cannot be read ({error}).") from error


def _csv(path: Path, text: str, notes: list[str]) -> Iterator[Placed]:
    first = text.partition("\n")[0]
    tabs = path.name.lower().removesuffix(".gz").endswith(".tsv")
    delimiter = "\t" if tabs else max(",;\t", key=first.count)  # spreadsheets of many countries write ";"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            place, start = f"{path}, line {start}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _csv_header(place, cells)
                continue
            for number in range(_numbered(header, cells)):
                said = f"{path}: column {number + 1} has no name and holds row numbers; it is left out."
                notes += [] if said in notes else [said]
                cells[number] = ""
            yield place, _csv_row(place, header, cells)
    except csv.Error as error:
        raise BadFile(f"{path}, line {start}: broken CSV ({error}).") from error


def _numbered(header: list[str], cells: list[str]) -> int:
    """Return how many cells a row begins with that are numbers under no name, as DataFrame.to_csv writes them."""
    pairs = zip(header, cells, strict=False)
    return sum(1 for _ in takewhile(lambda pair: not pair[0] and pair[1].strip().isdigit(), pairs))


def _csv_header(place: str, cells: list[str]) -> list[str]:
    if not _NAMES & {cell.strip() for cell in cells} and any(cell.strip().endswith(_UNNAMED) for cell in cells):
        raise BadFile(
            f"{place}: the first line looks like a fact ({cells[0].strip()[:60]!r}), where names of columns stand: put "
            "prompt,subject,target above it."
        )
    names = ["" if _NAMELESS.fullmatch(cell.strip()) else cell.strip() for cell in cells]
    if len(names) > COLUMNS:
        raise BadFile(
            f"{place}: {len(names):,} columns, more than the {COLUMNS:,} that are read: is it a table of facts?"
        )
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise BadFile(f"{place}: the column {twice[0]!r} is there twice.")
    return names


def _csv_row(place: str, header: list[str], cells: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        if not cell.strip():
            continue
        name = header[number] if number < len(header) else ""
        if not name:
            raise BadFile(f"{place}: cell {number + 1} stands under no column name: put text with commas in quotes.")
        row[name] = cell
    for name in ("rephrases", "probes"):
        if str(row.get(name, "")).lstrip().startswith("["):
            row[name] = parse_json(f"{place}, field {name!r}", row[name])
    if isinstance(row.get("rephrases"), str):
        row["rephrases"] = [part for part in row["rephrases"].split("|") if part.strip()]
    return row
