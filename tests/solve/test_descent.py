"""Descent on a change held beside the matrix, against training the matrix itself.

pytest tests/solve/test_descent.py
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from errata.delta import Dense, Site
from errata.errors import NotFinite
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve.descent.matrix import MatrixTraining, fit
from tests import tiny
from tests.solve.raw import PATHS, Raw

ASKED = [Query(f.prompt, f.target, f.span) for f in tiny.FACTS]
SITE = Site(1, "down")
SCHEDULE = MatrixTraining(steps=5, lr=1e-2, stop=0.0)


def doubled(name: str) -> LM:
    # In float64 transformers' Gemma-2 gives NaN at padding that its window leaves nothing to look at.
    return tiny.build(name, dtype=torch.float64, **({"sliding_window": 64} if name == "gemma2" else {}))


def textbook_loss(raw: Raw, labels: list[list[int]] | None = None) -> Tensor:
    """Return the mean over queries of their tokens' mean NLL, by full passes; of `labels`, at the last position."""
    losses = []
    for i, query in enumerate(ASKED):
        if labels is None:
            logits, wanted = raw.logits(query.prompt, query.answer)
            losses.append(-logits.log_softmax(-1)[range(len(wanted)), wanted].mean())
        else:
            last = raw.logits(query.prompt)[0][0].log_softmax(-1)
            losses.append(-last[labels[i]].mean())
    return torch.stack(losses).mean()


def trained(lm: LM, schedule: MatrixTraining, labels: list[list[int]] | None = None) -> tuple[Tensor, float, int]:
    """Return (change, last loss, updates) of torch's Adam on the model's own matrix."""
    raw = Raw(lm.name.removeprefix("tiny "), lm.model, lm.tokenizer)
    weight = raw.down(SITE.layer).weight
    before = weight.detach().clone()
    optimizer = torch.optim.Adam([weight], lr=schedule.lr)
    for step in range(schedule.steps + 1):
        loss = textbook_loss(raw, labels)
        if float(loss.detach()) < schedule.stop or step == schedule.steps:
            break
        optimizer.zero_grad()
        loss.backward(inputs=[weight])
        optimizer.step()
        if schedule.bound is not None:
            with torch.no_grad():
                weight.copy_(before + (weight - before).clamp(-schedule.bound, schedule.bound))
    change = (weight - before).detach()
    return change.T if raw.name == "gpt2" else change, float(loss.detach()), step


@pytest.mark.parametrize("name", PATHS)
def test_it_is_training_the_matrix(name: str) -> None:
    lm = doubled(name)
    found, loss, steps = fit(lm, SITE, ASKED, SCHEDULE)
    wanted, wanted_loss, wanted_steps = trained(lm, SCHEDULE)
    rough = name in ("gemma2", "gptj")  # attention in float32, whatever the model is in
    torch.testing.assert_close(found, wanted, atol=1e-3 if rough else 1e-7, rtol=1e-5)
    assert loss == pytest.approx(wanted_loss, rel=1e-4 if rough else 1e-7)
    assert steps == wanted_steps == SCHEDULE.steps


def test_the_loss_it_reports_is_the_edited_models() -> None:
    lm = doubled("gpt2")
    found, loss, _ = fit(lm, SITE, ASKED, SCHEDULE)
    lm.weights.stand([{SITE: Dense(found)}])
    logps = lm.logprobs(ASKED)
    assert loss == pytest.approx(float(-torch.stack([logp.mean() for logp in logps]).mean()), rel=1e-9)


def test_it_stops_when_it_is_good_enough() -> None:
    lm = doubled("llama")
    first = fit(lm, SITE, ASKED, MatrixTraining(steps=0, lr=1e-2, stop=0.0))
    assert not first[0].any()
    assert first[2] == 0
    at_once = fit(lm, SITE, ASKED, MatrixTraining(steps=50, lr=1e-2, stop=first[1] + 1e-9))
    assert (at_once[1], at_once[2]) == (first[1], 0)
    later = fit(lm, SITE, ASKED, MatrixTraining(steps=50, lr=1e-2, stop=first[1] - 0.5))
    assert 0 < later[2] < 50
    assert later[1] < first[1] - 0.5


def test_the_bound_holds_for_every_entry() -> None:
    lm = doubled("llama")
    schedule = MatrixTraining(steps=8, lr=1e-2, stop=0.0, bound=2.5e-2)
    found, _, _ = fit(lm, SITE, ASKED, schedule)
    assert float(found.abs().max()) == 2.5e-2
    torch.testing.assert_close(found, trained(lm, schedule)[0], atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_labels_can_all_be_asked_at_the_last_position(name: str) -> None:
    lm = doubled(name)
    labels = [lm.tokens.batch([query]).labels.tolist() for query in ASKED]
    assert len({len(ids) for ids in labels}) > 1
    bare = [Query(query.prompt, "", query.span) for query in ASKED]
    found, loss, _ = fit(lm, SITE, bare, SCHEDULE, labels)
    wanted, wanted_loss, _ = trained(lm, SCHEDULE, labels)
    torch.testing.assert_close(found, wanted, atol=1e-7, rtol=1e-5)
    assert loss == pytest.approx(wanted_loss, rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_is_not_written_to(dtype: torch.dtype) -> None:
    lm = tiny.build("llama", dtype=dtype)
    before = copy.deepcopy(lm.model.state_dict())
    found, _, _ = fit(lm, SITE, ASKED, SCHEDULE)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in lm.model.state_dict().items())
    assert all(p.grad is None for p in lm.model.parameters())


def test_a_step_far_too_large_is_an_error() -> None:
    lm = tiny.build("llama")
    with torch.no_grad():
        lm.model.lm_head.weight[3] = float("nan")
    with pytest.raises(NotFinite, match="diverged; lower lr"):
        fit(lm, SITE, ASKED, SCHEDULE)


def test_it_starts_from_the_model_as_it_stands() -> None:
    lm = doubled("llama")
    found: Any = fit(lm, SITE, ASKED, SCHEDULE)
    lm.weights.stand([{SITE: Dense(found[0])}])
    assert fit(lm, SITE, ASKED, MatrixTraining(steps=0, lr=1e-2, stop=0.0))[1] == pytest.approx(found[1], rel=1e-9)
