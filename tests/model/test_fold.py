"""What follows from the edits that stand is the same however a process came to them, and one more costs one entry.

pytest tests/model/test_fold.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.edit import Edit, ground
from errata.methods import make
from errata.model.fold import BLOCKS, fold, fold_in_blocks, ground_of
from errata.model.lm import LM
from tests import tiny


@dataclass
class Named:
    """All of an edit that is looked at."""

    id: str


@dataclass
class Memory:
    """All of a model that is used."""

    memory: dict[Any, Any] = field(default_factory=dict)


State = tuple[tuple[str, ...], ...]


def found(lm: Memory, edits: Sequence[Named], entries: list[int] | None = None) -> State:
    """Return which edits were entered together, in order."""

    def entered(state: State, new: Sequence[Named]) -> State:
        if entries is not None:
            entries.append(len(new))
        return (*state, tuple(edit.id for edit in new))

    return fold_in_blocks(lm, "key", edits, tuple, entered)  # type: ignore[arg-type]


def log(count: int, draw: str = "") -> list[Named]:
    return [Named(f"{draw}{i}") for i in range(count)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1300), st.integers(0, 1300)), max_size=6))
def test_however_a_process_came_to_a_log_it_entered_the_same_blocks(steps: list[tuple[int, int]]) -> None:
    lived, edits = Memory(), log(700)
    found(lived, edits)
    for keep, count in steps:
        edits = [*edits[:keep], *log(count, f"{keep}/{count}/{len(edits)}/")]
        state = found(lived, edits)
        assert state == found(Memory(), edits)
        assert [id for block in state for id in block] == [edit.id for edit in edits]
        rest, sizes = len(edits), list[int]()
        for size in BLOCKS:
            sizes += [size] * (rest // size)
            rest %= size
        assert [len(block) for block in state] == sizes


def test_one_more_edit_is_one_entry_and_one_fewer_goes_back_a_little() -> None:
    lm, edits, entries = Memory(), log(0), list[int]()
    for count in range(1, 1100):
        edits = [*edits, Named(str(count))]
        found(lm, edits, entries)
        assert len(entries) == count
    found(lm, edits[:-1], entries)
    assert len(entries) <= 1099 + 7
    found(lm, [Named(edit.id) for edit in edits[:-1]], entries)  # other objects, the same edits
    assert len(entries) <= 1099 + 7


def test_what_fails_on_the_way_leaves_what_was_known() -> None:
    lm, edits = Memory(), log(9)
    before = found(lm, edits)

    def fails(state: State, new: Sequence[Edit]) -> State:
        raise ValueError("no memory left")

    with pytest.raises(ValueError, match="no memory left"):
        fold_in_blocks(lm, "key", [*edits, Named("more")], tuple, fails)  # type: ignore[arg-type, list-item]
    assert found(lm, edits) == before


def test_one_after_another_is_in_order_and_goes_on() -> None:
    lm, edits, seen = Memory(), log(20), list[str]()

    def entered(state: tuple[str, ...], edit: Named) -> tuple[str, ...]:
        seen.append(edit.id)
        return (*state, edit.id)

    for count in (5, 20, 3):
        state = fold(lm, "key", edits[:count], tuple, entered)  # type: ignore[arg-type]
        assert state == tuple(edit.id for edit in edits[:count])
    assert len(seen) == 23  # fewer: from nothing


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_the_ground_is_that_of_the_ids(counts: list[int]) -> None:
    lm, edits = Memory(), log(10)
    for count in counts:
        assert ground_of(lm, edits[:count]) == ground([edit.id for edit in edits[:count]])  # type: ignore[arg-type]


OPTIONS: dict[str, dict[str, Any]] = {
    "ledger": {"layers": (0, 1), "steps": 2, "weight": 2.0},
    "alphaedit": {"layers": (0, 1), "steps": 2},
    "memit": {"layers": (0, 1), "steps": 2, "weight": 2.0, "history": True},
    "oedit": {"layer": 1, "steps": 2, "full": "leading", "spare": 4},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_edit_is_to_the_bit_the_same_in_a_process_that_lived_through_all(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("errata.model.fold.BLOCKS", (4, 2, 1))
    how, lived, edits = make(name, {"tokens": 300, **OPTIONS[name]}), tiny.build("llama"), list[Edit]()
    facts = [*tiny.FACTS, *reversed(tiny.FACTS), tiny.FACTS[1]]
    for fact in facts:
        edits.append(how.solve(lived, [fact], edits))
        lived.weights.stand([edit.deltas for edit in edits])
    fresh = standing(tiny.build("llama"), edits[:-1])
    again = how.solve(fresh, [facts[-1]], edits[:-1])
    assert again.id == edits[-1].id
    for site in again.deltas:
        assert torch.equal(again.deltas[site].dense(), edits[-1].deltas[site].dense())


@pytest.mark.parametrize("name", OPTIONS)
def test_in_blocks_is_one_by_one_to_rounding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    how, edits = make(name, {"tokens": 300, **OPTIONS[name]}), list[Edit]()
    build: Callable[[], LM] = lambda: tiny.build("llama", dtype=torch.float64)  # noqa: E731
    lm = build()
    for fact in (*tiny.FACTS, *reversed(tiny.FACTS[1:])):
        edits.append(how.solve(lm, [fact], edits))
        lm.weights.stand([edit.deltas for edit in edits])
    made = list[Edit]()
    for blocks in ((4, 2, 1), (1,)):
        monkeypatch.setattr("errata.model.fold.BLOCKS", blocks)
        made.append(how.solve(standing(build(), edits), [tiny.FACTS[0]], edits))
    for site in made[0].deltas:
        one, other = (edit.deltas[site].dense().double() for edit in made)
        assert float((one - other).norm()) < 1e-6 * float(other.norm())


def standing(lm: LM, edits: Sequence[Edit]) -> LM:
    lm.weights.stand([edit.deltas for edit in edits])
    return lm
