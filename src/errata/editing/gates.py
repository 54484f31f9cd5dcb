"""Gates: what an edited model must still do. An edit that fails one is refused, and nothing is changed.

    # gates.toml, beside the book's database or named with --gate
    said = 0.9              # of the new facts, by the model's own words
    neighborhood = 0.95     # of the neighbours it knew before
    perplexity = 2.0        # per cent it may rise on ordinary text

What a gate needs is measured before the edit and after it. Facts without a question of a kind that is asked (paraphrase,
neighborhood, unrelated) are given some (`errata.editing.made`), and figures say how many. A gate is closed by what is no finite
number, and where no question could be made. Where a question is there but nothing was known before, as with no edit standing
yet, nothing can have moved: it lets through, and what was written says that nothing was asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from math import exp, fsum, inf, isfinite, nan
from pathlib import Path
from typing import Any, Final

from errata.answers import says
from errata.book.book import Book
from errata.config import check_types, from_dict, from_toml
from errata.content import check_hash, read_file
from errata.data.facts import read_facts
from errata.edit import Edit
from errata.editing.made import with_probes
from errata.errors import BadConfig, BadFile, GateClosed
from errata.evaluate.perplexity import measure
from errata.evaluate.scorer import Scorer
from errata.fact import Fact, question
from errata.model.lm import LM
from errata.model.query import Prompt, Query
from errata.stats.corpus import open_corpus

NAME: Final = "gates.toml"
TEXT: Final = 1 << 20  # bytes of gates that are read
LENGTH: Final = 24  # most tokens of what is said, where no answer is longer


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Limits; None is no gate. All but the last two rows are shares of what is asked, and the least that will do."""

    said: float | None = field(default=None, metadata={"help": "new facts that the model says by itself"})
    efficacy: float | None = field(default=None, metadata={"help": "new facts likelier than the answer before"})
    paraphrase: float | None = field(default=None, metadata={"help": "paraphrases answered with the new fact"})
    neighborhood: float | None = field(default=None, metadata={"help": "neighbours known before and still said"})
    unrelated: float | None = field(default=None, metadata={"help": "unrelated facts known before and still said"})
    sentinel: float | None = field(default=None, metadata={"help": "sentinel facts known before and still said"})
    oldest: float | None = field(default=None, metadata={"help": "oldest standing edits said before and still"})
    perplexity: float | None = field(default=None, metadata={"help": "most per cent the perplexity may rise"})
    norm_ratio: float | None = field(default=None, metadata={"help": "most ‖ΔW‖/‖W‖ of a matrix, all edits together"})
    sentinels: str = field(default="", metadata={"help": "file of facts that must not move"})
    sentinels_sha256: str = field(default="", metadata={"help": "hash that file must have; a policy keeps it"})
    asked: int = field(default=20, metadata={"help": "how many of the oldest edits are asked"})
    text: str = field(default="auto", metadata={"help": "text of the perplexity: prose, primer, or a file"})
    texts: int = field(default=40, metadata={"help": "how many documents of it"})

    def __post_init__(self) -> None:
        for name in SHARES:
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 <= value <= 1:
                raise BadConfig(f"the gate {name} = {value:g} is a share, between 0 and 1.")
        check_types(self)
        for name in COUNTS:
            if not 0 < getattr(self, name) <= MANY:
                raise BadConfig(f"{name} = {getattr(self, name)} is a number of questions or texts: 1 to {MANY:,}.")
        if self.sentinel is not None and not self.sentinels:
            raise BadConfig("the gate sentinel needs sentinels = a file of facts.")


