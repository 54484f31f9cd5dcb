"""What is asked and what should be answered, as frozen text.

    fact = Fact(prompt="The capital of France is", subject="France", target="Lyon")
    fact.span                                     # (15, 21): where the subject stands in the prompt

A `Fact` is checked when it is made, so whoever holds one may rely on its subject standing in its prompt.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, Final

from errata import display
from errata.answers import is_unspaced, same_answer, says
from errata.errors import BadFact, did_you_mean

PROBE_KINDS: Final = ("paraphrase", "neighborhood", "portability", "alias", "unrelated")

ROLES: Final = ("system", "user", "assistant")

Question = tuple[str, str]  # subject, and the prompt around it: what is asked
Message = tuple[str, str]  # role, and what is said: one turn of a conversation
GONE: Final = "…"  # stands where the subject was


@dataclass(frozen=True, slots=True)
class Probe:
    """A question asked about an edit, with the answer that counts as right.

    Args:
        kind: one of `PROBE_KINDS`.
        prompt: the text to continue.
        answer: what should be said; empty where only a change of the answer is of interest.
        made: whether nobody wrote it: it was made up for a fact that had none of its kind.

    Raises:
        BadFact: unknown kind, or an empty prompt.
    """

    kind: str = ""
    prompt: str = ""
    answer: str = ""
    made: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.made, bool):
            raise BadFact(f"made is true or false, not {self.made!r}.")
        for name in ("kind", "prompt", "answer"):
            object.__setattr__(self, name, checked_text(f"probe {name}", getattr(self, name)))
        if self.kind not in PROBE_KINDS:
            raise BadFact(
                f"no probe kind {self.kind!r}.{did_you_mean(self.kind, PROBE_KINDS)} Known: {', '.join(PROBE_KINDS)}."
            )
        if not self.prompt.strip():
            raise BadFact(f"a probe of kind {self.kind} has an empty prompt: give the text to continue.")

    def to_dict(self) -> dict[str, Any]:
        """Return the probe as a JSON-able dictionary, empty fields left out."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Probe:
        """Make a probe from what `to_dict` returned; raises BadFact for unknown or missing keys."""
        _check_keys("probe", row, [f.name for f in fields(cls)], ("kind", "prompt"))
        return cls(**row)


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact to write: after `prompt`, which names `subject`, the model shall say `target`.

    Args:
        prompt: text up to where the answer begins; a single "{}" is filled with the subject if the subject is not
            in the prompt already.
        subject: what the fact is about; stands in the prompt as whole words. Methods that do not look a fact up at its
            subject (lora, melo, grace, wise, ft, locft) need none.
        target: the answer to be said.
        id: the caller's own name for the fact.
        truth: what was said before the edit, where known.
        rephrases: other ways to ask the same.
        probes: questions that show what the edit did elsewhere; never trained on.
        source: where the fact comes from.
        reason: why it is written.
        joint: what stands between prompt and target, "" or " "; None leaves it to `errata.model.tokens.Tokens.join`.
        chat: whether the prompt is a user's turn, put into the model's chat template, and the answer is the model's turn.
            Rephrases and probes are then asked in the same way.
        messages: the conversation that leads to the answer, as chat APIs have it: ``{"role": …, "content": …}`` with a system
            message and earlier turns where there are any, and the prompt as the last turn of the user, which may be left out
            either here or as `prompt`. Empty where the prompt is all there is.

    All text is kept to the character: what is written here is what the model reads.

    Raises:
        BadFact: prompt, subject or target is empty or not text, the subject does not stand in the prompt, or the messages
            do not lead to it.
    """

    prompt: str = ""
    subject: str = ""
    target: str = ""
    _: KW_ONLY
    id: str = ""
    truth: str = ""
    rephrases: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()
    source: str = ""
    reason: str = ""
    joint: str | None = None
    chat: bool = False
    messages: tuple[Message, ...] = ()

    def __post_init__(self) -> None:
        self._check_form()
        for name in ("prompt", "subject", "target", "id", "truth", "source", "reason"):
            object.__setattr__(self, name, checked_text(name, getattr(self, name)))
        for name in ("prompt", "target"):
            if not getattr(self, name).strip():
                raise BadFact(f"the fact's {name} is empty{self._whose()}: a fact needs a prompt and a target.")
        if self.subject and not self.subject.strip():
            raise BadFact(
                f"the fact's subject is empty{self._whose()}: name what stands in the prompt, or leave it out."
            )
        object.__setattr__(
            self, "rephrases", tuple(checked_text("rephrase", r) for r in _items("rephrases", self.rephrases))
        )
        if not all(text.strip() for text in self.rephrases):
            raise BadFact(f"one of the rephrases is empty{self._whose()}: leave it out.")
        probes = (p if isinstance(p, Probe) else Probe.from_dict(p) for p in _items("probes", self.probes))
        object.__setattr__(self, "probes", tuple(probes))
        object.__setattr__(self, "prompt", _fill(self.prompt, self.subject))
        if self.messages:
            object.__setattr__(self, "messages", (*self.messages[:-1], ("user", self.prompt)))

    def __repr__(self) -> str:
        return f"Fact({display.fields_of(self, (f.name for f in fields(self)))})"

    def _repr_html_(self) -> str:
        rows = [(name, value) for name, value in self.to_dict().items() if name not in ("probes", "messages")]
        asked = [(f"probe: {probe.kind}", f"{probe.prompt} {probe.answer}") for probe in self.probes]
        return display.table(("Fact", ""), [*rows, *asked])

    def _check_form(self) -> None:
        """Look at how the prompt is put to the model, and take in the conversation that leads to it."""
        if not isinstance(self.chat, bool):
            raise BadFact(f"chat is true or false, not {self.chat!r}.")
        if self.joint not in (None, "", " "):
            raise BadFact(f"joint is what stands between prompt and target: '' or ' ', not {self.joint!r}.")
        if self.messages:
            self._converse(turns_of(self.messages))

    def _converse(self, turns: tuple[Message, ...]) -> None:
        """Take in a conversation that ends in the prompt, or to which the prompt is to be added."""
        last = turns[-1][1] if turns[-1][0] == "user" else ""
        if not (last or self.prompt) or (last and self.prompt not in ("", last)):
            raise BadFact(f"the last of the messages must be the user's, and is the prompt{self._whose()}.")
        turns = turns if last else (*turns, ("user", self.prompt))
        object.__setattr__(self, "chat", True)
        object.__setattr__(self, "prompt", turns[-1][1])
        object.__setattr__(self, "messages", turns if len(turns) > 1 else ())

    @property
    def earlier(self) -> tuple[Message, ...]:
        """The turns of the conversation before the prompt."""
        return self.messages[:-1]

    @property
    def span(self) -> tuple[int, int] | None:
        """Characters [start, end) of the prompt's last whole-word occurrence of the subject; None without a subject."""
        return occurrences(self.prompt, self.subject)[-1] if self.subject else None

    def to_dict(self) -> dict[str, Any]:
        """Return the fact as a JSON-able dictionary, empty fields left out."""
        row: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}
        if self.joint is not None:
            row["joint"] = self.joint
        if self.rephrases:
            row["rephrases"] = list(self.rephrases)
        if self.probes:
            row["probes"] = [p.to_dict() for p in self.probes]
        if self.messages:
            row["messages"] = [{"role": role, "content": content} for role, content in self.messages]
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Fact:
        """Make a fact from what `to_dict` returned; raises BadFact for unknown or missing keys and bad values."""
        told = isinstance(row, Mapping) and bool(row.get("messages"))
        _check_keys("fact", row, [f.name for f in fields(cls)], ("prompt", "target")[told:])
        return cls(**row)

    def _whose(self) -> str:
        shown = self.id or self.prompt or self.subject
        return f" (fact {shown!r})" if isinstance(shown, str) and shown else ""


