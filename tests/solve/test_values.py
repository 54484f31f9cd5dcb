"""v*: the loss against a full forward pass written out here, the optimiser against torch's, and batches against single
facts.

pytest tests/solve/test_values.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from errata.delta import Site
from errata.errors import NotFinite
from errata.fact import Fact
from errata.model.lm import LM
from errata.solve import values
from errata.solve.keys import FOLLOWS, queries
from errata.solve.values import Constraint, Values, ValueTraining, optimise, step_size
from tests import tiny
from tests.solve.raw import PATHS, Raw, hooked, written

FACTS = (*tiny.FACTS, Fact(prompt="Bruno Keller, the baker, lives in", subject="Bruno Keller", target="Oslo now"))
CONTEXTS = ("", "Anna.", "The river Seine runs.")
GOAL = ValueTraining(steps=6, lr=0.2, kl=0.5, decay=0.3, clamp=5.0, stop=0.0)
# Architectures of every kind of block, at both places a value can be learned, the last block's output among them.
PLACES = [(name, role, layer) for name in PATHS for role, layer in (("down", 1), ("block", 1), ("block", 2))]


def doubled(name: str) -> LM:
    # In float64 transformers' Gemma-2 gives NaN at padding that its window leaves nothing to look at.
    return tiny.build(name, dtype=torch.float64, **({"sliding_window": 64} if name == "gemma2" else {}))


def raw_of(name: str, lm: LM) -> Raw:
    return Raw(name, lm.model, tiny.tokenizer(name))


def near(name: str) -> dict[str, float]:
    # Gemma-2 and GPT-J compute attention in float32 whatever the model is in.
    return {"atol": 1e-5, "rtol": 1e-5} if name in ("gemma2", "gptj") else {"atol": 1e-9, "rtol": 1e-9}


def textbook_loss(raw: Raw, fact: Fact, site: Site, delta: Tensor, goal: ValueTraining) -> Tensor:
    """Return mean NLL over contexts + kl · KL(base ‖ δ) + decay · ‖δ‖ / ‖z0‖², each term by full forward passes."""
    nll = torch.zeros((), dtype=torch.float64)
    for context in CONTEXTS:
        prompt, end = written(fact, context)
        with raw.adding(site.layer, site.role, prompt, end, delta):
            logits, labels = raw.logits(prompt, fact.target)
        nll = nll - logits.log_softmax(-1)[range(len(labels)), labels].mean() / len(CONTEXTS)
    essence, end = f"{fact.subject} is a", len(fact.subject)
    before = raw.logits(essence)[0][0].detach().log_softmax(-1)
    with raw.adding(site.layer, site.role, essence, end, delta):
        after = raw.logits(essence)[0][0].log_softmax(-1)
    kl = (before.exp() * (before - after)).sum()
    return nll + goal.kl * kl + goal.decay * delta.norm() / start_of(raw, fact, site).norm() ** 2


def start_of(raw: Raw, fact: Fact, site: Site) -> Tensor:
    seen = raw.see(site.layer, fact.prompt, fact.span[1])
    return seen.down if site.role == "down" else seen.block


# ------------------------------------------------------------------ the loss


@pytest.mark.parametrize(("name", "role", "layer"), PLACES)
def test_the_loss_is_that_of_a_full_forward_pass(
    name: str, role: str, layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, site = doubled(name), Site(layer, role)
    raw = raw_of(name, lm)
    # Behind a norm a value is given another length once it is learned, which its decay and the norm's epsilon feel.
    monkeypatch.setattr(values, "_as_long", lambda found: found)
    found = optimise(lm, FACTS, site, CONTEXTS, GOAL)
    for i, fact in enumerate(FACTS):
        torch.testing.assert_close(found.start[i], start_of(raw, fact, site), **near(name))
        torch.testing.assert_close(
            found.loss[i], textbook_loss(raw, fact, site, found.delta[i], GOAL).detach(), **near(name)
        )
    assert torch.equal(found.target, found.start + found.delta)
    if layer < lm.reachable - 1 or name == "t5":  # after a decoder's last block nobody looks at the subject
        assert found.delta.norm() > 0


@pytest.mark.parametrize("part", ["kl", "decay"])
def test_each_term_counts(part: str) -> None:
    lm, site = doubled("llama"), Site(1, "down")
    without, with_ = (optimise(lm, FACTS[:1], site, CONTEXTS, replace(GOAL, **{part: w})) for w in (0.0, 3.0))
    assert not torch.allclose(without.delta, with_.delta, atol=1e-3)


# ------------------------------------------------------------------ the optimiser


def textbook_adam(raw: Raw, fact: Fact, site: Site, goal: ValueTraining) -> tuple[Tensor, list[float]]:
    """Return (δ, losses) of torch's own Adam on the textbook loss, clamped to a ball after each step."""
    start = start_of(raw, fact, site)
    stream = start.norm() if raw.name == "gemma2" else raw.see(site.layer, fact.prompt, fact.span[1]).block.norm()
    delta = torch.zeros_like(start, requires_grad=True)
    optimizer, losses = torch.optim.Adam([delta], lr=float(goal.lr)), []
    for step in range(goal.steps):
        loss = textbook_loss(raw, fact, site, delta, goal)
        losses.append(float(loss.detach()))
        if losses[-1] < goal.stop or step == goal.steps - 1:
            break
        optimizer.zero_grad()
        (loss + goal.shrink * delta.norm() / stream).backward(inputs=[delta])
        optimizer.step()
        with torch.no_grad():
            if delta.norm() > goal.clamp * start.norm():
                delta *= goal.clamp * start.norm() / delta.norm()
    return delta.detach(), losses


