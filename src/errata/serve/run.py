"""Start the server: look at the address, open the model, listen, and stop when told to."""

from __future__ import annotations

import json
import logging
import socket
import sys
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from errata.book.files import AUDIT, check_kinds
from errata.errors import InputError
from errata.serve.auth import LOOPBACK

NEEDED: Final = ("fastapi", "uvicorn", "sse_starlette", "prometheus_client", "jinja2")
GRACE: Final = 30  # seconds to finish requests in
KEPT: Final = (
    75  # seconds that a connection may idle; shorter than that, clients send into one that is just being closed
)
SWITCH: Final = (
    0.0005  # seconds after which the thread of the model lets that of the network go on; Python's 0.005 makes it wait
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to serve.

    Args:
        tokens: the token file. chosen: whether the user named it. runs: benchmark runs to show. rate: requests a second of
            one address. browse: whether to open a browser.
    """

    host: str
    port: int
    tokens: Path
    chosen: bool
    runs: Path | None = None
    rate: float = 500.0
    browse: bool = False


def check(place: Address) -> None:
    """Raise InputError where the extra is missing, or the address is open to others and no token file was named."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} missing: pip install 'errata-lm[serve]'.")
    if place.host not in LOOPBACK and not place.chosen:
        raise InputError(
            f"others can reach {place.host}: name the tokens they need with --token-file FILE (it is made if it is not there), "
            "or leave --host out."
        )


def serve(place: Address, model: str, book: Path, **how: Any) -> Iterator[str]:
    """Yield what is to be said at the start, then serve until the process is told to stop.

    Raises:
        InputError: as `check`, or the port is taken. Whatever opening the model, its book and the tokens raises.
    """
    check(place)
    return _serving(place, model, book, how)


def _serving(place: Address, model: str, book: Path, how: dict[str, Any]) -> Iterator[str]:
    import uvicorn

    from errata.editing.opening import open as opened
    from errata.serve.app import application
    from errata.serve.auth import Gatekeeper
    from errata.serve.guard import Limits
    from errata.serve.listening import Listening

    listening = _socket(place)
    port = listening.getsockname()[1]
    with listening, opened(model, book=book, use="serve", **how) as editor:
        gatekeeper = Gatekeeper(place.tokens)
        hosts = LOOPBACK if place.host in LOOPBACK else ()
        app = application(editor, gatekeeper, limits=Limits(hosts=hosts, rate=place.rate), runs=place.runs)
        _logging(editor.book.path)
        address = f"http://{'127.0.0.1' if place.host in ('0.0.0.0', '::') else place.host}:{port}"
        link = f"{address}/open?key={gatekeeper.link()}"
        yield f"{model} with the book {book} at {address}"
        yield f"token: {place.tokens}{' (made now)' if gatekeeper.made else ''}"
        yield "studio, by this link once:"
        yield link
        if place.browse:
            webbrowser.open(link)
        sys.setswitchinterval(SWITCH)
        settings = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE,
            timeout_keep_alive=KEPT,
            server_header=False,
        )
        Listening(settings).run(sockets=[listening])
        yield "stopped; everything that was reported stands."


def _socket(place: Address) -> socket.socket:
    """Return a socket that listens; raises InputError where that cannot be."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    # Named as TCP, or asyncio does not turn Nagle's algorithm off, and every answer waits 40 ms for the client's ACK.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((place.host, place.port))
        made.listen(2048)
    except OSError as error:
        made.close()
        raise InputError(
            f"cannot listen at {place.host}:{place.port}: {error.strerror}. Choose another --port."
        ) from error
    return made


class JsonLines(logging.Formatter):
    """A line of JSON for each thing that is logged; what is JSON already is taken as it is."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        said = record.getMessage()
        row = json.loads(said) if said.startswith('{"at"') else {"at": record.created, "said": said}
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps({"level": record.levelname.lower(), "log": record.name, **row})


def _logging(book: Path) -> None:
    """Write what happens to stderr, and each change of the book to its audit.jsonl, too."""
    to_stderr = logging.StreamHandler(sys.stderr)
    check_kinds(book)  # written to through no link
    to_file = logging.FileHandler(book / AUDIT, encoding="utf-8")
    for handler in (to_stderr, to_file):
        handler.setFormatter(JsonLines())
    root = logging.getLogger("errata")
    root.handlers, root.propagate = [to_stderr], False
    root.setLevel(logging.INFO)
    logging.getLogger("errata.audit").handlers = [to_file]
    logging.getLogger("uvicorn.error").handlers = [to_stderr]
