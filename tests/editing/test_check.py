"""Asking a model about its book: what holds, and since when not.

pytest tests/editing/test_check.py
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from errata.edit import Edit
from errata.editing.check import STATUSES, Verdict, check
from errata.editing.editor import Editor
from errata.fact import Fact, Probe
from tests import synthetic
from tests.editing.mouth import Mouth, put, same, state


def fact(town: str, target: str, *probes: Probe) -> Fact:
    return Fact(prompt=f"{town} lies in", subject=town, target=target, probes=probes)


def edit(editor: Editor, number: int, *facts: Fact, **label: str) -> Edit:
    """Return the edit of that number with facts of its own, and put it into the book."""
    made = replace(synthetic.edit(editor.lm, number), facts=facts, **label)
    put(editor.book, made)
    return made


def test_what_is_said_holds_and_what_is_not_is_forgotten(editor: Editor, mouth: Mouth) -> None:
    first = edit(editor, 1, fact("Ulm", "Mali"), fact("Bonn", "Peru"))
    second = edit(editor, 2, fact("Jena", "Fiji"))
    mouth.base = {"Ulm lies in": "mali.", "Bonn lies in": "Peruvian lands"}
    wanted = [
        Verdict(first.id, first.facts[0], "mali.", "holds", "", {}),
        Verdict(first.id, first.facts[1], "Peruvian lands", "forgotten", "", {}),
        Verdict(second.id, second.facts[0], "", "forgotten", "", {}),
    ]
    assert [replace(verdict, probes={}, made=()) for verdict in check(editor)] == wanted
    assert check(editor)[0].status in STATUSES


def test_the_edited_model_is_asked_about_what_stands_only(editor: Editor, mouth: Mouth) -> None:
    first, second = edit(editor, 1, fact("Ulm", "Mali")), edit(editor, 2, fact("Bonn", "Peru"))
    mouth.edited = {"Ulm lies in": "Mali", "Bonn lies in": "Peru"}
    assert [(v.edit_id, v.status) for v in check(editor)] == [(first.id, "holds"), (second.id, "holds")]
    editor.drop(first.id)
    assert [v.edit_id for v in check(editor)] == [second.id]
    editor.drop(second.id)
    assert check(editor) == []


def test_a_later_edit_that_says_otherwise_overrides(editor: Editor, mouth: Mouth) -> None:
    old = edit(editor, 1, fact("Ulm", "Mali"))
    same_answer = edit(editor, 2, fact("Bonn", "Peru"))
    between = edit(editor, 3, replace(fact("Ulm", "Togo"), prompt="ulm lies in.", subject="ulm"))
    new = edit(editor, 4, fact("Ulm", "Chad"))
    again = edit(editor, 5, fact("Bonn", "peru."))
    mouth.base = {"Ulm lies in": "Mali", "Bonn lies in": "Peru"}
    found = {v.edit_id: (v.status, v.by) for v in check(editor)}
    assert found == {
        old.id: ("overridden", new.id),  # though it is what is said
        between.id: ("overridden", new.id),  # by the last, not the next
        new.id: ("forgotten", ""),
        same_answer.id: ("holds", ""),  # the later edit says the same
        again.id: ("holds", ""),
    }
    editor.drop(new.id)
    assert {v.edit_id: v.by for v in check(editor)}[old.id] == between.id


@pytest.mark.parametrize(
    ("today", "status"),
    [("2026-02-27", "early"), ("2026-02-28", "holds"), ("2026-03-01", "holds"), ("2026-03-02", "expired")],
)
def test_an_edit_is_true_from_its_first_day_to_its_last(editor: Editor, mouth: Mouth, today: str, status: str) -> None:
    edit(editor, 1, fact("Ulm", "Mali"), valid_from="2026-02-28", valid_until="2026-03-01")
    edit(editor, 2, fact("Bonn", "Peru"))  # without days
    for said in ("Mali", "Chad"):
        mouth.base = {"Ulm lies in": said, "Bonn lies in": "Peru"}
        wanted = "forgotten" if status == "holds" and said == "Chad" else status
        assert [v.status for v in check(editor, today)] == [wanted, "holds"]


def test_overridden_comes_before_the_calendar(editor: Editor, mouth: Mouth) -> None:
    edit(editor, 1, fact("Ulm", "Mali"), valid_until="2026-01-01")
    new = edit(editor, 2, fact("Ulm", "Chad"))
    assert [(v.status, v.by) for v in check(editor, "2026-02-01")] == [("overridden", new.id), ("forgotten", "")]


def test_today_is_the_day_in_utc(editor: Editor, mouth: Mouth) -> None:
    now = datetime.now(UTC).date()
    days = {"expired": {"valid_until": str(now - timedelta(2))}, "early": {"valid_from": str(now + timedelta(2))}}
    for number, label in enumerate(days.values()):
        edit(editor, number, fact(f"Town {number}", "Mali"), **label)
    assert [v.status for v in check(editor)] == list(days)


def test_probes_are_counted_by_kind(editor: Editor, mouth: Mouth) -> None:
    probes = [
        Probe("paraphrase", "Where is Ulm?", "Mali"),
        Probe("paraphrase", "Ulm is found in", "Mali"),
        Probe("paraphrase", "Ulm, a town of", "Mali"),
        Probe("unrelated", "Water is", "wet"),
        Probe("alias", "Ulmen lies in"),  # asks for no answer
    ]
    edit(editor, 1, fact("Ulm", "Mali", *probes), fact("Bonn", "Peru", Probe("neighborhood", "Jena lies in", "Fiji")))
    mouth.base = {"Where is Ulm?": "Mali", "Ulm is found in": "mali", "Ulm, a town of": "Peru", "Jena lies in": "Fiji"}
    first, second = check(editor)
    assert first.probes == {"paraphrase": (2, 3), "unrelated": (0, 1)}
    assert second.probes == {"neighborhood": (1, 1)}
    assert first.status == "forgotten"  # probes do not speak for the fact
    assert "Ulmen lies in" not in mouth.asked[-1]


def test_answers_are_heard_to_their_end(editor: Editor, mouth: Mouth) -> None:
    long = "the small republic of many little islands far out in the southern ocean"
    edit(editor, 1, fact("Ulm", "Mali", Probe("paraphrase", "Where is Ulm?", long)))
    mouth.base = {"Where is Ulm?": long}
    assert check(editor)[0].probes == {"paraphrase": (1, 1)}


def test_asking_drops_nothing_unless_told_to(editor: Editor, mouth: Mouth) -> None:
    edit(editor, 1, fact("Ulm", "Mali"), valid_until="2026-01-01")
    assert editor.standing
    before, events = state(editor.lm), editor.book.history()
    assert [(v.status, v.dropped) for v in check(editor, "2026-02-01")] == [("expired", False)]
    assert editor.book.history() == events
    assert same(editor.lm, before)


def test_edits_whose_last_day_has_passed_are_dropped_if_asked_for(editor: Editor, mouth: Mouth) -> None:
    base = state(editor.lm)
    late = edit(editor, 1, fact("Ulm", "Mali"), fact("Bonn", "Peru"), valid_until="2026-01-01")
    kept = edit(editor, 2, fact("Jena", "Fiji"), valid_until="2026-02-01")
    early = edit(editor, 3, fact("Kiel", "Chad"), valid_from="2027-01-01")
    found = check(editor, "2026-02-01", drop_expired=True)
    assert [(v.edit_id, v.dropped) for v in found] == [
        (late.id, True), (late.id, True), (kept.id, False), (early.id, False),
    ]  # fmt: skip
    assert [e.id for e in editor.standing] == [kept.id, early.id]
    (event,) = [e for e in editor.book.history() if e.kind == "drop"]
    assert (event.edit_id, event.reason) == (late.id, "its last day has passed")
    assert [v.dropped for v in check(editor, "2026-02-01", drop_expired=True)] == [False, False]
    editor.drop(kept.id, early.id)
    assert same(editor.lm, base)


def test_an_expired_edit_is_dropped_though_a_later_one_overrides_it(editor: Editor, mouth: Mouth) -> None:
    late = edit(editor, 1, fact("Ulm", "Mali"), fact("Bonn", "Peru"), valid_until="2026-01-01")
    new = edit(editor, 2, fact("Ulm", "Chad"))
    hidden = edit(editor, 3, fact("Jena", "Fiji"), valid_until="2026-01-01")
    newer = edit(editor, 4, fact("Jena", "Oman"))
    found = check(editor, "2026-02-01", drop_expired=True)
    assert [(v.edit_id, v.status, v.dropped) for v in found] == [
        (late.id, "overridden", True), (late.id, "expired", True), (new.id, "forgotten", False),
        (hidden.id, "overridden", True), (newer.id, "forgotten", False),
    ]  # fmt: skip
    assert [e.id for e in editor.standing] == [new.id, newer.id]