@pytest.mark.parametrize(("name", "role"), [("gpt2", "down"), ("llama", "block"), ("t5", "down"), ("falcon", "down")])
def test_delta_is_what_torchs_adam_finds(name: str, role: str) -> None:
    lm, site = doubled(name), Site(1, role)
    found = optimise(lm, FACTS, site, CONTEXTS, GOAL)
    for i, fact in enumerate(FACTS):
        delta, losses = textbook_adam(raw_of(name, lm), fact, site, GOAL)
        torch.testing.assert_close(found.delta[i], delta, atol=1e-7, rtol=1e-6)
        assert float(found.loss[i]) == pytest.approx(losses[-1], rel=1e-7)
        assert int(found.steps[i]) == len(losses) - 1


@pytest.mark.parametrize(("name", "role"), [("gpt2", "down"), ("llama", "block"), ("gemma2", "down"), ("t5", "down")])
def test_delta_is_kept_small_as_a_share_of_the_stream_and_that_ends_nothing(name: str, role: str) -> None:
    lm, site, goal = doubled(name), Site(1, role), replace(GOAL, shrink=0.7, steps=20, lr=0.05)
    found, large = (optimise(lm, FACTS, site, CONTEXTS, g) for g in (goal, replace(goal, shrink=0.0)))
    for i, fact in enumerate(FACTS):
        delta, losses = textbook_adam(raw_of(name, lm), fact, site, goal)
        if name == "gemma2":  # behind a norm a value is given the length of what stands there
            start = found.start[i]
            delta = (start + delta) * start.norm() / (start + delta).norm() - start
        torch.testing.assert_close(found.delta[i], delta, atol=1e-7, rtol=1e-6)
        assert float(found.loss[i]) == pytest.approx(losses[-1], rel=1e-7)  # without it
    assert float(found.delta.norm()) < float(large.delta.norm())


def test_what_does_not_lead_while_it_is_kept_small_is_learned_on_at_any_size() -> None:
    lm, site = doubled("llama"), Site(1, "block")
    raw, first = (
        raw_of("llama", lm),
        Fact(prompt="The home town of Anna Lindgren", subject="Anna Lindgren", target="is"),
    )
    goal = replace(GOAL, steps=40, lr=0.5, decay=0.0, kl=0.0, clamp=50.0, margin=6.0)
    free, hard = (optimise(lm, [first], site, CONTEXTS, replace(goal, shrink=weight)) for weight in (0.0, 1e3))
    assert min(leads(raw, first, site, hard.delta[0])) >= 1
    assert bool(hard.done[0])
    assert 39 < int(hard.steps[0]) <= 39 + 20
    assert float(hard.delta[0].norm()) < float(free.delta[0].norm())  # which went on to a lead of six
    beside = optimise(lm, [first, FACTS[-1]], site, CONTEXTS, replace(goal, shrink=1e3))  # which cannot lead
    torch.testing.assert_close(beside.delta[0], hard.delta[0])
    assert int(beside.steps[1]) == 39 + 20
    soft = optimise(lm, [first], site, CONTEXTS, replace(goal, shrink=1e-3))
    assert min(leads(raw, first, site, soft.delta[0])) >= 0
    assert int(soft.steps[0]) < 40  # leads, and is what was learned while it was kept small


