"""A second opinion: a model that reads what was said and finds it right or wrong.

    judge = EndpointJudge("http://127.0.0.1:8000/v1", "some-model", key=os.environ["JUDGE_KEY"])
    rows = judged(rows, judge)                      # adds scores.judged and who judged; changes nothing else

Without a judge `said` and `said_contains` are what there is, and with one they stay what they were. The judge's
name and prompt are written into every row it looked at, because a score that depends on them means nothing without
them.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Protocol

from errata.errors import BadConfig, ErrataError
from errata.evaluate.metrics import Row
from errata.evaluate.metrics import judged as judged_score
from errata.evaluate.scoring import Scorer

PROMPT = """Question: {prompt}
Expected answer: {expected}
Given answer: {said}
Does the given answer state the expected answer, without contradicting it? Answer with one word, correct or incorrect.
Verdict:"""


class Judge(Protocol):
    """Anything that can tell right answers from wrong ones."""

    @property
    def name(self) -> str:
        """Who judges, as it shall stand in the rows."""

    @property
    def prompt(self) -> str:
        """The template it is asked with; has {prompt}, {expected} and {said}."""

    def verdicts(self, questions: Sequence[str]) -> list[bool | None]:
        """Return a verdict on each filled template; None where it gave none."""


def judged(rows: Iterable[Row], judge: Judge) -> list[dict[str, Any]]:
    """Return all rows, those with something said and something expected with a verdict in `scores.judged`.

    Rows that had nothing to judge are returned as they were. A judged row also has `judge`: {"name", "prompt"}.

    Raises:
        ErrataError: the judge cannot be asked.
    """
    found = [dict(row) for row in rows]
    asked = [row for row in found if row["said"] is not None and row["expected"]]
    given = judge.verdicts([_filled(judge.prompt, row) for row in asked])
    for row, verdict in zip(asked, given, strict=True):
        row["scores"] = {**row["scores"], "judged": judged_score(verdict)}
        row["judge"] = {"name": judge.name, "prompt": judge.prompt}
    return found


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
class EndpointJudge:
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
        return f"{self.model} at {urllib.parse.urlsplit(self.url).hostname}"

    def verdicts(self, questions: Sequence[str]) -> list[bool | None]:
        """Return a verdict on each question, asked one after the other at temperature 0; equal ones are asked once.

        Raises:
            ErrataError: the endpoint refuses, or does not answer after all attempts.
        """
        known = {question: read_verdict(self._ask(question)) for question in dict.fromkeys(questions)}
        return [known[question] for question in questions]

    def _ask(self, question: str) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 16,
        }
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        why = ""
        for attempt in range(self.attempts):
            time.sleep(0.25 * 2**attempt if attempt else 0)
            try:
                return self._send(request)
            except urllib.error.HTTPError as error:
                why = f"{error.code} {error.reason}"
                error.close()
                if error.code != 429 and error.code < 500:
                    break
            except (OSError, HTTPException) as error:
                why = str(getattr(error, "reason", error)) or type(error).__name__
        raise ErrataError(f"the judge {self.name} does not answer ({why}); see that {self.url} is right and running.")

    def _send(self, request: urllib.request.Request) -> str:
        opener = urllib.request.build_opener(_NoRedirect())
        with opener.open(request, timeout=self.timeout) as answer:
            text = answer.read()
        try:
            content = json.loads(text)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise ErrataError(f"the judge {self.name} answered with something else than a chat completion.") from error
        return content if isinstance(content, str) else ""


def _check_template(template: str) -> None:
    missing = [name for name in ("{prompt}", "{expected}", "{said}") if name not in template]
    if missing:
        raise BadConfig(f"the judge's prompt lacks {', '.join(missing)}: without it there is nothing to judge.")


# ---------------------------------------------------------------- a local model


@dataclass(frozen=True, slots=True)
class LocalJudge:
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
