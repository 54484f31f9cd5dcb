"""A case: something to write, and everything that is asked about it afterwards.

Cases are what every benchmark is read into (`errata.data.cases`), whatever its files look like.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from errata.fact import Fact

Answerable = tuple[str, tuple[str, ...]]  # a prompt and every spelling of an answer that counts as right
# The order in which a case's probes are asked; portability is followed by its kind, as in "portability.alias".
PROBES = (
    "edit",
    "paraphrase",
    "rephrase_easyedit",
    "question",
    "neighborhood",
    "unrelated",
    "portability",
    "generation",
)
# What critics ask (`errata.evaluate.wild`), made of any case; and the edit prompt once more, of matrices in fewer bits.
WILD = ("negation", "reversed", "same_subject", "distractor", "neighborhood_plus", "grounded", "reworded", "language")
QUANTISED = ("q8", "q4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One record of a benchmark.

    Args:
        id: unique within its set.
        prompt, target: the edit prompt, and what shall be said after it.
        subject: what the fact is about; empty where the data set names nothing.
        truth: what was true before. Empty where nobody knows; what compares two answers is then not scored.
        fact: what a method writes; without a subject where the data set names none, or it does not stand in the prompt.
        also: further facts the questions presuppose (a chain of several edits), written together with `fact`.
        rephrases: real paraphrases of the prompt.
        question: the same asked as a question; empty where the data set has none (`errata.data.wording` may find one).
        rephrases_easyedit: EasyEdit's `rephrase_prompt` for CounterFact. In five of six records that is a generation
            prompt which does not ask for the fact, so it is never counted as a paraphrase.
        neighborhood: (prompt, answer) about other subjects that share the true answer.
        unrelated: (prompt, answer) that no edit should change; an empty answer means that only a change matters.
        portability: questions that follow from the new answer, by kind: "one_hop", "multi_hop", "alias", "inverse", ….
        generation: prompts to be continued freely. references: texts in which the new answer is true of others.
        source: data set, form and provenance, for the report.
    """

    id: str
    prompt: str
    target: str
    subject: str = ""
    truth: str = ""
    fact: Fact | None = None
    also: tuple[Fact, ...] = ()
    rephrases: tuple[str, ...] = ()
    question: str = ""
    rephrases_easyedit: tuple[str, ...] = ()
    neighborhood: tuple[tuple[str, str], ...] = ()
    unrelated: tuple[tuple[str, str], ...] = ()
    portability: Mapping[str, tuple[Answerable, ...]] = field(default_factory=dict)
    generation: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    source: str = ""

    @property
    def needs_subject(self) -> bool:
        """Whether the case is about a subject in its prompt, so that methods which locate one can write it."""
        return self.fact is not None and bool(self.fact.subject)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Everything a method has to write for this case, in order."""
        return () if self.fact is None else (self.fact, *self.also)


def with_subject(cases: Iterable[Case], method: str) -> tuple[list[Case], list[str]]:
    """Return the cases a method that needs a subject can write, and for each other one a sentence saying why not."""
    usable, refused = [], []
    for case in cases:
        if case.needs_subject:
            usable.append(case)
            continue
        why = f"{case.subject!r} does not stand in its prompt" if case.subject else "its data set names none"
        refused.append(f"{method} needs a subject; case {case.id} ({case.source}) has none: {why}.")
    return usable, refused
