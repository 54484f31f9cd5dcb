"""What every route finds: the model's owner, its book, the jobs, and who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from fastapi import Depends, Header, Request, Response

from errata.book.book import Book
from errata.editing.editor import Editor
from errata.errors import ErrataError, InputError
from errata.serve.auth import COOKIE, FAILURES, Buckets, Gatekeeper, NotAllowed, NotLetIn, Principal, check_origin
from errata.serve.metrics import Metrics
from errata.serve.owner import Owner

if TYPE_CHECKING:
    from errata.serve.jobs import Jobs

_T = TypeVar("_T")


class VersionPassed(InputError):
    """The book has changed since it was last looked at."""


class TooManyFailures(ErrataError):
    """An address has sent too many unknown tokens."""


@dataclass(slots=True)
class Service:
    """One server.

    Args:
        editor: the model with its book; only the owner's thread calls it, the book may be read by all.
        jobs: what takes long. runs: directory of benchmark runs to look at. started: when, in seconds since 1970.
    """

    editor: Editor
    owner: Owner
    gatekeeper: Gatekeeper
    metrics: Metrics
    jobs: Jobs
    runs: Path | None = None
    started: int = 0
    failures: Buckets = field(default_factory=lambda: Buckets(FAILURES / 60, FAILURES))

    @property
    def book(self) -> Book:
        """The book."""
        return self.editor.book

    async def alone(self, work: Callable[[Editor], _T]) -> _T:
        """Do something with the model while nobody else does."""
        return await asyncio.wrap_future(self.owner.call(work))


# Dependencies are coroutines although they wait for nothing: the framework would give each a thread otherwise.


def server_of(request: Request) -> Service:
    """Return the server a request came to."""
    found: Service = request.app.state.service
    return found


async def service(request: Request) -> Service:
    """Return the server a request came to, as a dependency."""
    return server_of(request)


async def who(request: Request) -> Principal:
    """Return who asks, by token or cookie; raises NotLetIn."""
    served = server_of(request)
    address = request.client.host if request.client else "?"
    try:
        header, cookie = request.headers.get("authorization"), request.cookies.get(cookie_name(request))
        if header is not None:
            found = served.gatekeeper.by_token(header)
        elif cookie is not None:
            found = served.gatekeeper.by_cookie(cookie)
        else:
            raise NotLetIn("send 'Authorization: Bearer TOKEN' with a token of the token file.")
    except NotLetIn:
        if not served.failures.take(address):
            raise TooManyFailures("too many unknown tokens; wait a minute.") from None
        raise
    request.state.who = found
    return found


def cookie_name(request: Request) -> str:
    """Return the name of this server's cookie: browsers do not tell ports apart."""
    return f"{COOKIE}-{request.url.port or 80}"


async def reads(request: Request, found: Annotated[Principal, Depends(who)]) -> Principal:
    """Return who may read; a page that sends something must come from here."""
    if found.studio and request.method not in ("GET", "HEAD"):
        check_origin(request.headers)
    return found


async def writes(found: Annotated[Principal, Depends(reads)]) -> Principal:
    """Return who may write; raises NotAllowed."""
    if found.scope != "write":
        raise NotAllowed(f"{found.name}'s token may only read; this needs one that may write.")
    return found


async def seen(if_match: Annotated[str | None, Header(max_length=100)] = None) -> int | None:
    """Return the version of the book that the client has seen; raises InputError for what is none."""
    if if_match is None or if_match.strip() == "*":
        return None
    text = if_match.strip().removeprefix("W/").strip('"').removeprefix("v")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InputError('If-Match is the ETag of what was read of the book, such as "v12".')
    return int(text)


def check_seen(book: Book, version: int | None) -> None:
    """Raise VersionPassed if the book has changed since."""
    if version is not None and (now := book.version()) != version:
        raise VersionPassed(
            f"the book has changed since you looked: it is at v{now}, not v{version}; look again first."
        )


async def tagged(served: Annotated[Service, Depends(service)], response: Response) -> int:
    """Send the version of the book along with what is read of it, from before it was read."""
    version = served.book.version()
    response.headers["etag"] = f'"v{version}"'
    return version


TheService = Annotated[Service, Depends(service)]
Reader = Annotated[Principal, Depends(reads)]
Writer = Annotated[Principal, Depends(writes)]
