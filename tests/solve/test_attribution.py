"""Scores of neurons against their definition, in weight space, on whole models in float64.

pytest tests/solve/test_attribution.py
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from errata.delta import Site
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Batch
from errata.solve import attribution
from errata.solve.attribution import Measure, attribute, ensemble
from tests import tiny

ARCHITECTURES = ("llama", "gpt2", "gpt2_square", "gemma2", "opt", "falcon", "t5")
ASKED = [Query(f.prompt, f.target, f.span) for f in tiny.FACTS]


@pytest.fixture(scope="module")
def exact() -> Callable[[str], LM]:
    made: dict[str, LM] = {}
    return lambda name: made.setdefault(name, tiny.build(name, dtype=torch.float64))


def sites(lm: LM) -> list[Site]:
    return [Site(layer, "down") for layer in range(lm.depth)]


def probability(lm: LM, batch: Batch) -> Tensor:
    """Σ_j P(y_j | x, y_<j) as the model's own full forward gives it."""
    logits = lm.model(**batch.inputs, use_cache=False).logits
    return logits.softmax(-1)[batch.rows, batch.cols, batch.labels].sum()


def by_hand(lm: LM, query: Query, groups: list[list[Site]], m: int) -> dict[Site, Tensor]:
    """(w / m) Σ_i ∂P/∂w at (i/m) w for every entry w of the weights themselves; what is in one group is scaled together."""
    batch, scores = lm.tokens.batch([query]), {}
    for group in groups:
        for step in range(1, m + 1):
            model = copy.deepcopy(lm.model)
            other = copy.copy(lm)
            other.model = model
            other._blocks = [b for stack in lm.row.stacks for b in model.get_submodule(stack.blocks)]
            with torch.no_grad():
                for site in group:
                    other.parameter(site).mul_(step / m)
            weights = [other.module(site).weight.requires_grad_() for site in group]
            gradients = torch.autograd.grad(probability(other, batch), weights)
            for site, gradient in zip(group, gradients, strict=True):
                oriented = gradient.T if lm.row.transposed else gradient
                scores[site] = scores.get(site, 0) + lm.weights[site].detach() * oriented / m
    return scores


