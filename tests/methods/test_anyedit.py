"""AnyEdit against its equations, dense and in float64, one text at a time: windows by full passes, updates by an inverse.

pytest tests/methods/test_anyedit.py
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from errata.delta import Site
from errata.edit import Edit
from errata.errors import BadConfig
from errata.fact import Fact
from errata.methods import get, make
from errata.methods.anyedit import AnyEdit
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve.keys import OTHER, forms
from errata.solve.value_rows import ValueTraining, step_size
from errata.solve.windows import Windows, asked_in, cuts, learn_windows
from tests import tiny
from tests.model.test_template import TEMPLATES
from tests.solve.raw import PATHS, Raw, hooked
from tests.solve.test_textbook import TOKENS, covariance, pair, same

SIZE, STEPS = 5, 4
FACTS = (
    Fact(prompt="Who is Anna Lindgren?", target="Anna Lindgren was born in Oslo and speaks German and Norwegian."),
    Fact(prompt="What is Altona", target="Altona is a river"),
)
NAMES = tuple(name for name in PATHS if name != "t5")
GOAL = ValueTraining(steps=STEPS, lr=0.3, decay=0.2, clamp=9.0, stop=0.0)


class Text:
    """A question and its answer as one row of tokens, and where its windows lie."""

    def __init__(self, raw: Raw, fact: Fact, size: int, overlap: int) -> None:
        self.raw = raw
        ids = raw.tokenizer(f"{fact.prompt} {fact.target}")["input_ids"]
        begin = len(raw.tokenizer(fact.prompt)["input_ids"])
        self.ids, count = torch.tensor([ids]), len(ids) - begin
        self.windows, start = list[tuple[int, int]](), 0  # places of the first token and behind the last
        while True:
            self.windows.append((begin + start, begin + min(start + size, count)))
            if start + size >= count:
                break
            start += size - overlap
        self.places = [first - 1 for first, _ in self.windows]

    def outputs(self, module: nn.Module, which: str) -> Tensor:
        """Return what a module takes or gives at every token that predicts one, (t, …)."""
        seen: list[Tensor] = []

        def look(_: nn.Module, args: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
            value = args[0] if which == "in" else output[0] if isinstance(output, tuple) else output
            seen.append(value.detach().clone().reshape(-1, value.shape[-1]))

        with hooked((module, look)), torch.no_grad():
            self.raw.model(input_ids=self.ids[:, :-1])
        return seen[0]

    def loss(self, module: nn.Module, deltas: list[Tensor], decay: float) -> Tensor:
        """Return the loss of the window after those whose δ are given but the last, by one pass over the whole text."""
        start = self.outputs(module, "out")[self.places[len(deltas) - 1]]

        def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> object:
            hidden = output[0] if isinstance(output, tuple) else output
            shift = torch.zeros(hidden.reshape(-1, hidden.shape[-1]).shape, dtype=hidden.dtype)
            for place, delta in zip(self.places, deltas, strict=False):
                shift = shift + (torch.arange(len(shift)) == place)[:, None] * delta
            moved = hidden + shift.reshape(hidden.shape)
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        with hooked((module, add)):
            logp = self.raw.model(input_ids=self.ids).logits[0].log_softmax(-1)
        first, stop = self.windows[len(deltas) - 1]
        said = logp[range(first - 1, stop - 1), self.ids[0, first:stop]]
        return -said.mean() + decay * deltas[-1].norm() / start.norm() ** 2


def place_of(name: str, layer: int) -> Site:
    return Site(layer, "down" if name == "gemma2" else "block")


def module_of(raw: Raw, site: Site) -> nn.Module:
    return raw.down(site.layer) if site.role == "down" else raw.block(site.layer)


def learned(lm: LM, facts: tuple[Fact, ...], site: Site, goal: ValueTraining, overlap: int = 0) -> list[list[Tensor]]:
    asked, count = asked_in(lm, facts, [""])
    found = learn_windows(Windows(lm, asked, count, SIZE, overlap), site, goal)
    return [list(found.delta[found.fact == fact]) for fact in range(len(facts))]


# ------------------------------------------------------------------ windows


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("overlap", [0, 2])
def test_each_window_is_learned_behind_those_before_it(name: str, overlap: int) -> None:
    """Adam of torch on the textbook's loss, with the δ found for the windows before in place, gives the same δ."""
    lm, raw = pair(name)
    site = place_of(name, 1)
    for fact, found in zip(FACTS, learned(lm, FACTS, site, GOAL, overlap), strict=True):
        text = Text(raw, fact, SIZE, overlap)
        assert len(found) == len(text.windows)
        assert len(text.windows) > 1 or fact is FACTS[1]
        for number in range(len(found)):
            delta = torch.zeros_like(found[number], requires_grad=True)
            adam = torch.optim.Adam([delta], lr=0.3)
            for _ in range(STEPS - 1):
                adam.zero_grad()
                text.loss(module_of(raw, site), [*found[:number], delta], GOAL.decay).backward()
                adam.step()
            assert same(found[number], delta, name), (fact.prompt, number)


