"""Keys in two parts: an entry is found where its subject stands and its question is asked.

pytest tests/index/test_parts.py
"""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from errata.index.parts import Entries, Parts

D, E = 6, 5


def unit(count: int, width: int, seed: int) -> Tensor:
    return normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def entries(count: int, seed: int, bounds: tuple[float, float] = (0.3, 0.6), tokens: int = 3) -> Entries:
    """Return entries with two subject keys and three question keys each."""
    draw = torch.Generator().manual_seed(seed + 1)
    return Entries(
        unit(2 * count, D, seed), torch.randint(tokens, (2 * count,), generator=draw),
        torch.arange(count).repeat_interleave(2), unit(3 * count, E, seed + 2),
        torch.arange(count).repeat_interleave(3), bounds,
    )  # fmt: skip


def by_hand(parts: list[Entries], keys: Tensor, tokens: Tensor | None, where: Tensor, asked: Tensor) -> list[int]:
    """Return what `Parts` finds, from the definition, pair by pair."""
    found = []
    for row in range(len(keys)):
        best, before = (float("inf"), -1), 0
        for part in parts:
            for entry in range(len(part)):
                about = [
                    float(1 - part.subjects[s] @ keys[row, t])
                    for s in (part.about == entry).nonzero()[:, 0] for t in where[row].nonzero()[:, 0]
                    if tokens is None or part.tokens[s] == tokens[row, t]
                ]  # fmt: skip
                asks = [float(1 - part.questions[q] @ asked[row]) for q in (part.asks == entry).nonzero()[:, 0]]
                one, two = min(about, default=9) / part.bounds[0], min(asks) / part.bounds[1]
                if one <= 1 and two <= 1 and one + two <= best[0]:
                    best = one + two, before + entry
            before += len(part)
        found.append(best[1])
    return found


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), told=st.booleans())
def test_it_finds_what_the_definition_finds(seed: int, told: bool) -> None:
    parts = [entries(4, seed, (0.5, 0.9)), entries(3, seed + 10, (0.9, 0.7))]
    index = Parts((D, E))
    for part in parts:
        index.add(part)
    keys, asked = unit(5 * 7, D, seed + 20).reshape(5, 7, D), unit(5, E, seed + 21)
    tokens = torch.randint(3, (5, 7), generator=torch.Generator().manual_seed(seed)) if told else None
    where = torch.rand(5, 7, generator=torch.Generator().manual_seed(seed + 3)) < 0.7
    found = index.agree(index.named(keys, tokens, where), asked)
    assert found.tolist() == by_hand(parts, keys, tokens, where, asked)


def test_neither_part_opens_alone_and_the_token_counts() -> None:
    entry = entries(1, 0, (0.3, 0.2))
    index = Parts((D, E))
    index.add(entry)
    subject, question, token = entry.subjects[:1, None], entry.questions[:1], entry.tokens[:1, None]
    here = torch.ones(1, 1, dtype=torch.bool)
    assert index.agree(index.named(subject, token, here), question).tolist() == [0]
    assert index.agree(index.named(-subject, token, here), question).tolist() == [-1]
    assert index.agree(index.named(subject, token, here), -question).tolist() == [-1]
    assert index.agree(index.named(subject, token + 5, here), question).tolist() == [-1]
    assert index.agree(index.named(subject, token, ~here), question).tolist() == [-1]  # it stands in no prompt


def test_of_the_same_keys_the_newest_opens_and_can_be_taken_back() -> None:
    entry = entries(1, 3)
    index = Parts((D, E))
    asked = entry.subjects[:1, None], entry.tokens[:1, None], torch.ones(1, 1, dtype=torch.bool)
    for _ in range(3):
        index.add(entry)
    assert index.agree(index.named(*asked), entry.questions[:1]).tolist() == [2]
    index.cut(2)
    assert len(index) == 2
    assert index.agree(index.named(*asked), entry.questions[:1]).tolist() == [1]
    index.cut(0)
    assert index.agree(index.named(*asked), entry.questions[:1]).tolist() == [-1]


def test_an_empty_index_and_an_empty_batch_find_nothing() -> None:
    index = Parts((D, E))
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert index.agree(index.named(torch.zeros(2, 3, D), None, none), torch.zeros(2, E)).tolist() == [-1, -1]
    index.add(entries(2, 5))
    assert index.agree(index.named(torch.zeros(2, 3, D), None, none), torch.zeros(2, E)).tolist() == [-1, -1]