SHARES: Final = ("said", "efficacy", "paraphrase", "neighborhood", "unrelated", "sentinel", "oldest")
MOST: Final = ("perplexity", "norm_ratio")
COUNTS: Final = ("asked", "texts")
MANY: Final = 100_000  # of these
_PROBED: Final = ("paraphrase", "neighborhood", "unrelated")  # asked of probes, which facts may lack
_ADVICE: Final = "give the facts probes of that kind, or take the gate out"
_HUGE: Final = 700.0  # nats a token, above which no perplexity is a number


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured at a gate.

    Args:
        gate: its name. value: what was found; None where nothing was asked, or what was found is no number. limit: of the
            gate, if it is one.
        asked: how many questions or texts. passed: whether the edit may go through. lost: what moved, in words.
        made: how many of the questions nobody wrote: they were made for facts that had none of that kind.
    """

    gate: str
    value: float | None
    limit: float | None
    asked: int
    passed: bool
    lost: tuple[str, ...] = ()
    made: int = 0

    @property
    def empty(self) -> bool:
        """Whether nothing was asked, so that nothing is known."""
        return self.value is None and not self.asked

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values; how many were made only where some were."""
        row = {**asdict(self), "lost": list(self.lost)}
        return row if self.made else {name: value for name, value in row.items() if name != "made"}


def read(path: str | Path) -> Gates:
    """Read gates from a TOML file; raises BadFile if it cannot be read, BadConfig for what makes no gate."""
    path = Path(path)
    try:
        gates = from_toml(Gates, read_file(path, TEXT).decode())
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or NUL in the path
        raise BadFile(f"cannot read the gates in {path} ({error}): mend the file, or remove it.") from error
    except BadConfig as error:
        raise BadConfig(f"{path}: {error}") from error
    if gates.sentinels and not Path(gates.sentinels).is_absolute():
        gates = replace(gates, sentinels=str(path.parent / gates.sentinels))
    return gates


def of_book(directory: Path) -> Gates | None:
    """Return the gates that lie beside a book, if any do: what is there and cannot be read is an error, not no gate."""
    return read(directory / NAME) if os.path.lexists(directory / NAME) else None


def in_force(book: Book, named: Gates | None = None) -> Gates | None:
    """Return the gates of an edit: those that are named, else those of the book's policy, else those beside the book.

    Raises:
        BadConfig: those that are named let something through that the policy's do not.
    """
    said = book.policy()
    if said.gates is None:
        return named or of_book(book.path)
    ours = from_dict(Gates, said.gates)
    if ours.sentinels and not Path(ours.sentinels).is_absolute():
        ours = replace(ours, sentinels=str(book.path / ours.sentinels))
    both = stricter(ours, named) or ours
    if named is not None and any(getattr(both, name) != getattr(named, name) for name in (*SHARES, *MOST)):
        raise BadConfig(
            f"the gates of the book {book.path} are in its policy, and others may only ask more: see errata policy."
        )
    return both


def stricter(ours: Gates | None, theirs: Gates | None) -> Gates | None:
    """Return gates that let through only what both do; what is asked, and how much, is as ours has it."""
    if ours is None or theirs is None:
        return ours or theirs
    pairs = {name: (getattr(ours, name), getattr(theirs, name)) for name in (*SHARES, *MOST)}
    limits = {name: [limit for limit in pair if limit is not None] for name, pair in pairs.items()}
    asked = theirs if not ours.sentinels else ours
    found = {name: (min if name in MOST else max)(known) for name, known in limits.items() if known}
    return replace(ours, **found, sentinels=asked.sentinels, sentinels_sha256=asked.sentinels_sha256)


