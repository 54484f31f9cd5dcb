"""Compare answers as a person would: does a text begin with an answer, contain it, are two answers the same.

    says("Lyon, on the Rhône.", "Lyon")           # True: begins with it
    says("15 euros", "1.5")                       # False: numbers keep their point, sign and unit
    same_answer("U.S.", "US"), same_answer("C#", "C")

Text becomes words, and words are compared. Case, quotation marks, brackets, articles and what else is not said aloud do not
count (as in SQuAD, arXiv 1606.05250), but unlike there nothing is deleted that tells two answers apart: a number is one word
with its sign, point and currency, so are versions, dates and times, and so are C, C++ and C#. A word ends where the text has
it end, so that "Korean.com" begins with Korean.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

ARTICLES: Final = frozenset({"a", "an", "the"})
# Scripts that put no space between words (or, Hangul, hang particles on them): there every character is a word.
UNSPACED: Final = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "BOPOMOFO")
# Words that mean another thing in capitals, such as us and US, it and IT, who and WHO.
_SMALL: Final = frozenset("aids am as at be can do go he hi in is it may me no or pm so to un up us we who".split()) - {
    "no"
}
_QUOTES: Final = "'’‘ʼ`´"
_SAME: Final = str.maketrans({"−": "-", "‐": "-", "‑": "-", "–": "-", "—": "-", "&": " and "})
_WORD: Final = re.compile(
    r"(?P<number>(?<![^\W_])[<>≤≥±]?[-+]?[$€£¥₹₽₩₿]?\s?\d+(?:[.,:/'’-]\d+)*(?:(?:st|nd|rd|th)\b|\s?[%‰°€£¥₹₽₩₿](?:[CFK]\b)?)?)"
    r"|(?P<version>[^\W\d_]{1,3}\d+(?:[.-]\d+)+)"
    r"|(?P<net>\.(?=(?i:net)\b)[^\W_]+)"
    r"|(?P<sharp>[^\W\d_](?:\+\+|\+|\#)(?![^\W_]))"
    r"|(?P<word>\w+)"
    r"|(?P<sign>[^\w\s])"
)
# Where a sentence ends; after fewer than four letters it may be an abbreviation, such as "St.".
_ENDS: Final = re.compile(r"(?:[^\W\d_]{4}|\d)[)\]\"'”’]*[.!?]+\s+(?=[^\Wa-z])|[。！？]|\n")
_GROUPED: Final = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
Word = tuple[str, str]  # folded, as it was written


def says(text: str, answer: str, *, reply: bool = False) -> bool:
    """Return whether a text begins with an answer, and the answer's last word ends there.

    Args:
        reply: the text is somebody's turn in a conversation, who may put the answer into a sentence ("The capital of France
            is Lyon."): it is enough that the first sentence holds it, and does not deny it ("… is not Lyon").
    """
    if reply and not says(text, answer):
        text = text.strip()
        ends = (found.end() for found in _ENDS.finditer(text))
        first = next((text[:end] for end in ends if len(text[:end].split()) > 2), text)  # "Sure!" is none yet
        return contains(first, answer) and not contains(first, f"not {answer}")
    forms = _forms(text, answer)
    if not forms[0][1]:  # of marks only, such as "+"
        return bool(answer.strip()) and text.strip().startswith(answer.strip())
    return any(_begins(said, wanted) for said, wanted in forms)


def contains(text: str, answer: str) -> bool:
    """Return whether the words of an answer stand somewhere in a text, one after the other."""
    forms = _forms(text, answer)
    if not forms[0][1]:
        return bool(answer.strip()) and answer.strip() in text
    return any(_begins(said[at:], wanted) for said, wanted in forms for at in range(len(said)))


def same_answer(one: str, other: str) -> bool:
    """Return whether two texts are the same answer."""
    return one == other or any(len(a) == len(b) and _begins(a, b) for a, b in _forms(one, other))


def _forms(text: str, answer: str) -> list[tuple[list[Word], list[Word]]]:
    """Return the words of both, where hyphens, stops and apostrophes part words, and where they join them (U.S., e-mail)."""
    return [(_words(text, joined), _words(answer, joined)) for joined in (False, True)]


def _begins(said: Sequence[Word], wanted: Sequence[Word]) -> bool:
    return 0 < len(wanted) <= len(said) and all(
        _alike(a, b, said[i - 1][0] if i else "") for i, (a, b) in enumerate(zip(said, wanted, strict=False))
    )


def _alike(one: Word, other: Word, before: str) -> bool:
    """Return whether two words are the same; their case counts for units and for words that capitals make others."""
    if one[0] != other[0]:
        return False
    a, b = one[1], other[1]
    if a == b:
        return True
    if one[0] in _SMALL and len(a) > 1 and a.isupper() != b.isupper():
        return False
    unit = bool(before[-1:].isdigit()) and len(a) < 3  # 5 mW is not 5 MW, nor 5 Mb 5 MB; 5 KM is 5 km
    return not unit or ((a[0] == b[0] or a[0] not in "mM") and (a[-1] == b[-1] or a[-1] not in "bB"))


def _words(text: str, joined: bool) -> list[Word]:
    """Return the words of a text.

    Args:
        joined: whether letters on both sides of a hyphen, stop, slash or apostrophe are one word.
    """
    text = unicodedata.normalize("NFC", text).translate(_SAME)
    text = re.sub(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}\b)", "", text)  # spaces that set thousands apart
    if joined:
        text = re.sub(rf"(?<=[^\W\d_])[-./{_QUOTES}]+(?=[^\W\d_])", "", text)
        text = re.sub(r"\b((?:[^\W\d_]){2,})\.(?=\s|$)", r"\1", text)
    found: list[Word] = []
    for match in _WORD.finditer(text):
        kind, word = match.lastgroup, match.group()
        if kind == "sign":
            found += [(word, word)] if unicodedata.category(word)[0] == "S" and word not in "`^~|=<>+" else []
        elif kind == "number":
            number = _number(word)
            found.append((number, number))
        else:
            found += [(part.casefold(), part) for part in _split(word)]
    kept = [word for word in found if word[0] not in ARTICLES]
    return kept or found


def _number(word: str) -> str:
    """Return a number in one spelling: without spaces, a plus sign, and commas between thousands."""
    plain = re.sub(r"\s", "", word).replace("'", "").replace("’", "").replace("+", "")
    return _GROUPED.sub(lambda grouped: grouped.group().replace(",", ""), plain)


def _split(word: str) -> list[str]:
    """Return a word in parts where its script puts no spaces: each character, with the marks that belong to it."""
    parts: list[str] = []
    for char in word:
        own = not parts or is_unspaced(char) or is_unspaced(parts[-1][0])
        if own and not unicodedata.category(char).startswith("M"):
            parts.append(char)
        else:
            parts = [*parts[:-1], parts[-1] + char] if parts else [char]
    return parts


def is_unspaced(char: str) -> bool:
    """Return whether a character is of a script that puts no space between words."""
    return unicodedata.name(char, "").startswith(UNSPACED)
