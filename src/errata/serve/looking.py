"""The book over HTTP, only looked at: log, show, history, tags, diff, conflicts, methods, gates, export; and the jobs."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Query, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse

from errata import methods, wire
from errata.book import facts as book_facts
from errata.book import states
from errata.config import describe
from errata.data.facts import read_facts
from errata.editing.collisions import collisions
from errata.editing.diff import diff
from errata.editing.gates import Gates, of_book
from errata.editing.standing import load
from errata.errors import BadConfig, BadFile
from errata.serve.bodies import At, TextRequest
from errata.serve.events import progress
from errata.serve.service import TheService, Writer, reads, tagged

router = APIRouter(prefix="/api", tags=["book"], dependencies=[Depends(reads)])


@router.get("/edits")
def log(
    served: TheService, version: Annotated[int, Depends(tagged)], standing: bool = False, tag: At = "", tenant: At = "",
    expired: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """List the edits of the book, oldest first."""
    found = served.book.records(standing=standing, tag=tag, tenant=tenant, expired=expired)
    return {"edits": [wire.record(record) for record in found], "version": version}


@router.get("/edits/{edit_id}", dependencies=[Depends(tagged)])
def show(edit_id: str, served: TheService) -> dict[str, Any]:
    """Show all that is known of one edit."""
    return wire.whole_record(served.book.get(edit_id), served.book.history(edit_id))


@router.get("/history")
def history(
    served: TheService, version: Annotated[int, Depends(tagged)], after: Annotated[int, Query(ge=0, lt=2**53)] = 0
) -> dict[str, Any]:
    """List what happened to the book, oldest first."""
    names = ("seq", "kind", "edit_id", "at", "author", "reason", "data", "signer")
    events = [event for event in served.book.history() if event.seq > after]
    return {"events": [{name: getattr(event, name) for name in names} for event in events], "version": version}


@router.get("/tags", dependencies=[Depends(tagged)])
def tags(served: TheService) -> dict[str, Any]:
    """List the tags that are set."""
    book = served.book
    return {"tags": [wire.tag(name, event, states.at(book, name)) for name, event in states.tags(book).items()]}


@router.get("/diff", dependencies=[Depends(tagged)])
def compare(
    served: TheService, a: Annotated[str, Query(max_length=200)], b: Annotated[str, Query(max_length=200)] = "now"
) -> dict[str, Any]:
    """Compare two states: a tag, @12, now, base, or an edit's id."""
    return wire.difference(diff(served.book, a, b))


@router.get("/conflicts", dependencies=[Depends(tagged)])
def conflicts(served: TheService, limit: Annotated[float, Query(ge=0, le=100)] = 0.3) -> dict[str, Any]:
    """List standing edits that get in each other's way."""
    standing = served.book.stand()
    found = collisions(load(served.book, standing), limit)
    return wire.conflicts(book_facts.conflicts(book_facts.said(standing)), found)


@router.get("/methods")
def known_methods() -> dict[str, Any]:
    """List the methods with their settings."""
    return {"methods": [wire.method(name, methods.get(name)) for name in methods.names()]}


@router.get("/gates")
def gates(served: TheService) -> dict[str, Any]:
    """List the gates there are, and the limits this book sets."""
    own = of_book(served.book.path)
    hidden = ("sentinels", "text")
    rows = [
        {"name": name, "about": about, "limit": getattr(own, name, default)}
        for name, _, default, about in describe(Gates)
        if name not in hidden
    ]
    return {"gates": rows, "set": own is not None}


@router.post("/preview")
def preview(asked: Annotated[TextRequest, Body(examples=[{"text": "{}", "form": "jsonl"}])]) -> dict[str, Any]:
    """Read the text of a file of facts, and say which rows are none."""
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"facts.{asked.form}"
        path.write_text(asked.text, encoding="utf-8")
        try:
            facts, why = read_facts(path, skip_bad=True, notes=notes), ""
        except BadFile as error:
            facts, why = [], str(error)
        told = [note.replace(f"{folder}/", "").removeprefix("left out: ") for note in notes]
    return {"facts": [fact.to_dict() for fact in facts], "bad": told, "error": why.replace(f"{folder}/", "")}


@router.get("/export", response_class=Response)
async def export(
    served: TheService, form: Literal["adapter", "delta", "gguf-lora", "blocks"] = "adapter",
    at: Annotated[str, Query(max_length=200)] = "now", rank: Annotated[int | None, Query(ge=1, le=4096)] = None,
) -> Response:  # fmt: skip
    """Send a state of the book as others load it, in one zip file."""
    if rank is not None and form not in ("adapter", "gguf-lora"):
        raise BadConfig("rank is for adapters: a delta is exact.")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "export"
        await served.alone(lambda editor: editor.export(directory, form, at, rank=rank))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as file:
            for path in sorted(directory.rglob("*")):
                file.write(path, path.relative_to(directory))
    name = f"{served.editor.name}-{form}.zip".replace('"', "").encode("ascii", "replace").decode().replace("/", "-")
    return Response(
        packed.getvalue(),
        media_type="application/zip",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


@router.get("/jobs")
def jobs(served: TheService) -> dict[str, Any]:
    """List the jobs, the newest first."""
    return {"jobs": [job.shown() | {"result": None} for job in served.jobs.all()]}


@router.get("/jobs/{job_id}", response_model=None)
def job(job_id: str, served: TheService) -> JSONResponse:
    """Show one job; always 200, its own status says how it went."""
    return JSONResponse({"job": served.jobs.get(job_id).shown()})


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse)
async def watch(job_id: str, served: TheService) -> EventSourceResponse:
    """Follow a job: an event at every step, the last when it is over."""
    return EventSourceResponse(progress(served.jobs, served.jobs.get(job_id)), ping=15)


@router.post("/jobs/{job_id}/cancel", response_model=None)
def cancel(job_id: str, served: TheService, who: Writer) -> JSONResponse:
    """End a job; what it had not finished is not done."""
    return JSONResponse({"job": served.jobs.cancel(job_id).shown()})
