"""v*: what a layer should put out at the subject's last token so that the model says the target.

For fact i a vector δ_i is learned by Adam and added there, minimising (arXiv 2202.05262, Eq. 4; 2210.07229, Eq. 16)

    L_i(δ) = mean over contexts of NLL(target)/len + kl · KL(p_0(· | "{subject} is a") ‖ p_δ) + decay · ‖δ‖ / ‖z0‖²
             + names · mean over tokens of KL(p_0 ‖ p_δ) along the base's reply to "Tell me about {subject}." up to the name

plus shrink · ‖δ‖ / ‖h0‖, h0 what the block puts out there, with ‖δ‖ ≤ clamp · ‖z0‖, until L_i < stop, or until every token of
the target leads by `margin` nats in every context. Where `follows`, what the base goes on with after prompt and target is one
more context's target. A whole batch of facts is learned at once: every fact has rows of its own, so a batch gives what its
facts give alone, and they are run beside others of about their length. Each step starts from the cached hidden states at the
edited layer and runs only the positions from the lookup token on (`model.suffix`); only answer positions go through the head,
gradients go no deeper than δ, and facts that have converged leave the batch.

Differs from the papers: where a reply names the subject again, δ is added there too, since an edit answers to every mention.
Facts about one subject in one batch share their δ and are learned together, because they share their key, and a key can be
given one value only. ``lr="auto"`` is a fraction of the root mean square of z0, because a fixed step of 0.5 suits hidden
states of norm 1 to 50 and no others. Where a norm stands between a matrix and the stream, v* is given the length of z0: Adam
lets δ grow there, to no effect but on other keys (LOG.md, 2026-11-28). The margin is ours: decay · ‖δ‖ / ‖z0‖² alone keeps L
above `stop` on models whose z0 is small, and then every step is taken however well the answer leads. So is `shrink`: what an
edit does to other texts grows with ‖δ‖², Adam moves every coordinate about as far whether it helps or not, and the papers'
decay, which falls with the size of z0, holds nothing where that is large. A fact that does not lead with it is learned on
without. So is the term of `names`: a reply repeats its subject's name by reading it where δ stands, and without the term
hardly ever names what it was asked about (LOG.md, 2026-11-28).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from errata.delta import Site
from errata.fact import Fact
from errata.model.fitting import essence
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.received import received
from errata.model.tokens import Batch
from errata.model.trace import at
from errata.solve.keys import FOLLOWS, goes_on, named_replies, queries
from errata.solve.value_rows import Constraint, Penalty, Project, Rows, Values, ValueTraining, go_on, learn, step_size

__all__ = ["Constraint", "Penalty", "Project", "ValueTraining", "Values", "leads", "optimise", "step_size"]

FACTS = 128  # facts learned at once, at most
CACHE = 2**18  # numbers of one layer's widest tensor that a CPU works on at once; larger ones leave its cache
TOKENS = 256  # but at least so many positions: a pass over fewer waits for the weights
LOGITS = 32_000_000  # numbers of one pass that go through the head, about


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
    found = [_learned(lm, [facts[i] for i in part], site, contexts, goal, restraint or Constraint()) for part in parts]
    place = torch.tensor([i for part in parts for i in part]).argsort().to(found[0].delta.device)
    values = Values(*(torch.cat([getattr(p, f.name) for p in found])[place] for f in fields(Values)))
    held = restraint is not None and restraint.project is not None
    return values if held or site.role == "block" or not received(lm, site).normed else _as_long(values)


def _learned(
    lm: LM, facts: Sequence[Fact], site: Site, contexts: Sequence[str], goal: ValueTraining, restraint: Constraint
) -> Values:
    """Return what is learned of facts that are run together; learned on at any size what does not lead while kept small."""
    problem = _Problem(lm, facts, site, contexts, goal)
    found = learn(problem, restraint)
    if not goal.shrink or goal.margin is None:
        return found
    short = problem.subject[found.lead < 0].unique()
    return go_on(problem, restraint, found, short) if len(short) else found


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


class _Problem(Rows):
    """Facts after their contexts, with what is to stay as it is where the subject is named."""

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
        logits, cache, trace = self.begin()
        kept_at = ~self.learned[self.batch.rows]  # where what is predicted is kept
        self.place = self.batch.rows[kept_at]  # whose row each of these is in
        self.before = logits[kept_at].log_softmax(-1)  # (k, v)
        sizes = torch.bincount(self.place, minlength=len(asked))[self.place]
        self.weigh = torch.where(self.place < len(rows) + self.n, goal.kl, goal.names / sizes)  # (k,)
        found = at(trace.outputs[site], self.batch.lookup)[: len(rows) : len(every)]
        self.starts = found.to(torch.promote_types(found.dtype, torch.float32))  # (n facts, out)
        self.start = self.starts[first]  # (n subjects, out)
        # δ is measured by the stream, as that receives it; behind a norm only by what it is added to.
        multiple = 1.0 if site.role == "block" else received(lm, site).multiple
        stream = at(trace.outputs[Site(site.layer, "block") if multiple else site], self.batch.lookup)
        sizes = stream[: len(rows) : len(every)][first].to(self.start).norm(dim=1)
        self.size = sizes / abs(multiple or 1.0)  # (n subjects,)
        self.end(logits, cache)


def _named(lm: LM, asked: Sequence[Query], batch: Batch) -> Bool[Tensor, "b t"]:
    """Return where each row names its subject from the lookup token on: a model's own words may name it again."""
    named = torch.zeros_like(batch.inputs["input_ids"], dtype=torch.bool)
    named[torch.arange(len(batch), device=named.device), batch.lookup] = True
    for row, query in enumerate(asked):
        named[row, lm.tokens.again(query)] = True
    return named
