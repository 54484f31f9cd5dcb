"""FAISS and the exact search give the same answers, while clusters come, move and go.

pytest tests/index/test_search.py
"""

from __future__ import annotations

import pytest
import torch

from errata.errors import BadConfig
from errata.index import search
from errata.index.clusters import Clusters
from errata.index.search import Exact, Faiss, choose
from errata.index.sketch import NUMBERS, Sketch


def random_keys(count: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_the_same_answers_while_it_grows(scale: float) -> None:
    pytest.importorskip("faiss")
    pair = [Clusters(16, backend="exact"), Clusters(16, backend="faiss")]
    keys = random_keys(400, scale)
    asked = torch.cat([keys, keys + random_keys(400, 0.3 * scale, 1), random_keys(50, scale, 2)])
    for start in range(0, 400, 100):  # asked in between, so that what changes later must be taken out and put back
        for clusters in pair:
            for i in range(start, start + 100):
                clusters.add(keys[i], (i % 5,), 2.5 * scale)
        exact, faiss = (clusters.find(asked) for clusters in pair)
        assert torch.equal(exact, faiss)
        assert (exact >= 0).sum() > start
        assert (exact < 0).any()
    assert (pair[0].radii < 0).any()  # some were lost on the way


def test_a_removed_ball_is_not_found_again() -> None:
    pytest.importorskip("faiss")
    clusters = Clusters(1, backend="faiss")
    clusters.add(torch.tensor([0.0]), (1,), 1.0)
    assert clusters.find(torch.tensor([[0.0]])).tolist() == [0]
    clusters.add(torch.tensor([0.0]), (2,), 1.0)
    assert clusters.find(torch.tensor([[0.0]])).tolist() == [1]
    clusters.add(torch.tensor([0.5]), (2,), 1.0)  # moves to 0.25, radius 1
    assert clusters.find(torch.tensor([[1.2], [-0.8]])).tolist() == [2, -1]


def test_the_search_is_chosen_by_size_or_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    cpu = torch.device("cpu")
    assert isinstance(choose("size", 10, 4, cpu), Exact)
    assert isinstance(choose("size", search.LARGE, 4, cpu), Faiss)
    assert isinstance(choose("exact", search.LARGE, 4, cpu), Exact)
    assert isinstance(choose("faiss", 1, 4, cpu), Faiss)
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    assert isinstance(choose("size", search.LARGE, 4, cpu), Exact)
    with pytest.raises(BadConfig, match="errata-lm\\[index\\]"):
        choose("faiss", 1, 4, cpu)


@pytest.mark.parametrize("reach", [0.3, 2.0, 12.0])
def test_a_sketch_hides_nothing(reach: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers with and without it, while balls come, grow, are pushed back and go; however far they reach."""
    width = 2 * NUMBERS + 10
    draw = torch.Generator().manual_seed(0)
    keys = torch.randn(300, 12, generator=draw) @ torch.randn(12, width, generator=draw) * 0.3
    keys += torch.randn(300, width, generator=draw) * 0.1
    asked = torch.cat([keys, keys + torch.randn(300, width, generator=draw) * reach * width**-0.5 * 0.7])
    found = []
    for many in (8, 10**9):
        monkeypatch.setattr(search, "MANY", many)
        clusters, said = Clusters(width, backend="exact"), []
        for start in range(0, 300, 60):
            for i in range(start, start + 60):
                clusters.add(keys[i], (i % 3,), reach)
            said.append(clusters.find(asked))
        found.append(torch.stack(said))
        assert isinstance(clusters._search, Exact)
        assert (clusters._search._sketch is not None) == (many == 8)
    assert torch.equal(*found)
    assert (found[0] >= 0).any()


def test_what_is_near_is_near_in_a_sketch() -> None:
    draw = torch.Generator().manual_seed(1)
    centres = torch.randn(500, 200, generator=draw) * torch.logspace(0, -2, 200) + 3
    made = Sketch(centres[:400])
    made.follow(centres, set(range(400, 500)))
    keys = centres[::7] + torch.randn(72, 200, generator=draw) * 0.05
    true, seen = (
        torch.cdist(keys.double(), centres.double()),
        torch.cdist(made.of(keys).double(), made.of(centres).double()),
    )
    assert (seen <= true + 1e-4).all()
    assert seen.mean() > 0.9 * true.mean()  # and hardly nearer: what centres differ most in is kept
    squares, slack = torch.full((500,), 0.5), torch.zeros(72)
    near = made.near(keys, squares, slack)
    assert (near | (true**2 > 0.5)).all()
    assert not near.all()
