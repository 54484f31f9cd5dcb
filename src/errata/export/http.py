"""Asking a serving engine over HTTP: no redirect is followed, so that a key goes nowhere but where it was meant to go."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from typing import Any, Final

from errata.content import bearer
from errata.errors import EngineRefused, InputError

WAIT: Final = 120.0  # seconds, for each answer: an engine may read an adapter from a slow disk
MOST: Final = 16 << 20  # bytes of an answer that are read
KEY: Final = "VLLM_API_KEY"  # in the environment: sent as a bearer token


class Refusal(EngineRefused):
    """The server said no; `code` and `said` are its answer."""

    def __init__(self, url: str, code: int, said: str) -> None:
        super().__init__(f"{url} answered {code}: {' '.join(said.split())[:300]}")
        self.code, self.said = code, said


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nothing: urllib would send the key along, to another host, too."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Return None, by which a redirect becomes an error."""


def address(url: str) -> str:
    """Return a server's address without what follows it; raises InputError if it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        known = (
            url.isprintable()
            and " " not in url
            and parts.scheme in ("http", "https")
            and parts.hostname
            and not parts.query
            and (parts.port or True)
        )
    except ValueError:
        known = False
    if not known:
        raise InputError(f"{url!r} is no address of a server; write it as http://127.0.0.1:8000.")
    if "@" in parts.netloc:
        raise InputError(f"keep names and passwords out of the address; a key is taken from ${KEY}.")
    return url.rstrip("/").removesuffix("/v1")


def ask(url: str, body: Any = None) -> str:
    """Return what a server answers to a GET, or to a POST of JSON.

    Raises:
        InputError: the key cannot be one. Refusal: it says no. EngineRefused: nothing answers, it sends elsewhere, or the
            answer has no end.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    if key := os.environ.get(KEY):
        request.add_unredirected_header("Authorization", bearer(key, KEY))
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=WAIT) as response:
            read = bytes(response.read(MOST + 1))
    except urllib.error.HTTPError as error:
        if 300 <= error.code < 400:
            raise EngineRefused(_elsewhere(url, error.headers.get("Location", ""))) from error
        raise Refusal(url, error.code, _message(error)) from error
    except (OSError, ValueError, HTTPException) as error:  # URLError and timeouts are OSErrors
        why = getattr(error, "reason", None) or error
        if isinstance(why, TimeoutError):
            late = f"{url} did not answer within {WAIT:g} s"
            raise EngineRefused(
                f"{late}: it may be busy, and still do what it was asked; errata pull shows."
            ) from error
        raise EngineRefused(f"nothing answers at {url} ({why}): is the engine running there?") from error
    if len(read) > MOST:
        raise EngineRefused(f"{url} answers with more than {MOST >> 20} MiB: is it the engine?")
    return read.decode("utf-8", "replace")


def _elsewhere(url: str, where: str) -> str:
    where = urllib.parse.urljoin(url, where)
    return f"{url} sends to {where[:200]}, which is not followed, since a key might go along: give the address itself."


def _message(error: urllib.error.HTTPError) -> str:
    """Return what a refusal says, out of the JSON it may be in."""
    try:
        body = error.read(MOST).decode("utf-8", "replace")
    except (OSError, HTTPException):
        return ""
    try:
        said = json.loads(body)
        inner = said.get("error", said)
        return str(inner if isinstance(inner, str) else inner.get("message") or inner.get("error_message") or body)
    except (ValueError, AttributeError):
        return body
