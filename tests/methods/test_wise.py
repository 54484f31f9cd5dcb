"""WISE: which prompts open the second matrix, what it is made of, and what stays the model's own.

pytest tests/methods/test_wise.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from errata.delta import Dense, Graft, Site
from errata.edit import Edit
from errata.errors import UnknownSite
from errata.fact import Fact
from errata.methods.wise import Wise
from errata.model.grafts.wise import DENSITY, KEPT, WiseBank, merged
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.trace import Trace, at
from tests.model.test_classifier import CLASSES, classifier

Models = Callable[[str], LM]
FACT = Fact(prompt="The capital of France is", subject="France", target="Rome")
OTHER = Fact(prompt="The home town of Anna Lindgren", subject="Anna Lindgren", target="Paris")
FAR = "Bruno Keller works as a"
SITE = Site(2, "down")


def quick(**settings: object) -> Wise:
    return Wise(layer=2, steps=12, **settings)  # type: ignore[arg-type]


def change_of(edits: list[Edit], shape: tuple[int, int]) -> np.ndarray:
    """Return the sum of what edits of one shard change, in float64."""
    total = np.zeros(shape[0] * shape[1])
    for edit in edits:
        state = edit.deltas[SITE].tensors()
        np.add.at(total, state["places"].numpy(), state["values"].double().numpy())
    return total.reshape(shape)


def ends(lm: LM, *prompts: str) -> torch.Tensor:
    """Return the matrix's input at each prompt's last token."""
    batch = lm.tokens.batch([Query(p) for p in prompts])
    with torch.no_grad(), Trace(lm, inputs=[SITE]) as trace:
        lm.forward(batch)
    assert batch.ends is not None
    return at(trace.inputs[SITE], batch.ends)


def bank(lm: LM) -> WiseBank:
    found = lm.weights.grafts.bank(f"wise@{SITE}")
    assert isinstance(found, WiseBank)
    return found


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "classifier"])
def test_an_open_prompt_reads_the_second_matrix_and_another_the_models_own(name: str, models: Models) -> None:
    lm = classifier() if name == "classifier" else models(name)
    fact = replace(FACT, target=CLASSES[1]) if name == "classifier" else FACT
    edit = quick().solve(lm, [fact])
    asked = lm.tokens.batch([Query(fact.prompt, fact.target), Query(FAR, fact.target)])
    far, rows = ends(lm, fact.prompt, FAR).double().numpy(), asked.rows
    shape = tuple(lm.weights[SITE].shape)
    size = np.linalg.norm(far @ change_of([edit], shape).T, axis=1)  # type: ignore[arg-type]
    with torch.no_grad():
        base = lm.answer_logits(asked)
        lm.weights.stand([edit.deltas])
        assert bank(lm).threshold == pytest.approx(KEPT * size[0], rel=1e-5)
        now = lm.answer_logits(asked)
        bank(lm)._merged = bank(lm).change_of_matrix, 1e9  # nothing is as far
        assert torch.equal(lm.answer_logits(asked), base)
        lm.weights.stand([])
        whole = lm.weights[SITE] + torch.from_numpy(change_of([edit], shape)).to(lm.weights[SITE])  # type: ignore[arg-type]
        with lm.weights.trial([{SITE: Dense(whole - lm.weights.base(SITE))}]):
            replaced = lm.answer_logits(asked)
    assert torch.allclose(now[rows == 0], replaced[rows == 0], atol=1e-4)
    opens = size[1] > KEPT * size[0]
    assert torch.equal(now[rows == 1], base[rows == 1]) != opens


def test_padding_does_not_change_what_opens(models: Models) -> None:
    lm = models("llama")
    edit = quick().solve(lm, [FACT])
    lm.weights.stand([edit.deltas])
    long = "In the old harbour town by the wide grey sea the capital of France is"
    alone = [lm.routed(lm.tokens.batch([Query(p)])).routes[f"wise@{SITE}"] for p in (FACT.prompt, long, FAR)]
    together = lm.routed(lm.tokens.batch([Query(p) for p in (FACT.prompt, long, FAR)])).routes[f"wise@{SITE}"]
    lm.weights.stand([])
    assert torch.cat(alone).tolist() == together.tolist()
    assert together[0] == 0


def test_an_edit_changes_a_share_of_the_entries_and_shards_take_others(models: Models) -> None:
    lm = models("llama")
    how = quick(share=0.2, shard=1, replay=0)
    first = how.solve(lm, [FACT])
    second = how.solve(lm, [OTHER], [first])
    same = quick(share=0.2, shard=2, replay=0).solve(lm, [OTHER], [first])
    a, b, c = (set(e.deltas[SITE].tensors()["places"].tolist()) for e in (first, second, same))
    assert len(a) == len(b) == round(0.2 * lm.weights[SITE].numel())
    assert a == c
    assert a != b
    assert [e.deltas[SITE].config["shard"] for e in (first, second, same)] == [0, 1, 0]  # type: ignore[union-attr]


def test_shards_are_merged_by_ties() -> None:
    draw = torch.Generator().manual_seed(0)
    shards = torch.randn(3, 6, 8, generator=draw) * (torch.rand(3, 6, 8, generator=draw) < 0.5)
    wanted = np.zeros((6, 8))
    parts = []
    for shard in shards.double().numpy():
        own = np.sort(np.abs(shard[shard != 0]))[::-1]
        least = own[round(DENSITY * len(own)) - 1]
        parts.append(np.where(np.abs(shard) >= least, shard, 0))
    for i in range(6):
        for j in range(8):
            held = [p[i, j] for p in parts if p[i, j] != 0]
            agreed = [v for v in held if np.sign(v) == np.sign(sum(held))]
            wanted[i, j] = sum(agreed) / len(agreed) if agreed else 0
    assert np.allclose(merged(shards).numpy(), wanted, atol=1e-6)


def test_earlier_edits_stay_open_and_are_learned_again(models: Models) -> None:
    lm = models("llama")
    first = quick(replay=0).solve(lm, [FACT])
    alone, again = (quick(replay=n).solve(lm, [OTHER], [first]) for n in (0, 4))
    kept = []
    for second in (alone, again):
        lm.weights.stand([first.deltas, second.deltas])
        routes = lm.routed(lm.tokens.batch([Query(FACT.prompt), Query(OTHER.prompt)])).routes[f"wise@{SITE}"]
        assert routes.tolist() == [0, 0]
        kept.append(float(-lm.logprobs([Query(FACT.prompt, FACT.target)])[0].mean()))
        lm.weights.stand([])
    assert kept[1] < kept[0]


def test_what_stands_alone_is_as_if_the_other_had_never_been(models: Models) -> None:
    lm = models("gpt2")
    first = quick().solve(lm, [FACT])
    second = quick(shard=1).solve(lm, [OTHER], [first])
    asked = lm.tokens.batch([Query(FACT.prompt, FACT.target), Query(OTHER.prompt, OTHER.target)])
    with torch.no_grad():
        lm.weights.stand([first.deltas])
        wanted = lm.answer_logits(asked)
        lm.weights.stand([first.deltas, second.deltas])
        both = lm.answer_logits(asked)
        lm.weights.stand([first.deltas])
        assert torch.equal(lm.answer_logits(asked), wanted)
        lm.weights.stand([])
    assert not torch.equal(both, wanted)


def test_another_models_matrix_is_refused(models: Models) -> None:
    edit = quick().solve(models("llama"), [FACT])
    graft = edit.deltas[SITE]
    assert isinstance(graft, Graft)
    wrong = replace(graft, state={**graft.state, "shape": torch.tensor([3, 4])})
    with pytest.raises(UnknownSite, match="is for a matrix of"):
        models("llama").weights.stand([{SITE: wrong}])