class GateCheck:
    """Measures a model before an edit and after it, and closes the gates.

    Args:
        lm: the model, not edited yet. gates: None lets everything through. facts: what is to be written.
        standing: the edits that stand. every: measure what has no limit, too.
    """

    def __init__(
        self, lm: LM, gates: Gates | None, facts: Sequence[Fact], standing: Sequence[Edit], *, every: bool = False
    ) -> None:
        self._lm, self._gates = lm, gates or Gates()
        self._wanted = {n for n in (*SHARES, *MOST) if every or getattr(self._gates, n) is not None}
        self._scorer = Scorer(lm)
        self._facts = self._probed(facts, standing)
        self._kept: dict[str, list[tuple[Query, str]]] = {
            "neighborhood": self._probes("neighborhood"),
            "unrelated": self._probes("unrelated"),
            "sentinel": [(Query.asked(f), f.target) for f in self._sentinels()],
            "oldest": [(Query.asked(f), f.target) for f in self._oldest(standing)],
        }
        self._kept = {name: self._said(pairs) if name in self._wanted else [] for name, pairs in self._kept.items()}
        self._answers = (
            self._ask([Query.asked(f) for f in self._facts if not f.truth]) if "efficacy" in self._wanted else {}
        )
        self._perplexity = self._read() if "perplexity" in self._wanted else 0.0

    def let_through(self, written: Sequence[Edit]) -> list[Edit]:
        """Return the edits with what was measured in their reports.

        Raises:
            GateClosed: a gate is closed; the message names each, with its figures.
        """
        figures = self.figures() if self._wanted and written else []
        closed = [figure for figure in figures if not figure.passed]
        if closed:
            raise GateClosed(f"refused, nothing was changed: {'; '.join(map(sentence, closed))}.")
        if not figures:
            return list(written)
        rows = [figure.to_dict() for figure in figures]
        notes = [f"the gate {figure.gate} had nothing to ask." for figure in figures if figure.empty]
        return [
            replace(
                edit, report=edit.report.plus(gates=rows, **({"notes": [*edit.report.notes, *notes]} if notes else {}))
            )
            for edit in written
        ]

    def figures(self) -> list[Figure]:
        """Measure the model as it stands now."""
        new = [(Query.asked(f), f.target) for f in self._facts]
        known: dict[str, Callable[[], Figure]] = {
            "said": lambda: self._share("said", new),
            "efficacy": self._efficacy,
            "paraphrase": lambda: self._share("paraphrase", self._probes("paraphrase")),
            "perplexity": self._rise,
            "norm_ratio": self._ratio,
        }
        kept = {name: lambda name=name: self._share(name, self._kept[name]) for name in self._kept}
        return [{**known, **kept}[name]() for name in (*SHARES, *MOST) if name in self._wanted]

    # ---------------------------------------------------------------- measuring

    def _share(self, name: str, pairs: Sequence[tuple[Query, str]]) -> Figure:
        said = self._ask([asked for asked, _ in pairs], [answer for _, answer in pairs])
        wrong = [
            f"{asked.prompt} → {said[asked]} (not {answer})"
            for asked, answer in pairs
            if not says(said[asked], answer, reply=asked.turn)
        ]
        found = self._figure(name, 1 - len(wrong) / len(pairs) if pairs else None, len(pairs), tuple(wrong))
        return replace(found, made=self._made(name, pairs))

    def _efficacy(self) -> Figure:
        asked = [(Query.asked(f), f) for f in self._facts]
        rivals = [(query, f.target, f.truth or self._answers.get(query, "")) for query, f in asked]
        rivals = [(q, new, old.strip(" .")) for q, new, old in rivals if old and not says(old, new, reply=q.turn)]
        scored = self._scorer.answers([(q, answer) for q, *answers in rivals for answer in answers])

        def likelihood(query: Query, answer: str) -> float:
            lp = scored[query, answer].lp
            return -inf if lp is None else lp

        lower = [
            f"{q.prompt} → {new} is less likely than {old}"
            for q, new, old in rivals
            if not likelihood(q, new) > likelihood(q, old)  # a NaN is not
        ]
        return self._figure("efficacy", 1 - len(lower) / len(rivals) if rivals else None, len(rivals), tuple(lower))

    def _rise(self) -> Figure:
        now, before = self._read(), self._perplexity
        rise = 100 * (now / before - 1) if isfinite(before) and before > 0 else nan
        return self._figure("perplexity", rise, self._gates.texts, ())

    def _ratio(self) -> Figure:
        ratios = {}
        for site in self._lm.weights.touched():
            base = self._lm.weights.base(site).detach().double().cpu()
            ratios[str(site)] = float((self._lm.weights[site].detach().double().cpu() - base).norm() / base.norm())
        worst = max(ratios, key=lambda site: ratios[site] if isfinite(ratios[site]) else inf, default="")
        return self._figure("norm_ratio", ratios.get(worst), len(ratios), (f"at {worst}",) if worst else ())

    def _figure(self, name: str, value: float | None, asked: int, lost: tuple[str, ...]) -> Figure:
        limit: float | None = getattr(self._gates, name)
        if value is not None and not isfinite(value):
            value, lost = None, ("no finite number", *lost)
        if value is None:
            passed = limit is None or (not asked and not (name in _PROBED and not self._probes(name)))
        else:
            passed = limit is None or (value <= limit if name in MOST else value >= limit)
        return Figure(name, value, limit, asked, passed, lost)

    def _probed(self, facts: Sequence[Fact], standing: Sequence[Edit]) -> list[Fact]:
        """Return the facts with something to ask about each, made where it lacks what a gate needs."""
        kinds = [kind for kind in _PROBED if kind in self._wanted]
        return with_probes(self._lm, facts, standing, kinds) if kinds else list(facts)

    def _made(self, kind: str, pairs: Sequence[tuple[Query, str]]) -> int:
        """Return how many of these questions nobody wrote."""
        made = {Query.asked(f, p.prompt) for f in self._facts for p in f.probes if p.kind == kind and p.made}
        return sum(query in made for query, _ in pairs)

    def _probes(self, kind: str) -> list[tuple[Query, str]]:
        return [
            (Query.asked(f, p.prompt), p.answer) for f in self._facts for p in f.probes if p.kind == kind and p.answer
        ]

    def _sentinels(self) -> list[Fact]:
        if not (self._gates.sentinels and "sentinel" in self._wanted):
            return []
        if wanted := self._gates.sentinels_sha256:
            check_hash(self._gates.sentinels, wanted, "the sentinels of the policy")
        return read_facts(self._gates.sentinels)

    def _oldest(self, standing: Sequence[Edit]) -> list[Fact]:
        """Return facts that stand and are not asked anew, oldest first."""
        if "oldest" not in self._wanted:
            return []
        asked = {question(fact) for fact in self._facts}
        old = (fact for edit in standing for fact in edit.facts if question(fact) not in asked)
        return list(islice(old, self._gates.asked))

    def _said(self, pairs: Sequence[tuple[Query, str]]) -> list[tuple[Query, str]]:
        """Return those the model says now."""
        said = self._ask([asked for asked, _ in pairs], [answer for _, answer in pairs])
        return [(asked, answer) for asked, answer in pairs if says(said[asked], answer, reply=asked.turn)]

    def _ask(self, prompts: Sequence[Query], answers: Sequence[str] = ()) -> dict[Prompt, str]:
        length = self._lm.room(answers, LENGTH)
        return {prompt: text or "" for prompt, text in self._scorer.said(prompts, length).items()}

    def _read(self) -> float:
        texts = list(
            islice(open_corpus(self._gates.text, self._scorer.lm).documents(self._scorer.lm), self._gates.texts)
        )
        found = measure(self._scorer, texts)
        read = [nll for nll, tokens in zip(found.nll, found.tokens, strict=True) if tokens]  # others are too short
        mean = fsum(read) / sum(found.tokens) if read and all(map(isfinite, read)) else nan
        return exp(mean) if mean < _HUGE else nan


def sentence(figure: Figure) -> str:
    """Say what was measured at a gate, and what it asks for."""
    if figure.empty:
        return f"{figure.gate}: nothing to ask" + (
            "" if figure.passed else f", and the gate {figure.gate} asks: {_ADVICE}"
        )
    least = "at most" if figure.gate in MOST else "at least"
    unit = " %" if figure.gate == "perplexity" else ""
    limit = "" if figure.limit is None else f", {least} {figure.limit:g}{unit}"
    lost = "" if figure.passed or not figure.lost else f" ({figure.lost[0]}{', …' if len(figure.lost) > 1 else ''})"
    found = "no finite number" if figure.value is None else f"{figure.value:.3g}{unit}"
    lost = "" if figure.value is None else lost
    return f"the gate {figure.gate} found {found} (n = {asked(figure)}){limit}{lost}"


def asked(figure: Figure) -> str:
    """Say how many questions were asked, and how many of them nobody wrote."""
    return f"{figure.asked}{f', {figure.made} of them made' if figure.made else ''}"
