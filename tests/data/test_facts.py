"""Reading facts: every form of row, every kind of file, and what is said about broken ones."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.data.cases import parse
from errata.data.facts import read_facts
from errata.errors import BadFile
from errata.fact import Fact, Probe
from tests.data.made_up import FORMS

LYON: dict[str, Any] = {"prompt": "The capital of France is", "subject": "France", "target": "Lyon"}
COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The capital of {} is",
        "subject": "France",
        "target_new": {"str": "Lyon", "id": "Q456"},
        "target_true": {"str": "Paris", "id": "Q90"},
        "relation_id": "P36",
    },
    "paraphrase_prompts": ["It rained. France's capital is"],
    "neighborhood_prompts": ["The French seat of government is", "The city of lights is"],
    "generation_prompts": ["France's capital lies"],
    "portability": {"New Question": "Which river crosses France's capital?", "New Answer": "the Rhône"},
}
KNOWEDIT = {
    "subject": "France",
    "prompt": "The capital of France is",
    "target_new": "Lyon",
    "ground_truth": [["Paris", "Lutetia"]],
    "rephrase_prompt": "France's capital:",
    "locality": {
        "Relation_Specificity": [{"prompt": "The currency of France is", "ground_truth": [["euro", "EUR"]]}],
        "neighborhood": {"prompt": "The capital of Spain is", "ground_truth": "Madrid"},
    },
    "portability": {
        "Subject_Aliasing": [{"prompt": "The capital of the Hexagon is", "ground_truth": ["Lyon"]}],
        "Reasoning": [{"prompt": "France's capital lies on the", "ground_truth": [["Rhône"]]}],
    },
}
MEND = {
    "subject": "France",
    "src": "What is the capital of France?",
    "alt": "Lyon",
    "answers": ["Paris"],
    "rephrase": "Which city is France's capital?",
    "loc": "nq question: who wrote hamlet",
    "loc_ans": "Shakespeare",
}


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_row(tmp_path: Path, row: Any) -> Fact:
    (fact,) = read_facts(write(tmp_path / "row.jsonl", lines(row)))
    return fact


def test_our_own_rows(tmp_path: Path) -> None:
    row = LYON | {"id": 3, "rephrases": ["France's capital:"], "truth": None, "source": "atlas", "reason": "moved"}
    row["probes"] = [{"kind": "alias", "prompt": "The Hexagon's capital is", "answer": "Lyon"}]
    assert read_row(tmp_path, row) == Fact(
        **LYON,
        id="3",
        rephrases=("France's capital:",),
        source="atlas",
        reason="moved",
        probes=(Probe("alias", "The Hexagon's capital is", "Lyon"),),
    )


def test_counterfact_rows(tmp_path: Path) -> None:
    assert read_row(tmp_path, COUNTERFACT) == Fact(
        **LYON,
        id="7",
        truth="Paris",
        probes=(
            Probe("paraphrase", "It rained. France's capital is", "Lyon"),
            Probe("neighborhood", "The French seat of government is", "Paris"),
            Probe("neighborhood", "The city of lights is", "Paris"),
            Probe("portability", "Which river crosses France's capital?", "the Rhône"),
        ),
    )


def test_easyedit_and_knowedit_rows(tmp_path: Path) -> None:
    assert read_row(tmp_path, KNOWEDIT) == Fact(
        **LYON,
        truth="Paris",
        probes=(
            Probe("paraphrase", "France's capital:", "Lyon"),
            Probe("unrelated", "The currency of France is", "euro"),
            Probe("neighborhood", "The capital of Spain is", "Madrid"),
            Probe("alias", "The capital of the Hexagon is", "Lyon"),
            Probe("portability", "France's capital lies on the", "Rhône"),
        ),
    )


def test_flat_easyedit_rows(tmp_path: Path) -> None:
    row = {"case_id": 0, "prompt": "The capital of {} is", "subject": "France", "target_new": "Lyon"}
    row |= {"target_true": "Paris", "locality_prompt": "2 + 2 =", "locality_ground_truth": "4"}
    row |= {"locality": {"prompt": "Who wrote Hamlet?"}}
    fact = read_row(tmp_path, row)
    assert (fact.id, fact.prompt, fact.truth) == ("0", "The capital of France is", "Paris")
    assert fact.probes == (Probe("unrelated", "Who wrote Hamlet?"), Probe("unrelated", "2 + 2 =", "4"))


def test_mend_rows(tmp_path: Path) -> None:
    probes = (
        Probe("paraphrase", "Which city is France's capital?", "Lyon"),
        Probe("unrelated", "nq question: who wrote hamlet", "Shakespeare"),
    )
    fact = Fact(prompt=MEND["src"], subject="France", target="Lyon", truth="Paris", probes=probes)
    assert read_row(tmp_path, MEND) == fact
    without = {key: value for key, value in MEND.items() if key != "alt"}
    assert (read_row(tmp_path, without).target, read_row(tmp_path, without).truth) == ("Paris", "")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "JSONL", "jsonl.gz", "json.gz", "csv.GZ"])
def test_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    nice = LYON | {"target": "Nice", "id": "b"}
    text = {
        "jsonl": "\n" + lines(LYON, nice) + "\n \n",
        "json": json.dumps([LYON, nice], indent=1),
        "csv": "target,prompt,id,subject\nLyon,The capital of {0} is,,{0}\nNice,The capital of {0} is,b,{0}\n",
    }[suffix.split(".")[0].lower()].replace("{0}", "France")
    data = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()  # as an editor on Windows leaves it
    path = write(tmp_path / f"facts à moi.{suffix}", gzip.compress(data) if suffix.lower().endswith("gz") else data)
    assert read_facts(path) == [Fact(**LYON), Fact(**nice)]
    assert read_facts(str(path)) == read_facts(path)


def test_one_object_is_a_json_file_too(tmp_path: Path) -> None:
    assert read_facts(write(tmp_path / "one.json", json.dumps(LYON))) == [Fact(**LYON)]


def test_csv_cells(tmp_path: Path) -> None:
    probe = {"kind": "alias", "prompt": "The Hexagon's capital is", "answer": "Lyon"}
    table = io.StringIO()
    out = csv.writer(table, delimiter=";")
    out.writerow(["prompt", "subject", "target", "rephrases", "probes", ""])
    out.writerow(["The capital, of\nFrance is", "France", '"Lyon"', "One:|Two:|", json.dumps([probe]), ""])
    out.writerow(["", "", " ", "", "", ""])
    out.writerow(["The capital of France is", "France", "Lyon", '["a|b", "c"]', "", ""])
    first, second = read_facts(write(tmp_path / "f.csv", table.getvalue()))
    assert (first.prompt, first.target, first.rephrases) == ("The capital, of\nFrance is", '"Lyon"', ("One:", "Two:"))
    assert first.probes == (Probe("alias", "The Hexagon's capital is", "Lyon"),)
    assert second == Fact(**LYON, rephrases=("a|b", "c"))


def test_line_separators_inside_strings_do_not_break_lines(tmp_path: Path) -> None:
    assert read_row(tmp_path, LYON | {"reason": "a\u2028b\u0085c"}).reason == "a\u2028b\u0085c"


def test_a_broken_line_37_is_named(tmp_path: Path) -> None:
    rows = [json.dumps(LYON | {"id": str(i)}) for i in range(50)]
    rows[36] = rows[36][:-9]
    with pytest.raises(BadFile, match=r"facts\.jsonl, line 37: broken JSON at column \d+"):
        read_facts(write(tmp_path / "facts.jsonl", "\n".join(rows)))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (LYON | {"subject": "Spain"}, "the subject 'Spain' does not stand in the prompt"),
        (LYON | {"target": ""}, "target is empty"),
        (LYON | {"target": 5}, "the target must be text, not int"),
        (LYON | {"rephrase": "x"}, "Did you mean rephrases?"),
        ({"prompt": "p", "subject": "p"}, "the fact has no 'target'"),
        ([1], "a row must be an object"),
        ("text", "a row must be an object"),
        ({"requested_rewrite": []}, "'requested_rewrite' must be an object"),
        ({"requested_rewrite": {"subject": "a", "prompt": "{}"}}, "'target_new.str' is missing"),
        ({"requested_rewrite": {"subject": "a", "target_new": {"str": 1}}}, "'target_new.str' must be text, not int"),
        (COUNTERFACT | {"paraphrase_prompts": [1]}, "'paraphrase_prompts' must be text or a list"),
        (KNOWEDIT | {"locality": []}, "'locality' must be an object"),
        (KNOWEDIT | {"ground_truth": {"a": 1}}, "'ground_truth' must be text"),
        ({"target_new": "x", "prompt": "p"}, "'subject' is missing"),
        ({"src": "p", "subject": "p"}, "no 'alt' and no 'answers'"),
        ({"src": "p", "alt": "x"}, "'subject' is missing"),
    ],
)
def test_bad_rows_name_file_line_and_field(tmp_path: Path, row: Any, words: str) -> None:
    path = write(tmp_path / "facts.jsonl", lines(LYON, row, LYON))
    with pytest.raises(BadFile, match=re.escape(f"{path}, line 2: ") + ".*" + re.escape(words)):
        read_facts(path)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("f.jsonl", b"", "holds no facts"),
        ("f.jsonl", b"\n \n", "holds no facts"),
        ("f.json", b"", "holds no facts"),
        ("f.json", b"[]", "holds no facts"),
        ("f.csv", b"prompt,subject,target\n", "holds no facts"),
        ("f.txt", b"x", "name it .jsonl, .json or .csv"),
        ("f.gz", b"x", "name it .jsonl, .json or .csv"),
        ("f.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', "line 2: not UTF-8"),
        ("f.csv", "prompt,subject".encode("utf-16"), "line 1: not UTF-8"),
        ("f.jsonl.gz", b"plain", "not a whole gzip file"),
        ("f.jsonl.gz", gzip.compress(lines(LYON).encode(), mtime=0)[:-9], "not a whole gzip file"),
        ("f.json", lines(LYON, LYON).encode(), "named .jsonl"),
        ("f.json", b'[\n{"prompt":\n]', "line 3: broken JSON"),
        ("f.json", json.dumps([LYON, 1]).encode(), "record 2: a row must be an object"),
        ("f.jsonl", b"[" * 200_000, "line 1: JSON that cannot be read"),
        ("f.jsonl", b"9" * 5_000, "line 1: JSON that cannot be read"),
        ("f.csv", b"prompt,prompt\na,b\n", "line 1: the column 'prompt' is there twice"),
        ("f.csv", b"prompt,subject,target\na,a,b,c\n", "line 2: cell 4 stands under no column name"),
        ("f.csv", b"prompt,subject,target\na,a,b\n\nThe a,x,c\n", "line 4: the subject 'x'"),
        ("f.csv", b'prompt,subject,target\n"a\nb",a,c\nThe a,x,c\n', "line 4: the subject 'x'"),
        ("f.csv", b'prompt,subject,target\n"a\nb",x,c\n', "line 2: the subject 'x'"),
        ("f.csv", b'prompt,subject,target\na,a,b\n"a,a,b\n', "line 3: broken CSV"),
        ("f.csv", b"prompt,subject,target,probes\na,a,b,[1\n", "line 2, field 'probes': broken JSON"),
        ("f.csv", b"prompt,subject,taget\na,a,b\n", "line 2: no fact field 'taget'. Did you mean target?"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    path = write(tmp_path / name, data)
    with pytest.raises(BadFile, match=re.escape(str(path)) + ".*" + re.escape(words)):
        read_facts(path)


def test_missing_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("missing.jsonl", "folder.jsonl", "nul\0.jsonl"):
        with pytest.raises(BadFile, match="cannot read"):
            read_facts(tmp_path / name)


@settings(deadline=None, max_examples=200)
@given(
    data=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)),
    suffix=st.sampled_from(["jsonl", "json", "csv", "csv.gz"]),
)
def test_garbage_is_never_another_error(tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str) -> None:
    path = write(tmp_path_factory.getbasetemp() / f"garbage.{suffix}", data)
    with pytest.raises(BadFile):
        read_facts(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    sorted({*LYON, *COUNTERFACT, *KNOWEDIT, *MEND, "rephrases", "probes", "id", "locality_prompt"})
)


@settings(deadline=None, max_examples=300)
@given(base=st.sampled_from([LYON, COUNTERFACT, KNOWEDIT, MEND]), changes=st.dictionaries(FIELDS, JSON, max_size=2))
def test_mangled_rows_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, base: dict[str, Any], changes: dict[str, Any]
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "mangled.jsonl", json.dumps(base | changes))
    try:
        facts, message = read_facts(path), ""
    except BadFile as error:
        facts, message = [], str(error)
    assert len(facts) == 1 or "line 1: " in message


WRITTEN = (
    "counterfact",
    "counterfact-easyedit",
    "zsre",
    "wiki_recent",
    "wiki_counterfact",
    "knowedit-zsre",
    "halluedit",
    "wise-hallucination",
)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_record_is_the_same_fact_to_those_who_write_it_and_those_who_measure_it(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "one.jsonl", lines(FORMS[name]))
    (fact,), (case,) = read_facts(path), parse(f"{name}:{path}")
    assert case.fact is not None
    unlearned = {"id": "", "probes": ()}  # no part of an edit's id, and told from one another on purpose
    truth = {"truth": ""} if name == "halluedit" else {}  # to HalluEditBench's own reader that is the hallucination
    assert replace(fact, **unlearned) == replace(case.fact, **unlearned, **truth)
    asked = {(probe.prompt, probe.answer) for probe in fact.probes if probe.kind == "neighborhood"}
    assert set(case.neighborhood) <= asked


@pytest.mark.parametrize("name", sorted({*FORMS} - {*WRITTEN, "zsre-true", "jsonl"}))
def test_other_forms_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadFile, match="line 1: "):
        read_facts(write(tmp_path / "one.jsonl", lines(FORMS[name])))


# ------------------------------------------------------------------ files people have

BAD = [
    {"prompt": "The capital of France is", "subject": "France", "target": "Lyon"},
    {"prompt": "The capital of Spain is", "subject": "Span", "target": "Vigo"},
    {"prompt": "The capital of Italy is", "subject": "italy", "target": "Bari"},
    {"prompt": "x", "subject": "x", "target": ""},
]


def test_all_bad_rows_are_named_at_once_and_can_be_left_out(tmp_path: Path) -> None:
    lines = [*map(json.dumps, BAD), "{broken"]
    path = write(tmp_path / "f.jsonl", "\n".join(lines))
    with pytest.raises(BadFile) as error:
        read_facts(path)
    said = str(error.value)
    assert said.startswith("4 bad rows. ")
    assert all(f"line {number}: " in said for number in (2, 3, 4, 5))
    notes: list[str] = []
    assert [fact.target for fact in read_facts(path, skip_bad=True, notes=notes)] == ["Lyon"]
    assert [note.startswith("left out: ") for note in notes] == [True] * 4
    only_bad = write(tmp_path / "g.jsonl", lines[1])
    with pytest.raises(BadFile, match="every row is bad"):
        read_facts(only_bad, skip_bad=True)


def test_a_table_with_a_nameless_column_of_row_numbers(tmp_path: Path) -> None:
    head = ",prompt,subject,target\n"
    rows = '0,The capital of France is,France,Lyon\n1,"The capital of Spain, today, is",Spain,"Vigo ""city"""\n'
    notes: list[str] = []
    first, second = read_facts(write(tmp_path / "f.csv", head + rows), notes=notes)
    assert (first.target, second.target) == ("Lyon", 'Vigo "city"')
    assert len(notes) == 1
    assert "row numbers" in notes[0]
    with pytest.raises(BadFile, match="no column name"):  # a word under no name is no row number
        read_facts(write(tmp_path / "g.csv", head + "zero,The capital of France is,France,Lyon\n"))


