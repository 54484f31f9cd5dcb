"""ROME and MEMIT from end to end against their papers' equations, dense and in float64, on models of several kinds.

Keys, values and the covariance are collected one text at a time by `tests.solve.raw`; only δ is taken from the edit
(`test_values.py` answers for it). GPT-2 has a bias and stores its matrices transposed, Falcon adds in place, OPT
flattens, Gemma-2 norms what is written, T5 is edited in its encoder.

pytest tests/solve/test_textbook.py
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from errata.delta import Site
from errata.edit import Edit
from errata.fact import Fact
from errata.methods import make
from errata.model.lm import LM
from errata.stats.corpus import open_corpus
from tests import tiny
from tests.solve.raw import PATHS, Raw, hooked, written

TOKENS = 300
FACTS = tiny.FACTS
OTHER = Fact(prompt="The profession of Bruno Keller is", subject="Bruno Keller", target="baker")


def pair(name: str) -> tuple[LM, Raw]:
    # In float64 transformers' Gemma-2 gives NaN at padding that its window leaves nothing to look at.
    changes = {"sliding_window": 64} if name == "gemma2" else {}
    lm = tiny.build(name, dtype=torch.float64, **changes)
    return lm, Raw(name, lm.model, tiny.tokenizer(name))


def covariance(raw: Raw, lm: LM, layer: int, damping: float) -> Tensor:
    """Return E[k kᵀ] over the corpus, text by text and token by token."""
    total, count = torch.zeros(lm.inner, lm.inner, dtype=torch.float64), 0
    keys: list[Tensor] = []
    for ids, real in open_corpus("primer").batches(lm, TOKENS):
        for row, mask in zip(ids, real, strict=True):
            text = row[mask][None]
            extra = {"decoder_input_ids": text[:, :1]} if raw.name == "t5" else {}
            with hooked((raw.down(layer), lambda _, args, __: keys.append(args[0]))), torch.no_grad():
                raw.model(input_ids=text, **extra)
            for key in keys.pop().reshape(-1, lm.inner):
                total += torch.outer(key, key)
                count += 1
    mean = total / count
    return mean + damping * mean.diagonal().mean() * torch.eye(lm.inner, dtype=torch.float64)


def key_of(raw: Raw, layer: int, fact: Fact, contexts: tuple[str, ...]) -> Tensor:
    return torch.stack([raw.see(layer, *written(fact, context)).key for context in contexts]).mean(0)


def same(found: Tensor, wanted: Tensor, name: str = "") -> bool:
    # Gemma-2 and GPT-J compute attention in float32 whatever the model is in.
    tolerance = 1e-5 if name in ("gemma2", "gptj") else 1e-8
    return float((found - wanted).detach().norm() / wanted.detach().norm()) < tolerance


def solved(lm: LM, method: str, facts: list[Fact], past: list[Edit] | None = None, **options: Any) -> Edit:
    return make(method, {"tokens": TOKENS, "corpus": "primer", "steps": 4, **options}).solve(lm, facts, past or [])


# ------------------------------------------------------------------ ROME


@pytest.mark.parametrize(
    ("name", "consistent", "damping"),
    [(name, keys, 0.0) for name in PATHS for keys in (True, False)] + [("gpt2", True, 1e-3), ("llama", False, 1e-3)],
)
def test_rome(name: str, consistent: bool, damping: float) -> None:
    lm, raw = pair(name)
    fact, layer, site = FACTS[1], 1, Site(1, "down")
    edit = solved(lm, "rome", [fact], layer=layer, consistent_keys=consistent, damping=damping)
    contexts, delta = edit.prefixes, edit.carry["delta/1.down"][0]
    assert contexts[0] == ""
    assert len(contexts) > 2

    bare = raw.see(layer, fact.prompt, fact.span[1])
    averaged = key_of(raw, layer, fact, contexts)
    key = averaged if consistent else bare.key
    goal = bare.down + delta  # v* = z0 + δ
    direction = torch.linalg.inv(covariance(raw, lm, layer, damping)) @ averaged
    residual = goal - (raw.matrix(layer) @ key + raw.bias(layer))
    wanted = torch.outer(residual, direction) / (key @ direction)
    assert same(edit.deltas[site].dense(), wanted, name)
    assert same(edit.carry["key/1.down"][0], averaged, name)

    lm.weights.stand([edit.deltas])
    assert same(lm.weights[site] @ key + raw.bias(layer), goal, name)


def test_rome_on_a_model_that_has_been_edited() -> None:
    lm, raw = pair("gpt2")
    first = solved(lm, "rome", [FACTS[0]], layer=1, damping=0.0)
    lm.weights.stand([first.deltas])
    second = solved(lm, "rome", [FACTS[1]], [first], layer=1, damping=0.0)
    with torch.no_grad():
        c = covariance(raw, lm_at_base := pair("gpt2")[0], 1, 0.0)  # of the base, whatever stands
        raw.down(1).weight += first.deltas[Site(1, "down")].dense().T
    fact = FACTS[1]
    averaged = key_of(raw, 1, fact, second.prefixes)
    goal = raw.see(1, fact.prompt, fact.span[1]).down + second.carry["delta/1.down"][0]
    direction = torch.linalg.inv(c) @ averaged
    residual = goal - (raw.matrix(1) @ averaged + raw.bias(1))
    assert same(second.deltas[Site(1, "down")].dense(), torch.outer(residual, direction) / (averaged @ direction))
    assert second.prefixes == solved(lm_at_base, "rome", [fact], layer=1).prefixes  # the base's, too


# ------------------------------------------------------------------ MEMIT


def memit(raw: Raw, lm: LM, edit: Edit, layers: tuple[int, ...], weight: float, past: list[Edit]) -> dict[int, Tensor]:
    """Return the updates by layer, written into `raw` one after another as the paper does."""
    last, facts, damping = layers[-1], edit.facts, float(edit.config["damping"])
    normed = (
        raw.name == "gemma2"
    )  # each matrix is given its own part of what it gave when it was its turn, and one of its own
    where, top = ("down" if normed else "block"), last

    def streams() -> Tensor:
        return torch.stack([getattr(raw.see(top, fact.prompt, fact.span[1]), where) for fact in facts])

    goals = streams() + edit.carry[f"delta/{last}.{where}"]  # z
    moments = {layer: covariance(raw, lm, layer, damping) for layer in layers}  # of the model before it is written to
    updates = {}
    for layer in layers:
        k = torch.stack([key_of(raw, layer, fact, edit.prefixes) for fact in facts], 1)  # (in, n)
        if normed:
            top = layer
            goals = streams() + edit.carry[f"delta/{layer}.down"]
        r = (goals - streams()).T / (last - layer + 1)  # (out, n)
        inside = weight * moments[layer] + k @ k.T
        for earlier in past:
            p = earlier.carry[f"key/{layer}.down"].T
            inside = inside + p @ p.T
        updates[layer] = r @ k.T @ torch.linalg.inv(inside)
        with torch.no_grad():
            raw.down(layer).weight += updates[layer].T if raw.name == "gpt2" else updates[layer]
    return updates


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_memit(name: str, layers: tuple[int, ...]) -> None:
    lm, raw = pair(name)
    edit = solved(lm, "memit", list(FACTS), layers=layers, weight=2.0, damping=0.0)
    for layer, wanted in memit(raw, lm, edit, layers, 2.0, []).items():
        assert same(edit.deltas[Site(layer, "down")].dense(), wanted, raw.name), layer


def test_memit_damped() -> None:
    lm, raw = pair("llama")
    edit = solved(lm, "memit", list(FACTS), layers=(0, 1), weight=2.0, damping=0.01)
    for layer, wanted in memit(raw, lm, edit, (0, 1), 2.0, []).items():
        assert same(edit.deltas[Site(layer, "down")].dense(), wanted, raw.name), layer


@pytest.mark.parametrize("history", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_memit_after_another_edit(name: str, history: bool) -> None:
    lm, raw = pair(name)
    options = {"layers": (0, 1), "weight": 0.5, "damping": 0.0}
    first = solved(lm, "memit", list(FACTS[:2]), **options)
    second = solved(lm, "memit", [FACTS[2], OTHER], [first], history=history, **options)  # computed on the base still
    updates = memit(raw, lm, second, (0, 1), 0.5, [first] if history else [])
    for layer, wanted in updates.items():
        assert same(second.deltas[Site(layer, "down")].dense(), wanted, raw.name), layer


def test_history_takes_keys_from_any_method_that_carries_them() -> None:
    lm, _ = pair("llama")
    rome = solved(lm, "rome", [FACTS[0]], layer=1)
    with_, without = (
        solved(lm, "memit", [FACTS[1]], [rome], layers=(1,), weight=1.0, history=history) for history in (True, False)
    )
    shielded, plain = (e.deltas[Site(1, "down")].dense() @ rome.carry["key/1.down"][0] for e in (with_, without))
    assert shielded.norm() < plain.norm()
    ft = make("ft", {"layer": 1, "steps": 4}).solve(lm, [FACTS[0]])
    assert solved(lm, "memit", [FACTS[1]], [ft], layers=(1,), weight=1.0, history=True).deltas


# ------------------------------------------------------------------ EMMET and AlphaEdit


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_emmet_with_one_fact_is_rome(name: str) -> None:
    lm, _ = pair(name)
    one, other = (solved(lm, m, [FACTS[1]], layer=1, **o) for m, o in (("emmet", {"epsilon": 0.0}), ("rome", {})))
    assert same(one.deltas[Site(1, "down")].dense(), other.deltas[Site(1, "down")].dense(), name)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_emmet(name: str) -> None:
    lm, raw = pair(name)
    edit = solved(lm, "emmet", list(FACTS), layer=1, damping=0.0, epsilon=0.3)
    k = torch.stack([key_of(raw, 1, fact, edit.prefixes) for fact in FACTS], 1)  # (in, n)
    bare = torch.stack([raw.see(1, fact.prompt, fact.span[1]).down for fact in FACTS], 1)
    r = bare + edit.carry["delta/1.down"].T - raw.matrix(1) @ k
    r = r - (raw.bias(1)[:, None] if isinstance(raw.bias(1), Tensor) else 0.0)
    inverse = torch.linalg.inv(covariance(raw, lm, 1, 0.0))
    eye = torch.eye(len(FACTS), dtype=torch.float64)
    wanted = r @ torch.linalg.inv(k.T @ inverse @ k + 0.3 * eye) @ k.T @ inverse
    assert same(edit.deltas[Site(1, "down")].dense(), wanted)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_alphaedit(name: str, layers: tuple[int, ...]) -> None:
    lm, raw = pair(name)
    options = {"layers": layers, "fraction": 0.6, "penalty": 0.7}
    first = solved(lm, "alphaedit", list(FACTS[:2]), **options)
    second = solved(lm, "alphaedit", [FACTS[2], OTHER], [first], **options)  # computed on the base still
    last = layers[-1]
    see = lambda fact: raw.see(last, fact.prompt, fact.span[1]).block  # noqa: E731
    goals = torch.stack([see(fact) for fact in second.facts]) + second.carry[f"delta/{last}.block"]
    moments = {layer: covariance(raw, lm, layer, 0.0) for layer in layers}
    for layer in layers:
        u = torch.linalg.eigh(moments[layer]).eigenvectors[:, : round(0.6 * lm.inner)]
        p = u @ u.T  # the paper's projector, whole
        k = torch.stack([key_of(raw, layer, fact, second.prefixes) for fact in second.facts], 1)
        kp = first.carry[f"key/{layer}.down"].T
        r = (goals - torch.stack([see(fact) for fact in second.facts])).T / (last - layer + 1)
        inside = (kp @ kp.T + k @ k.T) @ p + 0.7 * torch.eye(lm.inner, dtype=torch.float64)
        wanted = r @ k.T @ p @ torch.linalg.inv(inside)
        assert same(second.deltas[Site(layer, "down")].dense(), wanted, name), layer
        assert float((second.deltas[Site(layer, "down")].dense() @ (k - p @ k)).norm()) < 1e-9
        with torch.no_grad():
            raw.down(layer).weight += wanted.T if name == "gpt2" else wanted
