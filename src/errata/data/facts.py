"""Reading facts from files: our own rows and the rows the benchmarks are published in.

A file is `.jsonl` (one object a line), `.json` (a list of objects) or `.csv` (a header and rows), in UTF-8, or one of
these packed as `.gz`. Every row may be

- ours: prompt, subject, target, and optionally id, truth, rephrases, probes, source, reason. In CSV several rephrases
  are separated by "|" or written as a JSON list, and probes are a JSON list;
- EasyEdit's and KnowEdit's: prompt, subject, target_new, ground_truth, rephrase_prompt, locality, portability, …;
- CounterFact's: requested_rewrite, paraphrase_prompts, neighborhood_prompts, …;
- EasyEdit's arguments: one object with the lists prompts, target_new, subject and others side by side;
- FastEdit's: prompt with a {}, subject, target, queries;
- zsRE's in MEND's form: src, subject, alt, answers, rephrase, loc, loc_ans. The target is `alt`, as EasyEdit has it;
  the first of `answers`, which ROME and MEMIT edit towards, is the truth, or the target where there is no `alt`.

What a benchmark's record says is read by `errata.data.readers`, less strictly than for measuring: what is asked there
and not here may be missing. Its paraphrases become probes, not rephrases, so that they are asked and never trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from errata.data import files
from errata.data.readers import counterfact, knowedit, questions
from errata.data.readers.raw import RawRow
from errata.errors import BadFact, BadFile
from errata.fact import Fact, Probe

SHOWN: Final = 20  # bad rows that a message names
_SUFFIXES: Final = (".jsonl", ".json", ".csv")
_EASYEDIT: Final = {"prompts": "prompt", "rephrase_prompts": "rephrase_prompt"}  # its arguments, and its files
_KINDS: Final = {"neighborhood": "neighborhood", "Subject_Aliasing": "alias"}  # KnowEdit's that are kinds of probes


def read_facts(path: str | Path, *, skip_bad: bool = False, notes: list[str] | None = None) -> list[Fact]:
    """Return all facts of a file, in its order.

    Args:
        skip_bad: leave rows that are broken or no facts out. notes: is told what was left out, a sentence each.

    Raises:
        BadFile: the file is missing, a directory, empty, not UTF-8 or of another kind, or rows are broken or no facts. The
            message names file, line (record, for `.json`) and field of each; nothing of such a file is returned.
    """
    path = Path(path)
    facts, bad, told = list[Fact](), list[str](), list[str]() if notes is None else notes
    for place, row in _one_by_one(files.rows(path, _SUFFIXES, told)):
        try:
            if isinstance(row, BadFile):
                raise row
            facts.append(_fact(place, row))
        except BadFact as error:
            bad.append(f"{place}: {error}")
        except BadFile as error:
            bad.append(str(error))
    if bad and not skip_bad:
        more = f" And {len(bad) - SHOWN} more." if len(bad) > SHOWN else ""
        raise BadFile(bad[0] if len(bad) == 1 else f"{len(bad)} bad rows. {' '.join(bad[:SHOWN])}{more}")
    told += [f"left out: {sentence}" for sentence in bad]
    if not facts:
        raise BadFile(f"{path} holds no facts: {'every row is bad' if bad else 'it is empty'}.")
    return facts


def _one_by_one(rows: Iterable[files.Placed]) -> Iterator[files.Placed]:
    """Yield rows, and of EasyEdit's arguments, lists side by side in one object, a row for each place."""
    for place, row in rows:
        if not (
            isinstance(row, dict) and isinstance(row.get("prompts"), list) and isinstance(row.get("target_new"), list)
        ):
            yield place, row
            continue
        lists = {name: values for name, values in row.items() if isinstance(values, list)}
        if len({len(values) for values in lists.values()}) > 1:
            yield place, BadFile(f"{place}: prompts, target_new and the other lists must be of one length.")
            continue
        for number, values in enumerate(zip(*lists.values(), strict=True), start=1):
            one = {_EASYEDIT.get(name, name): value for name, value in zip(lists, values, strict=True)}
            yield f"{place}, item {number}", one


def _fact(place: str, row: Any) -> Fact:
    if not isinstance(row, dict):
        raise BadFact(f"a row must be an object with named fields, not {type(row).__name__}.")
    row = {key: value for key, value in row.items() if value is not None}
    forms: dict[str, Callable[[_Row], Fact]] = {
        "requested_rewrite": _counterfact, "target_new": _easyedit, "src": _mend,
    }  # fmt: skip
    for key, form in forms.items():
        if key in row:
            return form(_Row(place, row))
    if isinstance(row.get("id"), int):
        row["id"] = str(row["id"])
    if isinstance(asked := row.pop("queries", None), list) and "probes" not in row:  # FastEdit's list
        row["probes"] = [{"kind": "paraphrase", "prompt": query, "answer": row.get("target", "")} for query in asked]
    return Fact.from_dict(row)


