"""What books do to one another once they are merged: lost facts are named, with what did it, whoever comes first.

pytest tests/editing/test_interactions.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from errata import methods
from errata.book.book import Book
from errata.edit import Edit
from errata.editing import letting_in
from errata.editing.interactions import interactions
from errata.editing.opening import open as open_editor
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.loading import load
from errata.primer.probes import edits

FIRST, SECOND = edits(2, seed=4)
OTHERWISE = Fact(prompt=FIRST.prompt, subject=FIRST.subject, target=SECOND.target)


@pytest.fixture(scope="module")
def loaded() -> LM:
    return load("primer")


@pytest.fixture
def lm(loaded: LM) -> Iterator[LM]:
    loaded.weights.stand([])
    yield loaded
    loaded.weights.stand([])


def written(lm: LM, fact: Fact) -> Edit:
    how = methods.make("rome", {})
    how.prepare(lm)
    return how.solve(lm, [fact])


def test_a_lost_fact_is_named_with_what_lost_it_in_any_order(lm: LM) -> None:
    one, two, other = (written(lm, fact) for fact in (FIRST, SECOND, OTHERWISE))
    whole = {site: lm.weights[site].clone() for site in one.deltas}
    found = interactions(lm, {"here": [one], "there": [two]})
    assert (found.alone, found.together, found.lost) == ({"here": 1, "there": 1}, {"here": 1, "there": 1}, [])
    for sides in ({"here": [one], "there": [two, other]}, {"there": [two, other], "here": [one]}):
        found = interactions(lm, sides)
        assert found.alone == {"here": 1, "there": 2}
        assert found.lost
        for lost in found.lost:
            assert lost.by == ((other.id,) if lost.side == "here" else (one.id,))
            assert lost.why == "contradiction"
    assert all(torch.equal(lm.weights[site], matrix) for site, matrix in whole.items()), "the model is put back"


def test_a_merge_with_the_model_tells_what_was_lost(lm: LM, tmp_path: Path) -> None:
    with open_editor(lm, book=tmp_path / "theirs") as editor:
        editor.write(OTHERWISE, "rome")
    lm.weights.stand([])
    with open_editor(lm, book=tmp_path / "ours") as editor, Book.open(tmp_path / "theirs") as theirs:
        editor.write(FIRST, "rome")
        done = letting_in.merge(editor, theirs, "both")
        kinds = [clash.kind for clash in done.clashes]
        assert kinds[0] == "contradiction"
        assert "lost here" in kinds[1:] or "lost there" in kinds[1:]
        assert "any more" in done.clashes[-1].what
        assert len(editor.standing) == 2