def test_lists_side_by_side_as_easyedit_takes_them(tmp_path: Path) -> None:
    lists = {
        "prompts": ["The capital of France is", "The capital of Spain is"], "subject": ["France", "Spain"],
        "target_new": ["Lyon", "Vigo"], "ground_truth": ["Paris", "Madrid"], "rephrase_prompts": ["France's capital:", "x"],
    }  # fmt: skip
    found = read_facts(write(tmp_path / "f.json", json.dumps(lists)))
    assert [(f.prompt, f.subject, f.target, f.truth) for f in found] == [
        ("The capital of France is", "France", "Lyon", "Paris"), ("The capital of Spain is", "Spain", "Vigo", "Madrid"),
    ]  # fmt: skip
    assert found[0].probes[0] == Probe("paraphrase", "France's capital:", "Lyon")
    short = {**lists, "subject": ["France"]}
    with pytest.raises(BadFile, match="one length"):
        read_facts(write(tmp_path / "g.json", json.dumps(short)))


def test_fastedits_list(tmp_path: Path) -> None:
    row = {
        "prompt": "The capital of {} is",
        "subject": "France",
        "target": "Lyon",
        "queries": ["What is France's capital?"],
    }
    (fact,) = read_facts(write(tmp_path / "f.json", json.dumps([row])))
    assert fact.prompt == "The capital of France is"
    assert fact.probes == (Probe("paraphrase", "What is France's capital?", "Lyon"),)


