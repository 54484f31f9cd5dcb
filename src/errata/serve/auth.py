"""Who may do what: tokens in a file, scopes, the studio's cookie, and the link that opens it once.

    # the token file, mode 600: a line a token, with what it may do and whose it is
    kJ3…                        may write; made at the first start
    Qx8… read grafana           may only read

A browser is let in by a link that works once, and then shows a cookie. Cookies are not told apart by port, so a page that
changes anything must also come from this very address, and say so in a header of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from errata.content import read_file
from errata.errors import BadFile, ErrataError

SCOPES: Final = ("read", "write")
SHORTEST: Final = 16  # characters of a token
LONGEST: Final = 1 << 20  # bytes of a token file that are read
LASTS: Final = 7 * 24 * 3600  # seconds a cookie is good for
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
FAILURES: Final = 10  # of letting in, of one address, that are answered at once; one more every six seconds
COOKIE: Final = "errata"
HEADER: Final = "x-errata"  # which a page of another origin cannot set without being asked about


class NotLetIn(ErrataError):
    """There is no token with the request, or not one that is known."""


class NotAllowed(ErrataError):
    """The token may not do this, or the page does not come from here."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a name for the log, and whether it may change anything. By a cookie if `studio`."""

    name: str
    scope: str
    studio: bool = False


class Gatekeeper:
    """Knows the tokens of a file, which is made with one token where it is not there.

    Args:
        path: the token file.

    Raises:
        BadFile: it cannot be read or made, others may read it, or a line of it is no token.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made = _made(path)
        self._known: dict[str, Principal] = {}
        try:
            lines = read_file(path, LONGEST).decode("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise BadFile(f"cannot read the tokens in {path}: {error}.") from error
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise BadFile(f"others may read the tokens in {path}: chmod 600 {path}, and change them if they were read.")
        for number, line in enumerate(lines, start=1):
            self._learn(f"{path}, line {number}", line.split())
        self._key = hashlib.sha256("\n".join(["cookie", *sorted(self._known)]).encode()).digest()
        if not any(who.scope == "write" for who in self._known.values()):
            raise BadFile(f"no token in {path} may write: put one on a line of its own, or remove the file.")
        self.token = next(line.split()[0] for line in lines if line.strip() and line.split()[1:2] in ([], ["write"]))
        self._links: dict[str, float] = {}

    def _learn(self, place: str, words: list[str]) -> None:
        if not words:
            return
        token, scope, name = (*words, *("", "write", "")[len(words) :])[:3] if len(words) < 4 else ("", "", "")
        if len(token) < SHORTEST or scope not in SCOPES:
            raise BadFile(
                f"{place}: a line is a token of at least {SHORTEST} characters, then read or write, then a name."
            )
        self._known[_digest(token)] = Principal(name or ("owner" if scope == "write" else "reader"), scope)

    def by_token(self, header: str) -> Principal:
        """Return who an Authorization header stands for; raises NotLetIn."""
        kind, _, token = header.partition(" ")
        who = self._known.get(_digest(token.strip())) if kind.lower() == "bearer" else None
        if who is None:
            raise NotLetIn(
                "this token is not known here; send 'Authorization: Bearer TOKEN' with one of the token file."
            )
        return who

    def link(self) -> str:
        """Return the key of a link that opens the studio once, within an hour."""
        key = secrets.token_urlsafe(24)
        self._links[key] = time.monotonic() + 3600
        return key

    def follow(self, key: str) -> bool:
        """Say whether a link's key is good, which it is once."""
        return self._links.pop(key, 0.0) > time.monotonic()

    def cookie(self, who: Principal) -> str:
        """Return what the browser shows from now on; it is good after a restart, too, until the tokens change."""
        said = f"{who.scope}.{int(time.time()) + LASTS}.{who.name}"
        return f"{said}.{self._signature(said)}"

    def by_cookie(self, cookie: str) -> Principal:
        """Return who a cookie stands for; raises NotLetIn."""
        said, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(said).encode()):
            raise NotLetIn("open the link that errata serve has printed, or give the token.")
        scope, until, name = said.split(".", 2)
        if int(until) < time.time():
            raise NotLetIn("this page was opened long ago; give the token again.")
        return Principal(name, scope, studio=True)

    def _signature(self, said: str) -> str:
        return hmac.new(self._key, said.encode(), hashlib.sha256).hexdigest()


class Buckets:
    """Lets so many through a second, and a few at once, for each of many.

    Args:
        rate: a second. burst: at once. most: how many are remembered; who has not come for longest is forgotten.
    """

    def __init__(self, rate: float, burst: float, most: int = 4096) -> None:
        self._rate, self._burst, self._most = rate, burst, most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str) -> bool:
        """Let one through, if there is room."""
        now = time.monotonic()
        left, at = self._left.pop(who, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        self._left[who] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return left >= 1


def check_origin(headers: Mapping[str, str]) -> None:
    """Raise NotAllowed for a page's request that does not come from a page of this server."""
    origin = headers.get("origin", "")
    here = origin.partition("://")[2] == headers.get("host", "") and bool(origin)
    if not here or headers.get(HEADER) != "studio" or headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise NotAllowed("this change does not come from a page of this server; send a token instead of a cookie.")


def _digest(token: str) -> str:
    """Return what a token is known by: looking up the hash tells nothing about the token by how long it takes."""
    return hashlib.sha256(token.encode()).hexdigest()


def _made(path: Path) -> bool:
    """Make the token file if it is not there, readable by its owner alone, and say whether that was so."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    except OSError as error:
        raise BadFile(f"cannot make the token file {path}: {error.strerror}.") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{secrets.token_urlsafe(32)}\n")
    return True
