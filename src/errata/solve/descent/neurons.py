"""Joint descent on some entries of many matrices, without touching them.

Only what is learned exists: for each layer a tensor (out, n_l), the change of its n_l chosen columns, added by a hook to
what `down` puts out. Adam's state has that shape too, so an ensemble of a hundredth of a large model's neurons costs some
hundred megabytes, and nothing outside it can move: neither the weights nor the moments know of it.

    loss = mean over rows of mean_j -log P(y_j | x, y_<j)  +  Σ weight · mean over what is held of KL(p_0 ‖ p)
    step = lr / √n · (the gradient, or Adam's direction),  n = neurons (or entries) of the ensemble in all layers

With `tails`, steps run only the positions from each row's lookup token on, behind keys and values of before the change, while
the columns move: a change that is found by what neurons write at that token hardly says anything before it. The last steps, if
any are left to take, and what is reported are of whole rows, as the change will stand in the matrix.

``lr="auto"`` is set at the first step, which would take off the whole loss were the loss linear, but moves the entries, on
the root mean square, by at most a tenth of the matrices' own (Adam: 0.3 of both). The first makes it independent of how a
model is scaled and how deep it is, the second keeps it sane where the gradient is nearly zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from errata.delta import Columns, Site
from errata.errors import NotFinite
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.suffix import Suffix, joined, reused_cache, suffix_of
from errata.model.tokens import Batch
from errata.model.trace import Trace, beside, plain_attention, resume
from errata.solve.descent.losses import divergence, mean_loss
from errata.solve.keys import by_length
from errata.solve.values import Project

_Hidden = Float[Tensor, "b t d"]
ROWS = 64  # rows of one pass; gradients add up over passes


@dataclass(frozen=True, slots=True)
class NeuronTraining:
    """Settings of the descent.

    Args:
        steps: most updates.
        lr: size of a step before it is divided by √n. rooted: False leaves the division out.
        optimizer: "sgd" steps along the gradient itself, "adam" as its name says; neither decays weights.
        stop: mean loss at which to stop.
        hits: stop also after so many steps in a row at which every answer token is the likeliest; 0 never does.
    """

    steps: int = 50
    lr: float | Literal["auto"] = "auto"
    rooted: bool = True
    optimizer: Literal["sgd", "adam"] = "sgd"
    stop: float = 0.02
    hits: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Held:
    """What the model is to go on saying: the KL divergence from that, averaged over places, is minimised with a weight.

    Args:
        asked: rows; one without an answer is held at its end, one with an answer at each of its tokens.
    """

    asked: Sequence[Query]
    weight: float


@dataclass(frozen=True, eq=False, slots=True)
class Bounds:
    """What holds the change back.

    Args:
        held: what the model is to go on saying.
        units: by site, what a step of one moves each column (in,) by; sites not named: one. Only their relations matter.
        free: by site, a linear projection of (n, out) whose range the columns' change stays in; whole columns only.
    """

    held: Sequence[Held] = ()
    units: Mapping[Site, Float[Tensor, " in"]] = field(default_factory=dict)
    free: Mapping[Site, Project] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Learned:
    """What was learned.

    Args:
        deltas: the change of the chosen columns. loss: the last one, of the answers alone. steps: updates taken.
        converged: it stopped by itself.
    """

    deltas: Mapping[Site, Columns]
    loss: float
    steps: int
    converged: bool


def train(
    lm: LM,
    asked: Sequence[Query],
    chosen: Mapping[Site, Bool[Tensor, ...]],
    course: NeuronTraining,
    bounds: Bounds | None = None,
    *,
    tails: bool = False,
) -> Learned:
    """Learn the chosen entries together.

    Args:
        asked: rows with answers.
        chosen: by site, which columns (in,) or which entries (out, in) may move. Sites with none are left out.
        bounds: what holds the change back; None for nothing.
        tails: run rows from their lookup tokens on until that is good enough, where the architecture allows it.

    Raises:
        NotFinite: the loss is not finite.
    """
    bounds = bounds or Bounds()
    problem = _Problem(lm, asked, chosen, bounds, tails=tails)
    streak = step = 0
    while True:
        loss, right = problem.backward()
        streak = streak + 1 if right else 0
        done = loss < course.stop or 0 < course.hits <= streak
        if (done or step == course.steps) and problem.cut:
            loss, right = problem.uncut()
            done = loss < course.stop or (0 < course.hits <= streak and right)
            if not done and step < course.steps:
                continue
        if done or step == course.steps:
            break
        problem.take(course, loss, bounds.free)
        step += 1
    deltas = {site: Columns(problem.index[site], problem.moved(site).detach()) for site in problem.changes}
    return Learned(deltas, loss, step, done)


def _optimizer(problem: _Problem, course: NeuronTraining, loss: float) -> torch.optim.Optimizer:
    changes = list(problem.changes.values())
    adam = course.optimizer == "adam"
    root = math.sqrt(problem.size)
    lr = root * _first_step(problem, loss, adam) if course.lr == "auto" else course.lr
    lr = lr / root if course.rooted else lr
    return torch.optim.Adam(changes, lr=lr) if adam else torch.optim.SGD(changes, lr=lr)


def _first_step(problem: _Problem, loss: float, adam: bool) -> float:
    """Return what the first step's direction is to be multiplied with."""
    gradient = torch.cat([g.double().cpu().flatten() for g in problem.gradients()])
    direction = gradient.sign() if adam else gradient  # Adam's first step is the sign
    fall, length = float(direction @ gradient), float(direction.norm())
    if not fall > 0:
        return 1.0  # no gradient: whatever the step, nothing moves
    weights = [problem.lm.weights[site].detach() for site in problem.changes]
    square = sum(float(w.float().square().sum()) for w in weights) / sum(w.numel() for w in weights)
    bound = 0.1 * math.sqrt(square * int((gradient != 0).sum())) / length
    return min(loss / fall, bound) * (0.3 if adam else 1.0)


