"""Windows of a long answer: for each one a value at the last token of the text before it, learned one after another.

For an answer y = y_1 … y_M after x, cut into windows Y_m of `size` tokens that begin at s_m (arXiv 2502.05628)

    p_m: the token before Y_m, where h_m = h^L[p_m] is what block L puts out
    δ_m = argmin_δ  −log P(Y_m | x, y_<s_m; h_1 + δ_1, …, h_{m−1} + δ_{m−1}, h_m + δ) / |Y_m| + decay · ‖δ‖ / ‖h_m‖²

by Adam, as `value_rows` does for v*. An answer is read in several forms (after the plain prompt, in a chat template); a window
has one δ and, in each form, a place of its own. Windows are counted from the answer's end, because there its tokens are the
same in every form. In a template the first window's place is the prompt's own last token, not the template's, which stands
before every reply. What an encoder reads holds no answer: behind one the answer is a single window at the prompt's last token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from errata.delta import Site
from errata.fact import Fact
from errata.model.fitting import fits
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Batch
from errata.model.trace import Trace, at
from errata.solve.keys import placed
from errata.solve.value_rows import Constraint, Rows, ValueTraining, learn

AT_ONCE = 16  # facts whose windows are learned beside each other
ROWS = 32  # rows of a pass that records keys


class Pairs(NamedTuple):
    """Windows in every form: q places at which something is to be put out.

    Args:
        row: whose row of the batch. place: the position there. target: z = h + δ.
    """

    row: Int[Tensor, " q"]
    place: Int[Tensor, " q"]
    target: Float[Tensor, "q out"]


@dataclass(frozen=True, eq=False, slots=True)
class WindowValues:
    """What was learned for each of the w windows, those of one fact after another.

    Args:
        pairs: where what is to be put out. fact: (w,) whose window. delta: (w, out). loss, steps, done: as `Values` has them.
    """

    pairs: Pairs
    fact: Int[Tensor, " w"]
    delta: Float[Tensor, "w out"]
    loss: Float[Tensor, " w"]
    steps: Int[Tensor, " w"]
    done: Bool[Tensor, " w"]


class WindowKeys(NamedTuple):
    """What a matrix reads and a site gives at the windows' places, and what the matrix reads everywhere else."""

    keys: Float[Tensor, "q in"]
    now: Float[Tensor, "q out"]
    others: Float[Tensor, "o in"]


def asked_in(lm: LM, facts: Sequence[Fact], forms: Sequence[str], end: str = "") -> tuple[list[Query], int]:
    """Return facts with their answers in every form with which all of them fit, and how many forms those are.

    Args:
        forms: as `keys.contexts` gives them, the bare prompt ("") first. end: what ends each answer.
    """
    every = []
    for form in forms:
        made = [placed(_at_the_end(fact, end), form) for fact in facts]
        every += [made] if not form or all(fits(lm, query) for query in made) else []
    return [made[place] for place in range(len(facts)) for made in every], len(every)


def _at_the_end(fact: Fact, end: str) -> Query:
    asked = Query.of(fact, f"{fact.target}{end}")
    last = len(asked.prompt.rstrip())
    return replace(asked, span=(last - 1, last))


