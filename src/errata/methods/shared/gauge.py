"""Measure by which layers a model tells subjects and questions apart, and how far keys in two parts may be.

found = gauge(lm)
found.subject, found.question, found.reach, found.radius

Measured by the wordings of `errata.data.common`: one subject against others that end in the same token, at an early layer, and
one question about a subject against others about it, at a late one. Chosen on SmolLM2-135M (60 CounterFact records, 33
capitals), confirmed on the primer (30 facts): LOG.md, 2026-11-27.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.data.common import relations
from errata.delta import Site
from errata.methods.base import with_role
from errata.model.fitting import fits
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.trace import Trace, at
from errata.solve.keys import ROWS

EARLY, LATE = (0.05, 0.35), (0.6, 0.95)  # shares of the depth at which the two parts are looked for
SUBJECTS, WORDINGS = 2, 3  # of each relation
OTHERS = 3  # questions about the same subject
SPARED = 0.5  # what a wrong hit weighs, a missed one being 1: kin are rare, and a block learns to leave questions alone
TIE = 0.03  # of two layers that tell pairs apart so nearly alike the earlier is taken: more is left behind it
# Different subjects that end in one token, which nothing but the direction tells apart.
KIN: Final = (
    "North Korea", "South Korea", "North Carolina", "South Carolina", "West Virginia", "Virginia", "New Mexico", "Mexico",
    "John Adams", "Samuel Adams", "Henry James", "William James", "Papua New Guinea", "Equatorial Guinea",
    "General Motors", "Tata Motors", "Harvard University", "Yale University", "Michael Jackson", "Andrew Jackson",
    "The New York Times", "The Los Angeles Times", "Will Smith", "Adam Smith", "Northern Ireland", "Ireland",
)  # fmt: skip
KIN_ASKED: Final = ("{} is", "Many people think of {} as")
# Whatever a subject is, some of these can be said of it.
SAID_OF: Final = (
    "{} is", "{} was", "{} has a", "{} is known for", "{} is located in", "{} was born in", "{} was made by",
    "The history of {} began", "The name {} comes from", "Many people think of {} as",
)  # fmt: skip


@dataclass(frozen=True, eq=False, slots=True)
class Gauge:
    """Where and how keys in two parts are told apart on a model.

    Args:
        subject, question: the sites whose input is read. means: what is taken from both, (d,) each.
        reach, radius: greatest distances, 1 − cosine. close: within which half of all other wordings ask.
        figures: shares of pairs told apart, for the report.
    """

    subject: Site
    question: Site
    means: tuple[Tensor, Tensor]
    reach: float
    radius: float
    close: float
    figures: dict[str, Any]


@dataclass(frozen=True, eq=False, slots=True)
class KeysRead:
    """Keys of some prompts: (n, d) at the subject's last token, which token that is, and (n, e) at the prompt's last."""

    subjects: dict[Site, Float[Tensor, "n d"]]
    tokens: Int[Tensor, " n"]
    questions: dict[Site, Float[Tensor, "n e"]]


@torch.no_grad()
def read(lm: LM, asked: Sequence[Query], subject: Sequence[Site], question: Sequence[Site]) -> KeysRead:
    """Read what goes into sites at the subjects' and the prompts' last tokens, in float32."""
    parts: list[tuple[dict[Site, Tensor], Tensor, dict[Site, Tensor]]] = []
    deepest = max(site.layer for site in (*subject, *question))
    for start in range(0, len(asked), ROWS):
        batch = lm.tokens.batch(asked[start : start + ROWS]).to(lm.device)
        assert batch.ends is not None
        with Trace(lm, inputs=(*subject, *question), stop=Site(deepest, "block")) as trace:
            lm.forward(batch)
        tokens = batch.inputs["input_ids"].gather(1, batch.lookup[:, None])[:, 0]
        parts.append((
            {site: at(trace.inputs[site], batch.lookup).float() for site in subject}, tokens,
            {site: at(trace.inputs[site], batch.ends).float() for site in question},
        ))  # fmt: skip
    return KeysRead(
        {site: torch.cat([part[0][site] for part in parts]) for site in subject},
        torch.cat([part[1] for part in parts]),
        {site: torch.cat([part[2][site] for part in parts]) for site in question},
    )


def gauge(lm: LM, subject: int | None = None, question: int | None = None) -> Gauge:
    """Return the layers and distances by which this model tells subjects and questions apart; measured once.

    Args:
        subject, question: layers, where they are given.
    """
    memory = ("keys in two parts", subject, question)
    if memory not in lm.memory:
        with lm.weights.at_base():
            lm.memory[memory] = made = _measured(lm, subject, question)
        lm.memory[(memory[0], made.subject.layer, made.question.layer)] = made
    found: Gauge = lm.memory[memory]
    return found


def _measured(lm: LM, subject: int | None, question: int | None) -> Gauge:
    asked = list(_probes(lm))
    early = layers_within(lm, EARLY) if subject is None else [subject]
    late = layers_within(lm, LATE) if question is None else [question]
    keys = read(lm, [query for _, _, query in asked], *([Site(i, "up") for i in layers] for layers in (early, late)))
    about = [subject for subject, _, _ in asked]
    relation = [name for _, name, _ in asked]
    tokens = keys.tokens.tolist()
    pairs = list(combinations(range(len(asked)), 2))
    same = [(i, j) for i, j in pairs if about[i] == about[j] and tokens[i] == tokens[j]]
    kin = [(i, j) for i, j in pairs if about[i] != about[j] and tokens[i] == tokens[j]]
    asks = [(i, j) for i, j in pairs if about[i] == about[j] and about[i] not in KIN]
    near = [(i, j) for i, j in asks if relation[i] == relation[j]]
    far = [(i, j) for i, j in asks if relation[i] != relation[j]]
    one, told, within, beyond = _best({s: _told(found, same, kin) for s, found in keys.subjects.items()}, 0)
    reach = _bound(within, beyond, SPARED)
    two, apart, near_by, far_off = _best({s: _told(found, near, far) for s, found in keys.questions.items()}, TIE)
    radius = _bound(near_by, far_off, SPARED)
    figures = {"subject": round(told, 3), "question": round(apart, 3)}
    means = keys.subjects[one].mean(0), keys.questions[two].mean(0)
    return Gauge(one, two, means, reach, radius, float(near_by.median()), figures)


def _best(told: Mapping[Site, Told], tie: float) -> tuple[Site, float, Tensor, Tensor]:
    """Return the earliest of the sites that tell pairs apart nearly best, and what was found there."""
    most = max(share for share, _, _ in told.values())
    site = min((site for site, (share, _, _) in told.items() if share >= most - tie), key=lambda site: site.layer)
    return site, *told[site]


def layers_within(lm: LM, share: tuple[float, float]) -> list[int]:
    """Return the layers between two shares of the depth that have `up` and a layer behind them."""
    first, last = (round(s * lm.reachable) for s in share)
    last = min(last, lm.reachable - 2)
    return list(with_role(lm, range(min(first, last), last + 1), "up"))


def _probes(lm: LM) -> Iterator[tuple[str, str, Query]]:
    """Yield subject, relation and prompt of what the layers are measured by."""
    known = relations()
    for relation in known:
        for subject, _ in relation.rows[:SUBJECTS]:
            others = [r for r in known if r is not relation and any(subject == s for s, _ in r.rows)]
            wordings = [(relation.name, text) for text in relation.wordings[:WORDINGS]]
            wordings += [(r.name, r.wordings[0]) for r in others[:OTHERS]]
            wordings += [(text, text) for text in SAID_OF[: OTHERS - len(others)]]
            yield from ((subject, name, query) for name, text in wordings if fits(lm, query := _filled(text, subject)))
    for subject in KIN:
        yield from ((subject, text, query) for text in KIN_ASKED if fits(lm, query := _filled(text, subject)))


def _filled(text: str, subject: str) -> Query:
    start = text.index("{}")
    return Query(text.replace("{}", subject), span=(start, start + len(subject)))


Pairs: TypeAlias = Sequence[tuple[int, int]]
Told: TypeAlias = tuple[
    float, Float[Tensor, " m"], Float[Tensor, " k"]
]  # share told apart, distances of near and of far


def _told(keys: Float[Tensor, "n d"], near: Pairs, far: Pairs) -> Told:
    """Return which share of (near, far) pairs is told apart by distance, and the distances."""
    if not near or not far:  # a tokenizer that has no token of its own for anything, or one for everything
        return 0.5, torch.ones(1), torch.ones(1)
    turned = torch.nn.functional.normalize(keys - keys.mean(0), dim=-1)
    apart = (1 - turned @ turned.T).cpu()
    within, beyond = (apart[tuple(torch.tensor(pairs).T)] for pairs in (near, far))
    beyond_sorted = beyond.sort().values
    less = torch.searchsorted(beyond_sorted, within.contiguous())
    return 1 - float(less.double().mean()) / len(beyond), within, beyond


def _bound(near: Float[Tensor, " n"], far: Float[Tensor, " m"], weight: float) -> float:
    """Return the distance within which most of the near and few of the far lie."""
    places = near.sort().values
    gained = torch.arange(1, len(places) + 1) / len(places)
    lost = torch.searchsorted(far.sort().values, places.contiguous(), right=True) / len(far)
    best = float(places[int((gained - weight * lost).argmax())])
    return float(f"{max(1e-3, best):.4g}")