class _Row(RawRow):
    """A benchmark's row of which only what makes a fact is read: `Fact` itself says what is wrong with a text."""

    def bad(self, path: str, why: str) -> BadFact:
        return BadFact(f"the field {path!r} {why}")

    def text(self, path: str, default: str | None = None) -> str:
        value = self._get(path)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.bad(path, "is missing." if value is None else f"must be text, not {type(value).__name__}.")
        return value

    def texts(self, path: str) -> tuple[str, ...]:
        value = self.row.get(path, [])
        prompts = [value] if isinstance(value, str) else value
        if not isinstance(prompts, list) or not all(isinstance(p, str) for p in prompts):
            raise self.bad(path, "must be text or a list of texts.")
        return tuple(p for p in prompts if p.strip())

    def answers(self, path: str) -> tuple[str, ...]:
        """Return the first answer of a field that holds one, a list of them or a list of lists of spellings."""
        value = self.row.get(path, "")
        while isinstance(value, list):
            value = value[0] if value else ""
        if not isinstance(value, str | int | float):
            raise self.bad(path, "must be text or a list of texts.")
        return (str(value),) if str(value) else ()

    def sub(self, path: str) -> _Row:
        value = self.row.get(path, {})
        if not isinstance(value, dict):
            raise self.bad(path, f"must be an object, not {type(value).__name__}.")
        return _Row(self.place, value)

    def subs(self, path: str) -> list[RawRow]:
        value = self.row[path]
        items = value if isinstance(value, list) else [value]
        return [_Row(self.place, item) for item in items if isinstance(item, dict)]


def _counterfact(row: _Row) -> Fact:
    rewrite = row.sub("requested_rewrite")
    truth = None if "target_true" in rewrite.row else ""
    template, subject, target, true = counterfact.rewrite(rewrite, truth=truth)
    probes = [
        *(Probe("paraphrase", p, target) for p in row.texts("paraphrase_prompts")),
        *(Probe("neighborhood", p, true) for p in row.texts("neighborhood_prompts")),
        *_one_hop(row),
    ]
    return _made(row, ("case_id",), (template.replace("{}", subject), subject, target, true), probes)


def _easyedit(row: _Row) -> Fact:
    written = _, _, target, truth = counterfact.flat(row)
    probes = [
        *(Probe("paraphrase", p, target) for p in (*row.texts("rephrase_prompt"), *row.texts("paraphrase_prompts"))),
        *(Probe("neighborhood", p, truth) for p in row.texts("neighborhood_prompts")),
        *_one_hop(row),
    ]
    for field, kind in (("locality", "unrelated"), ("portability", "portability")):
        probes += _asked(row, field, kind)
        answer = row.answer(f"{field}_ground_truth")
        probes += [Probe(kind, p, answer) for p in row.texts(f"{field}_prompt")]
    return _made(row, ("case_id", "id"), written, probes)


def _mend(row: _Row) -> Fact:
    if not row.answer("answers", "alt"):
        raise BadFact("the row has no 'alt' and no 'answers': one of them is the target.")
    target, truth = questions.towards(row.answer("alt"), row)
    probes = [
        *(Probe("paraphrase", p, target) for p in row.texts("rephrase")),
        *(Probe("unrelated", p, answer) for p, answer in questions.unrelated(row)),
        *_one_hop(row),
    ]
    return _made(row, ("case_id", "id"), (row.text("src"), row.text("subject"), target, truth), probes)


def _one_hop(row: _Row) -> Iterator[Probe]:
    """Yield the one-hop question that later work added to CounterFact and zsRE records."""
    hop = row.row.get("portability")
    if isinstance(hop, dict) and "New Question" in hop:
        prompt, answers = counterfact.one_hop(_Row(row.place, hop))
        yield Probe("portability", prompt, "".join(answers))


def _asked(row: _Row, field: str, default: str) -> Iterator[Probe]:
    """Yield the probes of KnowEdit's groups of questions, or of a field that holds one question without a group."""
    groups = row.sub(field).row
    grouped = _Row(row.place, {field: {field: groups} if "prompt" in groups else groups})
    for name, item in knowedit.asked(grouped, field):
        answer = item.answer("ground_truth")
        yield from (Probe(_KINDS.get(name, default), prompt, answer) for prompt in item.texts("prompt"))


def _made(row: _Row, names: Sequence[str], written: tuple[str, str, str, str], probes: Iterable[Probe]) -> Fact:
    """Return the fact of (prompt, subject, target, truth), called what the first of the fields `names` calls it."""
    name = next((str(row.row[field]) for field in names if field in row.row), "")
    prompt, subject, target, truth = written
    return Fact(id=name, prompt=prompt, subject=subject, target=target, truth=truth, probes=tuple(probes))
