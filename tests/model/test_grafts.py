"""Grafts: attached and let go, and routed once a prompt, in every way a model is run.

pytest tests/model/test_grafts.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import transformers
from torch import Tensor

from errata.delta import Graft, LowRank, Site
from errata.errors import UnknownSite, UnsupportedModel
from errata.evaluate.scorer import Scorer
from errata.methods.shared.routed import read_keys
from errata.model.generation import generate_tokens
from errata.model.grafts.keyed import Blocks, label_tensor
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Batch
from errata.model.trace import Trace, at, resume
from tests import tiny
from tests.model.test_trace import hung

Models = Callable[[str], LM]
INDEX = Site(1, "up")
PROMPTS = ("The capital of France is", "Anna Lindgren was born in", "The river Seine runs")
OTHER = "Bruno Keller works as a"
NAMES = ("llama", "gpt2", "opt", "falcon", "t5")


def sites(lm: LM) -> list[Site]:
    return [Site(2, "down"), *([Site(4, "up")] if lm.row.kind == "encoder-decoder" else [])]


def edit(lm: LM, prompt: str, seed: int, radius: float = 0.05) -> dict[Site, Graft]:
    """Return the grafts of a made-up edit that `prompt` opens, large enough to show."""
    draw = torch.Generator().manual_seed(seed)
    keys = {"keys": read_keys(lm, INDEX, [Query(prompt)]), "labels": label_tensor([(seed,)])}
    grafts = {INDEX: Graft("melo", {"index": str(INDEX), "radius": radius}, keys)}
    for site in sites(lm):
        out, width = lm.weights[site].shape
        block = {"a": torch.randn(2, width, generator=draw), "b": torch.randn(out, 2, generator=draw)}
        grafts[site] = Graft("melo", {"index": str(INDEX), "scale": 0.5}, block)
    return grafts


@contextmanager
def standing(lm: LM, *edits: dict[Site, Graft]) -> Iterator[None]:
    lm.weights.stand(edits)
    try:
        yield
    finally:
        lm.weights.stand([])


def logits(lm: LM, *prompts: str, answer: str = "Paris") -> list[Tensor]:
    """Return each prompt's logits of its answer, all prompts in one batch."""
    batch = lm.tokens.batch([Query(p, answer) for p in prompts])
    with torch.no_grad():
        found = lm.answer_logits(batch)
    return [found[batch.rows == i] for i in range(len(prompts))]


@pytest.fixture(params=NAMES)
def lm(models: Models, request: pytest.FixtureRequest) -> LM:
    return models(request.param)


def test_what_opens_nothing_is_the_models_own_to_the_bit(lm: LM) -> None:
    before = logits(lm, OTHER)[0]
    with standing(lm, *(edit(lm, p, i) for i, p in enumerate(PROMPTS))):
        assert torch.equal(logits(lm, OTHER)[0], before)
        assert not torch.allclose(logits(lm, PROMPTS[0])[0], before)
    assert not hung(lm.model)


def test_a_mixed_and_padded_batch_gives_what_its_rows_give_alone(lm: LM) -> None:
    asked = (PROMPTS[2], OTHER, PROMPTS[0], PROMPTS[1], f"{OTHER} baker or as a plumber")
    before = logits(lm, *asked)
    with standing(lm, *(edit(lm, p, i) for i, p in enumerate(PROMPTS))):
        together = logits(lm, *asked)
        alone = [logits(lm, p)[0] for p in asked]
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=2e-4)
    assert [bool(torch.equal(a, b)) for a, b in zip(together, before, strict=True)] == [False, True, False, False, True]


def test_a_block_does_what_its_formula_says(lm: LM) -> None:
    """Against the same block written into the weights, which then holds for the one prompt only."""
    grafts = edit(lm, PROMPTS[0], 0)
    with standing(lm, grafts):
        routed = logits(lm, PROMPTS[0])[0]
    written = {s: LowRank(0.5 * g.state["b"], g.state["a"].T) for s, g in grafts.items() if s != INDEX}
    with standing(lm, written):  # type: ignore[arg-type]
        assert torch.allclose(routed, logits(lm, PROMPTS[0])[0], atol=2e-4)


def test_the_scale_does_not_depend_on_how_many_blocks_there_are(lm: LM) -> None:
    with standing(lm, edit(lm, PROMPTS[0], 0)):
        alone = logits(lm, PROMPTS[0])[0]
    with standing(lm, edit(lm, PROMPTS[0], 0), *(edit(lm, p, i) for i, p in enumerate(PROMPTS[1:], 1))):
        assert torch.equal(logits(lm, PROMPTS[0])[0], alone)


