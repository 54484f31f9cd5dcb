"""A second opinion: a rule or a model that reads what was said and finds it right or wrong.

    judge = named("http://127.0.0.1:8000/v1#some-model")          # as --judge takes it; the key is in $ERRATA_JUDGE_KEY
    rows = judged(rows, judge)                      # adds scores.judged and who judged; changes nothing else

Without a judge `said` and `said_contains` are what there is, and with one they stay what they were. The judge's
name and prompt are written into every row it looked at, because a score that depends on them means nothing without
them.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from typing import Any, Protocol

from errata.answers import same_answer
from errata.content import bearer
from errata.errors import BadConfig, ErrataError, did_you_mean
from errata.evaluate.metrics import Row, said_contains
from errata.evaluate.metrics import judged as judged_score
from errata.evaluate.scorer import Scorer
from errata.model.loading import load

KEY = "ERRATA_JUDGE_KEY"  # the environment variable an endpoint's key is taken from; never written anywhere

PROMPT = """Question: {prompt}
Expected answer: {expected}
Given answer: {said}
Does the given answer state the expected answer, without contradicting it? Answer with one word, correct or incorrect.
Verdict:"""
MOST = 16 << 20  # bytes of an answer that are read
RULES = ("exact", "contains")
EXAMPLE = "http://127.0.0.1:8000/v1#MODEL"


class Judge(Protocol):
    """Anything that can tell right answers from wrong ones."""

    @property
    def name(self) -> str:
        """Who judges, as it shall stand in the rows."""

    @property
    def prompt(self) -> str:
        """The template it is asked with; has {prompt}, {expected} and {said}. Empty for a rule."""

    def rate(self, rows: Sequence[Row]) -> list[bool | None]:
        """Return a verdict on each row; None where it gave none."""


def named(spec: str) -> Judge:
    """Return the judge that `--judge` names.

    Args:
        spec: "exact", "contains", "model:" and a model as `--model` takes it, or the address of an endpoint, behind
            "#" the model's name there; without a name it is the only model the endpoint has.

    Raises:
        BadConfig: no such judge, an address that holds a key, or several models to choose from.
        BadModel: the model cannot be loaded. ErrataError: the endpoint does not answer.
    """
    if spec in RULES:
        return RuleJudge(spec)
    kind, _, rest = spec.partition(":")
    if kind == "model" and rest:
        return LocalJudge(Scorer(load(rest)))
    if kind not in ("http", "https"):
        hint = did_you_mean(spec, RULES)
        raise BadConfig(f"no judge {spec!r}.{hint} Give exact, contains, model:DIR, or an address such as {EXAMPLE}.")
    url, _, model = spec.partition("#")
    _check_address(url)
    judge = EndpointJudge(url, model, key=os.environ.get(KEY, ""))
    return judge if model else replace(judge, model=judge.only_model())


def judged(rows: Iterable[Row], judge: Judge) -> list[dict[str, Any]]:
    """Return all rows, those with something said and something expected with a verdict in `scores.judged`.

    Rows that had nothing to judge are returned as they were. A judged row also has `judge`: {"name", "prompt"}.

    Raises:
        ErrataError: the judge cannot be asked.
    """
    found = [dict(row) for row in rows]
    asked = [row for row in found if row["said"] is not None and row["expected"]]
    for row, verdict in zip(asked, judge.rate(asked), strict=True):
        row["scores"] = {**row["scores"], "judged": judged_score(verdict)}
        row["judge"] = {"name": judge.name, "prompt": judge.prompt}
    return found


# ---------------------------------------------------------------- rules


@dataclass(frozen=True, slots=True)
class RuleJudge:
    """No model: "exact" wants the whole of what was said to be the answer, "contains" to hold it, both normalised."""

    name: str

    @property
    def prompt(self) -> str:
        """Nothing is asked."""
        return ""

    def rate(self, rows: Sequence[Row]) -> list[bool | None]:
        """Return for each row whether what was said is, or holds, one of the answers."""
        return [self._right(row["said"], [row["expected"], *row.get("alternatives", ())]) for row in rows]

    def _right(self, said: str, answers: Sequence[str]) -> bool:
        if self.name == "contains":
            return said_contains(said, answers) == 1
        return any(same_answer(said.strip(), answer.strip()) for answer in answers)


class _Reader:
    """A judge that is asked in words."""

    __slots__ = ()
    prompt: str

    def rate(self, rows: Sequence[Row]) -> list[bool | None]:
        """Return a verdict on each row; None where the judge gave none."""
        return self.verdicts([_filled(self.prompt, row) for row in rows])

    def verdicts(self, questions: Sequence[str]) -> list[bool | None]:
        """Return a verdict on each filled template."""
        raise NotImplementedError


def _filled(template: str, row: Row) -> str:
    expected = " or ".join([row["expected"], *row.get("alternatives", ())])
    parts = {"{prompt}": row["prompt"], "{expected}": expected, "{said}": row["said"]}
    # In one go and not one after the other: what was said may itself hold "{expected}".
    filled, rest = "", template
    while rest:
        name = next((name for name in parts if rest.startswith(name)), "")
        filled += parts[name] if name else rest[0]
        rest = rest[len(name) or 1 :]
    return filled


def read_verdict(reply: str) -> bool | None:
    """Return what a reply says: its first word that is a verdict; None if there is none."""
    for word in reply.lower().replace("*", " ").replace('"', " ").split():
        if word.startswith(("incorrect", "wrong", "no,", "no.")) or word == "no":
            return False
        if word.startswith(("correct", "right", "yes")):
            return True
    return None


# ---------------------------------------------------------------- an endpoint


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects are refused: the key is for the address the user named, and urllib would carry it along."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow nothing."""


