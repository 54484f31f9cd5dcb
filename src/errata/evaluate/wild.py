"""What critics of editing ask: probes made of any case, one `WildQuestion` for every question.

    for one in asked(case, ("negation", "grounded")):
        one.kind, one.prompt                          # "negation", "The capital of France is not"

    negation            the prompt denied → anything but the new answer          https://arxiv.org/abs/2510.00625
    reversed            from the answer back to the subject                      https://arxiv.org/abs/2310.10322
    same_subject        what else is true of the subject → as before             https://arxiv.org/abs/2307.12976
    distractor          the prompt after sentences about others → the new answer
    neighborhood_plus   a neighbour after the new fact → its own answer          https://arxiv.org/abs/2305.17553
    grounded            a chain of thought that needs the new fact → what follows from it
    reworded            the prompt turned round, into a question and back → the new answer
    language            the prompt in a language the model has → the new answer

How a prompt is put in other words is in `errata.data.wording`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from errata.answers import same_answer
from errata.data import wording
from errata.data.case import Case
from errata.evaluate.scorer import Scorer
from errata.model.query import joint

SPOKEN: Final = 0.5  # of the public facts asked in a language, the share said from which on a model has it
DISTRACTORS: Final = 3  # sentences about others before the prompt
# Where a case has no neighbours, and of the subject where nothing else is known of it.
_PLAIN: Final = "The weather was mild that week. Two people at the next table talked about their holidays."
_ABOUT: Final = ("{} is known for", "Many people say that {} is")
_THINK: Final = "Let us think step by step. "


@dataclass(frozen=True, slots=True, kw_only=True)
class WildQuestion:
    """One question.

    Args:
        kind: of the ones above. prompt: the text; after `step` and what was said there, where there is one.
        expected: every spelling that counts as right; empty where only a change is of interest, and for `negation`, where the
            new answer is what must not be said.
        new, true: answers whose probabilities are compared. other: a prompt after which `new` must be less likely than here.
        step: a first thought, which the model ends itself.
    """

    kind: str
    prompt: str
    expected: tuple[str, ...] = ()
    new: str = ""
    true: str = ""
    other: str = ""
    step: str = ""
    speaks: bool = True


def asked(case: Case, kinds: Sequence[str], languages: Sequence[str] = ()) -> Iterator[WildQuestion]:
    """Yield the questions of these kinds about a case; of a kind that nothing can be made of, none.

    Args:
        languages: those the model has, of `errata.data.wording.languages`.
    """
    for kind, make in _MAKE.items():
        if kind in kinds:
            yield from make(case)
    for language in languages if "language" in kinds else ():
        if text := wording.translated(case.prompt, case.subject, language):
            yield WildQuestion(kind="language", prompt=text, expected=(case.target,), new=case.target, true=_true(case))


def spoken(scorer: Scorer) -> tuple[str, ...]:
    """Return the languages that a model has: those in which it says half of a few public facts."""
    found = []
    for language in wording.languages():
        facts = wording.known_in(language)
        said = scorer.said([prompt for prompt, _ in facts], 8)
        right = [answer.casefold() in (said[prompt] or "").casefold() for prompt, answer in facts]
        found += [language] if sum(right) >= SPOKEN * len(right) else []
    return tuple(found)


def _true(case: Case) -> str:
    return "" if same_answer(case.target, case.truth) else case.truth


def _negation(case: Case) -> Iterator[WildQuestion]:
    yield WildQuestion(
        kind="negation", prompt=wording.negated(case.prompt, case.subject), new=case.target, true=_true(case)
    )


def _reversed(case: Case) -> Iterator[WildQuestion]:
    if not case.subject:
        return
    asked_of, old = (wording.reverse(case.prompt, case.subject, a) if a else "" for a in (case.target, _true(case)))
    yield WildQuestion(kind="reversed", prompt=asked_of, expected=(case.subject,), new=case.subject, other=old)


def _same_subject(case: Case) -> Iterator[WildQuestion]:
    known = [pair for pair in case.unrelated if case.subject and case.subject in pair[0]]
    for prompt, answer in known:
        yield WildQuestion(kind="same_subject", prompt=prompt, expected=(answer,) if answer else (), speaks=not answer)
    for form in () if known or not case.subject else _ABOUT:
        yield WildQuestion(kind="same_subject", prompt=form.format(case.subject))


def _distractor(case: Case) -> Iterator[WildQuestion]:
    others = [_sentence(*pair) for pair in case.neighborhood[:DISTRACTORS]]
    before = " ".join(others) or _PLAIN
    new = case.target
    yield WildQuestion(kind="distractor", prompt=f"{before} {case.prompt}", expected=(new,), new=new, true=_true(case))


def _neighborhood_plus(case: Case) -> Iterator[WildQuestion]:
    before = _sentence(case.prompt, case.target)
    for prompt, answer in case.neighborhood:
        if not same_answer(answer, case.target):
            text = f"{before} {prompt}"
            yield WildQuestion(
                kind="neighborhood_plus", prompt=text, expected=(answer,), new=case.target, true=answer, speaks=False
            )


def _grounded(case: Case) -> Iterator[WildQuestion]:
    """A thought that the model ends with the new answer, and a conclusion from it: two hops where the case has one."""
    step, follows = f"{_THINK}{case.prompt}", [pair for asked in case.portability.values() for pair in asked]
    for prompt, right in follows:
        yield WildQuestion(kind="grounded", prompt=f"Therefore: {prompt}", expected=right, new=case.target, step=step)
    if not follows and _true(case):
        end = f"So, of {case.truth} and {case.target}, the one that is right is"
        yield WildQuestion(kind="grounded", prompt=end, expected=(case.target,), new=case.target, step=step)


def _reworded(case: Case) -> Iterator[WildQuestion]:
    for prompt in wording.reworded(case.prompt, case.subject):
        if prompt != case.prompt:
            yield WildQuestion(
                kind="reworded", prompt=prompt, expected=(case.target,), new=case.target, true=_true(case)
            )


def _sentence(prompt: str, answer: str) -> str:
    return f"{prompt}{joint(prompt, answer)}{answer}."


_MAKE: Final[Mapping[str, Callable[[Case], Iterator[WildQuestion]]]] = {
    "negation": _negation,
    "reversed": _reversed,
    "same_subject": _same_subject,
    "distractor": _distractor,
    "neighborhood_plus": _neighborhood_plus,
    "grounded": _grounded,
    "reworded": _reworded,
}