@dataclass(frozen=True, eq=False, slots=True)
class _Part:
    """Rows whose answers are counted together.

    Args:
        hidden: what enters the first block that may change; None where that is the model's first. share: of all rows of its
            kind, or times the weight what one of its places counts. before: what was said, where that is to stay.
        suffix: how the rows are run from their lookup tokens on; None where they are not.
    """

    batch: Batch
    hidden: _Hidden | None
    share: float
    before: Float[Tensor, "a v"] | None
    suffix: Suffix | None


@dataclass(frozen=True, eq=False, slots=True)
class _Pass:
    """What is run at once: parts, the answers' places of one after those of another, as whole rows or cut."""

    parts: Sequence[_Part]
    batch: Batch
    hidden: _Hidden | None
    cache: Any = None


class _Problem:
    """The rows, what does not change while the columns are learned, and what does."""

    def __init__(
        self, lm: LM, asked: Sequence[Query], chosen: Mapping[Site, Tensor], bounds: Bounds, *, tails: bool
    ) -> None:
        self.lm, self.cut = lm, tails and lm.row.kind == "decoder"
        self._optimizer: torch.optim.Optimizer | None = None
        self.size = sum(int(mask.sum()) for mask in chosen.values())  # n
        self.masks: dict[Site, Bool[Tensor, "out n"]] = {}
        self.index: dict[Site, Int[Tensor, " n"]] = {}
        self.changes: dict[Site, Float[Tensor, "out n"]] = {}
        for site, mask in chosen.items():
            self._add(site, mask)
        self.units = _units(bounds.units, self.index)
        self.first = min(site.layer for site in self.changes)
        parts = [replace(part, share=len(part.batch) / len(asked), before=None) for part in self._read(asked)]
        for one in bounds.held:
            read = list(self._read(one.asked))
            places = sum(len(part.batch.rows) for part in read)
            parts += [replace(part, share=one.weight / places) for part in read]
        self.whole = [_Pass([replace(part, suffix=None)], part.batch, part.hidden) for part in parts]
        self.tails = _cut(lm, parts)
        self.cut = bool(self.tails)

    def _read(self, asked: Sequence[Query]) -> Iterator[_Part]:
        """Yield rows as they are run, with what enters the first block and what is said."""
        block = Site(self.first, "block")
        for part in by_length(self.lm, asked, ROWS):
            batch = self.lm.routed(self.lm.tokens.batch(part).to(self.lm.device))
            cache = self.lm.cache() if self.cut else None
            with torch.no_grad(), Trace(self.lm, inputs=[block]) as trace:
                logits = self.lm.answer_logits(batch, cache)
            hidden, whole = trace.inputs[block], (logits, cache)
            suffix = None if cache is None else suffix_of(self.lm, batch, hidden, self.first, whole)
            yield _Part(batch, hidden if self.first else None, 1.0, logits.log_softmax(-1), suffix)

    def _add(self, site: Site, mask: Tensor) -> None:
        weight = self.lm.weights[site]
        columns = mask if mask.ndim == 1 else mask.any(0)
        index = torch.nonzero(columns)[:, 0].to(weight.device)
        if not len(index):
            return
        self.index[site] = index
        if mask.ndim == 2:
            self.masks[site] = mask.to(weight.device)[:, index]
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.changes[site] = torch.zeros(weight.shape[0], len(index), dtype=dtype, device=weight.device)
        self.changes[site].requires_grad_()

    def take(self, course: NeuronTraining, loss: float, free: Mapping[Site, Project]) -> None:
        """Take a step inside the free directions; the first one, from that loss, settles how large steps are."""
        self._project(free)
        self._optimizer = self._optimizer or _optimizer(self, course, loss)
        self._optimizer.step()
        self._project(free)

    @torch.no_grad()
    def _project(self, free: Mapping[Site, Project]) -> None:
        """Bring changes and gradients into the free directions: Adam's steps leave them though its gradients do not."""
        for site, onto in free.items():
            if site in self.changes:
                change = self.changes[site]
                change.copy_(onto(change.T).T)
                change.grad = None if change.grad is None else onto(change.grad.T).T.contiguous()

    def gradients(self) -> list[Tensor]:
        """Return the gradients `backward` left, in the order of the changes."""
        return [change.grad for change in self.changes.values() if change.grad is not None]

    def backward(self) -> tuple[float, bool]:
        """Leave the gradient in the changes; return what `uncut` does, of rows as they are run."""
        leaves, found = list(self.changes.values()), []
        sums = [torch.zeros_like(change) for change in leaves]
        for one in self._passes():
            with torch.enable_grad():
                loss, *measured = self._minimised(one)
            found.append(measured)
            for to, gradient in zip(sums, torch.autograd.grad(loss, leaves), strict=True):
                to += gradient
        for (site, change), gradient in zip(self.changes.items(), sums, strict=True):
            # A gradient masked from the first step on: outside the mask Adam's moments stay zero.
            change.grad = gradient * self.masks[site] if site in self.masks else gradient
        return _summed(found)

    @torch.no_grad()
    def uncut(self) -> tuple[float, bool]:
        """Run whole rows from here on; return the answers' loss and whether each of their tokens is the likeliest."""
        self.cut = False
        return _summed([self._minimised(one)[1:] for one in self._passes()])

    def _passes(self) -> Sequence[_Pass]:
        return self.tails if self.cut else self.whole

    def _minimised(self, one: _Pass) -> tuple[Tensor, float, bool]:
        """Return what is minimised of a pass, the answers' loss in it, and whether each of their tokens is the likeliest."""
        total, answers, right = [], 0.0, True
        said = self._logits(one).split([len(part.batch.rows) for part in one.parts])
        for part, logits in zip(one.parts, said, strict=True):
            total.append(part.share * _loss(part, logits))
            if part.before is None:
                right &= bool((logits.argmax(-1) == part.batch.labels).all())
                answers += total[-1].item()
        return torch.stack(total).sum(), answers, right

    def _logits(self, one: _Pass) -> Float[Tensor, "a v"]:
        with ExitStack() as stack:
            stack.enter_context(plain_attention(self.lm.device))
            stack.enter_context(beside(self.lm, {site: partial(self._added, site) for site in self.changes}))
            if one.hidden is not None:
                stack.enter_context(resume(self.lm, self.first, one.hidden))
            return self.lm.answer_logits(one.batch, None if one.cache is None else reused_cache(one.cache))

    def moved(self, site: Site) -> Float[Tensor, "out n"]:
        """Return the change of a site's columns, in the matrix's own units."""
        change = self.changes[site]
        return change * self.units[site].to(change) if site in self.units else change

    def _added(self, site: Site, x: Float[Tensor, "b t in"]) -> Float[Tensor, "b t out"]:
        change = self.moved(site)
        return x[..., self.index[site]].to(change.dtype) @ change.T


