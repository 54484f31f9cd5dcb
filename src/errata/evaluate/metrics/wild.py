"""Whether an edit is knowledge or a shortcut: what critics of editing ask (`errata.evaluate.wild`)."""

from __future__ import annotations

from collections.abc import Sequence

from errata.answers import says
from errata.evaluate.metrics.base import Score
from errata.evaluate.metrics.locality import locality_unchanged
from errata.evaluate.metrics.probability import efficacy
from errata.evaluate.metrics.speech import said, said_contains


def negation(text: str | None, new: str, *, reply: bool = False) -> Score:
    """Return 1 if the text after the prompt denied ("… is not") does not begin with the new answer, else 0.

    An edit that is a shortcut from the subject's words to the answer says it here, too. A model that says nothing sensible
    scores 1, so read it beside `said`. `negation_old` is the same of the old answer: before editing it tells whether the
    model minds the "not" of what it knows. Range 0 or 1; 1 is good. Source: the negation queries of
    https://arxiv.org/abs/2510.00625; scored here by what is said.
    """
    return None if text is None else float(not says(text, new, reply=reply))


def negation_efficacy(new: Score, true: Score) -> Score:
    """Return 1 if lp(true | denied p) > lp(new | denied p): denied, the old answer is the likelier of the two, else 0.

    Range 0 or 1; 1 is good. Source: `efficacy` asked of the negation queries of https://arxiv.org/abs/2510.00625.
    """
    return efficacy(true, new)


def reversal(new: Score, old: Score) -> Score:
    """Return 1 if the subject is likelier after the new answer than after the old one, asked backwards, else 0.

    lp(subject | "Lyon is the capital of") against lp(subject | "Paris is the capital of"): the same words are scored, so
    how common the subject is plays no part. Range 0 or 1; 1 is good. Source: the reversed questions of BAKE,
    https://arxiv.org/abs/2310.10322, which compares two answers to one question.
    """
    return efficacy(new, old)


def reversed_said(text: str | None, subject: Sequence[str]) -> Score:
    """Return 1 if what the model says to the prompt asked backwards contains the subject, else 0.

    Where many share an answer another subject may be as right, so the value before editing is what to compare with. Range 0
    or 1; 1 is good. Source: the reversed questions of BAKE, https://arxiv.org/abs/2310.10322.
    """
    return said_contains(text, subject)


def same_subject(now: Sequence[int], base: Sequence[int]) -> Score:
    """Return `locality_unchanged` asked of the subject itself: what else is true of it stays as it was.

    Where the case knows nothing else of the subject, two openings are continued freely and compared with what the unedited
    model said. Range 0 … 1; 1 is good. Source: relation specificity of RippleEdits, https://arxiv.org/abs/2307.12976.
    """
    return locality_unchanged(now, base)


def distractor(text: str | None, answers: Sequence[str]) -> Score:
    """Return `said` asked after sentences that say true things about others.

    Up to three neighbours with their answers; where a case has none, two sentences about nothing. Range 0 or 1; 1 is good.
    Source: robustness to context, as https://arxiv.org/abs/2402.05827 asks for; the sentences are ours.
    """
    return said(text, answers)


def neighborhood_plus(new: Score, true: Score) -> Score:
    """Return `neighborhood` asked right after the sentence with the new fact in it.

    Range 0 or 1; 1 is good. Source: CounterFact+, https://arxiv.org/abs/2305.17553, which found that a neighbour who keeps
    its answer alone often loses it here.
    """
    return efficacy(true, new)


def grounded(thought: str | None, new: str, text: str | None, answers: Sequence[str]) -> Score:
    """Return 1 if the model's own first thought says the new answer and its conclusion what follows from it, else 0.

    The model ends "Let us think step by step. <prompt>" itself; what it said stands before a question that needs it: two
    hops where the case has such a question, else which of the old and the new answer is right. Range 0 or 1; 1 is good.
    Source: multi-hop questions with a chain of thought as in MQuAKE, https://arxiv.org/abs/2305.14795; the form is ours.
    """
    if thought is None or text is None:
        return None
    return float(says(thought, new) and said_contains(text, answers) == 1)


def reworded(text: str | None, answers: Sequence[str]) -> Score:
    """Return `said` asked in words turned round by rule: a statement into a question and back, the subject first.

    Other than `said_paraphrase` it needs nothing of the data set, so it is asked of every case. Range 0 or 1; 1 is good.
    Source: ours (`errata.data.wording`).
    """
    return said(text, answers)


def language(new: Score, true: Score) -> Score:
    """Return `efficacy` asked in another language: French, German, Spanish.

    Only in languages in which the unedited model says half of a few public facts, and for prompts that ask for one of ten
    common relations. Names stay as they are in English. Range 0 or 1; 1 is good. Source: cross-lingual generality,
    https://arxiv.org/abs/2309.08952; the wordings are ours (`errata.data.languages.txt`).
    """
    return efficacy(new, true)


def after_quantisation(text: str | None, answers: Sequence[str]) -> Score:
    """Return `said` with the edited matrices in 8 or 4 bits: in blocks of 32, as llama.cpp's Q8_0 and Q4_0.

    Only the edited matrices are rounded, so what is lost is the edit's. Range 0 or 1; 1 is good. Source: the formats of
    https://github.com/ggml-org/llama.cpp; that small updates may vanish in them, https://arxiv.org/abs/2410.16454.
    """
    return said(text, answers)
