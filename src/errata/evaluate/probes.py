"""Probes of a case: one `Ask` for every question, in an order that never changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from errata.answers import same_answer
from errata.data.case import PROBES, Case
from errata.errors import BadConfig, did_you_mean
from errata.evaluate.metrics import TfIdf
from errata.evaluate.scorer import PromptAnswer
from errata.fact import Fact
from errata.model.query import Prompt, Query


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How cases are asked.

    Args:
        probes: kinds to ask (of `errata.data.case.PROBES`); all but free generation unless given.
        length: most tokens of what is said; where an answer needs more, a multiple of it.
        chat: ask chat models a second time with their template.
        sample: tokens of a free generation. seed: what those are drawn with.
        idf: weights for `consistency`; counted on the references of the cases asked unless given.
    """

    probes: tuple[str, ...] = ("edit", "paraphrase", "rephrase_easyedit", "neighborhood", "unrelated", "portability")
    length: int = 32
    chat: bool = True
    sample: int = 100
    seed: int = 0
    idf: TfIdf | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One probe to be asked.

    Args:
        case, probe, prompt: whose, of which kind, and the text.
        expected: every spelling that counts as right; the first is the one scored teacher-forced.
        new, true: the two answers whose probabilities are compared; empty where there is nothing to compare.
        speaks: whether the model is to speak freely.
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
    fact: Fact | None = None

    @property
    def reply(self) -> bool:
        """Whether what is said is a turn of a conversation."""
        return self.fact is not None and self.fact.chat

    @property
    def asked(self) -> Prompt:
        """The prompt in the form it is put to the model."""
        own = self.fact is not None and (self.fact.chat or self.fact.joint is not None)
        return Query.asked(self.fact, self.prompt) if own and self.fact else self.prompt

    @property
    def pairs(self) -> set[PromptAnswer]:
        """What has to be scored for it."""
        return {(self.asked, answer) for answer in (*self.expected[:1], self.new, self.true) if answer}

    @property
    def key(self) -> tuple[str, ...]:
        """What it has in common with the same probe asked of the unedited model."""
        return self.case, self.probe, self.prompt, self.expected[0] if self.expected else ""


def plan(cases: Iterable[Case], options: Options | None = None) -> list[Ask]:
    """Return everything to be asked, case by case, probes in the order of `PROBES`.

    Raises:
        BadConfig: the options name a probe that does not exist.
    """
    kinds = (options or Options()).probes
    for kind in kinds:
        if kind not in PROBES:
            raise BadConfig(f"no probe {kind!r}.{did_you_mean(kind, PROBES)} Known: {', '.join(PROBES)}.")
    return [ask for case in cases for ask in _asks(case) if ask.probe.partition(".")[0] in kinds]


def _asks(case: Case) -> Iterator[Ask]:
    return (replace(ask, fact=case.fact) if ask.fact is None else ask for ask in _plain(case))


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