def test_the_loss_is_of_the_window_alone() -> None:
    lm, raw = pair("llama")
    asked, count = asked_in(lm, FACTS, [""])
    site = Site(1, "block")
    found = learn_windows(Windows(lm, asked, count, SIZE, 0), site, GOAL)
    for fact, of in enumerate(FACTS):
        text, mine = Text(raw, of, SIZE, 0), found.fact == fact
        deltas = list(found.delta[mine])
        wanted = [text.loss(raw.block(1), deltas[: i + 1], GOAL.decay).detach() for i in range(len(deltas))]
        torch.testing.assert_close(found.loss[mine], torch.stack(wanted), atol=1e-9, rtol=1e-9)


def test_where_the_tail_cannot_be_run_alone_the_whole_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("llama", "gemma2"):  # at a block's end, and at a matrix, where all δ before are to be added again
        lm = pair(name)[0]
        quick = learned(lm, FACTS, place_of(name, 1), GOAL)
        with monkeypatch.context() as patch:
            patch.setattr("errata.solve.value_rows.suffix_of", lambda *_: None)
            slow = learned(lm, FACTS, place_of(name, 1), GOAL)
        assert all(same(torch.stack(a), torch.stack(b), name) for a, b in zip(quick, slow, strict=True))


@pytest.mark.parametrize(
    ("count", "size", "overlap"), [(1, 5, 0), (5, 5, 0), (11, 5, 0), (11, 5, 2), (11, 1, 0), (12, 5, 4)]
)
def test_windows_cover_the_answer(count: int, size: int, overlap: int) -> None:
    found = cuts(count, size, overlap)
    assert (found[0][0], found[-1][1]) == (0, count)
    assert all(stop - start == size for start, stop in found[:-1])
    assert all(after[0] == before[1] - overlap for before, after in pairwise(found))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_windows_are_the_same_words_in_every_form(size: int) -> None:
    lm = tiny.build("llama")
    lm.tokenizer.chat_template = TEMPLATES["a newline at the end"]
    lm = LM(lm.model, lm.tokenizer, lm.name)
    assert OTHER in forms(lm)
    other = Fact(prompt="What is Paris?", target="Paris is the capital of France and Rome is the capital of Italy.")
    asked, count = asked_in(lm, (*FACTS, other), ["", *forms(lm)])
    windows = Windows(lm, asked, count, size, 0)
    lengths = torch.bincount(windows.batch.rows).reshape(-1, count)
    assert (
        lengths != lengths[:, :1]
    ).any()  # " Paris" is one token, and "Paris" at the beginning of a reply is several
    for number in range(windows.most):
        rows, batch = windows.part(number)
        texts = [lm.tokens.decode(batch.labels[batch.rows == i].tolist()).strip() for i in range(len(rows))]
        last = [text for text, row in zip(texts, rows.tolist(), strict=True) if row % count == 0]
        if number and size > 1:
            assert texts == [text for text in last for _ in range(count)]
    first = windows.part(0)[1]
    ids = first.inputs["input_ids"]
    asks = [lm.tokens.decode([int(ids[row, first.lookup[row]])]) for row in range(len(ids))]
    assert all(ask.endswith(("?", "a")) for ask in asks), asks  # the prompt's last token, also in the template


# ------------------------------------------------------------------ the update


