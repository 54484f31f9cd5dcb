"""Keys that collide, against the matrices multiplied out."""

from __future__ import annotations

import pytest
import torch

from errata.delta import Columns, Dense, Graft, LowRank, Site
from errata.edit import Edit
from errata.editing.collisions import collisions
from errata.fact import Fact

SITE = Site(3, "down")


def edit(number: int, delta: object, key: torch.Tensor | None) -> Edit:
    fact = Fact(prompt=f"Town {number} is in", subject=f"Town {number}", target="Mali")
    carry = {} if key is None else {f"key/{SITE}": key}
    return Edit(method="rome", config={}, facts=(fact,), base="f", deltas={SITE: delta}, carry=carry, seed=number)  # type: ignore[dict-item]


def test_shares_are_those_of_the_products() -> None:
    random = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    k = draw(1, 6)
    edits = [
        edit(1, LowRank(draw(4, 1), k.T), k),
        edit(2, LowRank(draw(4, 2), draw(6, 2)), draw(2, 6)),
        edit(3, Dense(draw(4, 6)), None),
        edit(4, Columns(torch.tensor([1, 5]), draw(4, 2)), draw(1, 6)),
        edit(5, Graft("melo", {}, {"keys": draw(2, 3)}), None),
    ]
    found = {(c.edit_id, c.other_id): c.share for c in collisions(edits, limit=0.0)}
    matrices = {e.id: e.deltas[SITE].dense((4, 6)).double() for e in edits[:4]}  # type: ignore[union-attr]
    expected = {}
    for e in (edits[0], edits[1], edits[3]):
        for id, matrix in matrices.items():
            if id != e.id:
                keys = e.carry[f"key/{SITE}"].double()
                ratios = (keys @ matrix.T).norm(dim=1) / (keys @ matrices[e.id].T).norm(dim=1)
                expected[e.id, id] = float(ratios.max())
    assert found == pytest.approx(expected)
    assert [c.share for c in collisions(edits, 0.0)] == sorted(found.values(), reverse=True)


def test_one_subject_collides_and_strangers_do_not() -> None:
    eye = torch.eye(6)
    same = [edit(n, LowRank(torch.ones(4, 1), eye[:, :1]), eye[:1]) for n in (1, 2)]
    other = edit(3, LowRank(torch.ones(4, 1), eye[:, 1:2]), eye[1:2])
    found = {(c.edit_id, c.other_id): c.share for c in collisions([*same, other])}
    assert found == pytest.approx({(same[0].id, same[1].id): 1.0, (same[1].id, same[0].id): 1.0})
    assert collisions([other]) == collisions([]) == []


def routed(number: int, key: list[float], labels: list[list[int]], radius: float = 1.0) -> Edit:
    state = {"keys": torch.tensor([key]), "labels": torch.tensor(labels)}
    return edit(number, Graft("melo", {"index": str(SITE), "radius": radius}, state), None)


def test_routed_edits_collide_where_balls_of_different_answers_overlap() -> None:
    first = routed(1, [0.0, 0.0], [[7, 8]])
    near = routed(2, [0.6, 0.0], [[7, 9]])
    same = routed(3, [0.1, 0.0], [[7, 8, -1]])  # the same answer, filled up to a longer row
    far = routed(4, [9.0, 0.0], [[5, 5]], radius=2.0)
    found = {(c.edit_id, c.other_id): c.share for c in collisions([first, near, same, far])}
    assert found == pytest.approx({(first.id, near.id): 0.7, (near.id, same.id): 0.75}, abs=1e-6)
