"""Reading facts from files: our own rows and the rows the benchmarks are published in.

A file is `.jsonl` (one object a line), `.json` (a list of objects) or `.csv` (a header and rows), in UTF-8, or one of
these packed as `.gz`. Every row may be

- ours: prompt, subject, target, and optionally id, truth, rephrases, probes, source, reason. In CSV several rephrases
  are separated by "|" or written as a JSON list, and probes are a JSON list;
- EasyEdit's and KnowEdit's: prompt, subject, target_new, ground_truth, rephrase_prompt, locality, portability, …;
- CounterFact's: requested_rewrite, paraphrase_prompts, neighborhood_prompts, …;
- zsRE's in MEND's form: src, subject, alt, answers, rephrase, loc, loc_ans. The target is `alt`, as EasyEdit has it;
  the first of `answers`, which ROME and MEMIT edit towards, is the truth, or the target where there is no `alt`.

Paraphrases of benchmarks become probes, not rephrases, so that they are asked and never trained on.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from errata.errors import BadFact, BadFile
from errata.fact import Fact, Probe

Row = Mapping[str, Any]
_SUFFIXES: Final = (".jsonl", ".json", ".csv")


def read_facts(path: str | Path) -> list[Fact]:
    """Return all facts of a file, in its order.

    Raises:
        BadFile: the file is missing, a directory, empty, not UTF-8 or of another kind, or a row is broken or no fact.
            The message names file, line (record, for `.json`) and field; nothing of such a file is returned.
    """
    path = Path(path)
    kind = _kind(path)
    text = read_text(path)
    rows = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows}[kind]
    facts = []
    for place, row in rows(path, text):
        try:
            facts.append(_fact(row))
        except BadFact as error:
            raise BadFile(f"{path}, {place}: {error}") from error
    if not facts:
        raise BadFile(f"{path} holds no facts: it is empty.")
    return facts


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise BadFile(f"cannot tell what kind of file {path} is: name it .jsonl, .json or .csv (or that with .gz).")


def read_text(path: Path) -> str:
    """Return a file's text, unpacked if it is named .gz; raises BadFile if it cannot be read or is not UTF-8."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise BadFile(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error
    if path.name.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise BadFile(f"{path} is not a whole gzip file: {error}. Fetch or pack it again.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadFile(f"{path}, line {line}: not UTF-8 text: save the file in UTF-8.") from error


def _jsonl_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: U+2028 may stand inside a string
        if line.strip():
            yield f"line {number}", parse_json(f"{path}, line {number}", line)


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    if not text.strip():
        return
    value = parse_json(str(path), text)
    for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
        yield f"record {number}", row


def parse_json(place: str, text: str) -> Any:
    """Return the value of a JSON text; raises BadFile, which names `place`, if it is broken."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{place}, line {error.lineno}" if "\n" in text.strip() else place
        hint = " A file with one object a line is named .jsonl." if error.msg == "Extra data" else ""
        raise BadFile(f"{where}: broken JSON at column {error.colno} ({error.msg}).{hint}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets without end
        raise BadFile(f"{place}: JSON that cannot be read ({error}).") from error


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)  # spreadsheets of many countries write ";"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            place, start = f"line {start}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _csv_header(f"{path}, {place}", cells)
            else:
                yield place, _csv_row(f"{path}, {place}", header, cells)
    except csv.Error as error:
        raise BadFile(f"{path}, line {start}: broken CSV ({error}).") from error


def _csv_header(place: str, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = [name for name in names if name and names.count(name) > 1]
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


def _fact(row: Any) -> Fact:
    if not isinstance(row, dict):
        raise BadFact(f"a row must be an object with named fields, not {type(row).__name__}.")
    row = {key: value for key, value in row.items() if value is not None}
    forms: dict[str, Callable[[Row], Fact]] = {
        "requested_rewrite": _counterfact, "target_new": _easyedit, "src": _mend,
    }  # fmt: skip
    for key, form in forms.items():
        if key in row:
            return form(row)
    if isinstance(row.get("id"), int):
        row["id"] = str(row["id"])
    return Fact.from_dict(row)


def _counterfact(row: Row) -> Fact:
    rewrite = row["requested_rewrite"]
    if not isinstance(rewrite, dict):
        raise BadFact(f"the field 'requested_rewrite' must be an object, not {type(rewrite).__name__}.")
    subject, target = _need(rewrite, "subject"), _need(rewrite, "target_new", "str")
    truth = _need(rewrite, "target_true", "str") if "target_true" in rewrite else ""
    probes = [
        *(Probe("paraphrase", p, target) for p in _prompts(row, "paraphrase_prompts")),
        *(Probe("neighborhood", p, truth) for p in _prompts(row, "neighborhood_prompts")),
        *_extras(row),
    ]
    return Fact(
        prompt=_need(rewrite, "prompt").replace("{}", subject),
        subject=subject,
        target=target,
        id=str(row.get("case_id", "")),
        truth=truth,
        probes=tuple(probes),
    )


def _easyedit(row: Row) -> Fact:
    subject, target = _need(row, "subject"), _need(row, "target_new")
    truth = _answer(row, "ground_truth") or _answer(row, "target_true")
    probes = [
        *(
            Probe("paraphrase", p, target)
            for p in _prompts(row, "rephrase_prompt") + _prompts(row, "paraphrase_prompts")
        ),
        *(Probe("neighborhood", p, truth) for p in _prompts(row, "neighborhood_prompts")),
        *_extras(row),
    ]
    for field, default in (("locality", "unrelated"), ("portability", "portability")):
        probes += _probes(row, field, default)
        answer = _answer(row, f"{field}_ground_truth")
        probes += [Probe(default, p, answer) for p in _prompts(row, f"{field}_prompt")]
    return Fact(
        prompt=_need(row, "prompt").replace("{}", subject),
        subject=subject,
        target=target,
        id=str(row.get("case_id", row.get("id", ""))),
        truth=truth,
        probes=tuple(probes),
    )


def _mend(row: Row) -> Fact:
    first, alt = _answer(row, "answers"), _answer(row, "alt")
    if not (first or alt):
        raise BadFact("the row has no 'alt' and no 'answers': one of them is the target.")
    probes = [
        *(Probe("paraphrase", p, alt or first) for p in _prompts(row, "rephrase")),
        *(Probe("unrelated", p, _answer(row, "loc_ans")) for p in _prompts(row, "loc")),
        *_extras(row),
    ]
    return Fact(
        prompt=_need(row, "src"),
        subject=_need(row, "subject"),
        target=alt or first,
        id=str(row.get("case_id", row.get("id", ""))),
        truth=first if alt else "",
        probes=tuple(probes),
    )


def _extras(row: Row) -> Iterator[Probe]:
    """Yield the one-hop question that later work added to CounterFact and zsRE records."""
    hop = row.get("portability")
    if isinstance(hop, dict) and "New Question" in hop:
        yield Probe("portability", _need(hop, "New Question"), _answer(hop, "New Answer"))


def _probes(row: Row, field: str, default: str) -> Iterator[Probe]:
    """Yield the probes of KnowEdit's {"Name of a kind": [{"prompt", "ground_truth"}, …]}."""
    groups = row.get(field, {})
    if not isinstance(groups, dict):
        raise BadFact(f"the field {field!r} must be an object, not {type(groups).__name__}.")
    for name, group in {field: groups}.items() if "prompt" in groups else groups.items():
        kind = {"neighborhood": "neighborhood", "Subject_Aliasing": "alias"}.get(name, default)
        for item in group if isinstance(group, list) else [group]:
            if isinstance(item, dict):
                answer = _answer(item, "ground_truth")
                yield from (Probe(kind, prompt, answer) for prompt in _prompts(item, "prompt"))


def _need(row: Row, *keys: str) -> str:
    """Return the text at row[key][key…]; raises BadFact naming the field if it is not there or not text."""
    value: Any = row
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    name = ".".join(keys)
    if value is None:
        raise BadFact(f"the field {name!r} is missing.")
    if not isinstance(value, str):
        raise BadFact(f"the field {name!r} must be text, not {type(value).__name__}.")
    return value


def _prompts(row: Row, field: str) -> list[str]:
    """Return the texts of a field that holds one or a list of them; empty ones are left out."""
    value = row.get(field, [])
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list) or not all(isinstance(p, str) for p in prompts):
        raise BadFact(f"the field {field!r} must be text or a list of texts.")
    return [p for p in prompts if p.strip()]


def _answer(row: Row, field: str) -> str:
    """Return the first answer of a field that holds one, a list of them or a list of lists of spellings; "" if none."""
    value = row.get(field, "")
    while isinstance(value, list):
        value = value[0] if value else ""
    if not isinstance(value, str | int | float):
        raise BadFact(f"the field {field!r} must be text or a list of texts.")
    return str(value)
