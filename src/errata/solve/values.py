"""v*: what a layer should put out at the subject's last token so that the model says the target.

For fact i a vector δ_i is learned by Adam and added there, minimising (arXiv 2202.05262, Eq. 4; 2210.07229, Eq. 16)

    L_i(δ) = mean over contexts of NLL(target)/len + kl · KL(p_0(· | "{subject} is a") ‖ p_δ) + decay · ‖δ‖ / ‖z0‖²
             + names · mean over tokens of KL(p_0 ‖ p_δ) along the base's reply to "Tell me about {subject}." up to the name

with ‖δ‖ ≤ clamp · ‖z0‖, until L_i < stop, or until every token of the target leads by `margin` nats in every context. Where
`follows`, what the base goes on with after prompt and target is one more context's target. A whole batch of facts is learned at
once: every fact has rows of its own, so a batch gives what its facts give alone, and they are run beside others of about their
length. Each step starts from the cached hidden states at the edited layer and runs only the positions from the lookup token on
(`model.suffix`); only answer positions go through the head, gradients go no deeper than δ, and facts that have converged leave
the batch.

Differs from the papers: where a reply names the subject again, δ is added there too, since an edit answers to every mention.
Facts about one subject in one batch share their δ and are learned together, because they share their key, and a key can be
given one value only. ``lr="auto"`` is a fraction of the root mean square of z0, because a fixed step of 0.5 suits hidden states
of norm 1 to 50 and no others. Where a norm stands between a matrix and the stream, v* is given the length of z0: Adam lets δ
grow there, to no effect but on other keys (LOG.md, 2026-11-28). The margin is ours: decay · ‖δ‖ / ‖z0‖² alone keeps L above
`stop` on models whose z0 is small, and then every step is taken however well the answer leads. So is the term of `names`: a
reply repeats its subject's name by reading it where δ stands, and without the term hardly ever names what it was asked about
(LOG.md, 2026-11-28).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from errata.delta import Site
from errata.errors import NotFinite
from errata.fact import Fact
from errata.model.fitting import essence
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.received import received
from errata.model.suffix import reused_cache, suffix_of
from errata.model.tokens import Batch
from errata.model.trace import Trace, at, plain_attention, resume
from errata.solve.descent.losses import answer_losses
from errata.solve.keys import FOLLOWS, goes_on, named_replies, queries

Penalty = Callable[[Float[Tensor, "n out"]], Float[Tensor, " n"]]
Project = Callable[[Float[Tensor, "n out"]], Float[Tensor, "n out"]]
FACTS = 128  # facts learned at once, at most
CACHE = 2**18  # numbers of one layer's widest tensor that a CPU works on at once; larger ones leave its cache
TOKENS = 256  # but at least so many positions: a pass over fewer waits for the weights
LOGITS = 32_000_000  # numbers of one pass that go through the head, about
_BETAS, _EPS = (0.9, 0.999), 1e-8  # Adam's


@dataclass(frozen=True, slots=True)
class ValueTraining:
    """Settings of the optimisation; names and defaults as in the papers.

    Args:
        margin: a fact is good enough, too, once every token of its answer leads by so many nats in every context.
        follows: learn besides that the text goes on after the target as the base would.
        names: weight of the KL to the base where a chat model's reply names the subject.
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
    """

    start: Float[Tensor, "n out"]
    delta: Float[Tensor, "n out"]
    loss: Float[Tensor, " n"]
    steps: Int[Tensor, " n"]
    done: Bool[Tensor, " n"]

    @property
    def target(self) -> Float[Tensor, "n out"]:
        """v* = z0 + δ."""
        return self.start + self.delta


def optimise(
    lm: LM,
    facts: Sequence[Fact],
    site: Site,
    contexts: Sequence[str],
    goal: ValueTraining,
    restraint: Constraint | None = None,
) -> Values:
    """Learn v* at `site` for every fact.

    Args:
        site: role ``down`` (ROME: the MLP's output) or ``block`` (MEMIT: the block's output).
        contexts: prefixes, the bare prompt ("") first.
        restraint: penalty and projection of δ; None for neither.

    Raises:
        NotFinite: a loss is not finite.
    """
    parts = _parts(lm, facts, contexts)
    found = [
        _learn(_Problem(lm, [facts[i] for i in part], site, contexts, goal), restraint or Constraint())
        for part in parts
    ]
    place = torch.tensor([i for part in parts for i in part]).argsort().to(found[0].delta.device)
    values = Values(
        *(torch.cat([getattr(p, name) for p in found])[place] for name in ("start", "delta", "loss", "steps", "done"))
    )
    held = restraint is not None and restraint.project is not None
    return values if held or site.role == "block" or not received(lm, site).normed else _as_long(values)


def _as_long(values: Values) -> Values:
    """Return values as long as what stands there: behind a norm they say the same, and other keys get less of the change."""
    target = values.target
    size = values.start.norm(dim=1, keepdim=True) / target.norm(dim=1, keepdim=True)
    return replace(values, delta=target * size - values.start)


@torch.no_grad()
def leads(
    lm: LM, facts: Sequence[Fact], site: Site, contexts: Sequence[str], delta: Float[Tensor, "n out"]
) -> Float[Tensor, " n"]:
    """Return by how many nats the answer of each fact leads with δ added at `site`, in the context where it leads least.

    Of facts about one subject, which have one key, the δ of the first is added.
    """
    found = delta.new_zeros(len(facts))
    for part in _parts(lm, facts, contexts):
        problem = _Problem(lm, [facts[i] for i in part], site, contexts, ValueTraining(margin=0.0))
        own = delta[part][problem.told_first]
        _, lead = problem.loss(own, torch.arange(problem.n, device=own.device))
        found[part] = lead[problem.subject].to(found)
    return found


def _parts(lm: LM, facts: Sequence[Fact], contexts: Sequence[str]) -> list[list[int]]:
    """Return which facts are learned together: those of one subject, and else neighbours by how much of them is run.

    A batch is padded to its longest tail, and on a CPU a pass over more than the cache holds is slower than two.
    """
    vocabulary = int(lm.head().weight.shape[0])  # type: ignore[index]
    most = max(1, min(FACTS, LOGITS // (vocabulary * 2 * (len(contexts) + 1))))
    tokens = max(TOKENS, CACHE // lm.inner) if lm.device.type == "cpu" else math.inf
    bare = lm.tokens.batch(queries(lm, facts, [""], answers=True))
    widths = (bare.inputs["attention_mask"].sum(1) - bare.lookup).tolist()  # from the lookup token on
    subjects: dict[str, list[int]] = {}
    for i, fact in enumerate(facts):
        subjects.setdefault(fact.subject, []).append(i)
    parts: list[list[int]] = []
    for group in sorted(subjects.values(), key=lambda group: max(widths[i] for i in group)):
        joined = [*parts[-1], *group] if parts else []
        run = len(joined) * (len(contexts) + 1) * max(widths[i] for i in group)
        if parts and len(joined) <= most and run <= tokens:
            parts[-1] = joined
        else:
            parts.append(group)
    return [sorted(part) for part in parts]


class _Taken(NamedTuple):
    """Rows of some subjects, and how they are run.

    Args:
        place: of each row's subject among those taken. says: whether its answer is to be said. batch: the rows themselves.
        learned: whether its answer is learned at all; what other rows predict is kept. before: (k, v) what the base says there.
        weigh: (k,) by how much that counts.
        run: what is run: the batch, or its tail. hidden: input of the first layer that runs. cache: what a pass begins with.
        row: of each position that is run, whose it is. named: where δ is added.
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


