"""Training MEND's hyper-network: edits made by it are to be said in other words, and to leave other texts as they were.

lessons = [Lesson(Query.of(fact), (Query("…", "Lyon"),), (Query("…", "Madrid"),)), …]
network = train(lm, begun(lm, sites, lessons, rank=256), lessons, Schedule(steps=1000))

    L = c_edit · mean −log P_{W+ΔW}(y' | x') + mean KL(P_W(· | x_loc) ‖ P_{W+ΔW}(· | x_loc))        (arXiv 2110.11309, Alg. 1)

ΔW is that of the lesson's own edit. No edit is ever applied: each row of a pass is given its own ΔW, as factors, beside the
matrices, so that one pass serves many edits; and the blocks below the first that is edited run once for each text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.delta import Site
from errata.errors import BadConfig, NotFinite
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Batch
from errata.model.trace import Trace, beside, no_grads_kept, plain_attention, resume
from errata.solve.descent.losses import mean_loss
from errata.solve.mend import GradientFactors, Network, factors
from errata.solve.ultraedit import Spread

AskedIn = tuple[Query, int]  # with the group of edits that stand where it is asked
Pair = tuple[Float[Tensor, "g k in"], Float[Tensor, "g k out"]]  # of each group of edits: right and left of its ΔW
_ROWS = 32  # lessons whose scale is taken at once


class Lesson(NamedTuple):
    """An edit, and what is asked of the model that it was made in.

    Args:
        edit: prompt and new answer. equivalent: the same in other words, with that answer; the prompt itself where none.
        local: texts it is not about; what is held is the prediction of their answers' tokens.
    """

    edit: Query
    equivalent: tuple[Query, ...]
    local: tuple[Query, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Settings of the training.

    Args:
        steps: updates, each of `size` lessons. lr: Adam's step, which falls to a tenth of itself by the end.
        rate_lr: the same for log α. edit: c_edit, what saying counts beside holding.
        together: how many edits of a step stand at once, drawn anew from these for every step; each divides `size`.
        clip: most norm of a gradient. seed: of the order of the lessons.
    """

    steps: int
    size: int = 10
    lr: float = 1e-3
    rate_lr: float = 1e-2
    edit: float = 0.1
    together: tuple[int, ...] = (1,)
    clip: float = 100.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.size, *self.together) < 1 or any(self.size % one for one in self.together):
            raise BadConfig("steps, size and together are at least 1, and size is a multiple of each of together.")


class Step(NamedTuple):
    """How far a training is: updates taken, the two parts of the last loss, and the network as it is now."""

    number: int
    said: float
    moved: float
    network: Network


class Below:
    """What goes into the first edited block, of texts that were run before: the blocks below do not change."""

    def __init__(self, lm: LM, layer: int) -> None:
        self._lm, self._at, self._known = lm, Site(layer, "block"), dict[Query, Tensor]()
        self.used = layer > 0 and lm.row.kind == "decoder"

    def given(self, asked: Sequence[Query], batch: Batch) -> Float[Tensor, "b t d"]:
        """Return it for the queries of a batch."""
        lengths = batch.inputs["attention_mask"].sum(1).tolist()
        new = [place for place, query in enumerate(asked) if query not in self._known]
        if new:
            part = batch.take(torch.tensor(new, device=batch.lookup.device))
            with torch.no_grad(), Trace(self._lm, inputs=[self._at], stop=self._at) as trace:
                self._lm.forward(part)
            for place, hidden in zip(new, trace.inputs[self._at], strict=True):
                self._known[asked[place]] = hidden[: lengths[place]].clone()
        rows = [self._known[query] for query in asked]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def begun(lm: LM, sites: Sequence[Site], lessons: Sequence[Lesson], rank: int, rate: float = 1e-4) -> Network:
    """Return a network that has learned nothing yet, with μ and σ of the lessons' own edits.

    Raises:
        BadConfig: there are no lessons. UnknownSite, UnsupportedModel: the model has no such matrix.
    """
    if not lessons:
        raise BadConfig("there is nothing to train a network on: give facts that have other wordings.")
    below, scales = Below(lm, min(site.layer for site in sites)), dict[Site, Spread]()
    for start in range(0, len(lessons), _ROWS):
        asked = [lesson.edit for lesson in lessons[start : start + _ROWS]]
        for site, one in _seen(lm, tuple(sites), asked, below).items():
            new = Spread.of(torch.cat([one.inputs, one.gradients], 1))
            scales[site] = scales[site] + new if site in scales else new
    return Network.fresh({site: lm.shape(site) for site in sites}, scales, rank, rate)


def train(
    lm: LM, network: Network, lessons: Sequence[Lesson], how: Schedule, watch: Callable[[Step], None] | None = None
) -> Network:
    """Return the trained network; the model is left as it was.

    Args:
        watch: told of each update after it.

    Raises:
        NotFinite: the loss is not finite.
    """
    leaves = {name: t.clone().requires_grad_() for name, t in network.learned().items()}
    rates = [t for name, t in leaves.items() if name.endswith("/log_rate")]
    others = [t for name, t in leaves.items() if not name.endswith("/log_rate")]
    optimizer = torch.optim.Adam([{"params": others}, {"params": rates}], lr=how.lr)
    below, parts, rng = Below(lm, network.layers[0]), _parts(lessons, how), random.Random(how.seed)
    for step in range(how.steps):
        share = 1 - 0.9 * step / how.steps
        for group, lr in zip(optimizer.param_groups, (how.lr, how.rate_lr), strict=True):
            group["lr"] = lr * share
        said, moved = objective(lm, network.holding(leaves), next(parts), rng.choice(how.together), below)
        loss = how.edit * said + moved
        if not bool(loss.isfinite()):
            raise NotFinite("the training of the network diverged; lower its steps, lr and rate_lr.")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(leaves.values(), how.clip)
        optimizer.step()
        if watch is not None:
            watch(Step(step + 1, float(said.detach()), float(moved.detach()), network.holding(_values(leaves))))
    return network.holding(_values(leaves))