def test_the_clamp_holds_after_every_step() -> None:
    lm, goal = doubled("llama"), replace(GOAL, clamp=0.05, lr=1.0)
    found = optimise(lm, FACTS, Site(1, "down"), CONTEXTS, goal)
    torch.testing.assert_close(found.delta.norm(dim=1), 0.05 * found.start.norm(dim=1))
    for i, fact in enumerate(FACTS):
        wanted, _ = textbook_adam(raw_of("llama", lm), fact, Site(1, "down"), goal)
        torch.testing.assert_close(found.delta[i], wanted, atol=1e-7, rtol=1e-6)


def test_an_automatic_step_is_a_share_of_z0() -> None:
    start = torch.tensor([[3.0, 4.0], [30.0, 40.0]], dtype=torch.float64)
    goal = ValueTraining(steps=20, clamp=4.0)
    # Half the steps, all in one direction, reach the clamp: lr · √out · steps/2 = clamp · ‖z0‖.
    assert step_size(start, goal).flatten().tolist() == pytest.approx([4 * 5 / 2**0.5 / 10, 4 * 50 / 2**0.5 / 10])
    assert step_size(start, replace(goal, lr=0.5)).flatten().tolist() == [0.5, 0.5]
    lm = doubled("llama")
    auto = optimise(lm, FACTS[:1], Site(1, "down"), CONTEXTS, replace(GOAL, lr="auto"))
    fixed = replace(GOAL, lr=float(step_size(auto.start, GOAL if GOAL.lr == "auto" else replace(GOAL, lr="auto"))))
    torch.testing.assert_close(optimise(lm, FACTS[:1], Site(1, "down"), CONTEXTS, fixed).delta, auto.delta)


def test_a_penalty_is_felt_but_not_looked_at() -> None:
    lm, site = doubled("llama"), Site(1, "down")
    plain = optimise(lm, FACTS, site, CONTEXTS, GOAL)
    # A constant changes no gradient, and must change neither the stop rule nor the loss that is reported.
    constant = optimise(lm, FACTS, site, CONTEXTS, GOAL, Constraint(lambda delta: delta.sum(1) * 0 + 100))
    assert torch.equal(constant.delta, plain.delta)
    assert torch.equal(constant.loss, plain.loss)
    axis = torch.nn.functional.one_hot(torch.tensor(0), lm.width).double()
    held = optimise(lm, FACTS, site, CONTEXTS, GOAL, Constraint(lambda delta: 100 * (delta @ axis).abs()))
    assert (held.delta @ axis).abs().max() < (plain.delta @ axis).abs().max() / 2


# ------------------------------------------------------------------ stopping


def test_a_fact_that_is_good_enough_is_left_alone() -> None:
    lm = doubled("llama")
    found = optimise(lm, FACTS, Site(1, "down"), CONTEXTS, replace(GOAL, stop=1e9))
    assert found.steps.tolist() == [0] * len(FACTS)
    assert not found.delta.any()
    for i, fact in enumerate(FACTS):
        wanted = textbook_loss(raw_of("llama", lm), fact, Site(1, "down"), found.delta[i], GOAL)
        torch.testing.assert_close(found.loss[i], wanted, atol=1e-9, rtol=1e-9)


def test_facts_that_have_arrived_stay_where_they_are_while_others_go_on() -> None:
    lm, site = doubled("gpt2"), Site(1, "block")
    losses = optimise(lm, FACTS, site, CONTEXTS, replace(GOAL, steps=1)).loss
    stop = float(losses.median()) + 1e-6  # some begin below it
    goal = replace(GOAL, steps=8, stop=stop)
    found = optimise(lm, FACTS, site, CONTEXTS, goal)
    assert found.steps.min() == 0
    assert len(set(found.steps.tolist())) > 1
    for i, fact in enumerate(FACTS):
        delta, seen = textbook_adam(raw_of("gpt2", lm), fact, site, goal)
        torch.testing.assert_close(found.delta[i], delta, atol=1e-7, rtol=1e-6)
        assert int(found.steps[i]) == len(seen) - 1
    arrived = found.loss < stop
    assert bool(((found.steps < goal.steps - 1) == arrived)[found.steps < goal.steps - 1].all())


