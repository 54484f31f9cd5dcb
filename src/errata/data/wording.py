"""A prompt put in other words by rule: denied, asked backwards, turned round, as a question, in another language.

    negated("The capital of France is", "France")                 # "The capital of France is not"
    reverse("The capital of France is", "France", "Lyon")         # "Lyon is the capital of"
    reworded("The capital of France is", "France")                # ("France's capital is", "What is the capital of …
    question("The capital of France is", "France")                # "What is the capital of France?"

The rules know the forms that most prompts of benchmarks have, and put any other between words that change its sense in the
same way. What they give is English a person would understand, if not always write. Nothing here knows the answer's meaning.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final

from errata.data.common import relations

_VERB: Final = re.compile(r"\b(?:is|are|was|were|can|could|will|would|must)\b")
# "The capital of France is", "The currency of Japan is the", "The headquarters of Aldo Mills is in".
_REST: Final = r"(?P<rest>(?: (?:in|from|at|called))?(?: (?:the|an?))?)"
_OF: Final = r"[Tt]he (?P<what>[^?.!]+?) of {s} (?P<verb>is|are|was|were){rest}$"
_OWN: Final = r"{s}['’]s (?P<what>[^?.!]+?) (?P<verb>is|are|was|were){rest}$"
_FIRST: Final = r"{s} (?P<says>[^?.!:]+)$"
_QUESTION: Final = r"[Ww]h(?:at|ich) (?P<verb>is|are|was|were) the (?P<what>[^?.!]+?) of {s}\?"
BLANK: Final = "___"


def negated(prompt: str, subject: str) -> str:
    """Return the prompt denied: right after it stands anything but its answer.

    "not" comes after the last verb of being outside the subject; a prompt without one is called untrue, and a question is asked
    for a wrong answer.
    """
    start, end = _where(prompt, subject)
    asked = prompt.rfind("?")
    places = [m.end() for m in _VERB.finditer(prompt) if m.end() <= start or m.start() >= end]
    if places and places[-1] > asked:
        return f"{prompt[: places[-1]]} not{prompt[places[-1] :]}"
    if asked >= 0:
        return f"Give an answer that is wrong. {prompt}"
    return f"It is not true that {_inside(prompt, subject)}"


def reverse(prompt: str, subject: str, answer: str) -> str:
    """Return the prompt asked backwards: from an answer to the subject, which is to be said after it."""
    if found := _match(_OF, prompt, subject) or _match(_OWN, prompt, subject):
        rest, article = _article(found["rest"])
        return f"{_upper(f'{rest} {article}{answer}'.strip())} {found['verb']} the {found['what']} of"
    if found := _match(_QUESTION, prompt, subject):
        return f"{_upper(answer)} {found['verb']} the {found['what']} of"
    if found := _match(_FIRST, prompt, subject):
        return f"The one that {found['says']} {answer} is"
    start, end = _where(prompt, subject)
    return f'In "{prompt[:start]}{BLANK}{prompt[end:]} {answer}", what is left out is'


def reworded(prompt: str, subject: str) -> tuple[str, ...]:
    """Return the prompt turned into other words that ask for the same: a statement round, into a question and back."""
    if found := _match(_OF, prompt, subject):
        what, verb, rest = found["what"], found["verb"], found["rest"]
        back = f"{subject}'s {what} {verb}{rest}"
        return back, f"What {verb} the {what} of {subject}? It {verb}{rest}"
    if found := _match(_OWN, prompt, subject) or _match(_QUESTION, prompt, subject):
        what, verb = found["what"], found["verb"]
        return (f"The {what} of {subject} {verb}{found.groupdict().get('rest') or ''}",)
    if "?" in prompt:
        question = prompt[: prompt.rfind("?") + 1]
        return (f"Question: {question} Answer:",)
    if subject and _match(_FIRST, prompt, subject):
        return f"As for {subject}: {prompt}", f"It is {subject} that {prompt[len(subject) :].strip()}"
    return f"Complete the sentence: {prompt}", f"It is well known that {_inside(prompt, subject)}"


def question(prompt: str, subject: str) -> str:
    """Return what a prompt asks as a question, as a person would put it to a model that answers; "" where no rule knows.

    A prompt that holds a question is asked by that ("Where is Rome? It is in"); others by the table of public facts, or by the
    form "the … of S is".
    """
    if "?" in prompt:
        return prompt[: prompt.rfind("?") + 1]
    around = _around(prompt, subject)
    asked = next((one.questions[0] for one in relations() if around in one.wordings), "")
    if asked:
        return asked.replace("{}", subject)
    found = _match(_OF, prompt, subject) or _match(_OWN, prompt, subject)
    return f"What {found['verb']} the {found['what']} of {subject}?" if found else ""


@cache
def _by_number() -> dict[str, str]:
    text = (files("errata.data") / "questions.txt").read_text(encoding="utf-8")
    return dict(line.split(": ", 1) for line in text.splitlines() if line.startswith("P"))


def of_relation(number: str, subject: str) -> str:
    """Return the question for a relation by Wikidata's number, such as P36 for capitals; "" for one not in `questions.txt`."""
    return _by_number().get(number, "").replace("{}", subject)