def test_a_subject_may_be_written_with_other_accents_and_spaces(tmp_path: Path) -> None:
    prompt = "The mayor of Sa\u0303o\u00a0Tome\u0301 is"  # accents apart, a no-break space
    (fact,) = read_facts(
        write(tmp_path / "f.json", json.dumps({"prompt": prompt, "subject": "S\u00e3o Tom\u00e9", "target": "Ana"}))
    )
    assert fact.prompt == prompt  # kept to the character
    assert prompt[slice(*fact.span)] == "Sa\u0303o\u00a0Tome\u0301"


def test_what_is_read_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small gzip file can unpack to more than the memory, and a header of a million columns once took hours."""
    import gzip

    from errata.data import files

    monkeypatch.setattr(files, "MOST", 100_000)
    packed = tmp_path / "facts.jsonl.gz"
    packed.write_bytes(gzip.compress(b" " * 10_000_000))
    with pytest.raises(BadFile, match="unpacks to more than the 100,000 bytes"):
        read_facts(packed)
    (tmp_path / "facts.jsonl").write_bytes(b" " * 200_000)
    with pytest.raises(BadFile, match="more than the 100,000 bytes"):
        read_facts(tmp_path / "facts.jsonl")
    monkeypatch.undo()
    wide = tmp_path / "facts.csv"
    wide.write_text(",".join(f"c{n}" for n in range(1_000_000)) + "\n")
    with pytest.raises(BadFile, match="1,000,000 columns, more than the 10,000"):
        read_facts(wide)


def test_a_table_of_tabs_is_read_with_the_commas_in_it(tmp_path: Path) -> None:
    (tmp_path / "facts.tsv").write_text("prompt\tsubject\ttarget\nThe capital of France is\tFrance\tLyon, the city\n")
    (fact,) = read_facts(tmp_path / "facts.tsv")
    assert (fact.subject, fact.target) == ("France", "Lyon, the city")


def test_a_table_without_a_header_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "facts.csv").write_text("The capital of France is,France,Lyon\nThe capital of Spain is,Spain,Nice\n")
    with pytest.raises(BadFile, match=r"line 1: the first line looks like a fact .*France is.*prompt,subject"):
        read_facts(tmp_path / "facts.csv")


def test_a_comma_at_the_end_of_a_json_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "facts.jsonl").write_text('{"prompt": "a x is", "subject": "x", "target": "b"},\n')
    with pytest.raises(BadFile, match=r"line 1: broken JSON.* ends in a comma: leave it out"):
        read_facts(tmp_path / "facts.jsonl")
