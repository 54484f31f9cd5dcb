"""A folder of edits tried and put back: which files in which order, what the card says, and what it is written as.

pytest tests/editing/test_editcard.py
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from errata.book.facts import Conflict, Said
from errata.edit import Edit, Report
from errata.editing.editcard import Card, File, markdown, review, to_dict, write
from errata.editing.editor import Editor
from errata.editing.gates import MOST, NAME, SHARES, Figure, Gates
from errata.errors import BadConfig, BadFile, CorruptEdit, InputError, UnknownMethod
from errata.fact import Fact
from errata.methods.base import versions
from tests import synthetic
from tests.editing.mouth import Mouth, put, same, state

HOW = {"steps": 1, "layer": 0}


def fact(town: str, target: str, **more: str) -> Fact:
    return Fact(prompt=f"{town} lies in", subject=town, target=target, **more)  # type: ignore[arg-type]


def rows(*facts: Fact) -> str:
    return "".join(json.dumps(f.to_dict()) + "\n" for f in facts)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "change"
    made.mkdir()
    # What a perplexity costs is measured in test_gates.
    monkeypatch.setattr("errata.editing.gates.GateCheck._read", lambda _: 1.0)
    return made


def card(**changes: object) -> Card:
    """Return a card of which everything is known."""
    known = {"model": "tiny", "base": "0123456789abcdef", "head": "fedcba9876543210fedcba", "standing": 3,
             "method": "ft", "created_at": "2026-01-01T00:00:00+00:00"}  # fmt: skip
    return Card(**{**known, **changes})  # type: ignore[arg-type]


# ------------------------------------------------------------------ files


def test_files_are_tried_in_the_order_of_their_names(editor: Editor, mouth: Mouth, folder: Path) -> None:
    edit = replace(synthetic.edit(editor.lm, 5), facts=(fact("Jena", "Fiji"), fact("Hof", "Oman")))
    (folder / "d").mkdir()
    (folder / "d" / "a.json").write_text(json.dumps([fact("Kiel", "Chad").to_dict()]))
    (folder / "e.csv").write_text("prompt,subject,target\nGera lies in,Gera,Iran\n")
    edit.save(folder / "c.safetensors")
    (folder / "B.JSONL.gz").write_bytes(gzip.compress(rows(fact("Bonn", "Peru")).encode()))
    (folder / "a.jsonl").write_text(rows(fact("Ulm", "Mali"), fact("Suhl", "Cuba")))
    (folder / "notes.txt").write_text("not looked at")
    (folder / "f.jsonl").mkdir()
    found = review(editor, folder, None, "ft", **HOW)
    names = ["B.JSONL.gz", "a.jsonl", "c.safetensors", "d/a.json", "e.csv"]
    assert [(f.name, f.facts) for f in found.files] == list(zip(names, [1, 2, 2, 1, 1], strict=True))
    assert [f.sha256 for f in found.files] == [
        hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names
    ]
    assert [row["target"] for row in found.facts] == ["Peru", "Mali", "Cuba", "Fiji", "Oman", "Chad", "Iran"]


def test_the_end_of_a_name_is_read_in_either_case(editor: Editor, mouth: Mouth, folder: Path) -> None:
    replace(synthetic.edit(editor.lm, 5), facts=(fact("Jena", "Fiji"),)).save(folder / "A.SAFETENSORS")
    assert review(editor, folder).files[0].facts == 1


def test_each_part_is_computed_on_those_before_it(
    editor: Editor, mouth: Mouth, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(editor.book, standing := synthetic.edit(editor.lm, 1))
    claimed = Report({"norm_ratio": {"0.down": 0.9, "2.attention": 0.3}})
    given = replace(synthetic.edit(editor.lm, 5), facts=(fact("Jena", "Fiji"),), report=claimed)
    given.save(folder / "b.safetensors")
    (folder / "a.jsonl").write_text(rows(fact("Ulm", "Mali")))
    (folder / "c.jsonl").write_text(rows(fact("Kiel", "Chad")))
    seen: list[tuple[str, ...]] = []
    solve = type(editor)._tried

    def tried(self: Editor, how: object, part: object, past: list[Edit]) -> Edit:
        seen.append(tuple(e.id for e in past))
        return solve(self, how, part, past)  # type: ignore[arg-type]

    monkeypatch.setattr(Editor, "_tried", tried)
    found = review(editor, folder, None, "ft", **HOW)
    assert [len(past) for past in seen] == [1, 2, 3]
    assert all(past[0] == standing.id for past in seen)
    assert seen[2][2] == given.id  # taken as it is
    # Of each matrix the largest, as measured: what is trained in a step is less.
    assert {site: found.sites[str(site)] for site in given.deltas} == {
        site: pytest.approx(delta.norm() / float(editor.lm.weights.base(site).norm()), rel=1e-4)  # type: ignore[union-attr]
        for site, delta in given.deltas.items()
    }
    assert found.config["steps"] == 1
    assert found.config["layer"] == 0


def test_an_edit_of_another_base_is_refused(editor: Editor, mouth: Mouth, folder: Path) -> None:
    foreign = replace(synthetic.edit(editor.lm, 5), base="of another", facts=(fact("Jena", "Fiji"),))
    foreign.save(folder / "b.safetensors")
    (folder / "a.jsonl").write_text(rows(fact("Ulm", "Mali")))
    before = state(editor.lm)
    found = review(editor, folder, Gates(said=0.0), "ft", **HOW)
    assert not found.passed
    assert found.refused == f"edit {foreign.id} was computed on another base model than {editor.name}."
    assert [(row["after"], row["said"]) for row in found.facts] == [("", False)] * 2
    assert (found.figures, found.sites, found.config) == ((), {}, {})
    assert same(editor.lm, before)


def test_what_holds_no_edits_or_cannot_be_read_is_said(editor: Editor, mouth: Mouth, folder: Path) -> None:
    with pytest.raises(InputError, match="holds no edits"):
        review(editor, folder)
    with pytest.raises(InputError, match="is no directory"):
        review(editor, folder / "none")
    (folder / "a.jsonl").write_text(rows(fact("Ulm", "Mali")))
    for name, error in (("b.jsonl", BadFile), ("b.safetensors", CorruptEdit)):
        (folder / name).write_text("{")
        with pytest.raises(error, match=name):
            review(editor, folder)
        (folder / name).unlink()
    with pytest.raises(UnknownMethod, match="Did you mean"):
        review(editor, folder, None, "fft")
    with pytest.raises(BadConfig, match="Did you mean steps"):
        review(editor, folder, None, "ft", step=1)


# ------------------------------------------------------------------ what is on the card


@pytest.mark.parametrize("gates", [None, Gates(said=1.0, norm_ratio=1e-9)])
def test_book_and_model_are_left_as_they_were(editor: Editor, mouth: Mouth, folder: Path, gates: Gates | None) -> None:
    put(editor.book, synthetic.edit(editor.lm, 1))
    assert editor.standing
    (folder / "a.jsonl").write_text(rows(fact("Ulm", "Mali")))
    before, head = state(editor.lm), editor.book.history()
    files = sorted(p.relative_to(editor.book.path) for p in editor.book.path.rglob("*.safetensors"))
    found = review(editor, folder, gates, "ft", **HOW)
    assert found.passed is (gates is None)
    assert same(editor.lm, before)
    assert editor.book.history() == head
    assert sorted(p.relative_to(editor.book.path) for p in editor.book.path.rglob("*.safetensors")) == files


def test_a_card_says_what_it_was_tried_on(editor: Editor, mouth: Mouth, folder: Path) -> None:
    (folder / "a.jsonl").write_text(rows(fact("Ulm", "Mali")))
    empty = review(editor, folder, None, "ft", **HOW)
    assert (empty.head, empty.standing) == ("", 0)
    put(editor.book, synthetic.edit(editor.lm, 1), gone := synthetic.edit(editor.lm, 2))
    editor.drop(gone.id)
    found = review(editor, folder, None, "ft", **HOW)
    assert (found.model, found.base) == (editor.name, editor.lm.fingerprint)
    assert (found.head, found.standing) == (editor.book.history()[-1].hash, 1)
    assert (found.method, found.versions, found.refused) == ("ft", versions(), "")
    age = datetime.now(UTC) - datetime.fromisoformat(found.created_at)
    assert 0 <= age.total_seconds() < 3600
    assert list(found.sites) == ["0.down"]
    assert 0 < found.sites["0.down"] < 1


def test_what_is_said_before_and_after(editor: Editor, mouth: Mouth, folder: Path) -> None:
    long = "the small republic of many little islands far out in the southern ocean"
    new = [fact("Ulm", "Mali", reason="the news", source="radio"), fact("Bonn", "Peru"), fact("Jena", long)]
    (folder / "a.jsonl").write_text(rows(*new))
    mouth.base = {"Ulm lies in": "Chad", "Bonn lies in": "Cuba"}
    mouth.edited = {"Ulm lies in": "Mali.", "Jena lies in": long}
    found = review(editor, folder, None, "ft", **HOW)
    assert list(found.facts) == [
        {"prompt": "Ulm lies in", "subject": "Ulm", "target": "Mali", "reason": "the news", "source": "radio",
         "before": "Chad", "after": "Mali.", "said": True},
        {"prompt": "Bonn lies in", "subject": "Bonn", "target": "Peru", "reason": "", "source": "",
         "before": "Cuba", "after": "Cuba", "said": False},
        {"prompt": "Jena lies in", "subject": "Jena", "target": long, "reason": "", "source": "",
         "before": "", "after": long, "said": True},
    ]  # fmt: skip


def test_everything_is_measured_and_limits_are_those_given(editor: Editor, mouth: Mouth, folder: Path) -> None:
    (folder / "a.jsonl").write_text(rows(fact("Ulm", "Mali"), fact("Bonn", "Peru")))
    mouth.edited = {"Ulm lies in": "Mali"}
    found = review(editor, folder, None, "ft", **HOW)
    assert [f.gate for f in found.figures] == [*SHARES, *MOST]
    assert all(f.limit is None for f in found.figures)
    assert found.passed
    (editor.book.path / NAME).write_text("said = 1.0\n")  # of the book, unless others are given
    of_book = {f.gate: f for f in review(editor, folder, None, "ft", **HOW).figures}
    assert (of_book["said"].value, of_book["said"].limit, of_book["said"].passed) == (0.5, 1.0, False)
    given = review(editor, folder, Gates(said=0.5), "ft", **HOW)
    assert given.passed
    assert {f.gate: f.limit for f in given.figures}["said"] == 0.5


def test_conflicts_are_with_what_stands_and_within_the_change(editor: Editor, mouth: Mouth, folder: Path) -> None:
    old = replace(synthetic.edit(editor.lm, 1), facts=(fact("Ulm", "Chad"),))
    put(editor.book, old)
    (folder / "a.jsonl").write_text(rows(fact("Ulm", "Mali")))
    again = fact("Bonn", "Peru")
    (folder / "b.jsonl").write_text(rows(again))
    found = review(editor, folder, None, "ft", **HOW)
    against = Conflict("contradiction", Said(fact("Ulm", "Chad"), old.id), Said(fact("Ulm", "Mali"), "new"))
    assert list(found.conflicts) == [against]
    assert found.passed  # a later edit may say otherwise
    (folder / "c.jsonl").write_text(rows(replace(again, target="peru.")))
    found = review(editor, folder, None, "ft", **HOW)
    within = Conflict("duplicate", Said(again, "new"), Said(replace(again, target="peru."), "new"))
    assert list(found.conflicts) == [against, within]
    assert not found.passed
    assert "are the same fact" in found.refused


# ------------------------------------------------------------------ as a page and as JSON

OPEN, SHUT = Figure("said", 1.0, 1.0, 2, True), Figure("oldest", 0.5, 0.75, 4, False, ("a → b (not c)", "x"))
NOTHING = Figure("unrelated", None, None, 0, True)


@pytest.mark.parametrize(
    ("figures", "refused", "passed"),
    [((), "", True), ((OPEN, NOTHING), "", True), ((OPEN, SHUT), "", False), ((OPEN,), "no", False), ((), "no", False)],
)
def test_a_change_passes_if_it_can_be_written_and_every_gate_is_open(
    figures: Sequence[Figure], refused: str, passed: bool
) -> None:
    made = card(figures=figures, refused=refused)
    assert made.passed is passed
    assert to_dict(made)["passed"] is passed
    assert markdown(made).startswith("# EditCard: ✅ passed\n" if passed else "# EditCard: ❌ refused\n")


FULL = card(
    config={"steps": 3},
    files=[File("a.jsonl", "ab" * 32, 2)],
    facts=[
        {"prompt": "Ulm lies in", "subject": "Ulm", "target": "Mali", "before": "Chad", "after": "Mali", "said": True},
        {"prompt": "Hof lies in", "subject": "Hof", "target": "Oman", "before": "", "after": "Cuba", "said": False},
    ],
    figures=[OPEN, SHUT, NOTHING, Figure("norm_ratio", 1.23456, None, 1, True, ("at 0.down",))],
    conflicts=[Conflict("inverse", Said(fact("Ulm", "Chad"), "0123456789abcdef"), Said(fact("Hof", "Oman"), "new"))],
    sites={"0.down": 0.123456},
    versions={"errata": "1", "torch": "2"},
)


def test_the_page_says_all_of_it() -> None:
    assert (
        markdown(FULL)
        == """\