@pytest.mark.parametrize("route", ["joint", "layer"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_columns_score_as_their_activations_do(name: str, route: Any, exact: Callable[[str], LM]) -> None:
    lm, m = exact(name), 3
    groups = [sites(lm)] if route == "joint" else [[site] for site in sites(lm)]
    found = attribute(lm, ASKED[1:2], sites(lm), Measure(m, route))
    entries = attribute(lm, ASKED[1:2], sites(lm), Measure(m, route, "element"))
    for site, wanted in by_hand(lm, ASKED[1], groups, m).items():
        torch.testing.assert_close(entries[site], wanted, rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(found[site][0], wanted.sum(0), rtol=1e-9, atol=1e-14)
        assert found[site].abs().max() > 0


def test_gradient_times_value_is_one_step(exact: Callable[[str], LM]) -> None:
    lm = exact("llama")
    wanted = by_hand(lm, ASKED[2], [sites(lm)], 1)
    found = attribute(lm, [ASKED[2]], sites(lm), Measure())
    for site in sites(lm):
        torch.testing.assert_close(found[site][0], wanted[site].sum(0), rtol=1e-9, atol=1e-14)


# Most norms compute in float32 whatever the model's dtype, so differences need longer steps there.
@pytest.mark.parametrize(("name", "step", "rel"), [("gpt2", 1e-5, 1e-5), ("t5", 1e-3, 2e-2)])
def test_at_the_subject_only_its_last_token_counts(
    name: str, step: float, rel: float, exact: Callable[[str], LM]
) -> None:
    lm = exact(name)
    batch = lm.tokens.batch([ASKED[1]])
    found = attribute(lm, [ASKED[1]], sites(lm), Measure(where="subject"))
    for layer, neuron in ((0, 3), (1, 17)):
        site = Site(layer, "down")

        def scaled(factor: float, site: Site = site, neuron: int = neuron) -> float:
            def hook(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                hidden = args[0].clone()
                hidden[0, batch.lookup[0], neuron] *= factor
                return (hidden, *args[1:])

            handle = lm.module(site).register_forward_pre_hook(hook)
            with torch.no_grad():
                value = float(probability(lm, batch))
            handle.remove()
            return value

        slope = (scaled(1 + step) - scaled(1 - step)) / (2 * step)
        assert float(found[site][0, neuron]) == pytest.approx(slope, rel=rel, abs=1e-8 if name == "t5" else 1e-12)
    for layer in range(lm.reachable, lm.depth):  # a decoder of its own never sees the subject's token
        assert not found[Site(layer, "down")].any()


@pytest.mark.parametrize("where", ["everywhere", "subject"])
@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_scores_add_up_to_the_probability_they_explain(name: str, where: Any, exact: Callable[[str], LM]) -> None:
    lm = exact(name)
    batch = lm.tokens.batch([ASKED[1]])

    def without(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0].clone()
        hidden[:, batch.lookup[0] if where == "subject" else slice(None)] = 0
        return (hidden, *args[1:])

    with torch.no_grad():
        whole = float(probability(lm, batch))
        handles = [lm.module(site).register_forward_pre_hook(without) for site in sites(lm)]
        nothing = float(probability(lm, batch))
        for handle in handles:
            handle.remove()
    found = attribute(lm, [ASKED[1]], sites(lm), Measure(60, where=where))
    assert float(sum(s.sum() for s in found.values())) == pytest.approx(whole - nothing, rel=0.15)


def test_rows_of_a_batch_score_as_they_do_alone(exact: Callable[[str], LM], monkeypatch: pytest.MonkeyPatch) -> None:
    lm = exact("llama")
    together = attribute(lm, ASKED, sites(lm), Measure(2, where="subject"))
    monkeypatch.setattr(attribution, "ROWS", 2)
    in_parts = attribute(lm, ASKED, sites(lm), Measure(2, where="subject"))
    for site in sites(lm):
        alone = torch.cat([attribute(lm, [q], sites(lm), Measure(2, where="subject"))[site] for q in ASKED])
        torch.testing.assert_close(together[site], alone, rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(in_parts[site], alone, rtol=1e-9, atol=1e-14)


def test_log_weighs_tokens_by_their_surprise(exact: Callable[[str], LM]) -> None:
    lm = exact("gpt2")  # whose norms stay in float64
    one = [Query("The capital of France is", answer) for answer in ("of", "Rome", "Paris")]
    one = next([q] for q in one if len(lm.tokens.batch([q]).labels) == 1)  # one token: ∂ log P = ∂P / P
    plain, log = (attribute(lm, one, sites(lm), Measure(log=log)) for log in (False, True))
    p = float(probability(lm, lm.tokens.batch(one)).detach())
    torch.testing.assert_close(log[Site(1, "down")], plain[Site(1, "down")] / p, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(("measure", "most"), [(Measure(1), 1), (Measure(5), 5), (Measure(3, "layer"), 1 + 2 * 3)])
def test_passes_are_counted(
    measure: Measure, most: int, exact: Callable[[str], LM], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, counts = exact("llama"), {"backward": 0, "forward": 0}
    grad, forward = torch.autograd.grad, LM.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        counts["backward"] += 1
        return grad(*args, **kwargs)

    def run(self: LM, *args: Any, **kwargs: Any) -> Tensor:
        counts["forward"] += 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    monkeypatch.setattr(LM, "forward", run)
    attribute(lm, ASKED, sites(lm), measure)  # all facts at once, so this is the cost of a batch as well
    assert counts["backward"] == most
    assert counts["forward"] <= most + 1


def test_the_model_is_left_as_it_was() -> None:
    lm = tiny.build("gpt2")
    lm.model.requires_grad_(True)
    before = {name: p.clone() for name, p in lm.model.named_parameters()}
    state = torch.get_rng_state()
    attribute(lm, ASKED, sites(lm), Measure(2, "layer"))
    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in lm.model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.requires_grad
        assert parameter.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


def test_half_precision_scores_in_single() -> None:
    lm = tiny.build("llama", dtype=torch.bfloat16)
    found = attribute(lm, ASKED, sites(lm), Measure(2))
    assert all(s.dtype == torch.float32 and bool(s.isfinite().all()) for s in found.values())


# ------------------------------------------------------------------------------------------------ the ensemble

SCORES = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=60)


@given(SCORES, st.floats(0.001, 1.0), st.integers(1, 4))
def test_one_quantile_over_all_layers(values: list[float], share: float, layers: int) -> None:
    scores = {Site(i, "down"): torch.tensor(values) + i for i in range(layers)}
    chosen = ensemble(scores, share)
    count = max(1, round(share * len(values) * layers))
    flat, mask = torch.cat(list(scores.values())), torch.cat(list(chosen.values()))
    assert int(mask.sum()) == count
    if count < len(flat):
        assert flat[mask].min() >= flat[~mask].max()


def test_the_ablations_choose_as_they_say() -> None:
    scores = {
        Site(0, "down"): torch.tensor([3.0, -4.0, 0.1, 0.0]),
        Site(1, "down"): torch.tensor([1.0, -2.0, 5.0, -0.2]),
    }

    def picked(select: Any, seed: int = 0) -> list[int]:
        return torch.cat(list(ensemble(scores, 0.25, select, seed).values())).nonzero()[:, 0].tolist()

    assert picked("attributed") == [0, 6]
    assert picked("lowest") == [1, 5]
    assert picked("faintest") == [2, 3]
    assert picked("strongest") == [1, 6]
    assert picked("random", 1) == picked("random", 1)
    assert len({tuple(picked("random", seed)) for seed in range(20)}) > 5


def test_entries_are_chosen_as_columns_are() -> None:
    scores = {
        Site(0, "down"): torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        Site(1, "down"): torch.tensor([[5.0, 0.0], [0.0, 0.0]]),
    }
    chosen = ensemble(scores, 0.25)
    assert chosen[Site(0, "down")].tolist() == [[False, False], [False, True]]
    assert chosen[Site(1, "down")].tolist() == [[True, False], [False, False]]
