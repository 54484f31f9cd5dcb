"""From a word on the command line to cases, and what happens when that does not work.

pytest tests/data/test_cases.py
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from errata.data.cases import KNOWN, find, parse, with_subject
from errata.errors import BadConfig, BadFile
from errata.fact import Fact
from errata.primer.world import RELATIONS, World
from tests.data.made_up import COUNTERFACT, OWN, UNKE, ZSRE


def write(path: Path, *rows: object) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json", "x.json.gz"])
def test_files_come_as_lines_or_lists_packed_or_not(name: str, tmp_path: Path) -> None:
    second = {**COUNTERFACT, "case_id": 8}
    rows = [json.dumps([COUNTERFACT, second])] if ".jsonl" not in name else [COUNTERFACT, second]
    found = parse(f"counterfact:{write(tmp_path / name, *rows)}")
    assert [case.id for case in found] == ["counterfact-7", "counterfact-8"]
    assert len(found) == 2


def test_malformed_records_stop_the_reading_unless_they_are_to_be_skipped(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", OWN, "{broken", {"prompt": "a"}, [1], {**OWN, "id": "other"}, OWN)
    with pytest.raises(BadFile, match="line 2"):
        parse(f"jsonl:{file}")
    found = parse(f"jsonl:{file}", skip_bad=True)
    assert [case.id for case in found] == ["mine", "other"]
    assert len(found.skipped) == 4
    for line, complaint in zip((2, 3, 4, 6), found.skipped, strict=True):
        assert f"{file}, line {line}" in complaint
    assert "used twice" in found.skipped[-1]


def test_nothing_but_malformed_records_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="all 2 records are malformed"):
        parse(f"jsonl:{write(tmp_path / 'x.jsonl', '{', '{')}", skip_bad=True)
    with pytest.raises(BadFile, match="holds no cases"):
        parse(f"jsonl:{write(tmp_path / 'y.jsonl', '')}")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda d: d / "none.jsonl", "cannot read"),
        (lambda d: d, "what kind of file"),
        (lambda d: write(d / "x.csv", "a"), "what kind of file"),
        (lambda d: write(d / "x.json", "[1"), "broken JSON"),
        (lambda d: write(d / "x.json", "[1]"), "record 1"),
    ],
)
def test_files_that_cannot_be_read(make, complaint: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadFile, match=complaint):
        parse(f"jsonl:{make(tmp_path)}", skip_bad=complaint != "record 1")


def test_a_torn_archive_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl.gz", OWN)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(BadFile, match="not a whole gzip file"):
        parse(f"jsonl:{file}")


def test_a_known_set_is_found_where_one_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "deep" / "zsre_mend_eval.json", json.dumps([ZSRE]))
    assert len(parse("zsre", data=tmp_path)) == 1
    monkeypatch.setenv("ERRATA_DATA", str(tmp_path))
    assert len(parse("zsre-true")) == 1
    write(tmp_path / "zsre_mend_format.jsonl.gz", ZSRE)
    zsre = next(known for known in KNOWN if known.name == "zsre")
    assert [path.name for path in find(zsre)] == ["zsre_mend_eval.json", "zsre_mend_format.jsonl.gz"]


def test_a_missing_set_says_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERRATA_DATA", raising=False)
    for known in KNOWN:
        assert find(known) == []
        with pytest.raises(BadConfig) as caught:
            parse(known.name, data=tmp_path)
        assert known.where in str(caught.value)
        assert known.files[0] in str(caught.value)


def test_an_unknown_set_gets_a_hint() -> None:
    with pytest.raises(BadConfig, match="Did you mean counterfact"):
        parse("counterfect:x.json")
    with pytest.raises(BadConfig, match="name the file"):
        parse("jsonl")


def test_each_known_set_is_described() -> None:
    assert len({known.name for known in KNOWN}) == len(KNOWN)
    for known in KNOWN:
        assert known.title
        assert known.licence
        assert known.where.startswith("https://")


def test_methods_refuse_by_name_what_has_no_subject(tmp_path: Path) -> None:
    rows = [ZSRE, {**ZSRE, "subject": "Oxbow Mill"}]
    cases = [*parse(f"zsre:{write(tmp_path / 'z.jsonl', *rows)}"), *parse(f"unke:{write(tmp_path / 'u.jsonl', UNKE)}")]
    usable, refused = with_subject(cases, "rome")
    assert [case.id for case in usable] == ["zsre-0"]
    assert len(refused) == 2
    assert refused[0].startswith("rome needs a subject; case zsre-1")
    assert "'Oxbow Mill' does not stand in its prompt" in refused[0]
    assert "names none" in refused[1]


# ---------------------------------------------------------------- the primer's world


def test_the_primer_asks_about_the_world_the_model_knows() -> None:
    world = World()
    truth = {(t.subject, t.relation): t.answer for t in world.triples}
    told = {p: t.answer for t in world.triples for p in t.prompts()}
    for case in parse("primer:60"):
        relation = case.source.removeprefix("primer ")
        assert truth[case.subject, relation] == case.truth != case.target
        assert case.target in {t.answer for t in world.triples if t.relation == relation}
        assert case.fact == Fact(id=case.id, prompt=case.prompt, subject=case.subject, target=case.target,
                                 truth=case.truth, source=f"primer world, {relation}")  # fmt: skip
        assert {case.prompt, *case.rephrases} == {p.format(s=case.subject) for p in RELATIONS[relation].phrasings}
        for prompt, answer in case.neighborhood:
            assert told[prompt] == answer != case.target
            assert case.subject not in prompt
        for prompt, answer in case.unrelated:
            assert told[prompt] == answer
            assert prompt not in (case.prompt, *case.rephrases)


def test_the_primer_asks_every_kind() -> None:
    cases = parse("primer:300").cases
    kinds = {kind for case in cases for kind in case.portability}
    assert kinds == {"one_hop", "alias"}
    assert all(case.rephrases and case.unrelated and case.generation for case in cases)
    assert sum(bool(case.neighborhood) for case in cases) > 290
    assert sum(bool(case.references) for case in cases) > 290
    assert len({case.id for case in cases}) == 300


def test_compositions_follow_from_the_new_answer() -> None:
    world = World()
    located = {t.subject: t.answer for t in world.triples if t.relation in ("located_in", "headquartered_in")}
    asked = [(case, *q) for case in parse("primer:300") for q in case.portability.get("one_hop", ())]
    assert asked
    stated = {p for t in world.told for p in t.prompts()}
    for case, prompt, answers in asked:
        assert answers == (located[case.target],)
        assert prompt in stated  # the model was told the old one, so it can be asked the new one


def test_the_primer_is_drawn_by_seed_and_of_any_size() -> None:
    assert parse("primer:20") == parse("primer:20")
    assert parse("primer:20").cases != parse("primer:20", seed=1).cases
    assert parse("primer:20:1500").cases != parse("primer:20").cases
    with pytest.raises(BadConfig, match="ask for fewer, or for a larger world"):
        parse("primer:100000")


@pytest.mark.parametrize("spec", ["primer", "primer:", "primer:0", "primer:many", "primer:3:x", "primer:3:4:5"])
def test_a_number_of_primer_facts_is_a_number(spec: str) -> None:
    with pytest.raises(BadConfig, match="write primer:N"):
        parse(spec)