# EditCard: ❌ refused

- the gate oldest found 0.5 (n = 4), at least 0.75 (a → b (not c), …)

Facts: 2, of which 1 are said after; files: 1; written by ft on tiny (0123456789ab) with 3 standing edits.

| fact | before | after |  |
| --- | --- | --- | --- |
| Ulm lies in → Mali | Chad | Mali | ✓ |
| Hof lies in → Oman |  | Cuba | ✗ |

## Gates

| measured | found | limit | asked |  |
| --- | --- | --- | --- | --- |
| said | 1 | 1 | 2 | ✓ |
| oldest | 0.5 | 0.75 | 4 | ✗ |
| unrelated | – | – | 0 | nothing asked |
| norm_ratio | 1.23 | – | 1 | ✓ |

## What moved or failed

| at | question |
| --- | --- |
| oldest | a → b (not c) |
| oldest | x |

## Conflicts

|  | first | then |
| --- | --- | --- |
| inverse | Ulm lies in → Chad (01234567) | Hof lies in → Oman (new) |

## Matrices

| matrix | largest ‖ΔW‖/‖W‖ of an edit |
| --- | --- |
| 0.down | 0.123 |

## Files

| file | facts | sha256 |
| --- | --- | --- |
| a.jsonl | 2 | `abababababababab` |

