"""What v* is learned with: the cached rows of a batch, one vector added to each at one token, and Adam until it is good enough.

`values` says what the rows are of for facts, `windows` for the windows of long answers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from errata.delta import Site
from errata.errors import NotFinite
from errata.model.lm import LM
from errata.model.suffix import reused_cache, suffix_of
from errata.model.tokens import Batch
from errata.model.trace import Replace, Trace, plain_attention, resume
from errata.solve.descent.losses import answer_losses

Penalty = Callable[[Float[Tensor, "n out"]], Float[Tensor, " n"]]
Project = Callable[[Float[Tensor, "n out"]], Float[Tensor, "n out"]]
_BETAS, _EPS = (0.9, 0.999), 1e-8  # Adam's


@dataclass(frozen=True, slots=True)
class ValueTraining:
    """Settings of the optimisation; names and defaults as in the papers.

    Args:
        margin: a fact is good enough, too, once every token of its answer leads by so many nats in every context.
        follows: learn besides that the text goes on after the target as the base would.
        names: weight of the KL to the base where a chat model's reply names the subject.
        shrink: weight of ‖δ‖ as a share of the stream it is added to; the stop rule does not look at it.
    """

    steps: int = 20
    lr: float | Literal["auto"] = "auto"
    kl: float = 0.0625
    decay: float = 0.5
    clamp: float = 4.0
    stop: float = 0.05
    margin: float | None = None
    follows: bool = False
    names: float = 0.0
    shrink: float = 0.0


@dataclass(frozen=True, eq=False, slots=True)
class Constraint:
    """What holds δ back.

    Args:
        penalty: added to the loss but not looked at by the stop rule (O-Edit).
        project: a linear projection P; δ = Pz is learned in its range alone (O-Edit+).
    """

    penalty: Penalty | None = None
    project: Project | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Values:
    """What was learned.

    Args:
        start: (n, out) z0, the site's output on the bare prompt.
        delta: (n, out) δ.
        loss: (n,) the last loss of each fact. steps: (n,) updates taken. done: (n,) good enough by then.
        lead: (n,) by how many nats the answer led where it led least, with δ as it was learned; not known without a margin.
    """

    start: Float[Tensor, "n out"]
    delta: Float[Tensor, "n out"]
    loss: Float[Tensor, " n"]
    steps: Int[Tensor, " n"]
    done: Bool[Tensor, " n"]
    lead: Float[Tensor, " n"]

    @property
    def target(self) -> Float[Tensor, "n out"]:
        """v* = z0 + δ."""
        return self.start + self.delta


class _Taken(NamedTuple):
    """Rows of some subjects, and how they are run.

    Args:
        place: of each row's subject among those taken. says: whether its answer is to be said. batch: the rows themselves.
        learned: whether its answer is learned at all; what other rows predict is kept. before: (k, v) what the base says there.
        weigh: (k,) by how much that counts.
        run: what is run: the batch, or its tail. hidden: input of the first layer that runs. cache: what a pass begins with.
        row: of each position that is run, whose it is. named: where δ is added. already: what is added besides, where the
            pass does not begin behind it.
    """

    place: Int[Tensor, " b"]
    says: Bool[Tensor, " b"]
    learned: Bool[Tensor, " b"]
    before: Float[Tensor, "k v"]
    weigh: Float[Tensor, " k"]
    batch: Batch
    run: Batch
    hidden: Float[Tensor, "n w d"]
    cache: Any
    row: Int[Tensor, "n w"]
    named: Bool[Tensor, "n w"]
    already: Tensor | None = None


class Rows:
    """Cached rows of which something is learned at one token each: everything that does not change meanwhile.

    Who makes one says what it is of, lets it `begin`, says what is kept, and lets it `end`.

    Attributes:
        n: vectors learned. owner: (b,) whose row each is. count: (n,) rows with an answer of each.
        learned, says: (b,) as `_Taken` has them. named: (b, t) where δ is added. start: (n, out) z0 of each.
        place, before, weigh: (k,) row, (k, v) log-probabilities and (k,) weight of what is kept.
        size: (n,) of the stream each vector is added to; not looked at where `shrink` is 0.
        starts, subject: (f, out) z0 of each fact, and (f,) which of the n vectors it has.
        already: (b, t, out) what is added at the site all along; None for nothing.
    """

    lm: LM
    site: Site
    goal: ValueTraining
    n: int
    batch: Batch
    owner: Tensor
    count: Tensor
    learned: Tensor
    says: Tensor
    named: Tensor
    place: Tensor
    before: Tensor
    weigh: Tensor
    start: Tensor
    size: Tensor
    starts: Tensor
    subject: Tensor
    already: Tensor | None = None

    def begin(self) -> tuple[Float[Tensor, "a v"], Any, Trace]:
        """Run the whole batch once, and keep what every step begins with; returns logits, cache and what was seen."""
        # After the block a layer deeper can start; the last block has none after it: its output is replaced instead.
        self.deeper = self.site.role == "block" and self.site.layer + 1 < self.lm.reachable
        block = Site(self.site.layer, "block")
        add = {} if self.already is None else {self.site: partial(_added, self.already)}
        with torch.no_grad(), Trace(self.lm, inputs=[block], outputs=[self.site, block], replace=add) as trace:
            cache = self.lm.cache() if self.lm.row.kind == "decoder" else None
            logits = self.lm.answer_logits(self.batch, cache)
        self.hidden = trace.outputs[block] if self.deeper else trace.inputs[block]
        return logits, cache, trace

    def end(self, logits: Float[Tensor, "a v"], cache: Any) -> None:
        """Find out whether steps may run the tail of the batch alone."""
        self.first = self.site.layer + self.deeper  # layer each step begins at
        whole = (logits, cache)
        self.tail = None if cache is None else suffix_of(self.lm, self.batch, self.hidden, self.first, whole)
        self._last: tuple[Tensor, _Taken] | None = None

    def loss(
        self, delta: Float[Tensor, "s out"], active: Int[Tensor, " s"]
    ) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"]]:
        """Return L of the subjects `active`, given their δ, and by how much their answers lead, (s,) each."""
        taken = self._take(active)
        logits = self._run(taken, delta[taken.place])
        logp = logits.log_softmax(-1)
        kept = ~taken.learned[taken.batch.rows]
        answers = replace(taken.batch, labels=taken.batch.labels.masked_fill(kept, -1))
        row = taken.batch.rows[~kept]
        losses = answer_losses(answers, logp)
        total = torch.zeros(len(active), dtype=losses.dtype, device=losses.device)
        total = total.index_add(0, taken.place[row], losses / self.count[active[taken.place]][row])
        moved = (taken.before.exp() * (taken.before - logp[kept])).sum(-1) * taken.weigh
        total = total.index_add(0, taken.place[taken.batch.rows[kept]], moved.to(total))
        decay = delta.norm(dim=1) / self.start[active].norm(dim=1) ** 2
        loss: Tensor = total + self.goal.decay * decay
        return loss, self._lead(taken, logp.detach(), len(active))

    def excess(self, delta: Float[Tensor, "s out"], active: Int[Tensor, " s"], shrink: float) -> Float[Tensor, " s"]:
        """Return what the size of the δ of the subjects `active` costs, (s,), at that weight."""
        if not shrink:
            return delta.new_zeros(len(delta))
        found: Tensor = shrink * delta.norm(dim=1) / self.size[active]
        return found

    def _lead(self, taken: _Taken, logp: Float[Tensor, "a v"], count: int) -> Float[Tensor, " s"]:
        """Return by how many nats the least certain token of each subject's answers is likelier than any other."""
        lead = torch.full((count,), torch.inf, dtype=logp.dtype, device=logp.device)
        if self.goal.margin is None:
            return -lead
        wanted = taken.says[taken.batch.rows]
        logp, label = logp[wanted], taken.batch.labels[wanted, None]
        own = logp.gather(1, label)[:, 0]
        other = logp.scatter(1, label, -torch.inf).amax(1)
        return lead.scatter_reduce(0, taken.place[taken.batch.rows[wanted]], own - other, "amin")

    def _take(self, active: Int[Tensor, " s"]) -> _Taken:
        """Return the rows of the subjects `active`, and what their passes begin with; looked up while these stay the same."""
        if self._last is None or not torch.equal(self._last[0], active):
            place = torch.full((self.n,), -1, device=active.device)
            place[active] = torch.arange(len(active), device=active.device)
            rows = torch.nonzero(place[self.owner] >= 0)[:, 0]
            self._last = active, self._taken(rows, place[self.owner[rows]])
        return self._last[1]

    def _taken(self, rows: Int[Tensor, " b"], place: Int[Tensor, " b"]) -> _Taken:
        batch, named = self.batch.take(rows), self.named[rows]
        mine = torch.isin(self.place, rows)
        of = place, self.says[rows], self.learned[rows], self.before[mine], self.weigh[mine]
        if self.tail is None:
            own = torch.arange(len(rows), device=rows.device)[:, None].expand(named.shape)
            already = None if self.already is None else self.already[rows]
            return _Taken(*of, batch, batch, self.hidden[rows], None, own, named, already)
        tail = self.tail.take(rows)
        return _Taken(*of, batch, tail.batch, tail.hidden, tail.cache(self.lm), tail.row, tail.marked(named))

    def _run(self, taken: _Taken, delta: Float[Tensor, "b out"]) -> Float[Tensor, "a v"]:
        """Return the logits of some rows with δ added."""
        add = partial(_add_at, taken.named, taken.row, delta)
        with ExitStack() as stack:
            stack.enter_context(plain_attention(taken.hidden.device))
            if not self.deeper:
                put = add if taken.already is None else partial(_added_at, taken.already, add)
                stack.enter_context(Trace(self.lm, replace={self.site: put}))
            stack.enter_context(resume(self.lm, self.first, add(taken.hidden) if self.deeper else taken.hidden))
            return self.lm.answer_logits(taken.run, None if taken.cache is None else reused_cache(taken.cache))