def dense(raw: Raw, lm: LM, edit: Edit, layers: tuple[int, ...], weight: float, *, others: bool) -> dict[int, Tensor]:
    """Return the updates by layer, written into `raw` one after another as the code does."""
    site = place_of(raw.name, layers[-1])
    module = module_of(raw, site)
    texts = [Text(raw, fact, SIZE, 0) for fact in edit.facts]
    deltas = edit.carry[f"delta/{site}"].split([len(text.places) for text in texts])
    goals = [text.outputs(module, "out")[text.places] + mine for text, mine in zip(texts, deltas, strict=True)]
    moments = {layer: covariance(raw, lm, layer, 0.0) for layer in layers}
    updates = {}
    for layer in layers:
        read = [text.outputs(raw.down(layer), "in") for text in texts]
        k = torch.cat([keys[text.places] for text, keys in zip(texts, read, strict=True)]).T
        now = torch.cat([text.outputs(module, "out")[text.places] for text in texts])
        r = (torch.cat(goals) - now).T / (layers[-1] - layer + 1)
        inside = weight * moments[layer] + k @ k.T
        if others:
            for text, keys in zip(texts, read, strict=True):
                rest = [place for place in range(len(keys)) if place not in text.places]
                inside = inside + keys[rest].T @ keys[rest]
        updates[layer] = r @ k.T @ torch.linalg.inv(inside)
        with torch.no_grad():
            raw.down(layer).weight += updates[layer].T if raw.name == "gpt2" else updates[layer]
    return updates


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("layers", "others"), [((0, 1), True), ((1,), False)])
def test_the_update_is_the_papers(name: str, layers: tuple[int, ...], others: bool) -> None:
    lm, raw = pair(name)
    options = {"window": SIZE, "layers": layers, "others": others, "steps": STEPS, "weight": 2.0, "damping": 0.0}
    edit = make("anyedit", {**options, "ends": False, "tokens": TOKENS, "corpus": "primer"}).solve(lm, FACTS)
    assert edit.report["windows"] == [len(Text(raw, fact, SIZE, 0).windows) for fact in FACTS]
    for layer, wanted in dense(raw, lm, edit, layers, 2.0, others=others).items():
        assert same(edit.deltas[Site(layer, "down")].dense(), wanted, name), layer


def test_facts_of_a_batch_are_learned_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = pair("llama")[0]
    how = make("anyedit", {"window": SIZE, "steps": STEPS, "tokens": TOKENS, "corpus": "primer"})
    together = how.solve(lm, FACTS)
    monkeypatch.setattr("errata.solve.windows.AT_ONCE", 1)
    monkeypatch.setattr("errata.solve.windows.ROWS", 1)
    apart = how.solve(lm, FACTS)
    for site, delta in together.deltas.items():
        assert same(apart.deltas[site].dense(), delta.dense())


@pytest.mark.parametrize("ends", [True, False])
def test_the_last_window_ends_the_text(ends: bool) -> None:
    lm = tiny.build("llama")
    how = make("anyedit", {"window": SIZE, "steps": 1, "ends": ends}).resolve(lm)
    assert isinstance(how, AnyEdit)
    windows, found = how.learned(lm, FACTS)
    assert len(found.fact) == sum(
        len(cuts(len(lm.tokens.ids(f" {fact.target}")) - 1 + ends, SIZE, 0)) for fact in FACTS
    )
    _, last = windows.part(windows.most - 1)
    assert (int(last.labels[-1]) == lm.tokenizer.eos_token_id) == ends


def test_a_whole_text_becomes_likelier_after_its_question() -> None:
    lm = pair("llama")[0]
    options = {"window": SIZE, "steps": 25, "layers": (0, 1, 2), "weight": 0.01, "tokens": TOKENS, "corpus": "primer"}
    edit = make("anyedit", options).solve(lm, FACTS)
    asked = [Query(fact.prompt, fact.target) for fact in FACTS]
    before = [float(-logp.mean()) for logp in lm.logprobs(asked)]
    lm.weights.stand([edit.deltas])
    after = [float(-logp.mean()) for logp in lm.logprobs(asked)]
    lm.weights.stand([])
    assert all(new < 0.92 * old for new, old in zip(after, before, strict=True)), (before, after)


# ------------------------------------------------------------------ settings


def test_windows_that_overlap_by_all_they_hold_are_refused() -> None:
    lm = tiny.build("llama")
    for window, overlap in ((5, 5), (5, 9)):
        with pytest.raises(BadConfig, match=f"overlap = {overlap} makes no sense with window = {window}"):
            make("anyedit", {"window": window, "overlap": overlap}).resolve(lm)
    with pytest.raises(BadConfig, match="window = 0"):
        make("anyedit", {"window": 0})


def test_published_models_have_the_codes_settings() -> None:
    tuned = get("anyedit").tuned
    assert (tuned["llama-3-8b"]["window"], tuned["qwen2.5-7b"]["window"]) == (40, 50)
    assert all(tuned[name]["layers"] == (4, 5, 6, 7, 8) for name in ("llama-3-8b", "qwen2.5-7b"))
    assert step_size(torch.ones(1, 4), ValueTraining(lr=tuned["llama-3-8b"]["lr"])).tolist() == [[0.5]]
