"""Find the settings of editing methods that suit a model, by writing facts it knows and asking what became of them.

    found = tune(lm, ["rome", "memit"])
    found.profile.best, found.profile.settings["rome"]
    profile.keep(lm, found.profile)                # taken wherever a method leaves a setting at "auto"

What is written are public facts the model knows (`data.common`), or facts of one's own, each with another answer. On half of
them settings are chosen by successive halving (Jamieson and Talwalkar, arXiv 1502.07943): every layer that may do writes a few,
the better half of them writes twice as many, until one is left; then how far an answer is to lead. Which layers may do is
guessed by how like the keys of other wordings are to the prompt's there, since what is written at a key is found again by what
looks it up. On the other half each method is measured with those settings and with those it had before, and keeps what did
better there.

    score = 3 / (1/said + 1/reworded + 1/kept) − 2 · drift

said: begins with the new answer. reworded: other wordings, and as a question in chat, are answered with it. kept: others'
answers to the same question stay. drift: KL divergence (nats) of what follows texts that have nothing to do with it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from errata import methods
from errata.answers import says
from errata.data.common import CommonRelation, relations
from errata.delta import Site
from errata.errors import BadConfig, BadFact, NotFinite
from errata.fact import Fact, Probe, occurrences
from errata.methods.base import Method, with_role
from errata.model.fitting import fits
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Room
from errata.solve.keys import gather, prefixes
from errata.stats import profile
from errata.stats.profile import Profile

SHARES: Final = (0.08, 0.17, 0.25, 0.33, 0.42, 0.5, 0.6)  # of the depth: where one may write
ALIKE: Final = 0.9  # how like keys of other wordings must be, as a share of the likest layer's
MARGINS: Final = (3.0, 6.0, 12.0)  # nats by which an answer is to lead
FIRST: Final = 3  # facts of the first round
MOST: Final = 8  # of the last
HELD: Final = 12  # of the other half
LEAST: Final = 8  # facts a model must know
NEIGHBOURS: Final = 4  # questions about others, for each fact
TEXTS: Final = 24  # texts that have nothing to do with it
_ROOM: Final = Room(12, 1)  # tokens in which an answer is to be said
_REPLY: Final = Room(24, 1)  # in a conversation


class Task(NamedTuple):
    """A fact to write, with probes of the kinds paraphrase and neighborhood, and the same as a question in a conversation."""

    fact: Fact
    question: str = ""


class _Cell(NamedTuple):
    """What became of one fact."""

    said: list[bool]
    reworded: list[bool]
    kept: list[bool]
    drift: float = 0.0


class Ability(NamedTuple):
    """What a method did, as shares of what was asked; drift in nats."""

    said: float
    reworded: float
    kept: float
    drift: float
    facts: int

    @property
    def score(self) -> float:
        """What settings are chosen by."""
        three = (self.said, self.reworded, self.kept)
        return (3 / sum(1 / one for one in three) if min(three) > 0 else 0.0) - 2 * self.drift


@dataclass(frozen=True, slots=True)
class Tried:
    """Settings of a method and what they did; `held`: on the facts that chose nothing."""

    method: str
    settings: Mapping[str, Any]
    ability: Ability
    held: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-able."""
        found = {name: round(float(value), 4) for name, value in self.ability._asdict().items()}
        return {"method": self.method, "settings": dict(self.settings), "held": self.held, **found,
                "facts": self.ability.facts, "score": round(self.ability.score, 4)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found: the profile, everything that was tried in order, and how many facts the model was found to know."""

    profile: Profile
    tried: tuple[Tried, ...]
    known: int

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-able."""
        return {**asdict(self.profile), "known": self.known, "tried": [one.to_dict() for one in self.tried]}


def tune(
    lm: LM,
    names: Sequence[str] = ("rome", "memit"),
    facts: Sequence[Fact] = (),
    *,
    seed: int = 0,
    tell: Callable[[str, int, int], None] | None = None,
) -> Tuned:
    """Find settings of methods that suit a model.

    Args:
        names: methods that have a layer or layers to choose.
        facts: with rephrases and probes (paraphrase, neighborhood) of their own; public ones that the model knows if empty.
        tell: called with what is done, how much of it, and of how much.

    Raises:
        BadConfig: a method has no layer to choose. BadFact: the model knows too few facts, or those given have no probes.
    """
    for name in names:
        _layer_field(methods.get(name))
    known = [Task(fact) for fact in facts if _asks(fact)] if facts else known_facts(lm, seed)
    if len(known) < LEAST:
        what = "of those given have a paraphrase and a neighborhood probe" if facts else "public ones does it know"
        raise BadFact(
            f"tuning needs {LEAST} facts, and only {len(known)} {what}: give facts of yours with --facts, each with probes of "
            "the kinds paraphrase and neighborhood."
        )
    before = profile.kept(lm)
    lm.memory["profile"] = Profile()  # what is compared with are the settings of a model that was never tuned
    try:
        search = _Search(lm, known, seed, tell or (lambda *_: None))
        for name in names:
            search.method(name)
        return Tuned(search.profile(), tuple(search.tried), len(known))
    finally:
        lm.memory["profile"] = before


def known_facts(lm: LM, seed: int = 0) -> list[Task]:
    """Return public facts the model says by itself, each with another answer to write, in a drawn order."""
    rng, found = random.Random(seed), []
    for relation in relations():
        asked = [Query(relation.asked(subject)[0]) for subject, _ in relation.rows]
        said = lm.generate(asked, _ROOM)
        known = [row for row, text in zip(relation.rows, said, strict=True) if says(text, row[1])]
        found += [_counterfact(relation, row, known, rng) for row in known if len({a for _, a in known}) > 1]
    return [task for task in rng.sample(found, len(found)) if fits(lm, Query.of(task.fact))]


def _counterfact(
    relation: CommonRelation, row: tuple[str, str], known: Sequence[tuple[str, str]], rng: random.Random
) -> Task:
    subject, truth = row
    target = rng.choice(sorted({answer for _, answer in known} - {truth}))
    prompt, *others = relation.asked(subject)
    near = [pair for pair in known if pair[0] != subject and pair[1] != target]
    probes = [Probe("paraphrase", text, target) for text in others]
    probes += [
        Probe("neighborhood", relation.asked(one)[0], answer)
        for one, answer in rng.sample(near, min(NEIGHBOURS, len(near)))
    ]
    questions = [text.replace("{}", subject) for text in relation.questions]
    return Task(Fact(prompt, subject, target, truth=truth, probes=tuple(probes)), questions[0] if questions else "")


def _asks(fact: Fact) -> bool:
    return {"paraphrase", "neighborhood"} <= {probe.kind for probe in fact.probes}


def _layer_field(method: type[Method]) -> str:
    """Return which field of a method says where it writes; raises BadConfig where none can be chosen."""
    fields = method.__dataclass_fields__
    for name in ("layer", "layers"):
        if name in fields and fields[name].default == "auto":
            return name
    raise BadConfig(f"{method.name} has no layer that could be chosen: take rome, memit, ledger or ft, for instance.")


def alike(lm: LM, facts: Iterable[Fact], layers: Iterable[int]) -> dict[int, float]:
    """Return by layer the mean cosine between a subject's key in the prompt and in other wordings."""
    sites = [Site(layer, "down") for layer in layers]
    found: dict[int, list[Tensor]] = {site.layer: [] for site in sites}
    for fact in facts:
        others = [p.prompt for p in fact.probes if p.kind == "paraphrase" and occurrences(p.prompt, fact.subject)]
        asked = [Query(text, span=occurrences(text, fact.subject)[-1]) for text in others]
        keys, _ = gather(lm, [Query.of(fact, ""), *(q for q in asked if fits(lm, q))], inputs=sites)
        for site in sites:
            turned = torch.nn.functional.normalize(keys[site].float(), dim=1)
            found[site.layer].append(turned[1:] @ turned[0])
    return {layer: float(torch.cat(parts).mean()) for layer, parts in found.items()}


@dataclass(slots=True)
class _Search:
    """Settings tried on one half of the facts, and the other half."""

    lm: LM
    tasks: Sequence[Task]
    seed: int
    tell: Callable[[str, int, int], None]
    tried: list[Tried] = field(default_factory=list)
    _before: Tensor = field(init=False)
    _cells: dict[tuple[str, str, Fact], _Cell] = field(default_factory=dict)
    _settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    _measured: dict[str, Ability] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._before = self._texts()

    def method(self, name: str) -> None:
        """Find the settings of one method."""
        chooses, measures = self.tasks[::2], self.tasks[1::2][:HELD]
        best = self._halved(name, [{place: where} for place, where in self._places(name)], chooses, FIRST)
        if "margin" in methods.get(name).__dataclass_fields__:
            now = methods.make(name, best).resolve(self.lm).margin  # type: ignore[attr-defined]
            best = self._halved(name, [best, *({**best, "margin": m} for m in MARGINS if m != now)], chooses, MOST)
        plain, tuned = (self._tried(name, how, measures, True) for how in ({}, best))
        keeps = (
            best if round(tuned.score, 4) > round(plain.score, 4) else {}
        )  # as its figures say: a tie keeps the default
        self._settings[name], self._measured[name] = dict(keeps), tuned if keeps else plain

    def _places(self, name: str) -> Iterator[tuple[str, Any]]:
        """Yield where a method may write, the place it takes by itself first."""
        own = methods.make(name, {}).resolve(self.lm)
        place = _layer_field(type(own))
        now = getattr(own, place)
        yield place, now
        reached = range(self.lm.reachable)
        last = sorted({min(reached[-1], round(share * self.lm.reachable)) for share in SHARES})
        likeness = alike(self.lm, [task.fact for task in self.tasks[::2][:MOST]], last)
        width = len(now) if isinstance(now, tuple) else 1
        for layer in last:
            where = with_role(self.lm, range(max(0, layer - width + 1), layer + 1), "down")
            chosen: Any = where if isinstance(now, tuple) else layer
            if where and layer in where and chosen != now and likeness[layer] >= ALIKE * max(likeness.values()):
                yield place, chosen

    def _halved(
        self, name: str, settings: Sequence[dict[str, Any]], tasks: Sequence[Task], count: int
    ) -> dict[str, Any]:
        """Return the best of some settings: the better half of them write twice as many facts, until one is left."""
        left = list(settings)
        while len(left) > 1:
            scores = [self._tried(name, how, tasks[:count], False).score for how in left]
            order = sorted(range(len(left)), key=lambda i: -scores[i])  # of equals the first: what there was before
            left = [left[i] for i in order[: 1 if count >= min(MOST, len(tasks)) else ceil(len(left) / 2)]]
            count = min(MOST, 2 * count)
        return left[0]

    def _tried(self, name: str, settings: Mapping[str, Any], tasks: Sequence[Task], held: bool) -> Ability:
        cells = []
        for done, task in enumerate(tasks):
            self.tell(" ".join([name, *(f"{k}={v}" for k, v in settings.items())]), done, len(tasks))
            cells.append(self._cell(name, settings, task))
        said, reworded, kept = (
            _mean([one for answers in part for one in answers])
            for part in zip(*(cell[:3] for cell in cells), strict=True)
        )
        found = Ability(said, reworded, kept, sum(cell.drift for cell in cells) / len(cells), len(cells))
        self.tried.append(Tried(name, dict(settings), found, held))
        return found

    def _cell(self, name: str, settings: Mapping[str, Any], task: Task) -> _Cell:
        """Return what became of one fact; looked up where it has been written with these settings before."""
        key = name, repr(sorted(settings.items())), task.fact
        if key not in self._cells:
            self._cells[key] = self._written(methods.make(name, {**settings, "seed": self.seed}), task)
        return self._cells[key]

    def _written(self, how: Method, task: Task) -> _Cell:
        fact = task.fact
        worded, near = ([p for p in fact.probes if p.kind == kind] for kind in ("paraphrase", "neighborhood"))
        try:
            edit = how.solve(self.lm, [fact])
        except NotFinite:
            return _Cell([False], [False], [False])
        chat = [Query(task.question, role="user")] if task.question and self.lm.tokens.chat.exists else []
        with self.lm.weights.trial([edit.deltas]):
            asked = [Query.asked(fact), *(Query.asked(fact, probe.prompt) for probe in (*worded, *near))]
            first, *rest = self.lm.generate(asked, _ROOM)
            replies = self.lm.generate(chat, _REPLY) if chat else []
            after = self._texts()
        answered = [says(text, probe.answer) for text, probe in zip(rest, (*worded, *near), strict=True)]
        reworded = [*answered[: len(worded)], *(says(text, fact.target, reply=True) for text in replies)]
        drift = float((self._before.exp() * (self._before - after)).sum(-1).mean())
        return _Cell([says(first, fact.target)], reworded, answered[len(worded) :], drift)

    @torch.no_grad()
    def _texts(self) -> Tensor:
        """Return the log-probabilities of what comes next in texts that the base has said by itself, (n, v)."""
        texts = [text for text in prefixes(self.lm, self.seed + 1, TEXTS, 12) if text]
        return self.lm.answer_logits(self.lm.tokens.batch([Query(text) for text in texts])).log_softmax(-1)

    def profile(self) -> Profile:
        """Return what was found."""
        best = max(self._measured, key=lambda name: self._measured[name].score)
        measured = {
            name: {k: round(float(v), 4) for k, v in of._asdict().items() if k != "facts"}
            | {"score": round(of.score, 4)}
            for name, of in self._measured.items()
        }
        facts = max(of.facts for of in self._measured.values())
        return Profile(self.lm.name, self.lm.fingerprint, self._settings, best, measured, facts)


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