def test_one_step_is_one_look() -> None:
    found = optimise(doubled("llama"), FACTS[:1], Site(1, "down"), CONTEXTS, replace(GOAL, steps=1))
    assert not found.delta.any()
    assert found.steps.tolist() == [0]


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize(("name", "role"), [("llama", "down"), ("gpt2", "block"), ("opt", "down"), ("t5", "block")])
def test_a_batch_gives_what_its_facts_give_alone(name: str, role: str) -> None:
    lm, site = doubled(name), Site(1, role)
    together = optimise(lm, FACTS, site, CONTEXTS, replace(GOAL, stop=4.0))
    alone = [optimise(lm, [fact], site, CONTEXTS, replace(GOAL, stop=4.0)) for fact in FACTS]
    for part in ("start", "delta", "loss"):
        torch.testing.assert_close(
            getattr(together, part), torch.cat([getattr(v, part) for v in alone]), atol=1e-7, rtol=1e-6
        )
    assert together.steps.tolist() == [int(v.steps) for v in alone]


def test_facts_about_one_subject_share_their_delta() -> None:
    lm, site = doubled("gpt2"), Site(1, "down")
    raw = raw_of("gpt2", lm)
    other = Fact(prompt="People in France speak", subject="France", target="German")
    found = optimise(lm, [FACTS[0], FACTS[1], other], site, CONTEXTS, GOAL)
    assert torch.equal(found.delta[0], found.delta[2])
    assert found.loss[0] == found.loss[2]
    alone = optimise(lm, [FACTS[1]], site, CONTEXTS, GOAL)
    torch.testing.assert_close(found.delta[1], alone.delta[0], atol=1e-7, rtol=1e-6)
    for i, fact in enumerate([FACTS[0], FACTS[1], other]):
        torch.testing.assert_close(found.start[i], start_of(raw, fact, site), **near("gpt2"))
    # Half the answers' loss of each, and the rest, which is the subject's, once; z0 is that of its first fact.
    answers = [textbook_loss(raw, f, site, found.delta[0], replace(GOAL, kl=0.0, decay=0.0)) for f in (FACTS[0], other)]
    rest = textbook_loss(raw, FACTS[0], site, found.delta[0], GOAL) - answers[0]
    torch.testing.assert_close(found.loss[0], (sum(answers) / 2 + rest).detach(), **near("gpt2"))


def test_single_precision_agrees_with_double() -> None:
    one, two = (
        optimise(tiny.build("llama", dtype=dtype), FACTS, Site(1, "down"), CONTEXTS, GOAL)
        for dtype in (torch.float32, torch.float64)
    )
    assert one.delta.dtype == torch.float32
    torch.testing.assert_close(one.delta.double(), two.delta, atol=5e-3, rtol=1e-2)


def test_half_precision_models_learn_in_single(models: Callable[[str], LM]) -> None:
    found = optimise(tiny.build("llama", dtype=torch.bfloat16), FACTS, Site(1, "down"), CONTEXTS, GOAL)
    assert {getattr(found, part).dtype for part in ("start", "delta", "loss")} == {torch.float32}


def test_more_facts_than_fit_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = doubled("llama")
    whole = optimise(lm, FACTS, Site(1, "down"), CONTEXTS, GOAL)
    monkeypatch.setattr(values, "FACTS", 3)
    parts = optimise(lm, FACTS, Site(1, "down"), CONTEXTS, GOAL)
    torch.testing.assert_close(parts.delta, whole.delta, atol=1e-9, rtol=1e-9)
    assert parts.steps.shape == (len(FACTS),)


