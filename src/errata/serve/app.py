"""The server: one model with its book, asked, corrected and watched over HTTP; `application` makes it.

    /health                 whether it is alive; the only thing that needs no token
    /v1/…                   text, as OpenAI's clients ask for it
    /api/…                  the book
    /metrics                for Prometheus
    /                       the studio, in a browser

Every error is {"error": {"message", "type", "param", "code"}} with a sentence that says what to do.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from errata import __version__
from errata.book.files import JOBS
from errata.editing.editor import Editor
from errata.errors import BadBook, BookBusy, CorruptEdit, ErrataError, InputError, SolveError, UnknownEdit
from errata.serve import completions, edits, looking, studio
from errata.serve.auth import Gatekeeper, NotAllowed, NotLetIn
from errata.serve.guard import Guard, Limits
from errata.serve.jobs import JobCancelled, Jobs, KeyUsedOtherwise, UnknownJob
from errata.serve.metrics import Metrics
from errata.serve.owner import Owner, ServerBusy
from errata.serve.service import Service, TooManyFailures, VersionPassed, reads, service
from errata.serve.states import UnknownState
from errata.serve.work import CHANGES, work

log = logging.getLogger("errata")
# The first that fits; what is given cannot be used is 400, what a method could not do 422.
STATUS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (NotLetIn, 401), (NotAllowed, 403), (TooManyFailures, 429), (UnknownState, 404), (UnknownEdit, 404), (UnknownJob, 404),
    (VersionPassed, 409), (KeyUsedOtherwise, 409), (BookBusy, 503), (CorruptEdit, 409), (BadBook, 409), (InputError, 400),
    (SolveError, 422), (JobCancelled, 409), (ServerBusy, 503),
)  # fmt: skip
# The framework can report to collectors; nothing leaves this server but answers.
QUIET: Final[Any] = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error; 500 of what was not foreseen."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def application(
    editor: Editor, gatekeeper: Gatekeeper, *, limits: Limits | None = None, runs: Path | None = None
) -> Guard:
    """Return the server of a model and its book.

    Args:
        gatekeeper: the tokens. limits: what is taken in. runs: directory of benchmark runs that the studio shows.
    """
    metrics = Metrics()
    owner = Owner(editor, metrics)
    book = editor.book
    jobs = Jobs(book.path / JOBS, work(owner), CHANGES, status_of, book.signer, book.meta().get("id", ""))
    served = Service(editor, owner, gatekeeper, metrics, jobs, runs, int(time.time()))
    app = FastAPI(
        title="errata", version=__version__, docs_url=None, redoc_url=None, openapi_url=None, lifespan=_life(served),
        description="Ask any state of a model and its book, and correct it.",
        telemetry=QUIET,
    )  # fmt: skip
    app.state.service = served
    for router in (completions.router, edits.router, looking.router, studio.router):
        app.include_router(router)
    app.add_api_route("/health", _health, methods=["GET"], tags=["server"])
    app.add_api_route("/metrics", _metrics, methods=["GET"], tags=["server"], dependencies=[Depends(reads)])
    app.add_api_route("/openapi.json", _schema, methods=["GET"], include_in_schema=False, dependencies=[Depends(reads)])
    for kind, answer in ((ErrataError, _ours), (RequestValidationError, _invalid), (HTTPException, _http)):
        app.add_exception_handler(kind, answer)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _unforeseen)
    _gauges(served)
    return Guard(app, served, limits or Limits())


def _life(served: Service) -> Any:
    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        served.owner.start()
        served.jobs.start()
        yield
        served.jobs.stop()
        if not served.owner.stop():
            log.warning("some requests were not answered to their end")

    return life


def _gauges(served: Service) -> None:
    watch, book = served.metrics.watch, served.book
    watch("errata_waiting", "Requests that wait for their first token.", lambda: served.owner.waiting)
    watch("errata_book_version", "Number of the book's last event.", book.version)
    watch("errata_standing_edits", "Edits that stand.", lambda: len(book.records(standing=True)))
    for status in ("queued", "running", "done", "failed", "cancelled"):
        count = lambda status=status: sum(job.status == status for job in served.jobs.all())  # noqa: E731
        watch(f"errata_jobs_{status}", f"Jobs that are {status}.", count)


async def _health(served: Annotated[Service, Depends(service)]) -> Response:
    """Say whether the model is at work; 503 while the server stops."""
    alive = served.owner.alive
    return Response(
        json.dumps({"status": "ok" if alive else "stopping"}), 200 if alive else 503, media_type="application/json"
    )


def _metrics(served: Annotated[Service, Depends(service)]) -> Response:
    """Tell Prometheus how it goes."""
    return Response(served.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _schema(request: Request) -> dict[str, Any]:
    """Return every route as OpenAPI describes it."""
    found: dict[str, Any] = request.app.openapi()
    return found


def problem(status: int, message: str, code: str = "", param: str | None = None) -> Response:
    """Return an error as every route answers it."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    body = json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code or None}})
    headers = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "2"}, 429: {"retry-after": "60"}}.get(status)
    return Response(body, status, headers, "application/json")


def _ours(request: Request, error: ErrataError) -> Response:
    status = status_of(error)
    if status >= 500 and status != 503:
        log.error("%s: %s", type(error).__name__, error)
    codes = {"UnknownState": "model_not_found", "NotLetIn": "invalid_api_key"}
    name = type(error).__name__
    if status == 401 and studio.is_page(request):
        return studio.door(request)
    return problem(status, str(error), codes.get(name, name), "model" if name == "UnknownState" else None)


def _invalid(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    named = [
        str(part) for part in first["loc"][1:] if re.fullmatch(r"[\w-]{1,40}", str(part)) and "str" not in str(part)
    ]
    place = ".".join(named) or str(first["loc"][0])
    return problem(400, f"{place}: {first['msg']}.", "invalid_value", place)


def _http(request: Request, error: HTTPException) -> Response:
    said = {
        404: "there is nothing at this address; /openapi.json lists what there is.",
        405: "this address takes another method.",
    }
    made = problem(error.status_code, said.get(error.status_code, str(error.detail)))
    made.headers.update(error.headers or {})
    return made


def _unforeseen(request: Request, error: Exception) -> Response:
    log.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)  # uvicorn tells the rest
    return problem(500, "this was not foreseen; the server's log says more.")
