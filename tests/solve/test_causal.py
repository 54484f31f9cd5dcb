"""Causal tracing against an implementation that restores one state at a time, row by row.

pytest tests/solve/test_causal.py
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from errata.delta import Site
from errata.errors import UnknownSite, UnsupportedModel
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve.causal import Traced, Tracing, average, trace
from errata.stats.remembered_layer import forget, remember, remembered
from tests import tiny

FACT = tiny.FACTS[1]  # a subject of two tokens
ROLE = {"block": "block", "mlp": "down", "attention": "attention"}


def by_hand(  # noqa: C901 - one definition, in one place
    lm: LM, fact: Fact, how: Tracing, state: str, width: int
) -> tuple[Tensor, float, float]:
    """The definition, one forward pass for every token, layer and sample."""
    batch = lm.tokens.batch([Query(fact.prompt, fact.target, fact.span)])
    last = int(batch.lookup)
    first = int(lm.tokens.batch([Query(fact.prompt, "", (fact.span[0], fact.span[0] + 1))]).lookup)
    tokens = batch.inputs["input_ids"].shape[1] if lm.row.kind == "encoder-decoder" else int(batch.cols[0]) + 1
    clean: dict[Site, Tensor] = {}

    def run(hooks: list[tuple[Site, str, Callable[..., Any]]]) -> float:
        with ExitStack() as stack, torch.no_grad():
            for site, kind, hook in hooks:
                module = lm.module(site)
                made = (
                    module.register_forward_hook(hook)
                    if kind == "after"
                    else module.register_forward_pre_hook(hook, with_kwargs=True)
                )
                stack.callback(made.remove)
            logits = lm.model(**batch.inputs, use_cache=False).logits
        return float(logits.softmax(-1)[batch.rows, batch.cols, batch.labels].prod())

    def keep(site: Site) -> Callable[..., None]:
        return lambda module, args, output: clean.update(
            {site: (output[0] if isinstance(output, tuple) else output).clone()}
        )

    everywhere = [Site(layer, ROLE[state]) for layer in range(lm.reachable)]
    start: list[Tensor] = []

    def look(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        start.append((args[0] if args else kwargs["hidden_states"]).clone())

    whole = run([(Site(0, "block"), "before", look), *((s, "after", keep(s)) for s in everywhere)])
    at = start[0][:, first : last + 1]
    drawn = torch.randn(how.samples, *at.shape[1:], generator=torch.Generator().manual_seed(how.seed)).to(at)

    def noised(sample: int) -> Callable[..., Any]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = start[0].clone()
            hidden[:, first : last + 1] += drawn[sample] * at.std() * how.noise
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        return hook

    def restored(site: Site, token: int) -> Callable[..., Any]:
        def hook(module: Any, args: Any, output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden.reshape(1, -1, hidden.shape[-1])[0, token] = clean[site].reshape(1, -1, hidden.shape[-1])[0, token]
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    noise = [[(Site(0, "block"), "before", noised(s))] for s in range(how.samples)]
    broken = sum(run(hooks) for hooks in noise) / how.samples
    effect = torch.zeros(tokens, lm.reachable, dtype=torch.float64)
    for token in range(tokens):
        for layer in range(lm.reachable):
            window = [k for k in range(layer - width // 2, layer - width // 2 + width) if 0 <= k < lm.reachable]
            back = [(Site(k, ROLE[state]), "after", restored(Site(k, ROLE[state]), token)) for k in window]
            effect[token, layer] = sum(run([*hooks, *back]) for hooks in noise) / how.samples - broken
    return effect, whole, broken


@pytest.mark.parametrize(("state", "window"), [("block", 1), ("mlp", 2), ("attention", 3)])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "t5"])
def test_each_state_brings_back_what_it_brings_back(
    name: str, state: Any, window: int, models: Callable[[str], LM]
) -> None:
    lm, how = models(name), Tracing(samples=2, noise=1.0, window=window, seed=3)
    (found,) = trace(lm, FACT, how, [state])
    effect, clean, corrupted = by_hand(lm, FACT, how, state, window)
    assert found.clean == pytest.approx(clean, rel=1e-4)
    assert found.corrupted == pytest.approx(corrupted, rel=1e-3)
    torch.testing.assert_close(found.effect, effect, rtol=1e-3, atol=2e-4 * float(effect.abs().max()))


def test_the_last_state_brings_everything_back(models: Callable[[str], LM]) -> None:
    found = trace(models("llama"), FACT, Tracing(samples=3), ["block"])[0]
    assert "".join(found.tokens[found.subject[0] : found.subject[1] + 1]).strip() == "Anna Lindgren"
    assert float(found.effect[-1, -1]) + found.corrupted == pytest.approx(found.clean, rel=1e-5)
    assert float(found.effect[0].abs().max()) < 1e-6 * found.clean  # before the subject nothing was noised
    assert found.layer == int(found.effect[found.subject[1]].argmax())


def test_noise_is_a_function_of_the_seed(models: Callable[[str], LM]) -> None:
    lm, state = models("gpt2"), torch.get_rng_state()
    one, again, other = (trace(lm, FACT, Tracing(samples=2, seed=s), ["mlp"])[0].effect for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_model_is_left_as_it_was() -> None:
    lm = tiny.build("llama")
    before = {name: p.clone() for name, p in lm.model.named_parameters()}
    trace(lm, FACT, Tracing(samples=2))
    assert all(torch.equal(p, before[name]) for name, p in lm.model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
    assert not any("forward" in vars(m) for m in lm.model.modules())


def test_an_encoder_is_refused(models: Callable[[str], LM]) -> None:
    with pytest.raises(UnsupportedModel, match="encoder"):
        trace(models("bert"), FACT, Tracing())


def test_a_layer_is_remembered_for_its_model_only(
    models: Callable[[str], LM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path))
    lm, other = models("llama"), models("gpt2")
    assert remembered(lm) is None
    path = remember(lm, 2)
    assert (remembered(lm), remembered(other)) == (2, None)
    remember(lm, 1)
    assert remembered(lm) == 1
    for torn in ("", "{}", '{"fingerprint": "x", "layer": 1}', path.read_text().replace("1", "99")):
        path.write_text(torn)
        assert remembered(lm) is None
    with pytest.raises(UnknownSite, match="layer 3"):
        remember(lm, 3)
    forget(lm)
    forget(lm)
    assert remembered(lm) is None


def test_the_mean_trace_groups_tokens_by_place() -> None:
    def made(subject: tuple[int, int], effect: list[list[float]], clean: float) -> Traced:
        return Traced(
            "mlp", tuple("abcdefgh"[: len(effect)]), subject, torch.tensor(effect, dtype=torch.float32), clean, 0.0
        )

    one = made((1, 3), [[9, 9], [1, 0], [2, 0], [4, 0], [5, 5], [6, 0], [8, 0], [0, 7]], 1.0)
    other = made((0, 0), [[0, 6], [3, 3], [1, 1]], 0.5)
    mean = average([one, other])
    found = {place: row.tolist() for place, row in zip(mean.tokens, mean.effect, strict=True)}
    assert found == {
        "before the subject": [9, 9],
        "first subject token": [1, 0],
        "middle subject tokens": [2, 0],
        "last subject token": [2, 3],
        "first token after": [4, 4],
        "further tokens": [7, 0],
        "last token": [0.5, 4],
    }
    assert (mean.subject, mean.layer, mean.clean) == ((1, 3), 1, 0.75)
