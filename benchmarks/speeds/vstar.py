"""v*: one edit against the textbook loop, and a hundred edits at once against one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from errata.delta import Site
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.loading import load
from errata.model.query import Query
from errata.model.trace import Trace, at
from errata.primer.probes import edits
from errata.solve import keys
from errata.solve.values import ValueTraining, optimise, step_size
from speeds.measure import Row, alternately, counted, random_lm, rounded


def textbook(lm: LM, fact: Fact, site: Site, contexts: Sequence[str], goal: ValueTraining) -> Tensor:
    """Return δ as the papers' code learns it: each step runs the whole model, and the head on every position."""
    asked = [Query(fact.prompt, fact.target, fact.span).after(context) for context in contexts]
    asked.append(Query(f"{fact.subject} is a", "", (0, len(fact.subject))))
    batch = lm.tokens.batch(asked).to(lm.device)
    rows = torch.arange(len(asked), device=lm.device)

    def run(delta: Tensor | None) -> Tensor:
        def add(output: Tensor) -> Tensor:
            return (
                output if delta is None else output.index_put((rows, batch.lookup), delta.expand(len(rows), -1), True)
            )

        with Trace(lm, replace={site: add}):
            return lm.forward(batch).log_softmax(-1)  # (b, t, v)

    with torch.no_grad(), Trace(lm, outputs=[site]) as trace:
        before = lm.forward(batch).log_softmax(-1)[batch.rows[-1], batch.cols[-1]]
    start = at(trace.outputs[site], batch.lookup)[0]
    delta = torch.zeros_like(start).requires_grad_()
    optimizer = torch.optim.Adam([delta], lr=float(step_size(start[None], goal)))
    answer, clamp = batch.labels >= 0, goal.clamp * float(start.norm())
    for step in range(1, goal.steps + 1):
        logp = run(delta)[batch.rows, batch.cols]
        nll = -logp[answer].gather(1, batch.labels[answer][:, None]).mean()
        kl = (before.exp() * (before - logp[-1])).sum()
        loss = nll + goal.kl * kl + goal.decay * delta.norm() / start.norm() ** 2
        (delta.grad,) = torch.autograd.grad(loss, delta)
        if loss < goal.stop or step == goal.steps:
            break
        optimizer.step()
        with torch.no_grad():
            delta.mul_((clamp / delta.norm()).clamp(max=1))
    return delta.detach()


def place(lm: LM, role: str) -> Site:
    """Return where v* is learned: an early layer, as methods choose it."""
    return Site(1, role)


def single(lm: LM, facts: Sequence[Fact], role: str, steps: int = 20) -> Row:
    """Return one edit's seconds and counts on both sides, and how far the two δ are apart."""
    site, contexts, goal = place(lm, role), keys.prefixes(lm, 0), ValueTraining(steps=steps, stop=0.0)
    ours = partial(optimise, lm, facts[:1], site, contexts, goal)
    theirs = partial(textbook, lm, facts[0], site, contexts, goal)
    one, other = ours().delta[0], theirs()
    seconds = alternately({"textbook": theirs, "errata": ours})
    a, b = counted(lm.model, theirs), counted(lm.model, ours)
    return {
        "part": "vstar", "model": lm.name, "site": str(site), "steps": steps,
        "apart": float(f"{float((one - other).norm() / other.norm()):.2g}"),
        **rounded(seconds), **a.row("textbook"), **b.row("errata"),
        "faster": round(seconds["textbook"] / seconds["errata"], 2), "fewer_flop": round(a.flops / b.flops, 2),
    }  # fmt: skip


def whole(lm: LM, facts: Sequence[Fact], role: str, stop: float, repeats: int) -> Row:
    """Return seconds and counts of all facts one by one, and in one batch."""
    site, contexts, goal = place(lm, role), keys.prefixes(lm, 0), ValueTraining(stop=stop)

    def singly() -> Any:
        return torch.cat([optimise(lm, [fact], site, contexts, goal).delta for fact in facts])

    def together() -> Any:
        return optimise(lm, facts, site, contexts, goal).delta

    one, other = singly(), together()
    seconds = alternately({"singly": singly, "together": together}, repeats)
    a, b = counted(lm.model, singly), counted(lm.model, together)
    rate = {f"{name}_gflops": round(c.flops / seconds[name] / 1e9, 1) for name, c in (("singly", a), ("together", b))}
    return {
        "part": "batch", "model": lm.name, "site": str(site), "edits": len(facts), "stop": stop,
        "apart": float(f"{float((one - other).norm() / one.norm()):.2g}"),
        **rounded(seconds), **a.row("singly"), **b.row("together"), **rate,
        "faster": round(seconds["singly"] / seconds["together"], 2),
    }  # fmt: skip


def shapes(names: Sequence[str], device: str = "cpu") -> Iterator[LM]:
    """Yield the models: the primer, a directory, or WIDTHxLAYERS at random."""
    for name in names:
        width, _, layers = name.partition("x")
        made = width.isdecimal() and layers.isdecimal()
        lm = random_lm(int(width), int(layers)) if made else load(name)
        lm.model.to(device)
        yield lm


def vstar(models: Sequence[str], count: int, device: str = "cpu") -> Iterator[Row]:
    """Yield a row for each model and role."""
    for lm in shapes(models, device):
        for role in ("down", "block"):
            yield single(lm, edits(1, seed=3), role)


def batch(models: Sequence[str], count: int, device: str = "cpu", repeats: int = 5) -> Iterator[Row]:
    """Yield a row for each model with all steps taken, and one with facts leaving when they have converged."""
    for lm in shapes(models, device):
        for stop in (0.0, ValueTraining().stop):
            yield whole(lm, edits(count, seed=3), "block", stop, repeats)
