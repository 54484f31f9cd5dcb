"""Continuous batching says what each row says alone.

pytest tests/model/test_batching.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from errata.errors import UnsupportedModel
from errata.methods import make
from errata.model.batching import Running
from errata.model.generation import generate_tokens
from errata.model.lm import LM
from tests import tiny

PROMPTS = (
    "The capital of France is",
    "Anna Lindgren was born in Oslo. Bruno Keller works as a",
    "Carla",
    "The river Seine runs through",
)
LENGTHS = (9, 3, 12, 6)


def together(lm: LM, starts: list[list[int]]) -> tuple[list[list[int]], list[list[torch.Tensor]]]:
    """Let a row join at every second step, and leave when it has its length; return tokens and logits of each."""
    running, places = Running(lm), list[int]()
    said: list[list[int]] = [[] for _ in starts]
    logits: list[list[torch.Tensor]] = [[] for _ in starts]
    waiting = list(range(len(starts)))
    step = 0
    while waiting or places:
        if places:
            found = running.step(torch.tensor([said[place][-1] for place in places]))
            for place, row in zip(places, found, strict=True):
                logits[place].append(row)
                said[place].append(int(row.argmax()))
        if waiting and step % 2 == 0 and running.joins:
            place = waiting.pop(0)
            (row,) = running.join([starts[place]])
            places.append(place)
            logits[place].append(row)
            said[place].append(int(row.argmax()))
        going = [i for i, place in enumerate(places) if len(said[place]) < LENGTHS[place]]
        if len(going) < len(places):
            running.keep(going)
            places = [places[i] for i in going]
        step += 1
    return said, logits


@pytest.mark.parametrize("name", tiny.DECODERS)
def test_rows_that_join_and_leave_say_what_they_say_alone(name: str, models: Callable[[str], Any]) -> None:
    lm = models(name)
    starts = [lm.tokens.opening(prompt) for prompt in PROMPTS]
    assert len({len(start) for start in starts}) > 2
    said, logits = together(lm, starts)
    for start, tokens, rows in zip(starts, said, logits, strict=True):
        ids = torch.tensor([[*start, *tokens[:-1]]])
        with torch.no_grad():
            alone = lm.model(input_ids=ids).logits[0, len(start) - 1 :]
        assert torch.allclose(torch.stack(rows), alone, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", tiny.DECODERS)
def test_prompts_of_several_lengths_are_read_in_one_pass(name: str, models: Callable[[str], Any]) -> None:
    """A row that came padded says what it says alone, also after others have left, and so does one that comes later."""
    lm = models(name)
    starts = [lm.tokens.opening(prompt) for prompt in PROMPTS]
    running = Running(lm)
    if not running.pads:
        pytest.skip("reads one length after another")
    said = [[int(row.argmax())] for row in running.join(starts[:3])]
    rows, logits = [0, 1, 2], [[] for _ in starts]

    def step() -> None:
        found = running.step(torch.tensor([said[place][-1] for place in rows]))
        for place, row in zip(rows, found, strict=True):
            logits[place].append(row)
            said[place].append(int(row.argmax()))

    step()
    running.keep([0, 2])
    rows = [0, 2]
    step()
    said.append([int(running.join(starts[3:])[0].argmax())])
    rows.append(3)
    step()
    for start, tokens, found in zip(starts, said, logits, strict=True):
        with torch.no_grad():
            alone = lm.model(input_ids=torch.tensor([[*start, *tokens[:-1]]])).logits[0, len(start) :]
        assert torch.allclose(torch.stack(found), alone, atol=2e-4, rtol=1e-3)


def test_an_encoder_decoder_takes_rows_only_while_it_has_none(models: Callable[[str], Any]) -> None:
    lm = models("t5")
    starts = [lm.tokens.opening(prompt) for prompt in PROMPTS[:1]]
    running = Running(lm)
    said = [int(running.join(starts)[0].argmax())]
    assert not running.joins
    for _ in range(5):
        said.append(int(running.step(torch.tensor(said[-1:]))[0].argmax()))
    assert [said] == generate_tokens(lm, starts, 6)
    running.keep([])
    assert running.joins


def test_what_a_prompt_opens_stays_with_its_row() -> None:
    lm = tiny.build("llama")
    fact = tiny.FACTS[0]
    edit = make("grace", {"steps": 5}).solve(lm, [fact], [])
    lm.weights.stand([edit.deltas])
    starts = [lm.tokens.opening(prompt) for prompt in PROMPTS]
    said, _ = together(lm, starts)
    alone = [generate_tokens(lm, [start], n)[0] for start, n in zip(starts, LENGTHS, strict=True)]
    assert said == alone
    lm.weights.stand([])
    assert generate_tokens(lm, starts[:1], LENGTHS[0]) != alone[:1], "the edit was open for its own prompt"


def test_an_encoder_is_refused(models: Callable[[str], Any]) -> None:
    with pytest.raises(UnsupportedModel):
        Running(models("bert"))