def _summed(found: Sequence[Sequence[Any]]) -> tuple[float, bool]:
    total = sum(answers for answers, _ in found)
    if not math.isfinite(total):
        raise NotFinite("training the ensemble diverged; lower lr with --set lr=….")
    return total, all(right for _, right in found)


def _cut(lm: LM, parts: Sequence[_Part]) -> list[_Pass]:
    """Return the passes that run rows from their lookup tokens on, many at once; none where some cannot be cut."""
    suffixes = [part.suffix for part in parts if part.suffix is not None]
    if len(suffixes) < len(parts):
        return []
    groups: list[list[int]] = []
    for i in range(len(suffixes)):
        mates = [suffixes[j] for j in (i, *groups[-1])] if groups else []
        # What a prompt opens is open in its whole row, so such rows are not joined.
        if mates and all(of.beside for of in mates) and sum(len(of.batch) for of in mates) <= ROWS:
            groups[-1].append(i)
        else:
            groups.append([i])
    found = []
    for group in groups:
        made = suffixes[group[0]] if len(group) == 1 else joined([suffixes[j] for j in group])
        tail = made.take(torch.arange(len(made.batch), device=made.hidden.device))
        counted = [replace(parts[j], suffix=None, hidden=None) for j in group]
        found.append(_Pass(counted, tail.batch, tail.hidden, tail.cache(lm)))
    return found


def _loss(part: _Part, logits: Float[Tensor, "a v"]) -> Float[Tensor, ""]:
    """Return the mean over rows of their answers' loss, or the sum over places of the divergence from what was said."""
    if part.before is None:
        return mean_loss(part.batch, logits)
    return divergence(part.before, logits)


def _units(units: Mapping[Site, Tensor], index: Mapping[Site, Tensor]) -> dict[Site, Float[Tensor, " n"]]:
    """Return the units of the chosen columns, over all sites 1 in the root mean square."""
    chosen = {site: units[site][places.to(units[site].device)] for site, places in index.items() if site in units}
    if not chosen:
        return {}
    size = torch.cat([unit.double().cpu() for unit in chosen.values()]).square().mean().sqrt()
    return {site: unit / float(size) for site, unit in chosen.items()}
