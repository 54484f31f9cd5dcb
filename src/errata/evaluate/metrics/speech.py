"""What a user would see: what the model says when it is left to speak."""

from __future__ import annotations

from collections.abc import Sequence

from errata.answers import contains, says
from errata.evaluate.metrics.base import Score


def said(text: str | None, answers: Sequence[str], *, reply: bool = False) -> Score:
    """Return 1 if the text begins with one of the answers, compared as a person would (`errata.answers`), else 0.

    The text is a greedy continuation up to the end of the text or line (never just a full stop), at most 32 tokens.
    A reply in a conversation may say it in a sentence of its own (`errata.answers.says`). Range 0 or 1; 1 is good. None where
    nothing was generated. Source: https://arxiv.org/abs/2502.11177 asks for natural stops.
    """
    return None if text is None or not answers else float(any(says(text, answer, reply=reply) for answer in answers))


def replied(text: str | None, answers: Sequence[str], truth: str = "", *, asked: str = "") -> Score:
    """Return 1 if a reply to the fact asked as a question holds one of the answers, and not the old one, else 0.

    Anywhere in the reply, as whole words, and not denied ("not Rome"); an old answer that stands in the question may be named
    ("Which company makes the Honda Insight?"). The question is put as a user's turn of the model's chat
    template: the data set's own or, by rule, one made of the prompt or a rephrasing. Range 0 or 1; 1 is good. None where
    nothing was generated. Source: ours.
    """
    if text is None or not answers:
        return None
    right = any(contains(text, answer) and not contains(text, f"not {answer}") for answer in answers)
    old = bool(truth) and contains(text, truth) and not contains(asked, truth)
    return float(right and not old)


def said_contains(text: str | None, answers: Sequence[str]) -> Score:
    """Return 1 if one of the answers stands anywhere in the text as whole words, else 0.

    Kinder than `said`: "I think it is Rome" counts, and so does "not Rome". Range 0 or 1; 1 is good.
    """
    if text is None or not answers:
        return None
    return float(any(contains(text, answer) for answer in answers))


def judged(verdict: bool | None) -> Score:
    """Return 1 if the named judge found what was said right, 0 if wrong, None where it gave no verdict.

    Range 0 or 1; 1 is good. Depends on the judge and its prompt, which stand in the row; never replaces `said`.
    """
    return None if verdict is None else float(verdict)
