"""Probes of a case: one `Ask` for every question, in an order that never changes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Final

from errata.answers import same_answer
from errata.data import wording
from errata.data.case import PROBES, WILD, Case
from errata.errors import BadConfig, did_you_mean
from errata.evaluate import wild
from errata.evaluate.metrics import TfIdf
from errata.evaluate.scorer import PromptAnswer
from errata.fact import Fact
from errata.model.query import Prompt, Query, joint

_ENDS: Final = re.compile(r"(?<=[.!?])\s|\n")  # where the first sentence of a thought ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How cases are asked.

    Args:
        probes: kinds to ask (of `errata.data.case.PROBES` and `WILD`); unless given those of cases, but for free generation.
        length: most tokens of what is said; where an answer needs more, a multiple of it.
        chat: ask chat models a second time with their template, and the fact as a question.
        sample: tokens of a free generation. seed: what those are drawn with.
        idf: weights for `consistency`; counted on the references of the cases asked unless given.
        languages: those the model has, for probes of kind "language".
    """

    probes: tuple[str, ...] = (
        "edit", "paraphrase", "rephrase_easyedit", "question", "neighborhood", "unrelated", "portability",
    )  # fmt: skip
    length: int = 32
    chat: bool = True
    sample: int = 100
    seed: int = 0
    idf: TfIdf | None = None
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One probe to be asked.

    Args:
        case, probe, prompt: whose, of which kind, and the text.
        expected: every spelling that counts as right; the first is the one scored teacher-forced.
        new, true: the two answers whose probabilities are compared; empty where there is nothing to compare.
        speaks: whether the model is to speak freely.
        other: a prompt after which `new` must be less likely than after this one.
        step, thought: what the model is first to go on from, and how it did; both then stand before the prompt.
        turn: whether it is asked as a user's turn whatever the fact's own form is.
        fact: whose prompt, or another wording of it, this is; None where that is not known. A turn of a conversation is asked
            as one.
    """

    case: str
    probe: str
    prompt: str
    expected: tuple[str, ...] = ()
    new: str = ""
    true: str = ""
    speaks: bool = False
    turn: bool = False
    fact: Fact | None = None
    other: str = ""
    step: str = ""
    thought: str | None = None

    @property
    def reply(self) -> bool:
        """Whether what is said is a turn of a conversation."""
        return self.turn or (self.fact is not None and self.fact.chat)

    @property
    def asked(self) -> Prompt:
        """The prompt in the form it is put to the model."""
        return self.put(self.prompt)

    def put(self, prompt: str) -> Prompt:
        """Return a text in the form in which the fact's own prompt is put to the model."""
        if self.turn:
            return Query(prompt, role="user")
        own = self.fact is not None and (self.fact.chat or self.fact.joint is not None)
        return Query.asked(self.fact, prompt) if own and self.fact else prompt

    @property
    def pairs(self) -> set[PromptAnswer]:
        """What has to be scored for it."""
        found = {(self.asked, answer) for answer in (*self.expected[:1], self.new, self.true) if answer}
        return found | ({(self.put(self.other), self.new)} if self.other else set())

    def after(self, thought: str | None) -> Ask:
        """Return it after its first step, which the model ended so; of more than a sentence, the first."""
        first = _ENDS.split((thought or "").strip(), maxsplit=1)[0].rstrip(".!? ")
        return replace(self, prompt=f"{self.step}{joint(self.step, first)}{first}. {self.prompt}", thought=first)

    @property
    def key(self) -> tuple[str, ...]:
        """What it has in common with the same probe asked of the unedited model."""
        return self.case, self.probe, self.prompt, self.expected[0] if self.expected else ""


def plan(cases: Iterable[Case], options: Options | None = None) -> list[Ask]:
    """Return everything to be asked, case by case, probes in the order of `PROBES`.

    Raises:
        BadConfig: the options name a probe that does not exist.
    """
    options = options or Options()
    kinds, known = options.probes, (*PROBES, *WILD)
    for kind in kinds:
        if kind not in known:
            raise BadConfig(f"no probe {kind!r}.{did_you_mean(kind, known)} Known: {', '.join(known)}.")
    return [ask for case in cases for ask in _asks(case, options) if ask.probe.partition(".")[0] in kinds]


def _asks(case: Case, options: Options) -> Iterator[Ask]:
    every = (*_plain(case), *_wild(case, options))
    return (replace(ask, fact=case.fact) if ask.fact is None else ask for ask in every)


def _wild(case: Case, options: Options) -> Iterator[Ask]:
    for one in wild.asked(case, options.probes, options.languages):
        given = {field.name: getattr(one, field.name) for field in fields(one) if field.name != "kind"}
        yield Ask(case=case.id, probe=one.kind, **given)


def _plain(case: Case) -> Iterator[Ask]:
    new, true = case.target, "" if same_answer(case.target, case.truth) else case.truth
    edits = [(case.prompt, new, true, case.fact), *((f.prompt, f.target, f.truth, f) for f in case.also)]
    for prompt, target, truth, fact in edits:
        yield Ask(
            case=case.id,
            probe="edit",
            prompt=prompt,
            expected=(target,),
            new=target,
            true=truth,
            speaks=True,
            fact=fact,
        )
    for kind, prompts in (("paraphrase", case.rephrases), ("rephrase_easyedit", case.rephrases_easyedit)):
        for prompt in prompts:
            yield Ask(case=case.id, probe=kind, prompt=prompt, expected=(new,), new=new, true=true, speaks=True)
    if asked := _question(case):
        yield Ask(case=case.id, probe="question", prompt=asked, expected=(new,), true=true, speaks=True, turn=True)
    for prompt, answer in case.neighborhood:
        other = "" if same_answer(answer, new) else new  # a neighbour that has the new answer anyway says nothing
        yield Ask(case=case.id, probe="neighborhood", prompt=prompt, expected=(answer,), new=other, true=answer)
    for prompt, answer in case.unrelated:
        expected = (answer,) if answer else ()
        yield Ask(case=case.id, probe="unrelated", prompt=prompt, expected=expected, speaks=not answer)
    for kind, questions in case.portability.items():
        for prompt, right in questions:
            yield Ask(case=case.id, probe=f"portability.{kind}", prompt=prompt, expected=right, speaks=True)
    for prompt in case.generation:
        yield Ask(case=case.id, probe="generation", prompt=prompt)


def _question(case: Case) -> str:
    """Return how a user would ask for the fact: as the data set does, or by a question made of the prompt or a rephrasing."""
    if case.fact is not None and case.fact.chat:
        return ""
    made = (wording.question(prompt, case.subject) for prompt in (case.prompt, *case.rephrases))
    return case.question or next((asked for asked in made if asked), "")
