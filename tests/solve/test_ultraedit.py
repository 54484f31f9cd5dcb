"""UltraEdit against its equations, dense and in float64, on models looked at with nothing of ours.

pytest tests/solve/test_ultraedit.py
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from errata.delta import LowRank, Site
from errata.edit import Edit
from errata.fact import Fact
from errata.methods import make
from errata.model.lm import LM
from errata.solve.ultraedit import Signal, Spread, joined, shift
from errata.stats.corpus import open_corpus
from tests import tiny
from tests.solve.raw import PATHS, Raw

TOKENS, LAYER = 200, 1
SITE = Site(LAYER, "down")
SETTINGS = {"layers": (LAYER,), "tokens": TOKENS, "corpus": "primer"}


def looked_at(raw: Raw, inputs: dict[str, Tensor], loss: object) -> tuple[Tensor, Tensor]:
    """Return what the matrix is given, and the gradient at what it puts out: by requiring one of the output itself."""
    seen: dict[str, Tensor] = {}

    def hook(_: object, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen["h"] = args[0].detach().clone().reshape(-1, args[0].shape[-1])
        seen["y"] = output.detach().clone().requires_grad_()  # what lies below needs no gradient
        return seen["y"].clone()  # Falcon adds to it in place

    handle = raw.down(LAYER).register_forward_hook(hook)
    try:
        (found,) = torch.autograd.grad(loss(raw.model(**inputs).logits[0]), seen["y"])  # type: ignore[operator]
    finally:
        handle.remove()
    return seen["h"], found.reshape(-1, found.shape[-1])


def nll(places: list[int], labels: list[int], logits: Tensor) -> Tensor:
    return -logits.log_softmax(-1)[places, labels].sum()


def ordinary(raw: Raw, lm: LM) -> tuple[Tensor, Tensor]:
    """Return inputs and gradients of all tokens of ordinary text, text by text."""
    parts = []
    for ids, real in open_corpus("primer").batches(lm, TOKENS):
        for row, mask in zip(ids, real, strict=True):
            text = row[mask]
            predicted = list(range(len(text) - 1))
            parts.append(looked_at(raw, {"input_ids": text[None]}, partial(nll, predicted, text[1:].tolist())))
    return torch.cat([h for h, _ in parts]), torch.cat([g for _, g in parts])


def of_fact(raw: Raw, fact: Fact, everywhere: bool) -> tuple[Tensor, Tensor]:
    inputs, places, labels = raw.inputs(fact.prompt, fact.target)
    h, g = looked_at(raw, inputs, lambda logits: nll(places, labels, logits) / len(labels))
    at = slice(0, places[-1] + 1) if everywhere else [raw.position(fact.prompt, fact.span[1])]
    return h[at], g[at]


def dense(h: Tensor, g: Tensor, all_h: Tensor, all_g: Tensor, centred: bool = False) -> Tensor:
    """Return ΔW for η = 1: (HᵀH + I)⁻¹ Hᵀ V, transposed."""
    off = all_h.mean(0), all_g.mean(0) * centred
    normed = [(x - m) / all_.std(0, correction=0) for x, m, all_ in ((h, off[0], all_h), (g, off[1], all_g))]
    v = -(normed[0] ** 2).sum(1)[:, None] * normed[1]
    return (torch.linalg.inv(h.T @ h + torch.eye(h.shape[1], dtype=h.dtype)) @ h.T @ v).T


def pair(name: str) -> tuple[LM, Raw]:
    lm = tiny.build(name, dtype=torch.float64)
    lm.model.requires_grad_(False)
    return lm, Raw(name, lm.model, tiny.tokenizer(name))


def solved(lm: LM, facts: list[Fact], past: list[Edit] | None = None, **options: object) -> Edit:
    return make("ultraedit", {**SETTINGS, "rounds": 1, "lr": 1e-3, **options}).solve(lm, facts, past or [])


def same(found: Tensor, wanted: Tensor) -> bool:
    return float((found - wanted).norm() / wanted.norm()) < 1e-8


@pytest.mark.parametrize("where", ["subject", "everywhere"])
@pytest.mark.parametrize("name", [name for name in PATHS if name not in ("t5", "gemma2", "gptj")])
def test_one_round_is_the_equations(name: str, where: str) -> None:
    lm, raw = pair(name)
    centred = name == "gpt2"
    edit = solved(lm, list(tiny.FACTS), where=where, centred=centred)
    text, own = ordinary(raw, lm), [of_fact(raw, fact, where == "everywhere") for fact in tiny.FACTS]
    h, g = (torch.cat([pair[part] for pair in own]) for part in (0, 1))
    wanted = 1e-3 * dense(h, g, torch.cat([text[0], h]), torch.cat([text[1], g]), centred)
    assert same(edit.deltas[SITE].dense(), wanted)  # type: ignore[union-attr]
    assert int(edit.carry[f"h/{SITE}"][0, 0]) == len(h)


def test_the_scale_is_that_of_all_edits_that_stand() -> None:
    lm, raw = pair("llama")
    first = solved(lm, [tiny.FACTS[0]])
    other = solved(lm, [tiny.FACTS[2]])
    second = solved(lm, [tiny.FACTS[1]], [first, other])  # computed on the base still
    text, own = ordinary(raw, lm), [of_fact(raw, fact, False) for fact in tiny.FACTS]
    all_h, all_g = (torch.cat([text[part], *(pair[part] for pair in own)]) for part in (0, 1))
    assert same(second.deltas[SITE].dense(), 1e-3 * dense(*own[1], all_h, all_g))  # type: ignore[union-attr]
    dropped = solved(lm, [tiny.FACTS[1]], [other])
    all_h, all_g = (torch.cat([text[part], *(pair[part] for pair in own[1:])]) for part in (0, 1))
    assert same(dropped.deltas[SITE].dense(), 1e-3 * dense(*own[1], all_h, all_g))  # type: ignore[union-attr]


def test_a_second_round_is_taken_on_the_model_the_first_has_changed() -> None:
    lm, raw = pair("gpt2")
    edit = solved(lm, [tiny.FACTS[0]], rounds=2, stop=0.0)
    text, (h, g) = ordinary(raw, lm), of_fact(raw, tiny.FACTS[0], False)
    scale = torch.cat([text[0], h]), torch.cat([text[1], g])
    first = 1e-3 * dense(h, g, *scale)
    with torch.no_grad():
        raw.down(LAYER).weight += first.T
    again = 1e-3 * dense(*of_fact(raw, tiny.FACTS[0], False), *scale)
    assert same(edit.deltas[SITE].dense(), first + again)  # type: ignore[union-attr]
    assert edit.deltas[SITE].left.shape[1] == 1  # type: ignore[union-attr]


def test_an_automatic_step_stops_where_the_loss_is_small_enough() -> None:
    lm, _ = pair("llama")
    edits = [solved(lm, [tiny.FACTS[0]], lr="auto", rounds=rounds, stop=stop) for rounds, stop in ((1, 1e9), (8, 0.5))]
    small, whole = (float(edit.report["loss"][0]) for edit in edits)  # type: ignore[index]
    norms = [edit.report["norm_ratio"][str(SITE)] for edit in edits]  # type: ignore[index]
    assert norms[0] == pytest.approx(0.01)  # the first that is tried
    assert whole < small
    assert edits[0].report["steps"] == [1]


# ------------------------------------------------------------------ parts


def test_spreads_add_up_and_a_constant_coordinate_is_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 4, generator=draw, dtype=torch.float64) * 3 + 5
    rows[:, 2] = 7.0
    whole = Spread.of(rows[:20]) + Spread.of(rows[20:])
    wanted = (rows - rows.mean(0)) / rows.std(0, correction=0)
    wanted[:, 2] = 0.0
    torch.testing.assert_close(whole.normed(rows), wanted, atol=1e-9, rtol=1e-9)


def test_what_looks_at_the_same_inputs_is_of_no_higher_rank() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b, c = (LowRank(torch.randn(5, 2, generator=draw), torch.randn(7, 2, generator=draw)) for _ in range(3))
    same_inputs = LowRank(b.left, a.right)
    both = joined({SITE: a}, {SITE: same_inputs})[SITE]
    assert both.left.shape[1] == 2
    torch.testing.assert_close(both.dense(), a.dense() + same_inputs.dense())
    other = joined({SITE: a}, {SITE: c})[SITE]
    assert other.left.shape[1] == 4
    torch.testing.assert_close(other.dense(), a.dense() + c.dense())


def test_no_signal_is_no_change() -> None:
    still = Signal(torch.ones(1, 3, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64))
    scale = Spread.of(torch.randn(9, 3)), Spread.of(torch.zeros(9, 2))
    assert not shift(still, scale).dense().any()
