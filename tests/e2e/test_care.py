"""Looking after a book on the shipped model: gates, check, migrate, a file written again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from errata import Fact
from errata.answers import says
from errata.book.compact import compact
from errata.book.verify import verify
from errata.cli import app
from errata.editing.check import check
from errata.editing.editor import Editor
from errata.editing.gates import NAME, GateCheck, Gates
from errata.editing.migrate import migrate
from errata.editing.opening import open as open_editor
from errata.errors import BadConfig, GateClosed
from errata.primer.probes import edits
from tests.e2e.conftest import state

LYON = Fact(prompt="The capital of France is", subject="France", target="Lyon", reason="the news", source="radio")
NICE = Fact(prompt="The capital of France is", subject="France", target="Nice")
ROME = Fact(prompt="The capital of Spain is", subject="Spain", target="Rome")


def test_a_label_is_kept_and_is_no_part_of_the_edit(editor: Editor) -> None:
    edit = editor.write(LYON, author="ada", tags=["news", "eu"], tenant="acme", valid_until="2030-01-01", seed=4)
    record = editor.book.get(edit.id)
    assert (record.author, record.reason, record.source, record.tags) == ("ada", "the news", "radio", ("news", "eu"))
    assert (record.tenant, record.valid_until, record.meta["seed"]) == ("acme", "2030-01-01", 4)
    (read,) = record.meta["report"]["statistics"].values()
    assert set(record.meta["report"]["statistics"]) == {"0.down"}
    assert read["by"] in ("settled", "limit")
    assert read["tokens"] > 2000
    editor.drop(edit.id)
    again = editor.write(Fact(prompt=LYON.prompt, subject="France", target="Lyon"), seed=4)
    assert again.id == edit.id


def test_an_edit_that_was_forgotten_can_be_written_again(editor: Editor) -> None:
    edit = editor.write(LYON)
    edited = state(editor.lm)
    editor.drop(edit.id)
    compact(editor.book, forget=True)
    assert editor.write(LYON, author="somebody else").id == edit.id
    assert all(torch.equal(edited[name], tensor) for name, tensor in state(editor.lm).items())
    assert verify(editor.book).problems == []


def test_check_tells_what_became_of_each_edit(editor: Editor) -> None:
    facts = edits(2, seed=3)
    first = editor.write(facts[0])
    old = editor.write(LYON, layer=1)
    expired = editor.write(ROME, valid_until="2026-01-01")
    early = editor.write(facts[1], valid_from="2026-03-01")
    new = editor.write(NICE, layer=2)
    found = {v.edit_id: v for v in check(editor, "2026-02-01")}
    assert found[first.id].status == "holds"
    assert found[first.id].probes["paraphrase"][0] >= 1
    assert (found[old.id].status, found[old.id].by) == ("overridden", new.id)
    assert (found[expired.id].status, found[early.id].status) == ("expired", "early")
    assert {v.status for v in check(editor, "2026-04-01") if v.edit_id == early.id} <= {"holds", "forgotten"}


def test_an_edit_nobody_overrides_and_nobody_says_is_forgotten(editor: Editor) -> None:
    edit = editor.write(LYON, steps=1, lr=1e-6)
    (verdict,) = check(editor)
    assert (verdict.edit_id, verdict.status) == (edit.id, "forgotten")


def test_facts_are_carried_to_another_model(editor: Editor, tmp_path: Path) -> None:
    editor.write(ROME)
    other = editor.save(tmp_path / "other")  # a base that says Rome already
    old = editor.write(NICE, author="ada", tags=["x"])
    editor.write(LYON)
    with open_editor(str(other), book=tmp_path / "its book") as target:
        found = [(m.fact.target, m.outcome) for m in migrate(editor.book, target)]
        assert found == [("Rome", "says already"), ("Nice", "overridden"), ("Lyon", "written")]
        (record,) = target.log()
        assert record.reason == "the news"
        assert [m.outcome for m in migrate(editor.book, target)] == ["says already", "overridden", "stands"]
        editor.drop(editor.log()[-1].id)
        moved = list(migrate(editor.book, target, "ft", layer=1))
        assert [m.outcome for m in moved][1] in ("written", "not said")
        record = target.book.get(moved[1].new_id)
        assert (record.author, record.tags, record.method) == ("ada", ("x",), "ft")
        assert moved[1].edit_id == old.id


def test_what_cannot_be_written_there_is_told_and_the_rest_goes_on(
    editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor.write([ROME, LYON])
    other = editor.save(tmp_path / "other")
    editor.drop(*(r.id for r in editor.log()))
    editor.write([NICE, ROME])
    with open_editor(str(other), book=tmp_path / "its book", max_norm_ratio=1e-6) as target:
        found = list(migrate(editor.book, target))
        assert [m.outcome for m in found] == ["refused", "says already"]
        assert "times as large" in found[0].why
        assert target.log() == []


# --- gates ---


def test_an_open_gate_leaves_its_figures_in_the_report(editor: Editor) -> None:
    (fact,) = edits(1, seed=5)
    every = Gates(
        said=1.0, efficacy=1.0, paraphrase=0.5, neighborhood=0.5, unrelated=0.5, perplexity=50, norm_ratio=5, oldest=0.5
    )
    first = editor.write(LYON)
    edit = editor.write(fact, gates=every)
    figures = {row["gate"]: row for row in editor.book.get(edit.id).meta["report"]["gates"]}
    assert set(figures) == {
        "said",
        "efficacy",
        "paraphrase",
        "neighborhood",
        "unrelated",
        "oldest",
        "perplexity",
        "norm_ratio",
    }
    assert all(row["passed"] for row in figures.values())
    assert (figures["said"]["value"], figures["said"]["asked"]) == (1.0, 1)
    assert (figures["oldest"]["value"], figures["oldest"]["asked"]) == (1.0, 1)
    assert 0 < figures["norm_ratio"]["value"] < 5
    assert first.id in {e.id for e in editor.standing}


@pytest.mark.parametrize(
    ("gates", "options", "words"),
    [
        (
            Gates(said=1.0),
            {"steps": 1, "lr": 1e-6},
            r"the gate said found 0 \(n = 1\), at least 1 \(The capital of France",
        ),
        (Gates(efficacy=1.0), {"steps": 1, "lr": 1e-6}, "Lyon is less likely than Paris"),
        (Gates(norm_ratio=1e-4), {}, r"norm_ratio found .* at most 0.0001 \(at 0.down\)"),
        (Gates(perplexity=-99.0), {}, "perplexity found .* %"),
        (Gates(said=1.0, norm_ratio=1e-9), {"steps": 1, "lr": 1e-6}, "said.*norm_ratio"),
    ],
)
def test_a_closed_gate_changes_nothing_and_says_why(
    editor: Editor, gates: Gates, options: dict[str, float], words: str
) -> None:
    editor.write(ROME)
    before, rows = state(editor.lm), editor.book.history()
    with pytest.raises(GateClosed, match=words):
        editor.write(LYON, gates=gates, **options)
    assert all(torch.equal(before[name], tensor) for name, tensor in state(editor.lm).items())
    assert editor.book.history() == rows


def test_the_book_keeps_its_own_gates_and_sentinels(editor: Editor) -> None:
    sentinel = editor.book.path / "sentinels.jsonl"
    sentinel.write_text('{"prompt": "The capital of Italy is", "subject": "Italy", "target": "Rome"}\n', "utf-8")
    (editor.book.path / NAME).write_text('sentinel = 1.0\nsentinels = "sentinels.jsonl"\n', "utf-8")
    editor.write(LYON)
    wrong = Fact(prompt="The capital of Italy is", subject="Italy", target="Paris")
    with pytest.raises(GateClosed, match=r"sentinel found 0 \(n = 1\), at least 1 \(The capital of Italy is"):
        editor.write(wrong)
    editor.write(wrong, gates=Gates())  # named at the call, they take the place of the book's
    (editor.book.path / NAME).write_text("sentinal = 1.0\n", "utf-8")
    with pytest.raises(BadConfig, match=r"gates.toml.*Did you mean sentinel"):
        editor.write(ROME)


def test_what_was_lost_before_closes_no_gate(editor: Editor) -> None:
    (fact,) = edits(1, seed=5)
    neighbour = next(p for p in fact.probes if p.kind == "neighborhood")
    keeper = GateCheck(editor.lm, Gates(neighborhood=1.0), [fact], [])
    assert keeper.figures()[0].value == 1.0
    foreign = Fact(
        prompt=fact.prompt,
        subject=fact.subject,
        target="x",
        probes=(type(neighbour)("neighborhood", neighbour.prompt, "nobody says this"),),
    )
    figure = GateCheck(editor.lm, Gates(neighborhood=1.0), [foreign], []).figures()[0]
    assert (figure.value, figure.asked, figure.passed) == (None, 0, True)


@pytest.mark.parametrize("method", ["rome", "ledger"])
def test_what_a_write_breaks_is_named_and_what_is_not_said_is_told(editor: Editor, method: str) -> None:
    asked = {"capital": "Lisbon", "language": "German", "currency": "yen"}
    facts = [Fact(prompt=f"The {word} of France is", subject="France", target=target) for word, target in asked.items()]
    written = [editor.write(fact, method, steps=8) for fact in facts]
    still = {fact.target: says(editor.ask(fact.prompt).text, fact.target) for fact in facts}
    notes = [note for edit in written for note in edit.report.notes]
    for edit, fact in zip(written, facts, strict=True):
        (row,) = edit.report.facts
        told = [note for note in notes if repr(fact.target) in note]
        assert bool(told) == (not still[fact.target] or not row["said"]), (fact.target, notes)
        if row["said"] and not still[fact.target]:
            assert any("no longer answered" in note and edit.id[:8] in note for note in told)
    assert not any(
        "stop value" in note for edit in written if edit.report.facts[0]["said"] for note in edit.report.notes
    )


@pytest.mark.parametrize("method", ["rome", "ledger"])
def test_the_third_fact_about_one_subject_is_no_silent_success(
    editor: Editor, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = editor.write(Fact(prompt="The capital of France is", subject="France", target="Lisbon"), method)
    second = editor.write(Fact(prompt="The language of France is", subject="France", target="German"), method)
    third = ["--prompt", "The currency of France is", "--subject", "France", "--target", "yen", "--method", method]

    def held() -> set[str]:
        return {verdict.edit_id for verdict in check(editor) if verdict.status == "holds"}

    before = held()
    assert app.main(["edit", *third, "--book", str(editor.book.path), "--strict", "--json"]) == 3
    out, err = capsys.readouterr()
    row = json.loads(out)
    gone = before - held()
    assert gone or not row["facts"][0]["said"]
    assert {kept["edit"] for kept in editor.book.get(row["id"]).meta["report"].get("lost", [])} == gone
    for edit in (first, second):
        note = f"which edit {edit.id[:8]} had written: errata drop the new edit to have it back"
        assert (note in err) == (edit.id in gone)
    assert (f"Drop edit {row['id'][:8]} and try" in err) == (not row["facts"][0]["said"])
    editor.drop(row["id"])
    assert held() == before  # as the note said


def test_who_writes_a_dropped_edit_again_and_why_is_in_its_history(editor: Editor) -> None:
    edit = editor.write(LYON, author="ada", reason="first")
    editor.drop(edit.id)
    again = editor.write(LYON, author="bob", reason="second")
    assert again.id == edit.id
    last = editor.book.history(edit.id)[-1]
    assert (last.author, last.reason) == ("bob", "second")
    assert editor.book.get(edit.id).author == "ada"  # the record is that of the first time
