"""Long answers: how much of a text that should be said was said. Of answers of `SENTENCE` words or more."""

from __future__ import annotations

import re

from errata.evaluate.metrics.base import Score

_ENDS = re.compile(r"(?<=[.!?…])\s+|\n+|(?<=[。！？])")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def rouge_l(text: str | None, answer: str) -> Score:
    """Return ROUGE-L of what is said against the answer: F1 of the longest common subsequence of their words.

    Words without case and marks, no stemming; what is said is cut at the answer's own number of lines and about its length.
    Range 0 … 1; 1 is good. Source: Lin, https://aclanthology.org/W04-1013, as UnKE scores answers,
    https://arxiv.org/abs/2405.15349.
    """
    said, wanted = _words(text or ""), _words(answer)
    if text is None or not wanted:
        return None
    row = [0] * (
        len(wanted) + 1
    )  # lengths of common subsequences of what was read of `said` and beginnings of `wanted`
    for word in said:
        above = row
        row = [0]
        for place, other in enumerate(wanted):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[place]))
    return 2 * row[-1] / (len(said) + len(wanted))


def said_in_part(text: str | None, answer: str) -> Score:
    """Return the share of the answer's words that are said, from its first on, before the first that is another.

    Where a long answer breaks off or turns away, which an overlap of words does not tell. Range 0 … 1; 1 is `said` whole.
    Source: ours.
    """
    said, wanted = _words(text or ""), _words(answer)
    if text is None or not wanted:
        return None
    turned = next(
        (at for at, (a, b) in enumerate(zip(said, wanted, strict=False)) if a != b), min(len(said), len(wanted))
    )
    return turned / len(wanted)


def sentences_said(text: str | None, answer: str) -> Score:
    """Return the share of the answer's sentences that stand in what is said, word for word, wherever that is.

    What `said_in_part` no longer sees behind the first other word. Words without case and marks. Range 0 … 1; 1 is good.
    Source: ours.
    """
    wanted = [words for sentence in _ENDS.split(answer) if (words := _words(sentence))]
    if text is None or not wanted:
        return None
    said = f" {' '.join(_words(text))} "
    return sum(f" {' '.join(words)} " in said for words in wanted) / len(wanted)