def test_the_key_is_taken_at_the_last_token_of_the_prompt(lm: LM) -> None:
    """Whatever the answer is, and however much padding stands behind: else one route in the exam, another in speech."""
    batch = lm.tokens.batch([Query(PROMPTS[0], a) for a in ("Paris", "Rome and then some more words")])
    assert batch.ends is not None
    last = len(lm.tokens.opening(PROMPTS[0]) if lm.row.kind == "decoder" else lm.tokens.ids(PROMPTS[0])) - 1
    assert batch.ends.tolist() == [last, last]
    grafts = edit(lm, PROMPTS[0], 0)
    with standing(lm, grafts):
        routed = lm.routed(batch)
        assert routed.routes["melo@1.up"].tolist() == [0, 0]
        assert routed.take(torch.tensor([1])).routes["melo@1.up"].tolist() == [0]
    for prompt in PROMPTS:  # a subject's span moves the lookup token, never the key
        batch = lm.tokens.batch([Query(prompt, "Paris", (0, 3))])
        assert torch.equal(
            read_keys(lm, INDEX, [Query(prompt, "Paris", (0, 3))]), read_keys(lm, INDEX, [Query(prompt)])
        )


def test_what_is_said_is_what_is_scored(lm: LM) -> None:
    """Generation by transformers, by `generate_tokens` and teacher-forcing all take the same route."""
    base = lm.generate([*PROMPTS, OTHER], 6)
    with standing(lm, *(edit(lm, p, i) for i, p in enumerate(PROMPTS))):
        said = lm.generate([*PROMPTS, OTHER], 6)
        read = lm.tokens.opening if lm.row.kind == "decoder" else lm.tokens.ids
        tokens = generate_tokens(lm, [read(p) for p in (*PROMPTS, OTHER)], 6)
        for prompt, ids in zip((*PROMPTS, OTHER), tokens, strict=True):
            assert step_by_step(lm, prompt, 6) == ids
        scored = Scorer(lm).said([*PROMPTS, OTHER], 6)
    assert said[:3] != base[:3]
    assert said[3] == base[3]
    assert scored[OTHER] == base[3]


def step_by_step(lm: LM, prompt: str, length: int) -> list[int]:
    """Return the greedy answer, each token from one whole teacher-forced pass of its own."""
    ids: list[int] = []
    first = lm.tokens.batch([Query(prompt)])
    assert first.ends is not None
    for _ in range(length):
        inputs = dict(first.inputs)
        key = "decoder_input_ids" if lm.row.kind == "encoder-decoder" else "input_ids"
        inputs[key] = torch.tensor([[*first.inputs[key][0].tolist(), *ids]])
        if key == "input_ids":
            inputs["attention_mask"] = torch.ones_like(inputs[key])
        end = torch.tensor([inputs[key].shape[1] - 1])
        batch = Batch(inputs, first.lookup, torch.tensor([0]), end, torch.tensor([-1]), first.ends)
        with torch.no_grad():
            ids.append(int(lm.answer_logits(batch)[0].argmax()))
    return ids


def test_the_route_is_frozen_while_an_answer_is_generated(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[int]] = []
    find = Blocks.find

    def watched(self: Blocks, *args: object) -> Tensor:
        found.append(find(self, *args).tolist())  # type: ignore[arg-type]
        return torch.tensor(found[-1])

    monkeypatch.setattr(Blocks, "find", watched)
    with standing(lm, edit(lm, PROMPTS[0], 0)):
        lm.generate([PROMPTS[0]], 8)
        assert found == [[0]]
        generate_tokens(lm, [lm.tokens.ids(OTHER)], 8)
        assert found == [[0], [-1]]


def test_all_beams_of_a_prompt_take_its_route(lm: LM) -> None:
    ids = torch.tensor([lm.tokens.ids(p)[:5] for p in (PROMPTS[0], OTHER)])
    prompt = lm.tokens.decode(ids[0].tolist())
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    start = {"decoder_start_token_id": 0} if lm.row.kind == "encoder-decoder" else {}
    settings = transformers.GenerationConfig(**options, **start)

    def beams(rows: Tensor) -> Tensor:
        return lm.model.generate(rows, attention_mask=torch.ones_like(rows), generation_config=settings)

    base = beams(ids)
    key = {"keys": keys_of(lm, ids[:1]), "labels": label_tensor([(0,)])}
    grafts = edit(lm, prompt, 0) | {INDEX: Graft("melo", {"index": str(INDEX), "radius": 0.01}, key)}
    with standing(lm, grafts):
        together = beams(ids)
        assert torch.equal(beams(ids[:1]), together[:1])
    assert torch.equal(together[1], base[1])
    assert not torch.equal(together[0], base[0])