def cuts(count: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Return where each window begins and ends among `count` tokens: each but the first takes the last `overlap` up again."""
    found = [(0, min(size, count))]
    while found[-1][1] < count:
        start = found[-1][1] - overlap
        found.append((start, min(start + size, count)))
    return found


class Windows:
    """Rows of some facts, `forms` for each, and where their windows lie.

    Args:
        asked: as `asked_in` gives them. size, overlap: of a window, in tokens.
    """

    def __init__(self, lm: LM, asked: Sequence[Query], forms: int, size: int, overlap: int) -> None:
        self.lm, self.forms = lm, forms
        self.batch = lm.routed(lm.tokens.batch(asked).to(lm.device))
        counts = torch.bincount(self.batch.rows, minlength=len(self.batch)).tolist()
        self._begins = [sum(counts[:row]) for row in range(len(counts))]  # where a row's labels begin
        whole = lm.row.kind != "decoder"
        self._cuts = [cuts(n, n if whole else size, 0 if whole else overlap) for n in counts[::forms]]
        self._counts = counts

    @property
    def most(self) -> int:
        """How many windows the longest answer has."""
        return max(map(len, self._cuts))

    def part(self, number: int) -> tuple[Int[Tensor, " s"], Batch]:
        """Return the rows that have so many windows, and these rows up to the end of that one, its tokens as labels."""
        rows = [row for row in range(len(self.batch)) if len(self._cuts[row // self.forms]) > number]
        labels = [self._labels(row, number) for row in rows]
        whole, cols = self.batch, self.batch.cols
        lookup = [
            int(whole.lookup[row] if not number else cols[mine[0]]) for row, mine in zip(rows, labels, strict=True)
        ]
        taken = torch.tensor(rows, device=cols.device)
        inputs = {name: values[taken] for name, values in whole.inputs.items()}
        if self.lm.row.kind == "decoder":
            ends = torch.stack([cols[mine[-1]] + 1 for mine in labels])
            inputs = {name: values[:, : int(ends.max())] for name, values in inputs.items()}
            before_end = torch.arange(int(ends.max()), device=cols.device) < ends[:, None]
            inputs["attention_mask"] = inputs["attention_mask"] * before_end
        wanted = torch.tensor([label for mine in labels for label in mine], device=cols.device)
        place = torch.tensor([i for i, mine in enumerate(labels) for _ in mine], device=cols.device)
        assert whole.ends is not None
        routes = {name: route[taken] for name, route in whole.routes.items()}
        at_ = torch.tensor(lookup, device=cols.device)
        return taken, Batch(inputs, at_, place, cols[wanted], whole.labels[wanted], whole.ends[taken], routes)

    def _labels(self, row: int, number: int) -> range:
        """Return which labels a window of a row has, counted from the answer's end as the fact's first row counts them."""
        shift = self._counts[row] - self._counts[row - row % self.forms]
        start, stop = self._cuts[row // self.forms][number]
        stop = max(stop + shift, 1)  # a first window of a token or two may be none in another form
        start = min(max(start + shift, 0), stop - 1) if number else 0
        return range(self._begins[row] + start, self._begins[row] + stop)


class _Window(Rows):
    """One window of every answer that has so many, behind what was learned for those before it."""

    def __init__(self, windows: Windows, number: int, site: Site, goal: ValueTraining, already: Tensor | None) -> None:
        self.lm, self.site, self.goal = windows.lm, site, goal
        self.taken, self.batch = windows.part(number)
        count, device = len(self.batch), windows.lm.device
        self.n = count // windows.forms
        self.subject = torch.arange(self.n, device=device)
        self.owner = self.subject.repeat_interleave(windows.forms)
        self.count = torch.full((self.n,), windows.forms, device=device)
        self.learned = self.says = torch.ones(count, dtype=torch.bool, device=device)
        self.named = torch.zeros_like(self.batch.inputs["input_ids"], dtype=torch.bool)
        self.named[torch.arange(count, device=device), self.batch.lookup] = True
        self.already = None if already is None else already[self.taken, : self.named.shape[1]]
        logits, cache, trace = self.begin()
        self.place, self.before = self.batch.rows[:0], logits[:0]  # nothing is kept
        self.weigh = logits.new_zeros(0)
        found = at(trace.outputs[site], self.batch.lookup)
        self.every = found.to(torch.promote_types(found.dtype, torch.float32))  # (rows, out)
        self.starts = self.start = self.every[:: windows.forms]
        self.end(logits, cache)


def learn_windows(
    windows: Windows, site: Site, goal: ValueTraining, restraint: Constraint | None = None
) -> WindowValues:
    """Learn what `site` is to put out for every window of every answer, each behind those before it.

    Args:
        site: role ``block``, or ``down`` where the architecture norms what that gives. goal: its `kl`, `follows` and `names`
            are not looked at.

    Raises:
        NotFinite: a loss is not finite.
    """
    already: Tensor | None = None
    found, pairs, facts = [], list[Pairs](), list[Tensor]()
    for number in range(windows.most):
        problem = _Window(windows, number, site, goal, already)
        learned = learn(problem, restraint or Constraint())
        delta = learned.delta[problem.owner]  # (rows, out)
        if already is None:
            already = delta.new_zeros(*windows.batch.inputs["attention_mask"].shape, delta.shape[1])
        already[problem.taken, problem.batch.lookup] += delta
        pairs.append(Pairs(problem.taken, problem.batch.lookup, problem.every + delta))
        facts.append(problem.taken[:: windows.forms] // windows.forms)
        found.append(learned)
    fact = torch.cat(facts)
    order = fact.argsort(stable=True)  # a fact's windows follow one another
    told = [torch.cat([getattr(part, name) for part in found])[order] for name in ("delta", "loss", "steps", "done")]
    return WindowValues(Pairs(*map(torch.cat, zip(*pairs, strict=True))), fact[order], *told)


@torch.no_grad()
def seen_at(windows: Windows, pairs: Pairs, site: Site, top: Site) -> WindowKeys:
    """Return the inputs of `site` and the outputs of `top` at the windows' places, and the inputs everywhere else."""
    keys, now, others = (list[Tensor]() for _ in range(3))
    order = list[Tensor]()
    for rows in torch.arange(len(windows.batch), device=pairs.row.device).split(ROWS):
        batch = windows.batch.take(rows)
        with Trace(windows.lm, inputs=[site], outputs=[top], stop=Site(top.layer, "block")) as trace:
            windows.lm.forward(batch)
        mine = torch.nonzero((pairs.row >= rows[0]) & (pairs.row <= rows[-1]))[:, 0]
        here = pairs.row[mine] - rows[0], pairs.place[mine]
        rest = batch.inputs["attention_mask"].bool()
        rest[here] = False
        order.append(mine)
        keys.append(trace.inputs[site][here])
        now.append(trace.outputs[top][here])
        others.append(trace.inputs[site][rest])
    back = torch.cat(order).argsort()
    return WindowKeys(torch.cat(keys)[back], torch.cat(now)[back], torch.cat(others))


def groups(count: int) -> Iterator[slice]:
    """Yield which facts are learned beside each other."""
    for start in range(0, count, AT_ONCE):
        yield slice(start, start + AT_ONCE)
