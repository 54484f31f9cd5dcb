"""Every error errata raises on purpose.

    ErrataError                     exit code 1
    ├── InputError                  exit code 2: what was given cannot be used; nothing has been changed
    │   ├── BadFact                 a fact that contradicts itself or another: no such subject, empty target, …
    │   ├── BadFile                 a facts file; the message names file, line and field
    │   ├── BadConfig               an unknown setting, or a value it cannot take
    │   ├── UnknownMethod           no method of that name
    │   ├── UnknownArchitecture     no such `model_type` in transformers
    │   ├── UnknownSite             no such layer or role in this model
    │   ├── UnknownEdit             no edit of that id in the book
    │   ├── UnsupportedModel        this method or site does not exist on it, or its matrices cannot be told
    │   ├── BadModel                no weights, pickled weights only, or unreadable
    │   ├── NotWritten              what was saved or exported does not read back as it stands; nothing is left of it
    │   └── BadBook                 not a book, or one that cannot do what was asked
    │       ├── BookOfAnotherModel  bound to another base model; both are named
    │       ├── CorruptEdit         an edit's file is missing or altered; the file is named
    │       ├── BookBusy            another process is writing to it
    │       └── NewerBook           made by a newer version of errata
    ├── EngineRefused               exit code 1: a serving engine does not answer, or says no
    ├── ClusterGone                 exit code 1: a cluster does not answer, or not any more
    └── SolveError                  exit code 1: the mathematics did not give a usable update
        ├── NotFinite               NaN or infinite numbers in an update
        ├── UpdateTooLarge          an update out of proportion to the weights it changes
        ├── NoRoomLeft              earlier edits have taken the directions an update may use
        ├── StatsMissing            statistics of the base model are needed and not there
        └── GateClosed              the edited model would no longer do what a gate asks of it

Each takes one message: a sentence that says what is wrong and what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar


class ErrataError(Exception):
    """Anything errata refuses or fails to do; `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 1
    longest: ClassVar[int] = 2000  # characters of a message: what was given may be a whole file

    def __str__(self) -> str:
        text = redacted(super().__str__())
        return text if len(text) <= self.longest else f"{text[: self.longest - 503]} … {text[-500:]}"


class UnsayableWarning(UserWarning):
    """A model can hardly say what is to be written; said before it is tried."""


class InputError(ErrataError):
    """What the user gave cannot be used; nothing has been changed."""

    exit_code: ClassVar[int] = 2


class BadFact(InputError):
    """A fact cannot be written as it stands: subject not in the prompt, empty target, or two facts that contradict."""


class BadFile(InputError):
    """A facts file cannot be read; the message names the file, the line and the field."""


class BadConfig(InputError):
    """A setting is unknown or its value cannot be used."""


class UnknownMethod(InputError):
    """No method has this name."""


class UnknownArchitecture(InputError):
    """The installed transformers has no such model type, or none of it that reads texts."""


class UnknownSite(InputError):
    """The model has no such layer or role."""


class UnknownEdit(InputError):
    """The book has no edit of this id, or an abbreviated id fits several."""


class UnsupportedModel(InputError):
    """The architecture is known, but it lacks what is asked for, such as a dense down projection."""


class BadModel(InputError):
    """A model cannot be loaded: a directory without weights, pickled weights only, or unreadable files."""


class NotWritten(InputError):
    """What was saved or exported reads back otherwise than it stands in the model; nothing is left of it."""


class BadBook(InputError):
    """The path is no book, the book is damaged, or it does not allow the step that was asked for."""


class BookOfAnotherModel(BadBook):
    """The book is bound to another base model; the message names both."""


class CorruptEdit(BadBook):
    """An edit's tensor file is missing or does not match its recorded hash; the message names the file."""


class BookBusy(BadBook):
    """Another process holds the book."""


class NewerBook(BadBook):
    """The book was written by a newer version of errata."""


class EngineRefused(ErrataError):
    """A serving engine does not answer, or does not take the adapter it was given."""


class ClusterGone(ErrataError):
    """A cluster does not answer, not any more, or not with this token."""


class SolveError(ErrataError):
    """A method could not compute a usable update; the model and the book are unchanged."""


class NotFinite(SolveError):
    """An update holds NaN or infinite numbers."""


class UpdateTooLarge(SolveError):
    """The norm of an update is out of proportion to the weights it would change."""


class NoRoomLeft(SolveError):
    """A constraint leaves an update too few directions: earlier edits have taken them."""


class StatsMissing(SolveError):
    """Statistics of the base model are needed and have not been computed."""


class GateClosed(SolveError):
    """The edited model does not do what a gate asks of it; the message names the gate and the figures."""


_SECRETS = re.compile(
    r"(?<=://)[^/\s?#@]*:[^/\s?#@]*(?=@)|(?<=://)[^/\s?#@:]+(?=@)"
    r"|(?<=[?&])(?P<name>[\w.-]*(?:key|token|secret|password|passwd|pwd|auth|sig|signature|credential)[\w.-]*=)[^&#\s'\"]*",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Return text in which names and passwords of addresses, and values of their keys and tokens, are an ellipsis."""
    return _SECRETS.sub(lambda found: f"{found['name'] or ''}…", text) if "://" in text else text


def visible(text: str) -> str:
    """Return text in which what a terminal obeys, or nobody sees, is shown as an escape, such as \\u001b.

    Control characters (but newline and tab), those that turn the direction of text, other format characters (but the joiners
    that words and emoji need), separators of lines, and lone surrogates.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    from unicodedata import category  # plain text, which is most, asks nothing

    if character in "\n\t\u200c\u200d\u00ad" or category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    code = ord(character)
    # As JSON writes them, so that JSON stays JSON.
    return (
        f"\\u{code:04x}"
        if code < 0x10000
        else "".join(f"\\u{half:04x}" for half in (0xD7C0 + (code >> 10), 0xDC00 + (code & 0x3FF)))
    )


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return " Did you mean X?" for the known word closest to `word`, ready to append to a sentence, or ""."""
    from difflib import get_close_matches  # only who mistyped waits for it

    by_lower = {name.lower(): name for name in known}
    close = get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean {by_lower[close[0]]}?" if close else ""


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers in few words: 0 to 3, 5."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