def _added(already: Float[Tensor, "b t out"], output: Float[Tensor, "b t out"]) -> Float[Tensor, "b t out"]:
    return output + already.to(output)


def _added_at(already: Float[Tensor, "b t out"], add: Replace, output: Float[Tensor, "b t out"]) -> Tensor:
    return add(_added(already, output))


def _add_at(
    named: Bool[Tensor, "n w"], row: Int[Tensor, "n w"], delta: Float[Tensor, "b out"], output: Float[Tensor, "n w out"]
) -> Float[Tensor, "n w out"]:
    """Return `output` with each row's vector added where its subject is named."""
    return output.index_put((named,), delta[row[named]].to(output), accumulate=True)


def step_size(start: Float[Tensor, "n out"], goal: ValueTraining) -> Float[Tensor, "n 1"]:
    """Return Adam's step for each fact: the given one, or such that half the steps in one direction reach the clamp.

    Adam moves a coordinate by about lr a step, so δ grows by lr·√out = lr·‖z0‖/rms(z0).
    """
    if goal.lr == "auto":
        rms: Tensor = start.norm(dim=1, keepdim=True) / start.shape[1] ** 0.5
        return rms * goal.clamp * 2 / goal.steps
    return torch.full_like(start[:, :1], float(goal.lr))


