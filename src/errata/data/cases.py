"""From a word on the command line to cases.

    parse("counterfact:counterfact.json").cases          # a file, .gz or not
    parse("zsre", data="~/benchmarks")                   # looked for under the directory, or under $ERRATA_DATA
    parse("primer:300")                                  # the shipped model's own world, generated
    parse("jsonl:mine.jsonl", skip_bad=True).skipped     # what was left out, each with file, line and field

Adding a data set: a function from `RawRow` to `Case` in a file under `readers/`, and one entry in `KNOWN`; from outside, a
`KnownSet` under the entry-point group ``errata.readers``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from errata import plugins
from errata.data.case import Case, with_subject
from errata.data.readers import counterfact, hops, knowedit, longform, own, questions
from errata.data.readers.raw import RawRow, rows
from errata.errors import BadConfig, BadFile, did_you_mean

__all__ = ["KNOWN", "Case", "Cases", "KnownSet", "find", "known_sets", "parse", "with_subject"]
_EASYEDIT = "https://github.com/zjunlp/EasyEdit (data sets linked from its README)"
_KNOWEDIT = "https://huggingface.co/datasets/zjunlp/KnowEdit"
_MIT = "MIT"


@dataclass(frozen=True, slots=True)
class KnownSet:
    """A data set errata can read.

    Args:
        name: what `--cases` calls it.
        title: what it is.
        files: names under which it is published or kept; each is also found packed as .gz.
        where: where to get it.
        licence: as its source states it.
        read: from one record to a case.
        unfold: from the records of a file to the ones `read` takes, where these are not the same.
    """

    name: str
    title: str
    files: tuple[str, ...]
    where: str
    licence: str
    read: Callable[[RawRow], Case]
    unfold: Callable[[RawRow], Iterable[RawRow]] | None = None


@dataclass(frozen=True, slots=True)
class Cases:
    """Cases as they were asked for: the words, the cases in file order, and a complaint for each record left out."""

    spec: str
    cases: tuple[Case, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)


def _knowedit(name: str, title: str, *files: str) -> KnownSet:
    return KnownSet(name, f"KnowEdit: {title}", files, _KNOWEDIT, _MIT, knowedit.triples(name))


KNOWN: tuple[KnownSet, ...] = (
    KnownSet(
        "counterfact", "CounterFact, original records",
        ("counterfact.json", "counterfact_full.jsonl", "multi_counterfact.json"),
        "https://rome.baulab.info/data/dsets/counterfact.json", _MIT, counterfact.original,
    ),
    KnownSet(
        "counterfact-easyedit", "CounterFact in EasyEdit's form",
        ("counterfact-edit.json", "counterfact_all.jsonl", "counterfact-val.json", "counterfact-train.json"),
        _EASYEDIT, _MIT, counterfact.easyedit,
    ),
    KnownSet(
        "zsre", "zsRE in MEND's form, edited to `alt` (EasyEdit, WISE)",
        ("zsre_mend_eval.json", "zsre_mend_format.jsonl", "zsre_mend_edit.json"),
        "https://rome.baulab.info/data/dsets/zsre_mend_eval.json", "none stated", questions.zsre,
    ),
    KnownSet(
        "zsre-true", "zsRE in MEND's form, edited to the first answer (ROME, MEMIT)",
        ("zsre_mend_eval.json", "zsre_mend_format.jsonl", "zsre_mend_edit.json"),
        "https://rome.baulab.info/data/dsets/zsre_mend_eval.json", "none stated", questions.zsre_true,
    ),
    _knowedit("wiki_recent", "recent facts", "recent_test.json", "wiki_recent_test.jsonl", "wiki_recent_train.jsonl"),
    _knowedit(
        "wiki_counterfact", "counterfactual facts",
        "test_cf.json", "wiki_counterfact_test.jsonl", "wiki_counterfact_train.jsonl",
    ),
    _knowedit("knowedit-zsre", "zsRE questions", "ZsRE-test-all.json", "zsre_test.jsonl"),
    KnownSet(
        "wikibio", "KnowEdit: hallucinated biographies",
        ("wikibio-test-all.json", "wikibio_test.jsonl", "wikibio_train.jsonl"),
        _KNOWEDIT, "MIT; passages CC BY-SA 3.0", knowedit.wikibio,
    ),
    KnownSet(
        "convsent", "KnowEdit: sentiment of replies",
        ("blender_test.json", "convsent_test.jsonl", "convsent_val.jsonl"),
        _KNOWEDIT, _MIT, knowedit.convsent,
    ),
    KnownSet(
        "sanitation", "KnowEdit: answers to be forgotten",
        ("trivia_qa_test.json", "sanitation_trivia_test.json", "sanitation_trivia_train.json"),
        _KNOWEDIT, _MIT, knowedit.sanitation, knowedit.sanitation_records,
    ),
    KnownSet(
        "mquake", "MQuAKE: chains of edits and multi-hop questions (-hard, -CF, AKEW)",
        ("MQuAKE-CF-3k.json", "MQuAKE-hard.json", "mquake_hard.jsonl", "MQuAKE-CF.json", "mquake_cf_akew.jsonl"),
        "https://github.com/princeton-nlp/MQuAKE", "MIT; AKEW texts none stated", hops.mquake,
    ),
    KnownSet(
        "qaedit", "QAEdit: questions asked as users ask them", ("QAEdit_inter_1k.json", "qaedit_1k.jsonl"),
        "https://github.com/WanliYoung/Revisit-Editing-Evaluation", "Apache-2.0", questions.qaedit,
    ),
    KnownSet(
        "halluedit", "HalluEditBench: hallucinations of 9 domains and 26 topics", ("halluedit.jsonl", "halluedit.json"),
        "https://github.com/llm-editing/HalluEditBench", _MIT, hops.halluedit,
    ),
    KnownSet(
        "wise-hallucination", "WISE: hallucinated biographies of SelfCheckGPT",
        ("hallucination-edit.json", "wise_hallucination_edit.jsonl", "wise_hallucination_train.jsonl"),
        _EASYEDIT, "CC BY-SA 3.0", longform.wise,
    ),
    KnownSet(
        "unke", "UnKE: paragraphs as answers", ("final_data_v2.json", "unke_v2.jsonl"),
        "https://github.com/TrustedLLM/UnKE", "none stated", longform.unke,
    ),
    KnownSet(
        "editeverything", "EditEverything: long answers of five kinds", ("editevery.json", "editeverything.jsonl"),
        "https://github.com/jianghoucheng/AnyEdit", "none stated", longform.editeverything,
    ),
)  # fmt: skip
_OWN = KnownSet("jsonl", "your own rows", (), "docs/quickstart.md", "yours", own.jsonl)


def known_sets() -> tuple[KnownSet, ...]:
    """Return the benchmarks there are, those of plugins last."""
    taken = {"primer", _OWN.name, *(known.name for known in KNOWN)}
    return (*KNOWN, *(one.value for one in plugins.installed("errata.readers", taken, _unfolded).values()))


def _unfolded(value: object) -> Mapping[str, KnownSet]:
    """Return the data sets that a plugin gives: one, or those in a module."""
    found = [one for one in plugins.things(value) if isinstance(one, KnownSet)]
    if not found:
        raise TypeError("it gives no errata.sdk.KnownSet")
    return {known.name: known for known in found if known not in (*KNOWN, _OWN)}


def find(known: KnownSet, data: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return where a known set lies under `data`, else under $ERRATA_DATA, in the order of its names; maybe nowhere."""
    directory = data or os.environ.get("ERRATA_DATA")
    if not directory:
        return []
    below: dict[str, list[Path]] = {}
    for path in sorted(Path(directory).expanduser().rglob("*.json*")):
        below.setdefault(path.name.removesuffix(".gz"), []).append(path)
    return [path for name in known.files for path in below.get(name, ())]