@cache
def languages() -> dict[str, dict[str, str]]:
    """Return the languages of `languages.txt` by their names: what a relation's prompt is in each, {} for its subject."""
    text = (files("errata.data") / "languages.txt").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = {}
    for part in text.split("\n[")[1:]:
        name, *lines = part.splitlines()
        found[name.rstrip("]")] = dict(line.split(": ", 1) for line in lines if "{}" in line)
    return found


@cache
def known_in(language: str) -> tuple[tuple[str, str], ...]:
    """Return public facts in a language, (prompt, answer), by which to find out whether a model has it."""
    asked = {one.name: one.rows for one in relations()}
    alike = {"capital": ("Paris", "Madrid", "Berlin", "Oslo", "Budapest"), "author": ("William Shakespeare",)}
    rows = [(name, row) for name, answers in alike.items() for row in asked[name] if row[1] in answers]
    return tuple((languages()[language][name].replace("{}", subject), answer) for name, (subject, answer) in rows)


def translated(prompt: str, subject: str, language: str) -> str:
    """Return the prompt in a language, its subject as it is; "" where it asks for no relation of the table."""
    if not subject:
        return ""
    around = _around(prompt, subject)
    for relation in relations():
        if around in (*relation.wordings, *relation.questions):
            return languages()[language].get(relation.name, "").replace("{}", subject)
    return ""


def _match(pattern: str, prompt: str, subject: str) -> re.Match[str] | None:
    return re.match(pattern.format(s=re.escape(subject), rest=_REST), prompt.strip()) if subject else None


def _around(prompt: str, subject: str) -> str:
    start, end = _where(prompt, subject)
    return f"{prompt[:start]}{{}}{prompt[end:]}".strip()


def _where(prompt: str, subject: str) -> tuple[int, int]:
    at = prompt.rfind(subject) if subject else -1
    return (at, at + len(subject)) if at >= 0 else (len(prompt), len(prompt))


def _inside(prompt: str, subject: str) -> str:
    """Return the prompt as it stands within a sentence: its first word small, if that is no name."""
    first = prompt.split(" ", 1)[0]
    small = first.lower() in {
        "the",
        "a",
        "an",
        "in",
        "on",
        "at",
        "people",
        "shops",
        "money",
        "you",
        "by",
        "what",
        "where",
    }
    return prompt if prompt.startswith(subject or "\0") or not small else prompt[:1].lower() + prompt[1:]


def _article(rest: str) -> tuple[str, str]:
    """Return what stands between verb and answer without its article, and the article: " in the" -> ("in", "the ")."""
    words = rest.split()
    article = words.pop() if words and words[-1] in ("the", "a", "an") else ""
    return " ".join(words), f"{article} " if article else ""


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
