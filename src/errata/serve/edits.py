"""The book over HTTP: facts in, drop, restore, tag, checkout, check; and what is asked of the model: try, locate, ask.

Whatever takes long or changes something is a job (`errata.serve.jobs`), waited for as long as the client says. Each answer
about the book has its version as ETag; with it as If-Match a change is refused (409) when somebody else came first.
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Header, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from errata import wire
from errata.config import from_dict
from errata.edit import Label
from errata.editing.answering import Answer
from errata.editing.editor import Editor
from errata.errors import InputError
from errata.fact import Fact, check_consistent
from errata.model.query import Query as Asked
from errata.serve.auth import Principal
from errata.serve.bodies import (
    AskRequest,
    CheckRequest,
    FactsRequest,
    IdsRequest,
    LocateRequest,
    PromptRequest,
    StateRequest,
    TagRequest,
    WriteRequest,
)
from errata.serve.jobs import Job
from errata.serve.service import Reader, Service, TheService, Writer, check_seen, reads, seen
from errata.serve.states import ServedState
from errata.serve.work import check_bounded, gates_of, settled
from errata.solve.causal import Tracing

router = APIRouter(prefix="/api", tags=["book"], dependencies=[Depends(reads)])
LONGEST: Final = 120.0  # seconds a request waits for a job
Seen = Annotated[int | None, Depends(seen)]
Wait = Annotated[float, Query(ge=0, le=LONGEST, description="Seconds to wait for the job.")]
IdempotencyKey = Annotated[str, Header(alias="Idempotency-Key", max_length=200)]
_FACT: Final = {"prompt": "The capital of France is", "subject": "France", "target": "Lyon"}


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
    served: TheService, who: Writer, version: Seen, wait: Wait = 30.0, key: IdempotencyKey = "",
) -> JSONResponse:  # fmt: skip
    """Write facts."""
    checked(asked)
    label = asked.label.model_dump()
    Label(**{f.name: label[f.name] for f in fields(Label) if f.name != "tags"}, tags=tuple(asked.label.tags))
    return await _job(served, "write", asked, who, wait=wait, key=key, seen=version)


@router.post("/drop", response_model=None)
async def drop(
    asked: Annotated[IdsRequest, Body(examples=[{"ids": ["3f9a1c"], "reason": "it was wrong"}])],
    served: TheService, who: Writer, version: Seen, wait: Wait = 30.0, key: IdempotencyKey = "",
) -> JSONResponse:  # fmt: skip
    """Take edits back, exactly."""
    return await _job(served, "drop", asked, who, wait=wait, key=key, seen=version)


@router.post("/restore", response_model=None)
async def restore(
    asked: Annotated[IdsRequest, Body(examples=[{"ids": ["3f9a1c"]}])],
    served: TheService, who: Writer, version: Seen, wait: Wait = 30.0, key: IdempotencyKey = "",
) -> JSONResponse:  # fmt: skip
    """Let dropped edits stand again, each in its old place."""
    return await _job(served, "restore", asked, who, wait=wait, key=key, seen=version)


@router.post("/tags", response_model=None)
async def tag(
    asked: Annotated[TagRequest, Body(examples=[{"name": "release-1"}])],
    served: TheService, who: Writer, version: Seen, wait: Wait = 30.0, key: IdempotencyKey = "",
) -> JSONResponse:  # fmt: skip
    """Give what stands now a name; it is then a model one can ask."""
    return await _job(served, "tag", asked, who, wait=wait, key=key, seen=version)


@router.post("/untag", response_model=None)
async def untag(
    asked: Annotated[TagRequest, Body(examples=[{"name": "release-1"}])],
    served: TheService, who: Writer, version: Seen, wait: Wait = 30.0, key: IdempotencyKey = "",
) -> JSONResponse:  # fmt: skip
    """Take a tag away."""
    return await _job(served, "untag", asked, who, wait=wait, key=key, seen=version)


@router.post("/checkout", response_model=None)
async def checkout(
    asked: Annotated[StateRequest, Body(examples=[{"state": "release-1"}])],
    served: TheService, who: Writer, version: Seen, wait: Wait = 30.0, key: IdempotencyKey = "",
) -> JSONResponse:  # fmt: skip
    """Let exactly those edits stand that stood then."""
    return await _job(served, "checkout", asked, who, wait=wait, key=key, seen=version)


@router.post("/check", response_model=None)
async def check(
    asked: CheckRequest, served: TheService, who: Writer, wait: Wait = 30.0, key: IdempotencyKey = ""
) -> JSONResponse:
    """Ask about every fact that stands: what holds, and what was forgotten, overridden or has expired."""
    return await _job(served, "check", asked, who, wait=wait, key=key)


# ------------------------------------------------------------------------------------------------ asking


@router.post("/try", response_model=None)
async def tries(
    asked: Annotated[FactsRequest, Body(examples=[{"facts": [_FACT]}])],
    served: TheService, who: Reader, wait: Wait = 60.0,
) -> JSONResponse:  # fmt: skip
    """Say what would come of writing facts, and write nothing: before and after, neighbours that moved, gates."""
    checked(asked)
    if len(asked.facts) > 50:
        raise InputError("at most 50 facts can be tried at once.")
    return await _job(served, "try", asked, who, wait=wait)


@router.post("/locate", response_model=None)
async def locate(
    asked: Annotated[LocateRequest, Body(examples=[{"prompt": _FACT["prompt"], "subject": _FACT["subject"]}])],
    served: TheService, who: Reader, wait: Wait = 60.0,
) -> JSONResponse:  # fmt: skip
    """Find where the model keeps a fact: by causal tracing, or by its neurons."""
    Fact(prompt=asked.prompt, subject=asked.subject, target=asked.target or "?")
    if asked.method == "trace":
        check_bounded(asked.settings)
        from_dict(Tracing, asked.settings)
    else:
        settled("kne", asked.settings)
    return await _job(served, "locate", asked, who, wait=wait)


@router.post("/subject", response_model=None)
async def subject(
    asked: Annotated[PromptRequest, Body(examples=[{"prompt": _FACT["prompt"]}])],
    served: TheService, who: Reader,
) -> JSONResponse:  # fmt: skip
    """Find what a prompt is about."""
    return await _job(served, "subject", asked, who, wait=30.0)


@router.post("/ask")
async def ask(
    asked: Annotated[AskRequest, Body(examples=[{"prompt": _FACT["prompt"]}])], served: TheService
) -> dict[str, Any]:
    """Ask several states of the book the same: what each says, and its likeliest next tokens."""
    if not asked.prompt.strip():
        raise InputError("the prompt is empty; ask something.")
    chat = served.editor.lm.tokens.chat.invites(asked.prompt) if asked.chat is None else asked.chat
    query, rows = Asked(asked.prompt, role="user" if chat else ""), []
    for name in asked.states:
        found = await served.alone(partial(_asked, served, name, query, asked))
        rows.append({"model": found[0].name, "edits": list(found[0].ids), **wire.answer(found[1])})
    return {"states": rows}


def _asked(served: Service, name: str, query: Asked, asked: AskRequest, _: Editor) -> tuple[ServedState, Answer]:
    return served.owner.asked(name, query, asked.max_new_tokens, asked.top)