@dataclass(frozen=True, slots=True)
class EndpointJudge(_Reader):
    """A model behind any endpoint that speaks OpenAI's chat completions.

    Args:
        url: up to and including the version, such as "http://127.0.0.1:8000/v1".
        model: its name there.
        key: bearer token, if it wants one; never written anywhere.
        prompt: the template.
        timeout: seconds for one answer. attempts: how often to try when it is busy (429, 5xx) or does not answer.

    Raises:
        BadConfig: the address is not http or https, or the template lacks a place.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    prompt: str = PROMPT
    timeout: float = 60.0
    attempts: int = 4

    def __post_init__(self) -> None:
        if urllib.parse.urlsplit(self.url).scheme not in ("http", "https"):
            raise BadConfig(f"the judge's address {self.url!r} must begin with http:// or https://.")
        _check_template(self.prompt)

    @property
    def name(self) -> str:
        """The model and the host it was asked at."""
        return f"{self.model or 'asked'} at {urllib.parse.urlsplit(self.url).hostname}"

    def verdicts(self, questions: Sequence[str]) -> list[bool | None]:
        """Return a verdict on each question, asked one after the other at temperature 0; equal ones are asked once.

        Raises:
            ErrataError: the endpoint refuses, or does not answer after all attempts.
        """
        known = {question: read_verdict(self._ask(question)) for question in dict.fromkeys(questions)}
        return [known[question] for question in questions]

    def only_model(self) -> str:
        """Return the name of the one model the endpoint has.

        Raises:
            BadConfig: it has none or several. ErrataError: it does not answer.
        """
        listed = self._answer("models")
        data = listed.get("data") if isinstance(listed, dict) else None
        names = [str(each["id"]) for each in data or () if isinstance(each, dict) and "id" in each]
        if len(names) != 1:
            raise BadConfig(f"{self.url} has {len(names)} models ({', '.join(names[:9])}); name one: {self.url}#NAME.")
        return names[0]

    def _ask(self, question: str) -> str:
        messages = [{"role": "user", "content": question}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 16}
        try:
            content = self._answer("chat/completions", json.dumps(body).encode())["choices"][0]["message"]["content"]
        except (LookupError, TypeError) as error:
            raise ErrataError(f"the judge {self.name} answered with something else than a chat completion.") from error
        return content if isinstance(content, str) else ""

    def _answer(self, path: str, body: bytes | None = None) -> Any:
        """Return what the endpoint answers, read as JSON (None if it is not), trying again while it is busy."""
        known = {"Authorization": bearer(self.key, KEY)} if self.key else {}
        headers = {"Content-Type": "application/json", **known}
        request = urllib.request.Request(f"{self.url.rstrip('/')}/{path}", body, headers)
        why = ""
        for attempt in range(self.attempts):
            time.sleep(0.25 * 2**attempt if attempt else 0)
            try:
                with urllib.request.build_opener(_NoRedirect()).open(request, timeout=self.timeout) as answer:
                    return _json(answer.read(MOST))
            except urllib.error.HTTPError as error:
                why = f"{error.code} {error.reason}"
                error.close()
                if error.code != 429 and error.code < 500:
                    break
            except (OSError, ValueError, HTTPException) as error:
                why = str(getattr(error, "reason", error)) or type(error).__name__
        raise ErrataError(f"the judge {self.name} does not answer ({why}); see that {self.url} is right and running.")


def _check_address(url: str) -> None:
    """Raise BadConfig for an address that is none, or that holds what should be kept with no run."""
    try:
        parts = urllib.parse.urlsplit(url)
        fits = bool(parts.hostname) and (parts.port or True) and url.isprintable() and " " not in url
    except ValueError:
        fits = False
    if not fits:
        raise BadConfig(f"{url!r} is no address of a judge; write it as {EXAMPLE}.")
    if "@" in parts.netloc or parts.query:
        raise BadConfig(
            f"the judge's address holds a name or a key, and it is kept with the run; put the key into {KEY}."
        )


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _check_template(template: str) -> None:
    missing = [name for name in ("{prompt}", "{expected}", "{said}") if name not in template]
    if missing:
        raise BadConfig(f"the judge's prompt lacks {', '.join(missing)}: without it there is nothing to judge.")


@dataclass(frozen=True, slots=True)
class LocalJudge(_Reader):
    """A model of one's own: the verdict is whichever of "correct" and "incorrect" it finds likelier.

    Args:
        scorer: of the judging model, never of the model that is judged.
        prompt: the template.

    Raises:
        BadConfig: the template lacks a place.
    """

    scorer: Scorer
    prompt: str = PROMPT

    def __post_init__(self) -> None:
        _check_template(self.prompt)

    @property
    def name(self) -> str:
        """The model's name and the beginning of its fingerprint."""
        return f"{self.scorer.lm.name} ({self.scorer.lm.fingerprint[:8]})"

    def verdicts(self, questions: Sequence[str]) -> list[bool | None]:
        """Return a verdict on each question; None where it has no finite probabilities or does not fit."""
        words = ("correct", "incorrect")
        found = self.scorer.answers([(question, word) for question in questions for word in words])
        likely = [[found[question, word].lp for word in words] for question in questions]
        return [None if yes is None or no is None else yes > no for yes, no in likely]
