"""The training of MEND's network: its loss is that of edits really made, its gradient that of finite differences.

pytest tests/solve/test_mend_training.py
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from errata.delta import Site
from errata.errors import BadConfig, NotFinite
from errata.methods.mend import default_sites
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve.mend import Network, factors
from errata.solve.mend_training import Below, Lesson, Schedule, Step, begun, objective, train
from tests import networks, tiny

SITE = Site(4, "up")
LESSONS = (
    Lesson(
        Query("The capital of France is", "Rome"),
        (Query("The capital of France is", "Rome"), Query("So it was said that France has its capital in", "Rome")),
        (Query("The capital of Italy is", "Rome"), Query("The river Seine", "runs through Paris.")),
    ),
    Lesson(Query("Anna Lindgren was born in", "Paris"), (), (Query("Bruno Keller speaks", "German"),)),
)


@pytest.fixture(params=["gpt2", "llama", "t5"])
def lm(request: pytest.FixtureRequest) -> LM:
    return tiny.build(request.param, dtype=torch.float64)


@pytest.fixture
def llama() -> LM:
    return tiny.build("llama", dtype=torch.float64, num_hidden_layers=5)  # two blocks lie below those that are edited


def drawn(lm: LM, noise: float = 0.1) -> Network:
    return networks.drawn(lm, tiny.FACTS, noise=noise).to(torch.float64)


def logp(lm: LM, query: Query) -> Tensor:
    """Return log P of every token of the vocabulary at each place of the answer, (a, v)."""
    with torch.no_grad():
        return lm.answer_logits(lm.tokens.batch([query])).log_softmax(-1)


def said_and_moved(lm: LM, network: Network, groups: Sequence[Sequence[Lesson]]) -> tuple[float, float]:
    """Return the two parts of the loss as they are when each group's edits are written into the weights."""
    said, moved = [], []
    for group in groups:
        deltas = []
        for lesson in group:
            seen = factors(lm, network.sites, lm.tokens.batch([lesson.edit]))
            deltas.append({site: network.change(site, seen[site]) for site in network.sites})
        before = {query: logp(lm, query) for lesson in group for query in lesson.local}
        with lm.weights.trial(deltas):
            for lesson in group:
                said += [float(-lm.logprobs([query])[0].mean()) for query in lesson.equivalent or (lesson.edit,)]
                for query in lesson.local:
                    p, q = before[query], logp(lm, query)
                    moved.append(float((p.exp() * (p - q)).sum(1).mean()))
    return sum(said) / len(said), sum(moved) / len(moved)


@pytest.mark.parametrize("together", [1, 2])
def test_the_loss_is_that_of_edits_written_into_the_weights(lm: LM, together: int) -> None:
    network = drawn(lm)
    groups = [LESSONS] if together == 2 else [[lesson] for lesson in LESSONS]
    found = [float(part) for part in objective(lm, network, LESSONS, together)]
    assert found == pytest.approx(said_and_moved(lm, network, groups), rel=1e-6)
    assert found[1] > 1e-6


def test_blocks_below_that_are_not_run_again_change_nothing(llama: LM) -> None:
    network = drawn(llama)
    assert network.layers == (2, 3, 4)
    known, fresh = Below(llama, 2), Below(llama, 2)
    fresh.used = False
    found = [[float(part) for part in objective(llama, network, LESSONS, 1, below)] for below in (known, known, fresh)]
    assert found[0] == found[1]
    assert found[0] == pytest.approx(found[2], rel=1e-12)
    assert found[0] == pytest.approx(said_and_moved(llama, network, [[one] for one in LESSONS]), rel=1e-6)