def keys_of(lm: LM, ids: Tensor) -> Tensor:
    end = torch.tensor([ids.shape[1] - 1])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if lm.row.kind == "encoder-decoder":
        inputs["decoder_input_ids"] = ids[:, :1]
    batch = Batch(inputs, end, torch.tensor([0]), end, torch.tensor([-1]), end)
    with torch.no_grad(), Trace(lm, outputs=[INDEX]) as trace:
        lm.forward(batch)
    return at(trace.outputs[INDEX], end)


def test_the_bare_model_routes_by_its_mask_whatever_side_is_padded(lm: LM) -> None:
    ids = lm.tokens.opening(PROMPTS[0]) if lm.row.kind == "decoder" else lm.tokens.ids(PROMPTS[0])
    grafts = edit(lm, PROMPTS[0], 0)
    extra = {"decoder_input_ids": torch.zeros(1, 1, dtype=torch.long)} if lm.row.kind == "encoder-decoder" else {}

    def run(row: list[int], mask: list[int]) -> Tensor:
        lm.model(input_ids=torch.tensor([row]), attention_mask=torch.tensor([mask]), **extra)
        return lm.weights.grafts._routes["melo@1.up"]

    with standing(lm, grafts), torch.no_grad():
        assert run(ids, [1] * len(ids)).tolist() == [0]
        assert run([*ids, 0, 0], [1] * len(ids) + [0, 0]).tolist() == [0]
        lm.model(input_ids=torch.tensor([ids]), **extra)  # without a mask
        assert lm.weights.grafts._routes["melo@1.up"].tolist() == [0]


def test_train_and_eval_make_no_difference_to_the_route(lm: LM) -> None:
    with standing(lm, edit(lm, PROMPTS[0], 0)):
        before = logits(lm, PROMPTS[0])[0]
        points = lm.weights.grafts.bank("melo@1.up")
        lm.model.train()
        logits(lm, PROMPTS[1])
        lm.model.eval()
        assert isinstance(points, Blocks)
        assert points.clusters is not None
        assert points.clusters.points == 1
        assert torch.equal(logits(lm, PROMPTS[0])[0], before)


def test_two_models_in_one_process_do_not_know_each_other() -> None:
    one, other = tiny.build("llama"), tiny.build("llama", 3)
    before = logits(other, PROMPTS[0])[0]
    with standing(one, edit(one, PROMPTS[0], 0)):
        routed = logits(one, PROMPTS[0])[0]
        assert torch.equal(logits(other, PROMPTS[0])[0], before)
        with standing(other, edit(other, PROMPTS[0], 1)):
            assert torch.equal(logits(one, PROMPTS[0])[0], routed)


def test_dropping_leaves_what_there_would_be_without_it(lm: LM) -> None:
    edits = [edit(lm, p, i, radius=3.0) for i, p in enumerate((*PROMPTS, OTHER))]
    asked = (*PROMPTS, OTHER)
    for gone in range(4):
        rest = edits[:gone] + edits[gone + 1 :]
        with standing(lm, *rest):
            wanted = logits(lm, *asked)
        with standing(lm, *edits):
            lm.weights.stand(rest)
            assert all(torch.equal(a, b) for a, b in zip(logits(lm, *asked), wanted, strict=True))


def test_one_more_on_top_is_the_same_as_all_from_the_beginning(lm: LM) -> None:
    edits = [edit(lm, p, i, radius=2.0) for i, p in enumerate(PROMPTS)]
    with standing(lm, *edits):
        wanted = logits(lm, *PROMPTS)
    with standing(lm, edits[0]):
        lm.weights.stand(edits[:2])
        block = lm.weights.grafts.bank("melo@1.up")
        assert isinstance(block, Blocks)
        first = block._a[sites(lm)[0]][0].clone()
        lm.weights.stand(edits)
        assert torch.equal(block._a[sites(lm)[0]][0], first)  # other blocks stay as they are, to the bit
        assert all(torch.equal(a, b) for a, b in zip(logits(lm, *PROMPTS), wanted, strict=True))