class _Problem:
    """Cached rows of some facts: everything that does not change while δ is learned."""

    def __init__(self, lm: LM, facts: Sequence[Fact], site: Site, contexts: Sequence[str], goal: ValueTraining) -> None:
        self.lm, self.site, self.goal = lm, site, goal
        subjects = list(dict.fromkeys(fact.subject for fact in facts))
        self.n = len(subjects)
        self.subject = torch.tensor([subjects.index(fact.subject) for fact in facts], device=lm.device)  # of each fact
        first = torch.tensor([[f.subject for f in facts].index(s) for s in subjects], device=lm.device)
        self.told_first = first  # of each subject, the first fact
        every = [*contexts, *([FOLLOWS] if goal.follows and goes_on(lm, facts) else [])]
        asked = queries(lm, facts, every, answers=True)
        named = named_replies(lm, subjects) if goal.names else {}
        asked += [*(essence(lm, s) for s in subjects), *named.values()]
        self.batch = lm.routed(lm.tokens.batch(asked).to(lm.device))
        rows = self.subject.repeat_interleave(len(every))
        kept = [*range(self.n), *(subjects.index(s) for s in named)]
        self.owner = torch.cat([rows, torch.tensor(kept, device=lm.device)])  # subject of each row
        self.learned = torch.arange(len(asked), device=lm.device) < len(rows)
        self.count = torch.bincount(rows, minlength=self.n)  # rows with an answer, of each subject
        self.says = torch.zeros(len(asked), dtype=torch.bool, device=lm.device)  # rows whose answer is to be said
        self.says[: len(rows)] = torch.arange(len(rows), device=lm.device) % len(every) < len(contexts)
        self.named = _named(lm, asked, self.batch)
        # After the block a layer deeper can start; the last block has none after it: its output is replaced instead.
        self.deeper = site.role == "block" and site.layer + 1 < lm.reachable
        block = Site(site.layer, "block")
        with torch.no_grad(), Trace(lm, inputs=[block], outputs=[site]) as trace:
            cache = lm.cache() if lm.row.kind == "decoder" else None
            logits = lm.answer_logits(self.batch, cache)
        self.hidden = trace.outputs[block] if self.deeper else trace.inputs[block]
        kept_at = ~self.learned[self.batch.rows]  # where what is predicted is kept
        self.place = self.batch.rows[kept_at]  # whose row each of these is in
        self.before = logits[kept_at].log_softmax(-1)  # (k, v)
        sizes = torch.bincount(self.place, minlength=len(asked))[self.place]
        self.weigh = torch.where(self.place < len(rows) + self.n, goal.kl, goal.names / sizes)  # (k,)
        found = at(trace.outputs[site], self.batch.lookup)[: len(rows) : len(every)]
        self.starts = found.to(torch.promote_types(found.dtype, torch.float32))  # (n facts, out)
        self.start = self.starts[first]  # (n subjects, out)
        self.first = site.layer + self.deeper  # layer each step begins at
        self.tail = None if cache is None else suffix_of(lm, self.batch, self.hidden, self.first, (logits, cache))
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
            return _Taken(*of, batch, batch, self.hidden[rows], None, own, named)
        tail = self.tail.take(rows)
        return _Taken(*of, batch, tail.batch, tail.hidden, tail.cache(self.lm), tail.row, tail.marked(named))

    def _run(self, taken: _Taken, delta: Float[Tensor, "b out"]) -> Float[Tensor, "a v"]:
        """Return the logits of some rows with δ added."""
        add = partial(_add_at, taken.named, taken.row, delta)
        with ExitStack() as stack:
            stack.enter_context(plain_attention(taken.hidden.device))
            if not self.deeper:
                stack.enter_context(Trace(self.lm, replace={self.site: add}))
            stack.enter_context(resume(self.lm, self.first, add(taken.hidden) if self.deeper else taken.hidden))
            return self.lm.answer_logits(taken.run, None if taken.cache is None else reused_cache(taken.cache))


