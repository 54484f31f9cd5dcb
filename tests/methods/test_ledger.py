"""The ledger on models: the ridge solution over the standing facts, in any order, with any of them dropped.

pytest tests/methods/test_ledger.py
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from errata.delta import Site
from errata.edit import Edit
from errata.editing.editor import Editor
from errata.editing.opening import open as open_editor
from errata.fact import Fact
from errata.methods import make, rebuilt
from errata.model.lm import LM
from tests import tiny

TOKENS, LAYERS = 300, (0, 1)
SITES = tuple(Site(layer, "down") for layer in LAYERS)
FACTS = (*tiny.FACTS, Fact(prompt="The profession of Bruno Keller is", subject="Bruno Keller", target="baker"))
CONTRARY = Fact(prompt="The capital of France is", subject="France", target="Oslo")
OPTIONS: dict[str, Any] = {"layers": LAYERS, "tokens": TOKENS, "corpus": "primer", "steps": 4, "weight": 2.0}


def build(dtype: torch.dtype = torch.float64) -> LM:
    return tiny.build("llama", dtype=dtype)


def write(lm: LM, facts: list[Fact], past: list[Edit], method: str = "ledger", **options: Any) -> list[Edit]:
    """Return `past` and one more edit, all standing."""
    lm.weights.stand([e.deltas for e in past])
    edits = [*past, make(method, {**OPTIONS, **options}).solve(lm, facts, past)]
    lm.weights.stand([e.deltas for e in edits])
    return edits


def total(edits: list[Edit], site: Site) -> Tensor:
    return sum((e.deltas[site].dense().double() for e in edits), torch.zeros(tiny.WIDTH, tiny.INNER).double())


def solution(lm: LM, edits: list[Edit], site: Site, without: tuple[str, ...] = ()) -> Tensor:
    """Return the ridge solution over the rows the edits carry, dense."""
    how = make("ledger", OPTIONS)
    gram = torch.linalg.inv(how.ridge(lm, site, 2.0).inverse())
    rows = {}
    for edit in edits:
        for place, fact in enumerate(edit.facts):
            rows[fact.prompt] = [edit.carry[f"{kind}/{site}"][place].double() for kind in ("key", "value")]
    kept = [row for prompt, row in rows.items() if prompt not in without]
    keys, values = (torch.stack(list(part)) for part in zip(*kept, strict=True))
    return values.T @ keys @ torch.linalg.inv(gram + keys.T @ keys)


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> bool:
    return float((found - wanted).norm()) < tolerance * float(wanted.norm())


# ------------------------------------------------------------------ what it is


def test_the_deltas_add_up_to_the_solution_on_every_layer() -> None:
    lm, edits = build(), list[Edit]()
    for facts in ([FACTS[0]], list(FACTS[1:3]), [FACTS[3]]):
        edits = write(lm, facts, edits)
    assert all(close(total(edits, site), solution(lm, edits, site)) for site in SITES)


def test_it_writes_what_memit_with_history_writes() -> None:
    lm = build()
    ledger, memit = list[Edit](), list[Edit]()
    for fact in FACTS[:3]:
        ledger = write(lm, [fact], ledger, anchor=None)
    for fact in FACTS[:3]:
        memit = write(lm, [fact], memit, "memit", history=True)
    # Values are kept in single precision.
    assert all(close(total(ledger, site), total(memit, site), 1e-5) for site in SITES)


def test_a_contradiction_replaces_the_row() -> None:
    lm = build()
    edits = write(lm, [FACTS[1]], write(lm, [FACTS[0]], []))
    edits = write(lm, [CONTRARY], edits)
    for site in SITES:
        rows = edits[-1].carry[f"key/{site}"]
        assert rows.shape[0] == 1
        assert edits[-1].deltas[site].left.shape[1] == 2  # out and in
        assert close(total(edits, site), solution(lm, edits, site))  # by prompt: the later row is the one


def test_subjects_that_differ_in_case_are_one_question_but_in_edits_of_older_books() -> None:
    lm = build()
    lower = replace(FACTS[0], prompt=FACTS[0].prompt.replace(FACTS[0].subject, FACTS[0].subject.lower()),
                    subject=FACTS[0].subject.lower())  # fmt: skip
    new = write(lm, [lower], write(lm, [FACTS[0]], []))
    older = [as_it_was(write(lm, [FACTS[0]], [])[0])]
    older.append(as_it_was(write(lm, [lower], older)[-1]))
    for site in SITES:
        assert len(rows_in(lm, new, site)) == 1  # the later one
        assert len(rows_in(lm, older, site)) == 2  # each its own, as it was written
        assert len(rows_in(lm, [older[0], new[1]], site)) == 1
    assert [a is b for a, b in zip(rebuilt(lm, older), older, strict=True)] == [True, True]  # nothing to derive anew


def as_it_was(edit: Edit) -> Edit:
    """Return an edit as it was marked when subjects that differ in case had rows of their own."""
    return replace(edit, carry={**edit.carry, "below": edit.carry["below"][:8]})


def rows_in(lm: LM, edits: Sequence[Edit], site: Site) -> Sequence[str]:
    ledger = make("ledger", OPTIONS).resolve(lm)
    return ledger._rows(lm, site, edits).names  # type: ignore[attr-defined,no-any-return]


# ------------------------------------------------------------------ dropping


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=3, max_size=7))
def test_whatever_is_written_and_dropped_the_solution_over_what_stands(steps: list[tuple[bool, int]]) -> None:
    lm, stored, dropped = build(), list[Edit](), set[str]()
    facts = (*FACTS, CONTRARY)
    for is_drop, which in steps:
        stands = rebuilt(lm, [e for e in stored if e.id not in dropped])
        if is_drop and stands:
            dropped.add(stands[which % len(stands)].id)
        else:
            stored.append(write(lm, [facts[which]], stands)[-1])
        stands = rebuilt(lm, [e for e in stored if e.id not in dropped])
        if stands:
            assert all(close(total(stands, site), solution(lm, stands, site)) for site in SITES)


def test_what_is_derived_is_the_same_in_a_new_process_and_stored_deltas_come_back() -> None:
    lm, edits = build(torch.float32), list[Edit]()
    for fact in FACTS:
        edits = write(lm, [fact], edits)
    left = [edits[0], *edits[2:]]
    one, other = rebuilt(lm, left), rebuilt(build(torch.float32), left)
    assert [e.id for e in one] == [e.id for e in left]
    assert one[0] is edits[0]
    for a, b, c in zip(one[1:], other[1:], left[1:], strict=True):
        for site in SITES:
            assert torch.equal(a.deltas[site].dense(), b.deltas[site].dense())
            assert not torch.equal(a.deltas[site].dense(), c.deltas[site].dense())
    assert all(a is b for a, b in zip(rebuilt(lm, edits), edits, strict=True))


def test_edits_of_other_methods_are_left_as_they_are() -> None:
    lm = build(torch.float32)
    first = write(lm, [FACTS[0]], [])
    rome = make("rome", {"layer": 1, "tokens": TOKENS, "steps": 3}).solve(lm, [FACTS[1]], first)
    lm.weights.stand([e.deltas for e in (*first, rome)])
    edits = write(lm, [FACTS[2]], [*first, rome])
    found = rebuilt(lm, edits[1:])
    assert found[0] is rome
    alone = solution(lm, [edits[2]], SITES[1])
    assert close(found[1].deltas[SITES[1]].dense().double(), alone, 1e-5)


def test_under_another_weight_it_is_another_ledger() -> None:
    lm = build(torch.float32)
    first = write(lm, [FACTS[0]], [])
    edits = write(lm, [FACTS[1]], first, weight=3.0)
    assert rebuilt(lm, edits[1:])[0] is edits[1]


def test_one_more_edit_does_not_go_through_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, edits, entered = build(torch.float32), list[Edit](), list[str]()
    import errata.methods.ledger as ledger

    plain = ledger.put_in
    monkeypatch.setattr(
        ledger,
        "put_in",
        lambda rows, edits, site: (entered.extend(edit.id for edit in edits), plain(rows, edits, site))[1],
    )
    for fact in FACTS:
        before = len(entered)
        edits = write(lm, [fact], edits)
        assert len(entered) - before <= len(SITES)  # the last edit's rows, at each site


# ------------------------------------------------------------------ in a book


@pytest.fixture
def editor(tmp_path: Path) -> Editor:
    return open_editor(build(torch.float32), book=tmp_path / "book", max_norm_ratio=1e9)


def state(lm: LM) -> list[Tensor]:
    return [lm.weights[site].detach().clone() for site in SITES]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_book_stays_a_pure_function_of_base_and_log(editor: Editor, tmp_path: Path) -> None:
    base = state(editor.lm)
    ids = [editor.write(fact, "ledger", **OPTIONS).id for fact in FACTS]
    whole = state(editor.lm)

    editor.drop(ids[1])
    stands = [e for e in editor._standing]
    for site in SITES:
        wanted = editor.lm.weights.base(site).double() + solution(editor.lm, stands, site)
        assert close(editor.lm.weights[site].detach().double(), wanted.detach(), 1e-6)
    fewer = state(editor.lm)
    with open_editor(build(torch.float32), book=tmp_path / "book") as again:
        assert same(fewer, state(again.lm))

    editor.restore(ids[1])
    assert same(whole, state(editor.lm))
    random.Random(0).shuffle(ids)
    for id in ids:
        editor.drop(id)
    assert same(base, state(editor.lm))


def test_writing_goes_on_after_a_drop(editor: Editor, tmp_path: Path) -> None:
    ids = [editor.write(fact, "ledger", **OPTIONS).id for fact in FACTS[:3]]
    editor.drop(ids[0])
    editor.write(FACTS[3], "ledger", **OPTIONS)
    stands = editor._standing
    for site in SITES:
        assert close(total(stands, site), solution(editor.lm, stands, site), 1e-5)
    after = state(editor.lm)
    with open_editor(build(torch.float32), book=tmp_path / "book") as again:
        assert same(after, state(again.lm))