def _values(leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach() for name, t in leaves.items()}


def _parts(lessons: Sequence[Lesson], how: Schedule) -> Iterator[list[Lesson]]:
    """Yield `size` lessons after `size` lessons without end, all of them in an order of its own each round."""
    rng, queue = random.Random(how.seed), list[Lesson]()
    while True:
        while len(queue) < how.size:
            queue += rng.sample(list(lessons), len(lessons))
        yield queue[: how.size]
        del queue[: how.size]


def objective(
    lm: LM, network: Network, lessons: Sequence[Lesson], together: int = 1, below: Below | None = None
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the mean −log P of equivalent prompts' answers, and the mean divergence of local texts, gradients and all.

    Args:
        together: how many lessons' edits stand at once. below: what is known of the blocks that no edit reaches.
    """
    below = Below(lm, network.layers[0]) if below is None else below
    with no_grads_kept(lm.model), plain_attention(lm.device):
        seen = _seen(lm, network.sites, [lesson.edit for lesson in lessons], below)
        pairs = {site: _grouped(network, site, one, together, len(lessons)) for site, one in seen.items()}
        said = [
            (query, n // together) for n, lesson in enumerate(lessons) for query in lesson.equivalent or [lesson.edit]
        ]
        held = [(query, n // together) for n, lesson in enumerate(lessons) for query in lesson.local]
        nll = [_nll(lm, part, pairs, below) for part in _alike(lm, said)]
        moved = [_moved(lm, part, pairs, below) for part in _alike(lm, held)]
    none = nll[0].new_zeros(())
    return sum(nll, none) / len(said), sum(moved, none) / max(1, len(held))


def _nll(lm: LM, asked: Sequence[AskedIn], pairs: Mapping[Site, Pair], below: Below) -> Float[Tensor, ""]:
    batch, logits = _passed(lm, asked, pairs, below)
    return mean_loss(batch, logits) * len(asked)


def _moved(lm: LM, asked: Sequence[AskedIn], pairs: Mapping[Site, Pair], below: Below) -> Float[Tensor, ""]:
    """Return the sum over rows of the mean over a row's places of KL(before ‖ after)."""
    with torch.no_grad():
        batch, before = _passed(lm, asked, {}, below)
    _, after = _passed(lm, asked, pairs, below)
    found = torch.nn.functional.kl_div(after.log_softmax(-1), before.log_softmax(-1), log_target=True, reduction="none")
    return (found.sum(1) / torch.bincount(batch.rows, minlength=len(batch))[batch.rows]).sum()


def _alike(lm: LM, asked: Sequence[AskedIn]) -> list[list[AskedIn]]:
    """Return rows in groups of like length, so that little is padded; on an accelerator padding costs less than a pass."""
    spread = 1.5 if lm.device.type == "cpu" else float("inf")
    sized = sorted((len(lm.tokens.join(query)), place) for place, (query, _) in enumerate(asked))  # characters
    groups: list[list[AskedIn]] = []
    least = 0
    for size, place in sized:
        if not groups or size > spread * least:
            groups.append([])
            least = size
        groups[-1].append(asked[place])
    return groups


def _seen(lm: LM, sites: tuple[Site, ...], asked: Sequence[Query], below: Below) -> dict[Site, GradientFactors]:
    batch = lm.tokens.batch(asked).to(lm.device)
    with ExitStack() as stack:
        if below.used:
            stack.enter_context(resume(lm, min(site.layer for site in sites), below.given(asked, batch)))
        return factors(lm, sites, batch)


def _grouped(network: Network, site: Site, seen: GradientFactors, together: int, count: int) -> Pair:
    """Return the factors of the ΔW of each group of `together` edits, filled up with zeros to one number of tokens."""
    change = network.change(site, seen)
    group = seen.rows // together
    groups, most = count // together, int(torch.bincount(group).max())
    # Tokens come row by row: the place of each among its group's is how many stand before it there.
    first = torch.searchsorted(group, torch.arange(groups))
    place = torch.arange(len(group)) - first[group]
    pair = tuple(
        part.new_zeros(groups, most, part.shape[0]).index_put((group, place), part.T)
        for part in (change.right, change.left)
    )
    return pair[0], pair[1]


def _passed(
    lm: LM, asked: Sequence[AskedIn], pairs: Mapping[Site, Pair], below: Below
) -> tuple[Batch, Float[Tensor, "a v"]]:
    """Return the batch of some queries, and its logits where each stands under the edits of its group."""
    queries, owner = [query for query, _ in asked], torch.tensor([group for _, group in asked])
    batch = lm.tokens.batch(queries).to(lm.device)
    with ExitStack() as stack:
        if below.used:
            stack.enter_context(resume(lm, below._at.layer, below.given(queries, batch)))
        stack.enter_context(beside(lm, {site: partial(_product, owner, *pair) for site, pair in pairs.items()}))
        return batch, lm.answer_logits(batch)


def _product(
    owner: Int[Tensor, " b"], right: Float[Tensor, "g k in"], left: Float[Tensor, "g k out"], x: Float[Tensor, "b t in"]
) -> Float[Tensor, "b t out"]:
    right, left = (part.to(x.device)[owner.to(x.device)] for part in (right, left))
    return x.to(right.dtype) @ right.mT @ left