# Norms of Llama and T5 compute in float32 whatever the model is in: differences as small as these are noise there.
@pytest.mark.parametrize("name", ["gpt2", "falcon", "gpt_neox"])
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    lm, step, rng = tiny.build(name, dtype=torch.float64), 1e-6, torch.Generator().manual_seed(0)
    network = drawn(lm)
    leaves = {name: t.clone().requires_grad_() for name, t in network.learned().items()}

    def loss(tensors: dict[str, Tensor]) -> Tensor:
        said, moved = objective(lm, network.holding(tensors), LESSONS)
        return 0.1 * said + moved

    gradients = dict(zip(leaves, torch.autograd.grad(loss(leaves), leaves.values()), strict=True))
    for kind in ("u1", "v1", "b1", "u2", "v2", "b2", "s1", "o1", "s2", "o2", "log_rate"):
        names = [name for name in leaves if name.endswith(f"/{kind}")]
        way = {name: torch.randn(leaves[name].shape, generator=rng, dtype=torch.float64) for name in names}
        slope = sum(float((gradients[name] * way[name]).sum()) for name in names)
        ends = [
            float(
                loss({name: t.detach() + (sign * step * way[name] if name in way else 0) for name, t in leaves.items()})
            )
            for sign in (1, -1)
        ]
        assert abs(slope) > 1e-9, kind
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-4, abs=1e-7), kind


def test_training_lowers_the_loss_and_touches_nothing_else(llama: LM) -> None:
    before = {name: t.clone() for name, t in llama.model.state_dict().items()}
    state = torch.get_rng_state()
    flags = [p.requires_grad for p in llama.model.parameters()]
    start = begun(llama, default_sites(llama), LESSONS, rank=8, rate=1e-3)
    told: list[Step] = []
    how = Schedule(steps=60, size=2, lr=0.03, rate_lr=0.3, edit=1.0, together=(1, 2), seed=3)
    found = train(llama, start, LESSONS, how, told.append)
    assert [step.number for step in told] == list(range(1, 61))
    assert torch.equal(told[-1].network.rate(SITE), found.rate(SITE))
    (said, moved), (first, _) = objective(llama, found, LESSONS), objective(llama, start, LESSONS)
    assert float(said) < 0.5 * float(first)
    assert float(moved) < 1
    assert all(torch.equal(t, before[name]) for name, t in llama.model.state_dict().items())
    assert [p.requires_grad for p in llama.model.parameters()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(found.tensors[name], start.tensors[name]) for name in start.tensors.keys() - start.learned().keys()
    )
    assert train(llama, start, LESSONS, how).to_bytes() == found.to_bytes()
    assert train(llama, start, LESSONS, Schedule(steps=2, size=2, seed=4)).to_bytes() != found.to_bytes()


def test_the_scale_is_that_of_the_lessons_edits(llama: LM) -> None:
    network = begun(llama, default_sites(llama), LESSONS, rank=4)
    seen = factors(llama, network.sites, llama.tokens.batch([lesson.edit for lesson in LESSONS]))
    for site in network.sites:
        rows = torch.cat([seen[site].inputs, seen[site].gradients], 1)
        torch.testing.assert_close(network.tensors[f"{site}/mean"], rows.mean(0).float())
        torch.testing.assert_close(network.tensors[f"{site}/deviation"], rows.std(0, correction=0).float())


def test_settings_that_make_no_sense_are_our_errors(llama: LM) -> None:
    for wrong in (
        {"steps": 0},
        {"steps": 1, "size": 0},
        {"steps": 1, "together": (3,)},
        {"steps": 1, "together": (0,)},
    ):
        with pytest.raises(BadConfig, match="at least 1, and size is a multiple"):
            Schedule(**wrong)
    with pytest.raises(BadConfig, match="nothing to train a network on"):
        begun(llama, default_sites(llama), [], rank=4)


def test_a_training_that_diverges_says_so(llama: LM) -> None:
    start = begun(llama, default_sites(llama), LESSONS, rank=4, rate=1e300)
    with pytest.raises(NotFinite, match="diverged; lower"):
        train(llama, start, LESSONS, Schedule(steps=1, size=2))
