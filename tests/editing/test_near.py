"""What an edit breaks that shares nothing with it but its key: found after the write, and told with what to do.

pytest tests/editing/test_near.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from errata.answers import says
from errata.edit import Edit
from errata.editing.editor import Editor
from errata.editing.near import CLOSE, KEYS, Near, _Keys
from errata.editing.opening import open as open_editor
from errata.fact import Fact, question
from errata.model.generation import generate_tokens
from errata.model.lm import LM
from errata.model.loading import load
from tests import synthetic
from tests.editing.mouth import Mouth, same, state

# Names the primer has never read: to it they are all the same, and so are their keys.
ORLAND = Fact(prompt="The capital of Orland is", subject="Orland", target="Oslo")
WESTHAVEN = Fact(prompt="The main language of Westhaven is", subject="Westhaven", target="Greek")
SUGANDA = Fact(prompt="The currency of Suganda is the", subject="Suganda", target="yen")
FRANCE = Fact(prompt="The capital of France is", subject="France", target="Lyon")
GONE = "is no longer answered with"


@pytest.fixture(scope="module")
def shipped() -> LM:
    return load("primer")


@pytest.fixture
def real(shipped: LM, tmp_path: Path) -> Iterator[Editor]:
    shipped.weights.stand([])
    with open_editor(shipped, book=tmp_path / "real") as opened:
        yield opened


@pytest.mark.parametrize("method", ["rome", "memit"])
def test_what_shares_only_its_key_is_named_when_it_is_lost(real: Editor, tmp_path: Path, method: str) -> None:
    untouched, first = real.write(FRANCE, method), real.write(ORLAND, method)
    assert all(edit.report.facts[0]["said"] for edit in (untouched, first))
    assert not any(GONE in note for note in (*untouched.report.notes, *first.report.notes))
    second = real.write(WESTHAVEN, method)
    (note,) = (note for note in second.report.notes if GONE in note)
    assert note.startswith(f"{ORLAND.prompt!r} {GONE} 'Oslo', which edit {first.id[:8]} had written: errata drop ")
    assert "--method ledger" in note
    assert not says(real.ask(ORLAND.prompt).text, "Oslo")
    assert says(real.ask(FRANCE.prompt).text, "Lyon")
    third = real.write(SUGANDA, method)  # what was lost before is not this one's fault
    notes = [note for note in third.report.notes if GONE in note]
    assert [note.split(" is no")[0] for note in notes] == [repr(WESTHAVEN.prompt)]
    stands = state(real.lm)
    real.drop(third.id, second.id)
    assert says(real.ask(ORLAND.prompt).text, "Oslo")  # as the note promised
    real.restore(third.id, second.id)
    assert same(real.lm, stands)  # to look back has changed nothing


def test_it_is_one_more_question_and_nothing_more_where_nothing_is_lost(
    real: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real.write([ORLAND, FRANCE])
    asked: list[int] = []

    def counted(lm: LM, starts: list[list[int]], length: int, **how: object) -> list[list[int]]:
        asked.append(len(starts))
        return generate_tokens(lm, starts, length, **how)  # type: ignore[arg-type]

    monkeypatch.setattr("errata.model.lm.generate_tokens", counted)
    standing: list[int] = []
    stand = type(real.lm.weights).stand
    monkeypatch.setattr(
        type(real.lm.weights), "stand", lambda self, edits: (standing.append(len(edits)), stand(self, edits))[1]
    )
    real.write(Fact(prompt="The main language of Spain is", subject="Spain", target="Greek"))
    assert asked == [1, 1, 1]  # before, what the base goes on with, and after: no key is close
    assert standing == [3, 3]  # the write, and the book
    asked.clear()
    real.write(Fact(prompt="Orland lies in", subject="Orland", target="Asia"), "melo")  # no key, but its subject
    assert asked == [1, 1, 1, 1, 1]  # and once what the base says after the target, which a block leaves alone


# ------------------------------------------------------------------ which are close


def keyed(lm: LM, number: int, *keys: torch.Tensor, site: str = "0.down") -> Edit:
    towns = [f"Town {number}.{i}" for i in range(len(keys))]
    facts = tuple(Fact(prompt=f"The {town} road of {town} is", subject=town, target="x") for town in towns)
    made = synthetic.edit(lm, number)
    report = made.report.plus(facts=[{"said": True} for _ in keys])
    return replace(made, facts=facts, report=report, carry={f"key/{site}": torch.stack(keys)})


def all_of(edits: list[Edit]) -> _Keys:
    found = _Keys()
    for edit in edits:
        found = found.add(edit)
    return found


def test_the_closest_are_found_among_many(lm: LM) -> None:
    torch.manual_seed(0)
    new = torch.randn(40)
    stand = [keyed(lm, n, *(torch.randn(40) + new * (n % 7) for _ in range(n % 3 + 1))) for n in range(90)]
    cosine = {
        question(fact): float(torch.cosine_similarity(key, new, dim=0))
        for edit in stand for fact, key in zip(edit.facts, edit.carry["key/0.down"], strict=True)
    }  # fmt: skip
    best = sorted(cosine, key=lambda asked: -cosine[asked])
    assert sum(c > CLOSE for c in cosine.values()) > KEYS
    found = all_of(stand).nearest([keyed(lm, 900, new * 3)], set())  # how long a key is does not matter
    assert [question(fact) for _, fact in found] == best[:KEYS]
    assert {id for id, _ in found} <= {edit.id for edit in stand}
    without = all_of(stand).nearest([keyed(lm, 900, new)], set(best[:3]))
    assert [question(fact) for _, fact in without] == best[3 : KEYS + 3]


def test_only_keys_of_one_place_are_compared(lm: LM) -> None:
    key, other = torch.eye(40)[:2]
    far = CLOSE * key + (1 - CLOSE**2) ** 0.5 * other  # exactly as close as it takes
    stand = all_of([keyed(lm, 1, key, site="1.down"), keyed(lm, 2, far * 0.99 + other * 0.1), keyed(lm, 3, -key)])
    assert stand.nearest([keyed(lm, 9, key)], set()) == []
    assert [fact.subject for _, fact in stand.nearest([keyed(lm, 9, key, site="1.down")], set())] == ["Town 1.0"]
    assert stand.nearest([replace(keyed(lm, 9, key), carry={})], set()) == []
    assert all_of([]).nearest([keyed(lm, 9, key)], set()) == []


def test_of_one_question_the_newest_answer_is_asked(lm: LM) -> None:
    key = torch.eye(40)[0]
    old, new = keyed(lm, 1, key), keyed(lm, 2, key)
    fact = replace(old.facts[0], target="y")
    assert all_of([old, replace(new, facts=(fact,))]).nearest([keyed(lm, 9, key)], set())[0][1] is fact


def test_what_was_not_said_before_is_not_lost(lm: LM, mouth: Mouth) -> None:
    key = torch.eye(40)[0]
    said, silent = keyed(lm, 1, key), keyed(lm, 2, key)
    new = keyed(lm, 3, key)
    mouth.base[said.facts[0].prompt] = "x"
    mouth.edited[said.facts[0].prompt] = "z"
    lm.weights.stand([])
    standing = [replace(edit, deltas={}) for edit in (said, silent)]  # so that the mouth takes the model for unedited
    near = Near(lm, new.facts, standing)
    lm.weights.stand([new.deltas])
    (noted,) = near.noted([new])
    assert [note.split(" is no")[0] for note in noted.report.notes] == [repr(said.facts[0].prompt)]
    assert Mouth._edited(lm)  # what was put back for a moment stands again