def question(fact: Fact) -> Question:
    """Return what a fact answers: its subject, and its prompt with the subject taken out, without case and last stop.

    Asked plainly or as a user's turn it is the same question; what was said before in a conversation makes it another one.
    """
    start, end = fact.span or (0, 0)
    gone = GONE if fact.span else ""
    around = plain(f"{fact.prompt[:start]}{gone}{fact.prompt[end:]}").rstrip(" .?!:")
    before = "".join(f"{role}: {plain(content)}\n" for role, content in fact.earlier)
    return plain(fact.subject), before + around


def answered(fact: Fact, text: str, answer: str | None = None) -> bool:
    """Return whether what the model said after a fact's prompt, or a probe's, is the fact's target, or another answer.

    A text goes on with the answer; a reply may say it in a sentence of its own.
    """
    return says(text, fact.target if answer is None else answer, reply=fact.chat)


def plain(text: str) -> str:
    """Return text without differences of case, spaces and Unicode form, for comparing what is asked."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def check_consistent(facts: Iterable[Fact]) -> None:
    """Raise BadFact if two facts answer the same prompt about the same subject: contradiction or duplicate."""
    seen: dict[Question, Fact] = {}
    for fact in facts:
        asked = question(fact)
        first = seen.get(asked)
        if first is None:
            seen[asked] = fact
            continue
        names = f"{_name(first)} and {_name(fact)}"
        if same_answer(first.target, fact.target):
            raise BadFact(f"{names} are the same fact: leave one of them out.")
        raise BadFact(f"{names} contradict each other: keep one answer for {fact.prompt!r}.")


def _name(fact: Fact) -> str:
    return f"{fact.id + ': ' if fact.id else ''}{fact.prompt!r} -> {fact.target!r}"


def checked_text(name: str, value: object) -> str:
    """Return the value as it is, or raise BadFact if it is not text that a tokenizer and a file can hold."""
    if not isinstance(value, str):
        raise BadFact(f"the {name} must be text, not {type(value).__name__}.")
    if "\0" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)):
        raise BadFact(f"the {name} {value!r} holds NUL or characters that are no valid Unicode: remove them.")
    return value


def turns_of(given: object) -> tuple[Message, ...]:
    """Return the turns of a conversation, given as objects with role and content or as pairs of these."""
    found = []
    for one in _items("messages", given):
        if isinstance(one, Mapping):
            _check_keys("message", one, ["role", "content"], ("role", "content"))
            one = (one["role"], one["content"])
        if not isinstance(one, list | tuple) or len(one) != 2 or one[0] not in ROLES:
            raise BadFact(f'a message is {{"role": …, "content": …}} with a role of {", ".join(ROLES)}, not {one!r}.')
        found.append((one[0], checked_text("message", one[1])))
    return tuple(found)


def _items(name: str, value: object) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise BadFact(f"the {name} must be a list, not {type(value).__name__}.")
    return list(value)


def _check_keys(what: str, row: object, known: list[str], needed: Iterable[str]) -> None:
    if not isinstance(row, Mapping):
        raise BadFact(f"a {what} must be an object with named fields, not {type(row).__name__}.")
    for key in row:
        if key not in known:
            raise BadFact(f"no {what} field {key!r}.{did_you_mean(str(key), known)} Known: {', '.join(known)}.")
    for key in needed:
        if key not in row:
            raise BadFact(f"the {what} has no {key!r}: it needs {', '.join(needed)}.")


def _fill(prompt: str, subject: str) -> str:
    """Return the prompt with the subject in it; raises BadFact if it cannot be found or placed."""
    if not subject:
        if "{}" in prompt:
            raise BadFact(f"the prompt {prompt!r} has a place '{{}}' for a subject, and none is given: name it.")
        return prompt
    if occurrences(prompt, subject):
        return prompt
    holes = prompt.count("{}")
    if holes > 1:
        raise BadFact(f"the prompt {prompt!r} has {holes} places '{{}}' for the subject: leave exactly one.")
    filled = prompt.replace("{}", subject)
    if occurrences(filled, subject):
        return filled
    why = "write it exactly as it stands there"
    if subject in filled:
        why = "it is only part of a longer word there"
    elif subject.casefold() in filled.casefold():
        why = "upper and lower case must be as they are there"
    raise BadFact(f"the subject {subject!r} does not stand in the prompt {prompt!r}: {why}.")


def occurrences(text: str, word: str) -> list[tuple[int, int]]:
    """Return all spans at which `word` stands in `text` without being part of a longer word, as written or as it looks."""
    spans = []
    start = text.find(word)
    while start >= 0:
        spans.append((start, start + len(word)))
        start = text.find(word, start + 1)
    spans = spans or _written_otherwise(text, word)
    return [(start, end) for start, end in spans if not _joined(text, start) and not _joined(text, end)]


def _written_otherwise(text: str, word: str) -> list[tuple[int, int]]:
    """Return where text stands that looks the same: accents of their own, other kinds of spaces."""
    wanted = _seen(word)
    if not wanted.strip() or wanted not in _seen(text):
        return []
    most = 3 * len(word)  # a letter and its accents, apart
    ends = range(len(text) + 1)
    return [(i, j) for i in ends for j in ends[i + 1 : i + most + 1] if _seen(text[i:j]) == wanted]


def _seen(text: str) -> str:
    return "".join(" " if char.isspace() else char for char in unicodedata.normalize("NFC", text))


def _joined(text: str, at: int) -> bool:
    """Return whether the characters before and after position `at` belong to one word."""
    if not 0 < at < len(text):
        return False
    before, after = text[at - 1], text[at]
    if unicodedata.category(after).startswith("M"):  # an accent or vowel sign belongs to the letter before it
        return _is_word(before)
    return _is_word(before) and _is_word(after) and not (is_unspaced(before) or is_unspaced(after))


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_" or unicodedata.category(char).startswith("M")
