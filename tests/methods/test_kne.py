"""KNE and KN: what they choose, what they learn, and what they leave alone.

pytest tests/methods/test_kne.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from errata import methods
from errata.delta import Columns, Site
from errata.errors import BadConfig, NotFinite, UnknownSite, UnsupportedModel
from errata.fact import Fact
from errata.methods.kn import KnowledgeNeurons
from errata.methods.kne import LEAST, Kne, shares
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.trace import Trace
from errata.solve import keys
from errata.solve.attribution import LENGTH, TEXTS, Measure, attribute
from errata.solve.descent import neurons
from errata.solve.descent.neurons import Bounds, Held, NeuronTraining, train
from errata.solve.keys import prefixes
from tests import tiny

FACT = Fact(prompt="The home town of Anna Lindgren", subject="Anna Lindgren", target="Paris", truth="Oslo")
OTHER = Fact(prompt="What is the capital of France", subject="France", target="Rome")
ASKED = [Query(f.prompt, f.target, f.span) for f in (FACT, OTHER)]


def every(**options: object) -> Kne:
    """Return the method over all layers, of which these models have few."""
    return Kne(**{"layers": "all", **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def exact() -> Callable[[str], LM]:
    made: dict[str, LM] = {}
    return lambda name: made.setdefault(name, tiny.build(name, dtype=torch.float64))


def solve(lm: LM, facts: list[Fact], **options: Any) -> Mapping[Site, Columns]:
    return every(**{"steps": 5, **options}).solve(lm, facts).deltas  # type: ignore[return-value]


def masks(lm: LM, seed: int = 0, share: float = 0.1, ndim: int = 1) -> dict[Site, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    shape = (lm.width, lm.inner) if ndim == 2 else (lm.inner,)
    return {Site(layer, "down"): torch.rand(shape, generator=drawn) < share for layer in range(lm.depth)}


# ------------------------------------------------------------------------------------------------ the descent


def by_hand(
    lm: LM, chosen: Mapping[Site, Tensor], course: NeuronTraining, units: Mapping[Site, Tensor] | None = None, *,
    cut: bool = False,
) -> tuple[dict[Site, Tensor], float]:  # fmt: skip
    """Train dense copies of whole matrices through the model's own forward, with every step masked and in units.

    Args:
        cut: while they are trained, they change what is put out from each row's lookup token on only.
    """
    size = {site: units[site][None] if units else torch.ones(1, lm.inner, dtype=torch.float64) for site in chosen}
    batch = lm.tokens.batch(ASKED)
    masked = {s: (m if m.ndim == 2 else m[None].expand(lm.width, -1)).double() for s, m in chosen.items()}
    dense = {site: torch.zeros(lm.width, lm.inner, dtype=torch.float64, requires_grad=True) for site in chosen}
    count = sum(int(m.sum()) for m in chosen.values())
    assert course.lr != "auto"
    lr = course.lr / count**0.5 if course.rooted else course.lr
    adam = torch.optim.Adam(dense.values(), lr=lr) if course.optimizer == "adam" else None
    names = {id(p): name for name, p in lm.model.named_parameters()}
    weights = {site: lm.module(site).weight for site in chosen}

    def loss() -> Tensor:
        moved = {s: dense[s] * size[s] for s in weights}
        changed = {names[id(w)]: w + (moved[s].T if lm.row.transposed else moved[s]) for s, w in weights.items()}
        out = torch.func.functional_call(lm.model, changed, kwargs={**batch.inputs, "use_cache": False})
        nll = -out.logits.log_softmax(-1)[batch.rows, batch.cols, batch.labels]
        return sum(nll[batch.rows == row].mean() for row in range(len(batch))) / len(batch)  # type: ignore[return-value]

    def of_tails() -> Tensor:
        later = (torch.arange(batch.inputs["input_ids"].shape[1]) >= batch.lookup[:, None])[..., None]
        handles = [
            lm.module(site).register_forward_hook(lambda _, x, y, s=site: y + x[0] @ (dense[s] * size[s]).T * later)
            for site in chosen
        ]
        logits = lm.model(**batch.inputs, use_cache=False).logits
        for handle in handles:
            handle.remove()
        nll = -logits.log_softmax(-1)[batch.rows, batch.cols, batch.labels]
        return sum(nll[batch.rows == row].mean() for row in range(len(batch))) / len(batch)  # type: ignore[return-value]

    for _ in range(course.steps):
        gradients = torch.autograd.grad(of_tails() if cut else loss(), list(dense.values()))
        for (site, change), gradient in zip(dense.items(), gradients, strict=True):
            change.grad = gradient * masked[site]
        if adam:
            adam.step()
        else:
            with torch.no_grad():
                for change in dense.values():
                    change -= lr * change.grad
    return {site: change.detach() * size[site] for site, change in dense.items()}, float(loss().detach())


@pytest.mark.parametrize("ndim", [1, 2], ids=["column", "element"])
@pytest.mark.parametrize(
    "course",
    [NeuronTraining(4, 0.3, True, "sgd", 0.0), NeuronTraining(4, 0.05, False, "adam", 0.0)],
    ids=["sgd", "adam"],
)
@pytest.mark.parametrize("name", ["gpt2", "gpt2_square", "opt"])
def test_the_ensemble_learns_what_dense_masked_descent_learns(
    name: str, course: NeuronTraining, ndim: int, exact: Callable[[str], LM]
) -> None:
    lm = exact(name)
    chosen = masks(lm, ndim=ndim)
    wanted, loss = by_hand(lm, chosen, course)
    learned = train(lm, ASKED, chosen, course)
    assert learned.loss == pytest.approx(loss, rel=1e-6)
    for site, delta in learned.deltas.items():
        torch.testing.assert_close(delta.dense((lm.width, lm.inner)), wanted[site], rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_tails_learn_what_moves_nothing_before_the_lookup_tokens(name: str, exact: Callable[[str], LM]) -> None:
    lm, course = exact(name), NeuronTraining(4, 0.3, True, "sgd", 0.0)
    chosen = masks(lm, share=0.3)
    wanted, loss = by_hand(lm, chosen, course, cut=True)
    learned = train(lm, ASKED, chosen, course, tails=True)
    assert learned.loss == pytest.approx(loss, rel=1e-6)  # of whole rows
    for site, delta in learned.deltas.items():
        torch.testing.assert_close(delta.dense((lm.width, lm.inner)), wanted[site], rtol=1e-6, atol=1e-10)
    whole = train(lm, ASKED, chosen, course)
    assert any(not torch.allclose(d.values, whole.deltas[site].values, rtol=1e-3) for site, d in learned.deltas.items())


def test_tails_go_on_with_whole_rows_until_these_are_good_enough(
    exact: Callable[[str], LM], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, stop, cut = exact("gpt2"), 2.0, list[bool]()
    backward = neurons._Problem.backward
    monkeypatch.setattr(neurons._Problem, "backward", lambda self: cut.append(self.cut) or backward(self))
    uncut = neurons._Problem.uncut
    monkeypatch.setattr(
        neurons._Problem, "uncut", lambda self: (uncut(self)[0] + 9.0, False)
    )  # as if whole rows were not
    learned = train(lm, ASKED[:1], masks(lm, share=0.3), NeuronTraining(200, stop=stop), tails=True)
    assert learned.converged
    assert cut == [True] * (len(cut) - 1) + [False]
    with lm.weights.trial([learned.deltas]):
        (said,) = lm.logprobs(ASKED[:1])
    assert -float(said.mean()) == pytest.approx(learned.loss, rel=1e-6)
    assert learned.loss < stop


def test_tails_of_many_batches_are_run_as_one(exact: Callable[[str], LM], monkeypatch: pytest.MonkeyPatch) -> None:
    lm, course, runs = exact("llama"), NeuronTraining(3, 0.3), []
    chosen = masks(lm)
    held = [Held([Query("France is a"), Query("Anna Lindgren is a"), Query("It was", "a cold day")], 0.5)]
    seen = lm.module(Site(2, "down")).register_forward_hook(lambda *_: runs.append(1))
    one = train(lm, ASKED, chosen, course, Bounds(held), tails=True)
    few = len(runs)
    monkeypatch.setattr(neurons, "ROWS", 1)
    each = train(lm, ASKED, chosen, course, Bounds(held), tails=True)
    seen.remove()
    assert few < len(runs) / 3
    assert each.loss == pytest.approx(one.loss, rel=1e-6)
    for site, delta in each.deltas.items():
        torch.testing.assert_close(delta.values, one.deltas[site].values, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_columns_are_learned_in_units(optimizer: Any, exact: Callable[[str], LM]) -> None:
    lm, course = exact("llama"), NeuronTraining(4, 0.1, True, optimizer, 0.0)
    chosen = masks(lm)
    drawn = {s: torch.rand(lm.inner, generator=torch.Generator().manual_seed(s.layer)).double() + 0.1 for s in chosen}
    mean = torch.cat([drawn[s][m] for s, m in chosen.items()]).square().mean().sqrt()
    wanted, loss = by_hand(lm, chosen, course, {s: d / mean for s, d in drawn.items()})
    for scale in (1.0, 7.0):  # only their relations matter
        learned = train(lm, ASKED, chosen, course, Bounds(units={s: scale * d for s, d in drawn.items()}))
        assert learned.loss == pytest.approx(loss, rel=1e-6)
        for site, delta in learned.deltas.items():
            torch.testing.assert_close(delta.dense((lm.width, lm.inner)), wanted[site], rtol=1e-6, atol=1e-10)


def test_rows_may_come_in_parts(exact: Callable[[str], LM], monkeypatch: pytest.MonkeyPatch) -> None:
    lm, course = exact("gpt2"), NeuronTraining(3, 0.3)
    held = [Held([Query("France is a"), Query("Anna Lindgren is a"), Query("It was", "a cold day")], 0.5)]
    whole = train(lm, ASKED, masks(lm), course, Bounds(held))
    monkeypatch.setattr(neurons, "ROWS", 1)
    parts = train(lm, ASKED, masks(lm), course, Bounds(held))
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    for site, delta in parts.deltas.items():
        torch.testing.assert_close(delta.values, whole.deltas[site].values, rtol=1e-5, atol=1e-10)


def test_what_is_held_moves_less(exact: Callable[[str], LM]) -> None:
    lm, course, kept = exact("llama"), NeuronTraining(30, 0.5, stop=0.0), [Query("It was", "a cold day")]

    def moved(weight: float) -> float:
        learned = train(lm, ASKED, masks(lm, share=0.5), course, Bounds([Held(kept, weight)] if weight else []))
        before = lm.logprobs(kept)[0]
        with lm.weights.trial([learned.deltas]):
            return float((lm.logprobs(kept)[0] - before).abs().sum())

    assert moved(10.0) < moved(0.0) / 2


def test_lower_layers_run_once(models: Callable[[str], LM]) -> None:
    lm = models("llama")
    chosen = {Site(2, "down"): masks(lm)[Site(2, "down")]}
    counts: list[int] = []
    handle = lm.module(Site(0, "up")).register_forward_hook(lambda *_: counts.append(1))
    train(lm, ASKED, chosen, NeuronTraining(5, 0.1))
    handle.remove()
    assert len(counts) == 1


def test_state_is_kept_for_the_ensemble_only(models: Callable[[str], LM], monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    adam = torch.optim.Adam

    def spy(parameters: list[Tensor], **options: Any) -> Any:
        shapes.extend(tuple(p.shape) for p in parameters)
        return adam(parameters, **options)

    monkeypatch.setattr(torch.optim, "Adam", spy)
    lm = models("llama")
    found = solve(lm, [FACT], p=0.05, optimizer="adam")
    assert shapes == [(lm.width, len(delta.index)) for delta in found.values()]
    assert sum(n for _, n in shapes) == round(0.05 * lm.inner * lm.depth)


def test_sqrt_n_divides_the_step(models: Callable[[str], LM]) -> None:
    lm, chosen = models("llama"), masks(models("llama"))
    count = sum(int(m.sum()) for m in chosen.values())
    one, plain = (train(lm, ASKED, chosen, NeuronTraining(1, 0.1, rooted)) for rooted in (True, False))
    for site, delta in one.deltas.items():
        torch.testing.assert_close(delta.values * count**0.5, plain.deltas[site].values)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_auto_steps_do_not_depend_on_the_models_scale(scale: float) -> None:
    lm = tiny.build("llama", dtype=torch.float64)
    with torch.no_grad():  # the same function: what up gains, down loses
        for layer in range(lm.depth):
            lm.parameter(Site(layer, "up")).mul_(scale)
            lm.parameter(Site(layer, "down")).div_(scale)
    learned = train(lm, ASKED, masks(lm), NeuronTraining(4))
    assert learned.loss == pytest.approx(
        train(tiny.build("llama", dtype=torch.float64), ASKED, masks(lm), NeuronTraining(4)).loss, rel=1e-3
    )


def test_hits_stop_once_the_target_is_likeliest_for_long_enough(models: Callable[[str], LM]) -> None:
    lm = models("gpt2")
    runs = [train(lm, ASKED[:1], masks(lm, share=0.3), NeuronTraining(50, stop=0.0, hits=n)) for n in (1, 2, 4)]
    assert [run.steps - runs[0].steps for run in runs] == [0, 1, 3]
    assert all(run.converged for run in runs)
    assert not train(lm, ASKED[:1], masks(lm, share=0.3), NeuronTraining(2, lr=1e-9)).converged


def test_divergence_is_our_error(models: Callable[[str], LM]) -> None:
    with pytest.raises(NotFinite, match="lower lr"):
        solve(models("gpt2"), [FACT], lr=1e30)


# ------------------------------------------------------------------------------------------------ KNE


def test_a_reply_goes_on_naming_its_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny.build("llama")
    lm.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}[assistant]"
    monkeypatch.setattr(LM, "generate", lambda lm, asked, room=32, **_: [f"That is {FACT.subject}, who"] * len(asked))
    (named,) = keys.named_replies(lm, [FACT.subject]).values()
    before, moved = lm.logprobs([named])[0], {}
    for weight in (0.0, 30.0):
        with lm.weights.trial([solve(lm, [FACT], names=weight, others=0, steps=10)]):
            moved[weight] = float((lm.logprobs([named])[0] - before).abs().sum())
    assert moved[30.0] < 0.8 * moved[0.0]


@pytest.mark.parametrize("p", [0.04, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_p_says_how_many_columns_change(name: str, p: float, models: Callable[[str], LM]) -> None:
    lm = models(name)
    found = solve(lm, [FACT], p=p)
    changed = {site: (delta.values != 0).any(0) for site, delta in found.items()}
    assert all(bool(c.all()) for c in changed.values())
    assert sum(len(c) for c in changed.values()) == max(LEAST, round(p * lm.inner * lm.reachable))


@pytest.mark.parametrize("options", [{}, {"granularity": "element"}, {"optimizer": "adam", "granularity": "element"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outside_the_ensemble_every_bit_stays(options: dict[str, Any], dtype: torch.dtype) -> None:
    lm = tiny.build("gpt2", dtype=dtype)
    how = every(p=0.1, steps=5, **options)
    edit = how.solve(lm, [FACT])
    _, chosen = how.resolve(lm).locate(lm, [FACT])
    before = {name: p.clone() for name, p in lm.model.named_parameters()}
    down = {f"transformer.h.{site.layer}.mlp.c_proj.weight": mask for site, mask in chosen.items()}
    lm.weights.stand([edit.deltas])
    for name, parameter in lm.model.named_parameters():
        moved = parameter != before[name]
        if name not in down:
            assert torch.equal(parameter, before[name])
        else:
            mask = down[name] if down[name].ndim == 2 else down[name][None].expand(lm.width, -1)
            assert not (moved.T & ~mask).any()
            assert bool(moved.any()) == bool(mask.any())
    if options:
        assert sum(int(m.sum()) for m in chosen.values()) == round(0.1 * lm.width * lm.inner * lm.depth)


def test_the_ensemble_is_the_highest_scores_of_all_layers(models: Callable[[str], LM]) -> None:
    lm = models("llama")
    sites = [Site(layer, "down") for layer in range(lm.depth)]
    for where in ("subject", "everywhere"):
        scores = attribute(lm, ASKED[:1], sites, Measure(where=where))  # type: ignore[arg-type]
        flat = torch.cat([scores[s][0] for s in sites])
        best = set(flat.argsort(descending=True)[:12].tolist())
        found = solve(lm, [FACT], p=0.1, where=where, units="own")
        assert {s.layer * lm.inner + int(i) for s, d in found.items() for i in d.index} == best


def test_scores_are_in_units_of_what_a_neuron_usually_puts_out(models: Callable[[str], LM]) -> None:
    lm = models("llama")
    sites = [Site(layer, "down") for layer in range(lm.depth)]
    with torch.no_grad(), Trace(lm, inputs=sites) as trace:
        batch = lm.tokens.batch([Query(text) for text in prefixes(lm, 0, TEXTS, LENGTH) if text])
        lm.answer_logits(batch)
    seen = batch.inputs["attention_mask"].bool()
    scores = attribute(lm, ASKED[:1], sites, Measure(where="subject"))
    wanted = []
    for site in sites:
        square = trace.inputs[site].double().square()
        rest = torch.stack([square[i, 1 : int(seen[i].sum())].sum(0) for i in range(len(batch))]).sum(0)
        size = (square[:, 0].mean(0) + rest / int(seen[:, 1:].sum())).sqrt()
        wanted.append(scores[site][0].double() / (size + size.mean()))
    best = set(torch.cat(wanted).argsort(descending=True)[:12].tolist())
    found = solve(lm, [FACT], p=0.1)
    assert {s.layer * lm.inner + int(i) for s, d in found.items() for i in d.index} == best


def test_select_says_which(models: Callable[[str], LM]) -> None:
    lm = models("llama")
    chosen = {}
    for select in ("attributed", "random", "lowest", "faintest", "strongest"):
        scores, mask = every(p=0.1, select=select).resolve(lm).locate(lm, [FACT])  # type: ignore[arg-type]
        flat, picked = torch.cat(list(scores.values())), torch.cat(list(mask.values()))
        assert int(picked.sum()) == 12
        chosen[select] = flat[picked], flat[~picked]
    assert chosen["attributed"][0].min() >= chosen["attributed"][1].max()
    assert chosen["lowest"][0].max() <= chosen["lowest"][1].min()
    assert chosen["faintest"][0].abs().max() <= chosen["faintest"][1].abs().min()
    assert chosen["strongest"][0].abs().min() >= chosen["strongest"][1].abs().max()
    again = every(p=0.1, select="random").resolve(lm).locate(lm, [FACT])[1]
    other = every(p=0.1, select="random", seed=1).resolve(lm).locate(lm, [FACT])[1]
    now = every(p=0.1, select="random").resolve(lm).locate(lm, [FACT])[1]
    assert all(torch.equal(again[s], now[s]) for s in again)
    assert not all(torch.equal(again[s], other[s]) for s in again)


def test_a_batch_takes_each_facts_own_or_the_sums(models: Callable[[str], LM]) -> None:
    lm = models("llama")
    alone = [every(p=0.1).resolve(lm).locate(lm, [fact]) for fact in (FACT, OTHER)]
    _, union = every(p=0.1).resolve(lm).locate(lm, [FACT, OTHER])
    scores, one = every(p=0.1, union=False).resolve(lm).locate(lm, [FACT, OTHER])
    for site in union:
        assert torch.equal(union[site], alone[0][1][site] | alone[1][1][site])
        torch.testing.assert_close(scores[site], alone[0][0][site] + alone[1][0][site], rtol=1e-4, atol=1e-9)
    assert sum(int(m.sum()) for m in one.values()) == 12


def test_the_old_answer_can_be_attributed(models: Callable[[str], LM]) -> None:
    lm = models("llama")
    sites = [Site(layer, "down") for layer in range(lm.depth)]
    scores, _ = every(answer="old", units="own").resolve(lm).locate(lm, [FACT])
    wanted = attribute(lm, [Query(FACT.prompt, "Oslo", FACT.span)], sites, Measure(where="subject"))
    assert all(torch.equal(scores[s], wanted[s][0]) for s in sites)
    unknown = replace(FACT, truth="")  # then what the model says is the old answer
    assert every(answer="old").resolve(lm).locate(lm, [unknown])[0].keys() == scores.keys()


def test_an_encoder_decoder_has_neurons_in_both(models: Callable[[str], LM]) -> None:
    lm = models("t5")
    assert every().resolve(lm).layers == (0, 1, 2)
    assert Kne().resolve(lm).layers == (0, 1)  # from .1 to .35 of the depth a prompt is found in
    assert every(where="everywhere").resolve(lm).layers == (0, 1, 2, 3, 4)
    found = solve(lm, [FACT], where="everywhere", layers=(3, 4), p=0.1)
    assert {site.layer for site in found} <= {3, 4}
    before = lm.logprobs(ASKED[:1])[0].mean()
    with lm.weights.trial([found]):
        assert lm.logprobs(ASKED[:1])[0].mean() > before


def test_the_report_counts(models: Callable[[str], LM]) -> None:
    report = every(p=0.1, steps=3).solve(models("llama"), [FACT]).report
    assert (report["ensemble"], report["candidates"]) == (12, 120)
    assert sum(report["share"].values()) == pytest.approx(1, abs=1e-3)  # type: ignore[attr-defined]
    assert report["steps"] == [3]
    assert shares({Site(1, "down"): torch.tensor([True, False, True, True])})["share"] == {"1.down": 1.0}


@pytest.mark.parametrize("method", ["kne", "kn"])
def test_what_cannot_work_is_refused(method: str, models: Callable[[str], LM]) -> None:
    def refused(error: type[Exception], name: str, **options: Any) -> None:
        with pytest.raises(error):
            methods.make(method, options).solve(models(name), [FACT])

    refused(UnsupportedModel, "bert")
    refused(UnsupportedModel, "mixtral")
    refused(UnknownSite, "llama", layers=(0, 3))
    refused(UnknownSite, "llama", layers=(0, 3), where="everywhere")
    refused(UnknownSite, "t5", layers=(3,))  # in the decoder there is no subject
    for wrong in ({"p": 1.5}, {"m": 0}, {"layers": ()}, {"layers": (1, 1)}, {"path": "straight"}):
        refused(BadConfig, "llama", **wrong)


# ------------------------------------------------------------------------------------------------ KN


def test_knowledge_neurons_are_those_contexts_share() -> None:
    scores = torch.tensor([[1.0, 0.5, 0.3, 0.0, -2.0], [0.1, 0.9, 0.3, 1.0, -2.0], [0.0, 1.0, 0.1, 0.1, -2.0]])
    # above 0.2 · max:      [x, x, x, ., .],           [., x, x, x, .],           [., x, ., ., .]
    assert KnowledgeNeurons(p=0.9, fewest=1)._chosen(scores.double()).tolist() == [False, True, False, False, False]
    assert KnowledgeNeurons(p=0.6, fewest=1)._chosen(scores.double()).tolist() == [False, True, True, False, False]
    assert KnowledgeNeurons(p=0.9)._chosen(scores.double()).tolist() == [False, True, True, False, False]
    assert KnowledgeNeurons(p=0.1, most=3)._chosen(scores.double()).sum() == 3


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "t5"])
def test_kn_moves_values_along_the_answers(name: str, models: Callable[[str], LM]) -> None:
    lm = models(name)
    edit = KnowledgeNeurons(m=2, remove=0.0, insert=3.0).solve(lm, [FACT])
    assert 2 <= edit.report["ensemble"] <= 5  # type: ignore[operator]
    neurons = [(s, int(i), v) for s, d in edit.deltas.items() for i, v in zip(d.index, d.values.T, strict=True)]  # type: ignore[union-attr]
    scale = 3.0 / 2 ** edit.report["halvings"]  # type: ignore[operator]
    first = neurons[0][2] / neurons[0][2].norm()
    for site, index, value in neurons:
        assert float(value.norm()) == pytest.approx(scale * float(lm.weights[site].detach()[:, index].norm()), rel=1e-4)
        assert abs(float(value @ first) / float(value.norm())) == pytest.approx(1, abs=1e-4)  # one line, either way
    with lm.weights.trial([edit.deltas]):
        after = lm.logprobs(ASKED[:1])[0].mean()
    assert after > lm.logprobs(ASKED[:1])[0].mean()


# ------------------------------------------------------------------------------------------------ held off earlier edits


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_under_o_edit_neurons_move_off_what_earlier_edits_wrote(optimizer: str, models: Callable[[str], LM]) -> None:
    lm = models("llama")
    common = {"steps": 5, "lr": 0.3, "p": 0.05, "optimizer": optimizer, "tokens": 400}
    first = every(**common).solve(lm, [FACT])
    held = every(**common, constraint="o-edit+", protect="history", spare=1).solve(lm, [OTHER], [first])
    plain = every(**common).solve(lm, [OTHER], [first])
    both = [site for site in held.deltas if site in first.deltas]
    assert both
    for site in both:
        earlier = torch.linalg.svd(first.deltas[site].dense().double(), full_matrices=False)
        basis = earlier.U[:, 1e-6 * earlier.S[0] < earlier.S]
        change, free = held.deltas[site].values.double(), plain.deltas[site].values.double()  # type: ignore[union-attr]
        assert (basis.T @ change).norm() < 1e-5 * change.norm()
        assert (basis.T @ free).norm() > 1e-2 * free.norm()


def test_entries_cannot_be_held() -> None:
    with pytest.raises(BadConfig, match="whole columns"):
        Kne(granularity="element", constraint="o-edit+")