def learn(problem: Rows, restraint: Constraint) -> Values:
    """Minimise L of every row's vector by Adam until it is good enough; raises what `optimise` raises."""
    return _descend(problem, restraint, torch.zeros_like(problem.start), torch.arange(problem.n), problem.goal)


def go_on(problem: Rows, restraint: Constraint, found: Values, active: Int[Tensor, " s"]) -> Values:
    """Return what was found, with the vectors `active` learned on at any size until they lead by a nat in every context.

    At most half as many steps are taken again.
    """
    goal, delta = problem.goal, torch.zeros_like(problem.start)
    delta[problem.subject] = found.delta
    until = replace(goal, shrink=0.0, stop=0.0, margin=1.0, steps=1 + goal.steps // 2)
    more = _descend(problem, restraint, delta, active, until)
    again = torch.isin(problem.subject, active)
    return Values(
        found.start,
        torch.where(again[:, None], more.delta, found.delta),
        torch.where(again, more.loss, found.loss),
        found.steps + more.steps,
        torch.where(again, more.done, found.done),
        torch.where(again, more.lead, found.lead),
    )


def _descend(
    problem: Rows,
    restraint: Constraint,
    delta: Float[Tensor, "n out"],
    active: Int[Tensor, " s"],
    until: ValueTraining,
) -> Values:
    """Take Adam's steps from `delta`, as `until` says how many, how far and whether small; the step's size is the problem's."""
    start, penalty, project = problem.start, restraint.penalty, restraint.project
    lr, first, second = step_size(start, problem.goal), torch.zeros_like(start), torch.zeros_like(start)
    loss, ahead = start.new_full((problem.n,), float("inf")), start.new_full((problem.n,), -float("inf"))
    steps = torch.zeros(problem.n, dtype=torch.long, device=start.device)
    active, done = active.to(start.device), torch.zeros_like(steps, dtype=torch.bool)
    for step in range(1, until.steps + 1):
        leaf = delta[active].requires_grad_()
        with torch.enable_grad():
            value, lead = problem.loss(leaf, active)
            whole = value + problem.excess(leaf, active, until.shrink)
            whole = whole if penalty is None else whole + penalty(leaf)
            (gradient,) = torch.autograd.grad(whole.sum(), leaf)
        if not bool(gradient.isfinite().all()):
            raise NotFinite(
                "the loss of an edit is not finite: the model overflows on this prompt; load it in float32 or bfloat16."
            )
        loss[active], ahead[active] = value.detach(), lead.to(ahead)
        keep = (value.detach() >= until.stop) & (lead < (torch.inf if until.margin is None else until.margin))
        done[active[~keep]] = True
        active, gradient = active[keep], gradient[keep]
        if step == until.steps or not len(active):
            break
        gradient = gradient if project is None else project(gradient)
        first[active] = _BETAS[0] * first[active] + (1 - _BETAS[0]) * gradient
        second[active] = _BETAS[1] * second[active] + (1 - _BETAS[1]) * gradient**2
        mean, spread = first[active] / (1 - _BETAS[0] ** step), second[active] / (1 - _BETAS[1] ** step)
        moved = delta[active] - lr[active] * mean / (spread.sqrt() + _EPS)
        moved = moved if project is None else project(moved)
        limit = until.clamp * start[active].norm(dim=1, keepdim=True)
        delta[active] = moved * (limit / moved.norm(dim=1, keepdim=True)).clamp(max=1)
        steps[active] += 1
    return Values(problem.starts, *(found[problem.subject] for found in (delta, loss, steps, done, ahead)))