def _named(lm: LM, asked: Sequence[Query], batch: Batch) -> Bool[Tensor, "b t"]:
    """Return where each row names its subject from the lookup token on: a model's own words may name it again."""
    named = torch.zeros_like(batch.inputs["input_ids"], dtype=torch.bool)
    named[torch.arange(len(batch), device=named.device), batch.lookup] = True
    for row, query in enumerate(asked):
        named[row, lm.tokens.again(query)] = True
    return named


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


def _learn(problem: _Problem, restraint: Constraint) -> Values:
    goal, start, penalty, project = problem.goal, problem.start, restraint.penalty, restraint.project
    delta, lr = torch.zeros_like(start), step_size(start, goal)
    first, second = torch.zeros_like(start), torch.zeros_like(start)
    loss = start.new_full((problem.n,), float("inf"))
    steps = torch.zeros(problem.n, dtype=torch.long, device=start.device)
    active, done = torch.arange(problem.n, device=start.device), torch.zeros_like(steps, dtype=torch.bool)
    for step in range(1, goal.steps + 1):
        leaf = delta[active].requires_grad_()
        with torch.enable_grad():
            value, lead = problem.loss(leaf, active)
            whole = value if penalty is None else value + penalty(leaf)
            (gradient,) = torch.autograd.grad(whole.sum(), leaf)
        if not bool(gradient.isfinite().all()):
            raise NotFinite(
                "the loss of an edit is not finite: the model overflows on this prompt; load it in float32 or bfloat16."
            )
        loss[active] = value.detach()
        keep = (value.detach() >= goal.stop) & (lead < (torch.inf if goal.margin is None else goal.margin))
        done[active[~keep]] = True
        active, gradient = active[keep], gradient[keep]
        if step == goal.steps or not len(active):
            break
        gradient = gradient if project is None else project(gradient)
        first[active] = _BETAS[0] * first[active] + (1 - _BETAS[0]) * gradient
        second[active] = _BETAS[1] * second[active] + (1 - _BETAS[1]) * gradient**2
        mean, spread = first[active] / (1 - _BETAS[0] ** step), second[active] / (1 - _BETAS[1] ** step)
        moved = delta[active] - lr[active] * mean / (spread.sqrt() + _EPS)
        moved = moved if project is None else project(moved)
        limit = goal.clamp * start[active].norm(dim=1, keepdim=True)
        delta[active] = moved * (limit / moved.norm(dim=1, keepdim=True)).clamp(max=1)
        steps[active] += 1
    return Values(problem.starts, *(found[problem.subject] for found in (delta, loss, steps, done)))
