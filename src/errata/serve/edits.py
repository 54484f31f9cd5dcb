"""The book over HTTP: facts in, and log, show, drop, restore, tag, checkout, diff, check, conflicts, locate, export.

Whatever takes long or changes something is a job (`errata.serve.jobs`), waited for as long as the client says. Each answer
about the book has its version as ETag; with it as If-Match a change is refused (409) when somebody else came first.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body, Depends, Header, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse

from errata import methods, wire
from errata.book import facts as book_facts
from errata.book import states
from errata.config import describe, from_dict
from errata.data.facts import read_facts
from errata.edit import Label
from errata.editing.collisions import collisions
from errata.editing.diff import diff
from errata.editing.gates import Gates, of_book
from errata.editing.standing import load
from errata.errors import BadConfig, BadFile, InputError
from errata.fact import Fact, check_consistent
from errata.model.query import Query as Asked
from errata.serve.auth import Principal
from errata.serve.events import progress
from errata.serve.jobs import Job
from errata.serve.service import Service, check_seen, reads, seen, service, tagged, writes
from errata.serve.work import gates_of, settled
from errata.solve.causal import Tracing

router = APIRouter(prefix="/api", tags=["book"], dependencies=[Depends(reads)])
FORMS: Final = ("adapter", "delta", "gguf-lora", "blocks")  # exports that are small enough to be sent
LONGEST: Final = 120.0  # seconds a request waits for a job
At = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=2000)]
Served = Annotated[Service, Depends(service)]
Seen = Annotated[int | None, Depends(seen)]
Writer = Annotated[Principal, Depends(writes)]
Wait = Annotated[float, Query(ge=0, le=LONGEST, description="Seconds to wait for the job.")]
Key = Annotated[str, Header(alias="Idempotency-Key", max_length=200)]
_FACT: Final = {"prompt": "The capital of France is", "subject": "France", "target": "Lyon"}


class Strict(BaseModel):
    """A request in which nothing is passed over."""

    model_config = ConfigDict(extra="forbid")


class FactsRequest(Strict):
    """Facts, and how they are to be written."""

    facts: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=5000)]
    method: At = "rome"
    settings: dict[str, Any] = {}
    gates: dict[str, Any] | None = None


class LabelRequest(Strict):
    """Who writes, why, and until when it is true."""

    author: At = ""
    reason: Text = ""
    source: Text = ""
    tags: Annotated[list[At], Field(max_length=50)] = []
    tenant: At = ""
    valid_from: At = ""
    valid_until: At = ""


class WriteRequest(FactsRequest):
    """Facts to be written: all or none, unless `atomic` is false; then one after the other."""

    label: LabelRequest = LabelRequest()
    atomic: bool = True


class IdsRequest(Strict):
    """Edits by their ids, and why."""

    ids: Annotated[list[At], Field(min_length=1, max_length=5000)]
    reason: Text = ""
    author: At = ""


class TagRequest(Strict):
    """A name for what stands now."""

    name: At
    move: bool = False
    reason: Text = ""
    author: At = ""


class StateRequest(Strict):
    """A state to go back to."""

    state: At
    reason: Text = ""
    author: At = ""


class CheckRequest(Strict):
    """Whether edits whose last day has passed are dropped."""

    drop_expired: bool = False


class LocateRequest(Strict):
    """A fact to look for."""

    prompt: Text
    subject: Text
    target: Text = ""
    method: Literal["kne", "trace"] = "trace"
    settings: dict[str, Any] = {}


class AskRequest(Strict):
    """A prompt put to several states."""

    prompt: Annotated[str, Field(max_length=20_000)]
    states: Annotated[list[At], Field(min_length=1, max_length=8)] = ["base", "base@now"]
    chat: bool | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=512)] = 32
    top: Annotated[int, Field(ge=0, le=20)] = 5


class TextRequest(Strict):
    """The text of a file of facts."""

    text: Annotated[str, Field(max_length=3_000_000)]
    form: Literal["jsonl", "json", "csv"] = "jsonl"


class PromptRequest(Strict):
    """A prompt to find the subject of."""

    prompt: Annotated[str, Field(min_length=1, max_length=20_000)]


async def _job(
    served: Service, kind: str, asked: BaseModel, who: Principal, *, wait: float, key: str = "", seen: int | None = None
) -> JSONResponse:
    """Queue a job, wait for it, and return it: 200 when it is done, 202 while it runs, or the status of what went wrong."""
    if seen is not None:
        check_seen_unless_known(served, kind, key, seen, who)
    job = served.jobs.submit(kind, asked.model_dump(), who.name, key=key, seen=seen)
    over = await served.jobs.arrived(job, wait)
    return shown(served, job) if over else shown(served, job, 202)


def check_seen_unless_known(served: Service, kind: str, key: str, version: int, who: Principal) -> None:
    """Refuse what was asked of a version that has passed, unless it was done at the first time it was sent."""
    if not (key and served.jobs.knows(who.name, key)):
        check_seen(served.book, version)


def shown(served: Service, job: Job, status: int = 200) -> JSONResponse:
    """Return a job as it is answered."""
    row: dict[str, Any] = {"job": job.shown()}
    if job.status == "failed" and job.error is not None:
        status = job.error["status"]
        row["error"] = {
            "message": job.error["message"], "type": "invalid_request_error", "param": None, "code": job.error["type"],
        }  # fmt: skip
    headers = {"etag": f'"v{served.book.version()}"', "location": f"/api/jobs/{job.id}"}
    return JSONResponse(row, status, headers)


def checked(asked: FactsRequest) -> None:
    """Raise whatever is wrong with facts and settings before anything is queued."""
    facts = [Fact.from_dict(row) for row in asked.facts]
    check_consistent(facts)
    settled(asked.method, asked.settings)
    gates_of(asked.gates)


# ------------------------------------------------------------------------------------------------ changing


@router.post("/edits", response_model=None)
async def write(
    asked: Annotated[WriteRequest, Body(examples=[{"facts": [_FACT], "label": {"reason": "an exercise"}}])],
    served: Served, who: Writer, version: Seen, wait: Wait = 30.0, key: Key = "",
) -> JSONResponse:  # fmt: skip
    """Write facts."""
    checked(asked)
    label = asked.label.model_dump()
    Label(**{f.name: label[f.name] for f in fields(Label) if f.name != "tags"}, tags=tuple(asked.label.tags))
    return await _job(served, "write", asked, who, wait=wait, key=key, seen=version)


@router.post("/drop", response_model=None)
async def drop(
    asked: Annotated[IdsRequest, Body(examples=[{"ids": ["3f9a1c"], "reason": "it was wrong"}])],
    served: Served, who: Writer, version: Seen, wait: Wait = 30.0, key: Key = "",
) -> JSONResponse:  # fmt: skip
    """Take edits back, exactly."""
    return await _job(served, "drop", asked, who, wait=wait, key=key, seen=version)


@router.post("/restore", response_model=None)
async def restore(
    asked: Annotated[IdsRequest, Body(examples=[{"ids": ["3f9a1c"]}])],
    served: Served, who: Writer, version: Seen, wait: Wait = 30.0, key: Key = "",
) -> JSONResponse:  # fmt: skip
    """Let dropped edits stand again, each in its old place."""
    return await _job(served, "restore", asked, who, wait=wait, key=key, seen=version)


@router.post("/tags", response_model=None)
async def tag(
    asked: Annotated[TagRequest, Body(examples=[{"name": "release-1"}])],
    served: Served, who: Writer, version: Seen, wait: Wait = 30.0, key: Key = "",
) -> JSONResponse:  # fmt: skip
    """Give what stands now a name; it is then a model one can ask."""
    return await _job(served, "tag", asked, who, wait=wait, key=key, seen=version)


@router.post("/untag", response_model=None)
async def untag(
    asked: Annotated[TagRequest, Body(examples=[{"name": "release-1"}])],
    served: Served, who: Writer, version: Seen, wait: Wait = 30.0, key: Key = "",
) -> JSONResponse:  # fmt: skip
    """Take a tag away."""
    return await _job(served, "untag", asked, who, wait=wait, key=key, seen=version)


@router.post("/checkout", response_model=None)
async def checkout(
    asked: Annotated[StateRequest, Body(examples=[{"state": "release-1"}])],
    served: Served, who: Writer, version: Seen, wait: Wait = 30.0, key: Key = "",
) -> JSONResponse:  # fmt: skip
    """Let exactly those edits stand that stood then."""
    return await _job(served, "checkout", asked, who, wait=wait, key=key, seen=version)


@router.post("/check", response_model=None)
async def check(asked: CheckRequest, served: Served, who: Writer, wait: Wait = 30.0, key: Key = "") -> JSONResponse:
    """Ask about every fact that stands: what holds, and what was forgotten, overridden or has expired."""
    return await _job(served, "check", asked, who, wait=wait, key=key)


# ------------------------------------------------------------------------------------------------ asking


@router.post("/try", response_model=None)
async def tries(
    asked: Annotated[FactsRequest, Body(examples=[{"facts": [_FACT]}])],
    served: Served, who: Annotated[Principal, Depends(reads)], wait: Wait = 60.0,
) -> JSONResponse:  # fmt: skip
    """Say what would come of writing facts, and write nothing: before and after, neighbours that moved, gates."""
    checked(asked)
    if len(asked.facts) > 50:
        raise InputError("at most 50 facts can be tried at once.")
    return await _job(served, "try", asked, who, wait=wait)


@router.post("/locate", response_model=None)
async def locate(
    asked: Annotated[LocateRequest, Body(examples=[{"prompt": _FACT["prompt"], "subject": _FACT["subject"]}])],
    served: Served, who: Annotated[Principal, Depends(reads)], wait: Wait = 60.0,
) -> JSONResponse:  # fmt: skip
    """Find where the model keeps a fact: by causal tracing, or by its neurons."""
    Fact(prompt=asked.prompt, subject=asked.subject, target=asked.target or "?")
    if asked.method == "trace":
        from_dict(Tracing, asked.settings)
    else:
        settled("kne", asked.settings)
    return await _job(served, "locate", asked, who, wait=wait)


@router.post("/subject", response_model=None)
async def subject(
    asked: Annotated[PromptRequest, Body(examples=[{"prompt": _FACT["prompt"]}])],
    served: Served, who: Annotated[Principal, Depends(reads)],
) -> JSONResponse:  # fmt: skip
    """Find what a prompt is about."""
    return await _job(served, "subject", asked, who, wait=30.0)


@router.post("/ask")
async def ask(
    asked: Annotated[AskRequest, Body(examples=[{"prompt": _FACT["prompt"]}])], served: Served
) -> dict[str, Any]:
    """Ask several states of the book the same: what each says, and its likeliest next tokens."""
    if not asked.prompt.strip():
        raise InputError("the prompt is empty; ask something.")
    chat = served.editor.lm.tokens.chat.invites(asked.prompt) if asked.chat is None else asked.chat
    query, rows = Asked(asked.prompt, role="user" if chat else ""), []
    for name in asked.states:
        found = await served.alone(
            lambda _, name=name: served.owner.asked(name, query, asked.max_new_tokens, asked.top)
        )
        rows.append({"model": found[0].name, "edits": list(found[0].ids), **wire.answer(found[1])})
    return {"states": rows}


# ------------------------------------------------------------------------------------------------ looking


@router.get("/edits")
def log(
    served: Served, version: Annotated[int, Depends(tagged)], standing: bool = False, tag: At = "", tenant: At = "",
    expired: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """List the edits of the book, oldest first."""
    found = served.book.records(standing=standing, tag=tag, tenant=tenant, expired=expired)
    return {"edits": [wire.record(record) for record in found], "version": version}


@router.get("/edits/{edit_id}", dependencies=[Depends(tagged)])
def show(edit_id: str, served: Served) -> dict[str, Any]:
    """Show all that is known of one edit."""
    return wire.whole_record(served.book.get(edit_id), served.book.history(edit_id))


@router.get("/history")
def history(
    served: Served, version: Annotated[int, Depends(tagged)], after: Annotated[int, Query(ge=0, lt=2**53)] = 0
) -> dict[str, Any]:
    """List what happened to the book, oldest first."""
    names = ("seq", "kind", "edit_id", "at", "author", "reason", "data", "signer")
    events = [event for event in served.book.history() if event.seq > after]
    return {"events": [{name: getattr(event, name) for name in names} for event in events], "version": version}


@router.get("/tags", dependencies=[Depends(tagged)])
def tags(served: Served) -> dict[str, Any]:
    """List the tags that are set."""
    book = served.book
    return {"tags": [wire.tag(name, event, states.at(book, name)) for name, event in states.tags(book).items()]}


@router.get("/diff", dependencies=[Depends(tagged)])
def compare(
    served: Served, a: Annotated[str, Query(max_length=200)], b: Annotated[str, Query(max_length=200)] = "now"
) -> dict[str, Any]:
    """Compare two states: a tag, @12, now, base, or an edit's id."""
    return wire.difference(diff(served.book, a, b))


