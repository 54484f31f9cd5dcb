"""What is put to a model: a prompt, the answer to be predicted after it, and what stands between the two."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from errata.answers import is_unspaced
from errata.fact import Fact, Message

RENDERED: Final = "rendered"  # the role of a text that a chat template has made
BARE: Final = "bare"  # the role of a text with no document separator before it


@dataclass(frozen=True, slots=True)
class Query:
    """A prompt, the answer to be predicted after it, and where in the prompt the subject stands.

    Args:
        prompt: text before the answer.
        answer: text whose tokens are labels; empty means the one token after the prompt, without a label.
        span: characters of the subject in `prompt`, or None.
        joint: what stands between the two; None leaves it to `Tokens.join`.
        role: "user" where the prompt is a turn of a conversation, whom the model answers; "" is text as it stands.
        earlier: the turns before it. begun: what follows the prompt already, or begins the reply; the answer goes on with
            it, and a span beyond the prompt is counted on into it.
    """

    prompt: str
    answer: str = ""
    span: tuple[int, int] | None = None
    joint: str | None = None
    role: str = ""
    earlier: tuple[Message, ...] = ()
    begun: str = ""

    @classmethod
    def of(cls, fact: Fact, answer: str | None = None) -> Query:
        """Return a fact's prompt, with its target or another answer."""
        return replace(cls.asked(fact), answer=fact.target if answer is None else answer, span=fact.span)

    @classmethod
    def asked(cls, fact: Fact, prompt: str | None = None) -> Query:
        """Return a fact's prompt, or another text put to the model as that is, to be answered.

        The fact's joint is known of its own prompt, also after other text; a text that ends otherwise is joined by rule.
        """
        text = fact.prompt if prompt is None else prompt
        joint = fact.joint if text.endswith(fact.prompt) else None
        return cls(text, joint=joint, role="user" if fact.chat else "", earlier=fact.earlier)

    @property
    def turn(self) -> bool:
        """Whether what answers it is a turn of a conversation."""
        return self.role == "user"

    def after(self, prefix: str) -> Query:
        """Return the same query with `prefix` written before it."""
        if not prefix:
            return self
        shift = len(prefix) + 1
        span = None if self.span is None else (self.span[0] + shift, self.span[1] + shift)
        return replace(self, prompt=f"{prefix} {self.prompt}", span=span)


Prompt: TypeAlias = str | Query  # what is asked: text, or a turn of a conversation


def as_query(prompt: Prompt, answer: str = "") -> Query:
    """Return what is asked with an answer to be predicted after it."""
    return Query(prompt, answer) if isinstance(prompt, str) else replace(prompt, answer=answer)


_OPENS: Final = (
    "([{«‹“‘„‚¿¡/\\_=@#№$€£¥₹₽₩₿"  # after these no space stands; a straight quote opens where none does before it
)
_CLOSES: Final = ".,;:!?)]}»›”’%°…、。，；：！？）」』"  # before these neither


def joint(prompt: str, answer: str, special: Sequence[str] = ()) -> str:
    """Return what stands between a prompt and its answer: a space (" Paris" is not "Paris"), or nothing where text has none.

    Nothing after white space, an opening quote or bracket, a currency or number sign, or a special token of the model; nothing
    before white space or a mark that closes; nothing between scripts that put no space between words, or at their marks.
    """
    last, first = prompt[-1:], answer[:1]
    if (not last.strip() and last) or not first.strip():
        return ""
    if any(prompt.endswith(token) for token in special) or (last and (last in _OPENS or _wide_mark(last))):
        return ""
    if last in "\"'`" and last and (len(prompt) < 2 or prompt[-2].isspace() or prompt[-2] in _OPENS + ":,"):
        return ""
    if first in _CLOSES or _wide_mark(first) or (_unspaced(last) and _unspaced(first)):
        return ""
    return " "


def _wide_mark(char: str) -> bool:
    """Return whether a character is a mark of Chinese or Japanese, such as ： and 「, which has its space in itself."""
    return unicodedata.east_asian_width(char) in "WF" and unicodedata.category(char).startswith("P")


def _unspaced(char: str) -> bool:
    """Return whether a character is of a script, or a mark of one, that is written without spaces; Korean is not."""
    name = unicodedata.name(char, "") if char else ""
    return (is_unspaced(char or " ") and "HANGUL" not in name) or name.startswith(("IDEOGRAPHIC", "FULLWIDTH"))