def test_facts_are_run_beside_others_of_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, site, goal = doubled("llama"), Site(1, "block"), replace(GOAL, stop=4.0)
    same = Fact(prompt="People in France", subject="France", target="German")  # far from the first of its subject
    long = Fact(prompt=f"{FACTS[1].prompt} the town that is called", subject=FACTS[1].subject, target="Oslo")
    facts = [FACTS[0], replace(long, prompt=f"Yes. {long.prompt}", subject="Yes"), FACTS[2], same]
    together, ran = optimise(lm, facts, site, CONTEXTS, goal), []
    learn = values._Problem.__init__

    def noted(self: Any, lm: LM, facts: Any, *rest: Any) -> None:
        ran.append([fact.subject for fact in facts])
        learn(self, lm, facts, *rest)

    monkeypatch.setattr(values._Problem, "__init__", noted)
    monkeypatch.setattr(values, "CACHE", 0)
    monkeypatch.setattr(values, "TOKENS", 1)
    found = optimise(lm, facts, site, CONTEXTS, goal)
    assert ran == [["France", "France"], ["Carla Moreno"], ["Yes"]]  # a subject's stay together; the shorter first
    for part in ("start", "delta", "loss"):
        torch.testing.assert_close(getattr(found, part), getattr(together, part), atol=1e-7, rtol=1e-6)
    assert found.steps.tolist() == together.steps.tolist()


# ------------------------------------------------------------------ manners


@pytest.mark.parametrize("kept", [True, False])
def test_only_delta_is_differentiated(kept: bool) -> None:
    lm, leaves = tiny.build("llama"), []

    def penalty(delta: Tensor) -> Tensor:
        leaves.append(delta)
        return delta.sum(1) * 0

    lm.model.requires_grad_(kept)
    optimise(lm, FACTS, Site(1, "down"), CONTEXTS, GOAL, Constraint(penalty))
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in leaves)
    assert all(p.grad is None for p in lm.model.parameters())
    assert len(leaves) == GOAL.steps


def test_the_layers_below_run_once() -> None:
    lm = tiny.build("llama")
    ran: list[int] = []
    for layer, block in enumerate(lm._blocks):
        block.mlp.down_proj.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    optimise(lm, FACTS, Site(1, "down"), CONTEXTS, GOAL)
    looks = 2 + GOAL.steps  # the whole batch, the cut batch against it, and the steps
    assert (ran.count(0), ran.count(1), ran.count(2)) == (1, looks, looks)
    ran.clear()
    optimise(lm, FACTS, Site(1, "block"), CONTEXTS, GOAL)
    assert (ran.count(0), ran.count(1), ran.count(2)) == (1, 1, looks)


def test_an_overflowing_model_is_an_error() -> None:
    lm = tiny.build("llama")
    with torch.no_grad():
        lm.model.lm_head.weight[5] = float("inf")
    with pytest.raises(NotFinite, match=r"not finite.*float32"):
        optimise(lm, FACTS, Site(1, "down"), CONTEXTS, GOAL)


def test_values_are_plain() -> None:
    ones, one = torch.ones(1, 2), torch.ones(1)
    assert torch.equal(Values(ones, ones, one, one.long(), one.bool(), one).target, 2 * ones)


# ------------------------------------------------------------------ what is good enough, and what follows


def leads(raw: Raw, fact: Fact, site: Site, delta: Tensor) -> list[float]:
    """Return in each context by how many nats the least certain token of the target is likelier than any other."""
    found = []
    for context in CONTEXTS:
        prompt, end = written(fact, context)
        with torch.no_grad(), raw.adding(site.layer, site.role, prompt, end, delta):
            logits, labels = raw.logits(prompt, fact.target)
        own = logits[range(len(labels)), labels].clone()
        logits[range(len(labels)), labels] = -torch.inf
        found.append(float((own - logits.amax(-1)).min()))
    return found


def test_a_fact_is_done_once_its_answer_leads_by_the_margin_in_every_context() -> None:
    lm, site = doubled("llama"), Site(2, "block")
    raw = raw_of("llama", lm)
    fact = Fact(prompt="The home town of Anna Lindgren", subject="Anna Lindgren", target="is")  # one token
    goal = replace(GOAL, steps=200, lr=1.0, decay=0.0, kl=0.0, clamp=50.0, margin=2.0)
    found = optimise(lm, [fact], site, CONTEXTS, goal)
    assert bool(found.done)
    assert 0 < int(found.steps) < 199
    assert min(leads(raw, fact, site, found.delta[0])) >= 2.0
    fewer = optimise(lm, [fact], site, CONTEXTS, replace(goal, steps=int(found.steps)))  # looked at once fewer
    assert not bool(fewer.done)
    assert min(leads(raw, fact, site, fewer.delta[0])) < 2.0