@router.get("/conflicts", dependencies=[Depends(tagged)])
def conflicts(served: Served, limit: Annotated[float, Query(ge=0, le=100)] = 0.3) -> dict[str, Any]:
    """List standing edits that get in each other's way."""
    standing = served.book.stand()
    found = collisions(load(served.book, standing), limit)
    return wire.conflicts(book_facts.conflicts(book_facts.said(standing)), found)


@router.get("/methods")
def known_methods() -> dict[str, Any]:
    """List the methods with their settings."""
    return {"methods": [wire.method(name, methods.get(name)) for name in methods.names()]}


@router.get("/gates")
def gates(served: Served) -> dict[str, Any]:
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
    served: Served, form: Literal["adapter", "delta", "gguf-lora", "blocks"] = "adapter",
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


# ------------------------------------------------------------------------------------------------ jobs


@router.get("/jobs")
def jobs(served: Served) -> dict[str, Any]:
    """List the jobs, the newest first."""
    return {"jobs": [job.shown() | {"result": None} for job in served.jobs.all()]}


@router.get("/jobs/{job_id}", response_model=None)
def job(job_id: str, served: Served) -> JSONResponse:
    """Show one job; always 200, its own status says how it went."""
    return JSONResponse({"job": served.jobs.get(job_id).shown()})


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse)
async def watch(job_id: str, served: Served) -> EventSourceResponse:
    """Follow a job: an event at every step, the last when it is over."""
    return EventSourceResponse(progress(served.jobs, served.jobs.get(job_id)), ping=15)


@router.post("/jobs/{job_id}/cancel", response_model=None)
def cancel(job_id: str, served: Served, who: Writer) -> JSONResponse:
    """End a job; what it had not finished is not done."""
    return JSONResponse({"job": served.jobs.cancel(job_id).shown()})