def parse(spec: str, *, data: str | os.PathLike[str] | None = None, seed: int = 0, skip_bad: bool = False) -> Cases:
    """Return the cases that `spec` names.

    Args:
        spec: "primer:N", "primer:N:PEOPLE", "jsonl:FILE", "NAME:FILE" or, to be looked for, "NAME" of a known set.
        data: directory to look in; $ERRATA_DATA unless given.
        seed: what the primer's edits are drawn from.
        skip_bad: leave malformed records out and say so in `skipped`, instead of stopping at the first.

    Raises:
        BadConfig: no such set, or a set that is not at hand; the message says where to get it.
        BadFile: a file that cannot be read, or (without `skip_bad`) a malformed record: file, line and field are named.
    """
    name, colon, rest = spec.partition(":")
    if name == "primer":
        return Cases(spec, tuple(_primer(spec, rest, seed)))
    sets = {known.name: known for known in (*KNOWN, _OWN)}
    sets = sets if name in sets else {known.name: known for known in (*known_sets(), _OWN)}
    if name not in sets:
        choices = [*sets, "primer"]
        raise BadConfig(f"no data set {name!r}.{did_you_mean(name, choices)} Known: {', '.join(choices)}.")
    known = sets[name]
    if colon and rest:
        return _read(spec, known, Path(rest).expanduser(), skip_bad)
    found = find(known, data)
    if not found:
        looked = ", ".join(known.files) or "name the file: jsonl:FILE"
        raise BadConfig(
            f"{name} is not at hand ({looked}). Get it from {known.where}, then write {name}:FILE, or give its "
            "directory as --data or ERRATA_DATA."
        )
    return _read(spec, known, found[0], skip_bad)


def _primer(spec: str, rest: str, seed: int) -> list[Case]:
    count, _, people = rest.partition(":")
    if not all(n.isdecimal() and int(n) > 0 for n in (count, people or "1")):
        raise BadConfig(f"cannot read {spec!r}: write primer:N, or primer:N:PEOPLE for a world of another size.")
    return own.primer(int(count), int(people) if people else None, seed)


def _read(spec: str, known: KnownSet, path: Path, skip_bad: bool) -> Cases:
    cases: dict[str, Case] = {}
    skipped: list[str] = []
    for record in _records(known, path):
        try:
            if isinstance(record, BadFile):
                raise record
            case = known.read(record)
            if case.id in cases:
                raise BadFile(f"{record.place}, field 'id': {case.id!r} is used twice.")
            cases[case.id] = case
        except BadFile as error:
            if not skip_bad:
                raise
            skipped.append(str(error))
    if not cases:
        raise BadFile(f"{path} holds no cases" + (f": all {len(skipped)} records are malformed." if skipped else "."))
    return Cases(spec, tuple(cases.values()), tuple(skipped))


def _records(known: KnownSet, path: Path) -> Iterator[RawRow | BadFile]:
    for number, (place, row) in enumerate(rows(path)):
        try:
            if isinstance(row, BadFile):
                raise row
            record = RawRow(place, row, number)
            yield from known.unfold(record) if known.unfold else (record,)
        except BadFile as error:
            yield error