2026-01-01T00:00:00+00:00, errata 1, torch 2; book at fedcba9876543210
"""
    )


def test_a_page_leaves_out_what_there_is_not() -> None:
    page = markdown(card(head="", refused="it cannot be written."))
    assert page.startswith("# EditCard: ❌ refused\n\nit cannot be written.\n\nFacts: 0")
    assert [line for line in page.split("\n") if line.startswith("## ")] == ["## Files"]
    assert page.endswith("the book is new: nothing is written in it\n")


def test_json_says_all_of_it(tmp_path: Path) -> None:
    row = to_dict(FULL)
    assert set(row) == {*Card.__dataclass_fields__, "passed"}
    assert row["files"] == [{"name": "a.jsonl", "sha256": "ab" * 32, "facts": 2}]
    assert row["figures"][1] == {
        "gate": "oldest", "value": 0.5, "limit": 0.75, "asked": 4, "passed": False, "lost": ["a → b (not c)", "x"],
    }  # fmt: skip
    assert row["conflicts"] == [{
        "kind": "inverse",
        "first": {"prompt": "Ulm lies in", "target": "Chad", "edit": "0123456789abcdef"},
        "second": {"prompt": "Hof lies in", "target": "Oman", "edit": "new"},
    }]  # fmt: skip
    assert (row["facts"], row["sites"], row["config"]) == (list(FULL.facts), {"0.down": 0.123456}, {"steps": 3})
    write(FULL, tmp_path / "new" / "folder")
    assert json.loads((tmp_path / "new" / "folder" / "editcard.json").read_text("utf-8")) == row
    assert (tmp_path / "new" / "folder" / "editcard.md").read_text("utf-8") == markdown(FULL)
    write(card(), tmp_path / "new" / "folder")
    assert json.loads((tmp_path / "new" / "folder" / "editcard.json").read_text("utf-8"))["facts"] == []


NASTY = ("`x` <b>[x](http://y)![z](w) | \\| end", "<img src=x>\n\n# head", "[x](http://y)", "`a|b`")


@pytest.mark.parametrize("text", NASTY)
def test_what_users_wrote_starts_nothing(text: str) -> None:
    row = {"prompt": text, "subject": "x", "target": text, "before": text, "after": text, "said": False}
    lost = Figure("said", 0.0, 1.0, 1, False, (f"{text} → {text}",))
    conflict = Conflict("inverse", Said(Fact(prompt=text, subject=text, target=text), "new"), Said(fact("U", "V"), ""))
    made = card(facts=[row], figures=[lost], conflicts=[conflict], files=[File(text, "ab" * 32, 1)], refused=text)
    plain = markdown(card(facts=[{**row, "prompt": "p", "target": "t", "before": "", "after": ""}], refused="r",
                          figures=[replace(lost, lost=("l",))], files=[File("f", "ab" * 32, 1)],
                          conflicts=[replace(conflict, first=Said(fact("U", "V"), "new"))]))  # fmt: skip
    page = markdown(made)
    assert page.count("\n") == plain.count("\n")
    page = page.replace("<!-- -->", "")  # which keeps addresses and names from being found
    for mark in "<[":
        assert all(page[at - 1] == "\\" for at in range(len(page)) if page[at] == mark), page
    for line, other in zip(page.split("\n"), plain.split("\n"), strict=True):
        shown = line.replace("\\\\", "")
        assert shown.count("|") - shown.count("\\|") == other.count("|"), line


def test_a_long_text_is_cut_in_its_cell_only() -> None:
    row = {"prompt": "p", "subject": "p", "target": "t", "before": "b" * 500, "after": "", "said": False}
    page = markdown(card(facts=[row], refused="r" * 500))
    assert f"| {'b' * 159}… |" in page
    assert "r" * 500 in page


def test_of_what_moved_forty_are_shown() -> None:
    many = Figure("said", 0.0, 1.0, 50, False, tuple(f"question {n}" for n in range(50)))
    lines = [line for line in markdown(card(figures=[many])).split("\n") if line.startswith("| said | question")]
    assert lines[-1] == "| said | question 39 |"
    assert len(lines) == 40