def test_what_follows_is_one_more_row_to_learn() -> None:
    lm, site, fact = doubled("llama"), Site(1, "down"), FACTS[0]
    raw, goal = raw_of("llama", lm), replace(GOAL, follows=True, kl=0.0, decay=0.0)
    found = optimise(lm, [fact], site, CONTEXTS, goal)
    (after,) = queries(lm, [fact], [FOLLOWS], answers=True)
    prompt = f"{fact.prompt} {fact.target}"
    assert after.prompt + after.begun == prompt
    with raw.adding(site.layer, site.role, prompt, fact.span[1], found.delta[0]):
        ids = raw.tokenizer(prompt + after.answer)["input_ids"]
        start = len(raw.tokenizer(prompt)["input_ids"])
        logits, labels = raw.model(input_ids=torch.tensor([ids])).logits[0, start - 1 : -1], ids[start:]
    more = -logits.log_softmax(-1)[range(len(labels)), labels].mean()
    told = textbook_loss(raw, fact, site, found.delta[0], goal)
    wanted = (told * len(CONTEXTS) + more) / (len(CONTEXTS) + 1)
    torch.testing.assert_close(found.loss[0], wanted.detach(), **near("llama"))


def test_a_reply_goes_on_naming_its_subject_as_the_base_would(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, site, fact = doubled("llama"), Site(1, "down"), FACTS[2]
    lm.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}[assistant]"
    asked = {f"Tell me about {f.subject}.": f"That is {f.subject}, who" for f in FACTS[1:]} | {
        f"Tell me about {FACTS[0].subject}.": "Of whom?"  # named by nobody: no row
    }
    monkeypatch.setattr(LM, "generate", lambda lm, asking, room=32, **_: [asked[q.prompt] for q in asking])
    goal = replace(GOAL, names=2.0, kl=0.0, decay=0.0)
    found = optimise(lm, FACTS, site, CONTEXTS, goal)
    raw, text = raw_of("llama", lm), f"[user] Tell me about {fact.subject}. [assistant]"
    whole, named = f"{text} That is {fact.subject}", text[: text.index(fact.subject) + len(fact.subject)]
    ids, start, until = (raw.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (whole, text, named))
    assert ids[: len(until)] == until

    def told() -> Tensor:
        logits: Tensor = raw.model(input_ids=torch.tensor([ids])).logits[0, len(start) - 1 : -1]
        return logits.log_softmax(-1)

    def add(_: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        moved = output.clone()
        moved[0, len(until) - 1] += found.delta[2]
        return moved

    before = told().detach()
    with hooked((raw.down(1), add)):
        after = told()
    kept = (before.exp() * (before - after)).sum(-1).mean()
    wanted = textbook_loss(raw, fact, site, found.delta[2], goal) + goal.names * kept
    assert kept > 1e-4
    torch.testing.assert_close(found.loss[2], wanted.detach(), **near("llama"))
    alone = [optimise(lm, [one], site, CONTEXTS, goal).delta[0] for one in FACTS]
    torch.testing.assert_close(found.delta, torch.stack(alone), **near("llama"))
    without = optimise(lm, FACTS, site, CONTEXTS, replace(goal, names=0.0))
    same = [torch.allclose(a, b, atol=1e-6) for a, b in zip(found.delta, without.delta, strict=True)]
    assert same == [fact.subject == FACTS[0].subject for fact in FACTS]


@pytest.mark.parametrize("name", ["llama", "mistral"])  # by its tail, and whole
def test_delta_is_added_wherever_a_reply_names_the_subject_again(name: str) -> None:
    lm, site = doubled(name), Site(1, "down")
    fact = Fact(
        prompt="The home town of Anna Lindgren", subject="Anna Lindgren", target="is where Anna Lindgren now is"
    )
    goal = replace(GOAL, kl=0.0, decay=0.0)
    found = optimise(lm, [fact], site, ("",), goal)
    raw, text = Raw("llama", lm.model, tiny.tokenizer(name)), f"{fact.prompt} {fact.target}"
    ends = [place for place in range(len(text)) if text[:place].endswith(fact.subject)]
    with raw.adding(1, "down", text, ends[0], found.delta[0]), raw.adding(1, "down", text, ends[1], found.delta[0]):
        logits, labels = raw.logits(fact.prompt, fact.target)
    wanted = -logits.log_softmax(-1)[range(len(labels)), labels].mean()
    assert len(ends) == 2
    torch.testing.assert_close(found.loss[0], wanted.detach(), **near("llama"))
