"""What every request passes before anything looks at it: whose address it is sent to, how large it is, and how many come."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from errata.serve.auth import LOOPBACK, Buckets
from errata.serve.service import Service

LARGEST: Final = 4 * 2**20  # bytes of a request
SLOWEST: Final = 30.0  # seconds it may take to arrive
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
METHODS: Final = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH")
log = logging.getLogger("errata.access")

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes.

    Args:
        hosts: names it may be called by; empty takes any. largest: bytes of a request. rate: requests a second of one address.
    """

    hosts: tuple[str, ...] = LOOPBACK
    largest: int = LARGEST
    rate: float = 500.0


class Guard:
    """The outermost layer of the server.

    Attributes:
        service: what is behind it.
    """

    def __init__(self, app: _App, service: Service, limits: Limits) -> None:
        self._app, self.service, self._limits, self._metrics = app, service, limits, service.metrics
        self._buckets = Buckets(limits.rate, 2 * limits.rate)

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Look at a request, let it in, and write down what came of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), [0]

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                extra = [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in given]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            await self._let_in(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "-")
            seconds = time.perf_counter() - begun
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            self._metrics.request(route, method, status[0], seconds)
            row = {
                "at": time.time(), "method": method, "route": route, "status": status[0],
                "seconds": round(seconds, 4), "who": getattr(scope.get("state", {}).get("who"), "name", ""),
            }  # fmt: skip
            log.info("%s", json.dumps(row))

    async def _let_in(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
        if self._limits.hosts and host.strip("[]") not in self._limits.hosts:
            await _refuse(send, 421, "this server is not called that; use the address it was started with.")
            return
        client = (scope.get("client") or ("?", 0))[0]
        if not self._buckets.take(client):
            await _refuse(send, 429, "too many requests; wait a second.", (("retry-after", "1"),))
            return
        length = headers.get("content-length", "0")
        large = f"a request may have {self._limits.largest} bytes; send less at a time."
        if not length.isdigit() or int(length) > self._limits.largest:
            await _refuse(send, 413, large)
            return
        try:
            body = await asyncio.wait_for(self._read(receive), SLOWEST)
        except TimeoutError:
            await _refuse(send, 408, "the request did not arrive; send it again.")
            return
        if body is None:
            await _refuse(send, 413, large)
            return
        await self._app(scope, _replayed(body, receive), send)

    async def _read(self, receive: _Receive) -> bytes | None:
        """Return the whole request; None if it is too large."""
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._limits.largest:
                return None
            if not message.get("more_body", False):
                return bytes(body)


def _replayed(body: bytes, receive: _Receive) -> _Receive:
    told = [False]

    async def again() -> MutableMapping[str, Any]:
        if told[0]:
            return await receive()
        told[0] = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: _Send, status: int, why: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
    kind = {408: "timeout", 413: "too_large", 421: "wrong_host", 429: "rate_limited"}[status]
    row = {"error": {"message": why, "type": "invalid_request_error", "param": None, "code": kind}}
    body = json.dumps(row).encode()
    given = [(n.encode(), v.encode()) for n, v in (("content-type", "application/json"), *headers)]
    await send({"type": "http.response.start", "status": status, "headers": given})
    await send({"type": "http.response.body", "body": body})
