"""The studio: pages to ask, correct, watch and undo in a browser. They call the same routes as everybody else.

Pages are rendered with escape of everything; scripts and styles are files of their own, so that the browser runs nothing else.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from errata import __version__, methods
from errata.book import states
from errata.errors import BadFile, InputError
from errata.report.read import read
from errata.serve.auth import LASTS, NotLetIn, Principal
from errata.serve.service import Reader, Service, TheService, cookie_name

router = APIRouter(include_in_schema=False)
PAGES: Final = {"ask": "/", "book": "/book", "where": "/where", "import": "/import", "bench": "/bench", "api": "/api"}
_KINDS: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_TEMPLATES: Final = Environment(
    loader=PackageLoader("errata.serve", "pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip


def is_page(request: Request) -> bool:
    """Whether a browser asks for a page, which is shown the door instead of an error."""
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


def page(request: Request, name: str, status: int = 200, **values: Any) -> Response:
    """Return a page."""
    common = {"version": __version__, "pages": PAGES, "here": name}
    text = _TEMPLATES.get_template(f"{name}.html").render(**common, **values)
    return Response(text, status, {"cache-control": "no-store"}, "text/html; charset=utf-8")


def door(request: Request, why: str = "") -> Response:
    """Return the page that asks for a token."""
    return page(request, "door", 401, why=why)


@router.get("/open")
def follow(request: Request, served: TheService, key: str = "") -> Response:
    """Let a browser in that comes by the link that was printed."""
    if not served.gatekeeper.follow(key):
        return door(request, "This link has been used, or is old. Give the token instead.")
    return _let_in(request, served, served.gatekeeper.by_token(f"Bearer {served.gatekeeper.token}"))


@router.post("/open")
async def enter(request: Request, served: TheService) -> Response:
    """Let a browser in that has the token."""
    fields = parse_qs((await request.body())[:2000].decode("ascii", "replace"))
    token = fields.get("token", [""])[0].strip()
    try:
        found = served.gatekeeper.by_token(f"Bearer {token}")
    except NotLetIn:
        served.failures.take(request.client.host if request.client else "?")
        return door(request, "This token is not known here.")
    return _let_in(request, served, found)


@router.get("/leave")
def leave(request: Request) -> Response:
    """Forget the browser."""
    gone = RedirectResponse("/", 303)
    gone.delete_cookie(cookie_name(request))
    return gone


def _let_in(request: Request, served: Service, found: Principal) -> Response:
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        cookie_name(request), served.gatekeeper.cookie(found), max_age=LASTS, httponly=True, samesite="strict",
        secure=request.url.scheme == "https",
    )  # fmt: skip
    return answer


def _about(served: Service, found: Principal) -> dict[str, Any]:
    """Return what every page knows of the model and its book."""
    book = served.book
    name = served.editor.name
    tags = list(states.tags(book))
    return {
        "model": name, "book": book.path.name, "book_version": book.version(), "who": found, "tags": tags,
        "states": [name, f"{name}@now", *(f"{name}@{tag}" for tag in reversed(tags))],
        "known_methods": methods.names(), "chat": served.editor.lm.tokens.chat.exists,
    }  # fmt: skip


@router.get("/")
def ask(request: Request, served: TheService, found: Reader) -> Response:
    """Ask two states side by side, and correct what is said."""
    example = (
        "The capital of France is" if not served.editor.lm.tokens.chat.exists else "What is the capital of France?"
    )
    return page(request, "ask", **_about(served, found), example=example)


@router.get("/book")
def book(request: Request, served: TheService, found: Reader) -> Response:
    """Show the book as it came about."""
    known = {record.id: record for record in served.book.records()}
    events = [(event, known.get(event.edit_id)) for event in reversed(served.book.history())]
    return page(request, "book", **_about(served, found), events=events[:500], more=max(0, len(events) - 500))


@router.get("/edit/{edit_id}")
def edit(edit_id: str, request: Request, served: TheService, found: Reader) -> Response:
    """Show one edit."""
    record, history = served.book.get(edit_id), served.book.history(edit_id)
    report = record.meta.get("report") or {}
    return page(request, "edit", **_about(served, found), record=record, history=history, report=report)


@router.get("/where")
def where(request: Request, served: TheService, found: Reader) -> Response:
    """Show where a fact is kept."""
    return page(request, "where", **_about(served, found))


@router.get("/import")
def bulk(request: Request, served: TheService, found: Reader) -> Response:
    """Read many facts, show what is wrong with them, and write the others."""
    return page(request, "import", **_about(served, found))


@router.get("/bench")
def bench(request: Request, served: TheService, found: Reader) -> Response:
    """Show the benchmark runs of a directory."""
    runs, broken = [], []
    for directory in sorted(served.runs.iterdir()) if served.runs and served.runs.is_dir() else ():
        if not (directory / "summary.json").is_file():
            continue
        try:
            runs.append(read(directory))
        except BadFile as error:
            broken.append(str(error).replace(f"{served.runs}/", ""))
    names = list(dict.fromkeys(name for run in runs if run.last for name in run.last.metrics))
    shown = [name for name in FIGURES if name in names]
    return page(request, "bench", **_about(served, found), runs=runs, broken=broken, names=shown)


FIGURES: Final = (
    "said", "said_paraphrase", "efficacy", "paraphrase", "neighborhood", "unrelated", "portability", "perplexity",
)  # fmt: skip


@router.get("/api")
def api(request: Request, served: TheService, found: Reader) -> Response:
    """Show every route with an example."""
    schema = request.app.openapi()
    rows = []
    for path, methods_ in schema["paths"].items():
        for method, about in methods_.items():
            body = about.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            if "$ref" in body:
                body = schema["components"]["schemas"][body["$ref"].rpartition("/")[2]]
            media = about.get("requestBody", {}).get("content", {}).get("application/json", {})
            example = next(iter(media.get("schema", {}).get("examples", ()) or body.get("examples", ())), None)
            rows.append(
                {
                    "method": method.upper(), "path": path, "about": about.get("description") or about.get("summary", ""),
                    "fields": body.get("properties", {}), "needed": body.get("required", []), "example": example,
                    "query": [p for p in about.get("parameters", ()) if p["in"] in ("query", "path")],
                    "group": about["tags"][0],
                }
            )  # fmt: skip
    return page(request, "api", **_about(served, found), rows=rows)


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Send a script, a style or a picture of the pages."""
    known = {path.name: path for path in files("errata.serve").joinpath("static").iterdir()}
    if name not in known or Path(name).suffix[1:] not in _KINDS:
        raise InputError("there is no such file.")
    kind = _KINDS[Path(name).suffix[1:]]
    return Response(known[name].read_bytes(), 200, {"cache-control": "no-cache"}, kind)