def test_a_trial_adds_and_takes_off_and_the_base_can_be_shown(lm: LM) -> None:
    base = logits(lm, *PROMPTS)
    with standing(lm, edit(lm, PROMPTS[0], 0)):
        edited = logits(lm, *PROMPTS)
        with lm.weights.trial([edit(lm, PROMPTS[1], 1)]):
            assert torch.equal(logits(lm, *PROMPTS)[0], edited[0])
            assert not torch.equal(logits(lm, *PROMPTS)[1], edited[1])
        assert all(torch.equal(a, b) for a, b in zip(logits(lm, *PROMPTS), edited, strict=True))
        with lm.weights.at_base():
            assert all(torch.equal(a, b) for a, b in zip(logits(lm, *PROMPTS), base, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(logits(lm, *PROMPTS), edited, strict=True))
        with pytest.raises(ZeroDivisionError), lm.weights.trial([edit(lm, PROMPTS[1], 1)]):
            raise ZeroDivisionError
        assert all(torch.equal(a, b) for a, b in zip(logits(lm, *PROMPTS), edited, strict=True))
    assert not hung(lm.model)


def test_banks_grow_as_blocks_come(models: Models) -> None:
    lm = models("llama")
    edits = [edit(lm, f"{PROMPTS[0]} number {i}", i, radius=1e-4) for i in range(40)]
    with standing(lm, *edits):
        for i in (0, 7, 8, 23, 39):
            routed = lm.routed(lm.tokens.batch([Query(f"{PROMPTS[0]} number {i}")]))
            assert routed.routes["melo@1.up"].tolist() == [i]


def test_blocks_of_several_ranks_and_sites_stand_together(models: Models) -> None:
    lm = models("llama")
    small, large = edit(lm, PROMPTS[0], 0), edit(lm, PROMPTS[1], 1)
    out, width = lm.weights[Site(2, "up")].shape
    wide = {"a": torch.randn(5, width), "b": torch.randn(out, 5)}
    large = {INDEX: large[INDEX], Site(2, "up"): Graft("melo", {"index": str(INDEX), "scale": 1.0}, wide)}
    alone = []
    for one, prompt in ((small, PROMPTS[0]), (large, PROMPTS[1])):
        with standing(lm, one):
            alone.append(logits(lm, prompt)[0])
    with standing(lm, small, large):
        for prompt, wanted in zip(PROMPTS, alone, strict=False):
            assert torch.allclose(logits(lm, prompt)[0], wanted, atol=1e-5)


def test_a_pass_that_begins_behind_the_index_must_be_routed_first(models: Models) -> None:
    lm = models("llama")
    batch = lm.tokens.batch([Query(PROMPTS[0], "Paris")])
    with standing(lm, edit(lm, PROMPTS[0], 0)), torch.no_grad():
        wanted = lm.answer_logits(batch)
        with Trace(lm, inputs=[Site(2, "block")]) as trace:
            lm.answer_logits(batch)
        behind = resume(lm, 2, trace.inputs[Site(2, "block")])
        with behind, pytest.raises(UnsupportedModel, match=r"1\.up.*route the batch first"):
            lm.answer_logits(batch)
        routed = lm.routed(batch)
        with resume(lm, 2, trace.inputs[Site(2, "block")]):
            assert torch.allclose(lm.answer_logits(routed), wanted, atol=1e-5)


def test_what_does_not_fit_is_our_error(models: Models) -> None:
    lm = models("llama")
    before = logits(lm, PROMPTS[0])[0]
    good = edit(lm, PROMPTS[0], 0)
    narrow = Graft("melo", good[INDEX].config, {"keys": torch.ones(1, 3), "labels": label_tensor([(1,)])})
    block = Graft("melo", good[Site(2, "down")].config, {"a": torch.ones(2, 3), "b": torch.ones(3, 2)})
    for wrong, error in (
        ({**good, INDEX: narrow}, UnknownSite),
        ({**good, Site(2, "down"): block}, UnknownSite),
        ({INDEX: Graft("moss", {"index": "1.up"}, {})}, UnsupportedModel),
        ({INDEX: Graft("melo", {"index": "9.up"}, {})}, UnknownSite),
    ):
        with pytest.raises(error) as caught:
            lm.weights.stand([good, wrong])  # type: ignore[list-item]
        assert str(caught.value).endswith(".")
        lm.weights.stand([])
        assert torch.equal(logits(lm, PROMPTS[0])[0], before)
        assert not hung(lm.model)
