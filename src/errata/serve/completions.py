"""Text from any state of the book, as OpenAI's clients ask for it: /v1/models, /v1/completions, /v1/chat/completions.

Differences: the temperature is 0 unless it is given, so that a fact that was written is what is said; what cannot be done
here (tools, penalties, a suffix, …) is refused, never passed over.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body, Depends
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse

from errata.book import states
from errata.errors import InputError
from errata.model.query import Prompt, Query
from errata.serve.asking import Asking, Chosen, Piece
from errata.serve.service import Service, TheService, reads

router = APIRouter(tags=["completions"], dependencies=[Depends(reads)])
NOT_DONE: Final = (
    "tools", "tool_choice", "functions", "function_call", "response_format", "logit_bias", "frequency_penalty",
    "presence_penalty", "suffix", "best_of", "echo", "modalities", "audio", "prediction", "reasoning_effort",
)  # fmt: skip
AT_MOST: Final = 8192  # tokens that may be asked for
CHAT_ROOM: Final = 256  # tokens of a reply, unless more are asked for


class StreamOptions(BaseModel):
    """What else a stream says."""

    include_usage: bool = False


class Sampling(BaseModel):
    """What both kinds of request have."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(max_length=200, description="base, base@tag, base@EDIT, base@12 or base@now.")]
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    n: Annotated[int | None, Field(ge=1, le=8)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: Annotated[str, Field(max_length=200)] | Annotated[list[str], Field(max_length=8)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def check(self) -> None:
        """Raise InputError for what is asked and cannot be done."""
        for name, value in (self.model_extra or {}).items():
            if name in NOT_DONE and value not in (None, 0, False, [], {}, "none") and (name, value) != ("best_of", 1):
                raise InputError(f"{name} cannot be done here; leave it out.")

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before which an answer ends."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if any(not word or len(word) > 200 for word in given):
            raise InputError("a stop is a text of 1 to 200 characters.")
        return tuple(given)


class CompletionRequest(Sampling):
    """A text to go on with."""

    prompt: Annotated[str, Field(max_length=200_000)] | Annotated[list[str], Field(min_length=1, max_length=64)]
    max_tokens: Annotated[int | None, Field(ge=1, le=AT_MOST)] = None
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None


class TextPart(BaseModel):
    """A part of what is said in a turn."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=200_000)]


class ChatTurn(BaseModel):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=200_000)] | list[TextPart]

    @property
    def text(self) -> str:
        """What is said."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Sampling):
    """A conversation to reply to."""

    messages: Annotated[list[ChatTurn], Field(min_length=1, max_length=500)]
    max_tokens: Annotated[int | None, Field(ge=1, le=AT_MOST)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=AT_MOST)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None

    @property
    def query(self) -> Query:
        """The last turn, with those before it."""
        if self.messages[-1].role != "user":
            raise InputError("the last of the messages must be the user's.")
        earlier = [("system" if t.role == "developer" else t.role, t.text) for t in self.messages[:-1]]
        return Query(self.messages[-1].text, role="user", earlier=tuple(earlier))


@dataclass(slots=True)
class Stream:
    """The pieces of one answer, as they come from the owner's thread."""

    asking: Asking
    pieces: asyncio.Queue[Piece]

    async def next(self) -> Piece:
        """Return the next piece; raises what went wrong."""
        piece = await self.pieces.get()
        if piece.error is not None:
            raise piece.error
        return piece


def begin(served: Service, prompt: Prompt, asked: Sampling, most: int | None, **more: Any) -> Stream:
    """Put a request to the thread that holds the model; raises ServerBusy."""
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Piece]()

    def deliver(piece: Piece) -> None:
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    text = prompt if isinstance(prompt, str) else prompt.prompt
    if not text.strip():
        raise InputError("the prompt is empty; ask something.")
    asking = Asking(
        asked.model, prompt, most, deliver, stop=asked.stops, temperature=asked.temperature or 0.0,
        top_p=asked.top_p or 1.0, **more,
    )  # fmt: skip
    served.owner.ask(asking)
    return Stream(asking, pieces)


def _begun(
    served: Service, asked: Sampling, prompts: Sequence[Prompt], most: int | None, logprobs: int | None
) -> list[Stream]:
    """Put every prompt to the model as often as it was asked for."""
    asked.check()
    count, seed = asked.n or 1, asked.seed if asked.seed is not None else secrets.randbits(32)
    return [
        begin(served, prompt, asked, most, logprobs=logprobs, seed=abs(seed + turn) % 2**63)
        for prompt in prompts
        for turn in range(count)
    ]


@router.get("/v1/models")
def models(served: TheService) -> dict[str, Any]:
    """List the base, what stands now, and the tagged states."""
    name, book = served.editor.name, served.editor.book
    rows = [{"id": name, "object": "model", "created": served.started, "owned_by": "errata", "parent": None}]
    for tag in ("now", *states.tags(book)):
        rows.append({**rows[0], "id": f"{name}@{tag}", "parent": name})
    return {"object": "list", "data": rows}


@router.get("/v1/models/{model:path}")
async def model(model: str, served: TheService) -> dict[str, Any]:
    """Tell of one state: which edits stand in it."""
    state = await served.alone(lambda editor: served.owner.states.find(model))
    base = state.name == served.editor.name
    return {
        "id": state.name, "object": "model", "created": served.started, "owned_by": "errata",
        "parent": None if base else served.editor.name, "edits": list(state.ids), "fingerprint": state.ground,
    }  # fmt: skip


_TEXT: Final = {"model": "base@now", "prompt": "The capital of France is", "max_tokens": 4}
_CHAT: Final = {"model": "base@now", "messages": [{"role": "user", "content": "What is the capital of France?"}]}


@router.post("/v1/completions", response_model=None)
async def completions(
    asked: Annotated[CompletionRequest, Body(examples=[_TEXT])], served: TheService
) -> dict[str, Any] | EventSourceResponse:
    """Go on with a text, or several."""
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    streams = _begun(served, asked, prompts, asked.max_tokens or 16, asked.logprobs)
    return await _answered(asked, streams, "cmpl", "text_completion", _text_choice)


@router.post("/v1/chat/completions", response_model=None)
async def chat(
    asked: Annotated[ChatRequest, Body(examples=[_CHAT])], served: TheService
) -> dict[str, Any] | EventSourceResponse:
    """Reply to a conversation, with a model that has a chat template."""
    most = asked.max_completion_tokens or asked.max_tokens or CHAT_ROOM
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    streams = _begun(served, asked, [asked.query], most, logprobs)
    kind = "chat.completion.chunk" if asked.stream else "chat.completion"
    return await _answered(asked, streams, "chatcmpl", kind, _chunk_choice if asked.stream else _chat_choice)


_Choice = Callable[[int, Piece], dict[str, Any]]


async def _answered(
    asked: Sampling, streams: list[Stream], prefix: str, kind: str, choice: _Choice
) -> dict[str, Any] | EventSourceResponse:
    try:
        first = [await stream.next() for stream in streams]  # whatever is wrong is known before the answer begins
    except BaseException:
        _cancel(streams)
        raise
    state = streams[0].asking.state
    head = {
        "id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": asked.model,
        "system_fingerprint": f"errata-{state.ground if state else ''}",
    }  # fmt: skip
    if asked.stream:
        return EventSourceResponse(_events(asked, streams, first, head, choice), ping=15)
    whole = await asyncio.gather(*(_whole(s, piece) for s, piece in zip(streams, first, strict=True)))
    usage = _usage(streams, sum(piece.tokens for piece in whole))
    return head | {"choices": [choice(i, piece) for i, piece in enumerate(whole)], "usage": usage}


async def _whole(stream: Stream, first: Piece) -> Piece:
    pieces = [first]
    while not pieces[-1].last:
        pieces.append(await stream.next())
    told = tuple(chosen for piece in pieces for chosen in piece.chosen)
    text, count = "".join(piece.text for piece in pieces), sum(piece.tokens for piece in pieces)
    return Piece(text, count, told, pieces[-1].finish)


async def _events(
    asked: Sampling, streams: list[Stream], first: list[Piece], head: dict[str, Any], choice: _Choice
) -> AsyncIterator[dict[str, str]]:
    """Yield the answers piece by piece, each of its own place, then the end."""
    merged: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()

    async def pour(place: int, stream: Stream) -> None:
        piece = first[place]
        merged.put_nowait((place, piece))
        while not piece.last:
            try:
                piece = await stream.next()
            except Exception as error:
                merged.put_nowait((place, error))
                return
            merged.put_nowait((place, piece))

    tasks = [asyncio.create_task(pour(place, stream)) for place, stream in enumerate(streams)]
    left, count = len(streams), 0
    try:
        while left:
            place, piece = await merged.get()
            if isinstance(piece, Exception):
                row = {"error": {"message": str(piece), "type": "server_error", "param": None, "code": None}}
                yield {"data": json.dumps(row)}
                break
            left -= piece.last
            count += piece.tokens
            if piece.text or piece.chosen or piece.last:
                yield {"data": json.dumps(head | {"choices": [choice(place, piece)]}, ensure_ascii=False)}
        if asked.stream_options and asked.stream_options.include_usage:
            yield {"data": json.dumps(head | {"choices": [], "usage": _usage(streams, count)})}
        yield {"data": "[DONE]"}
    finally:
        _cancel(streams)
        for task in tasks:
            task.cancel()


def _cancel(streams: Sequence[Stream]) -> None:
    for stream in streams:
        stream.asking.cancelled = True


def _usage(streams: Sequence[Stream], said: int) -> dict[str, int]:
    read = sum(len(stream.asking.start) for stream in streams)
    return {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}


def _text_choice(place: int, piece: Piece) -> dict[str, Any]:
    return {"index": place, "text": piece.text, "logprobs": _listed(piece), "finish_reason": piece.finish or None}


def _chat_choice(place: int, piece: Piece) -> dict[str, Any]:
    message = {"role": "assistant", "content": piece.text, "refusal": None}
    return {"index": place, "message": message, "logprobs": _by_token(piece), "finish_reason": piece.finish or None}


def _chunk_choice(place: int, piece: Piece) -> dict[str, Any]:
    delta = {"role": "assistant", "content": piece.text}
    return {"index": place, "delta": delta, "logprobs": _by_token(piece), "finish_reason": piece.finish or None}


def _listed(piece: Piece) -> dict[str, Any] | None:
    if not piece.chosen:
        return None
    ends = [0]
    for chosen in piece.chosen:
        ends.append(ends[-1] + len(chosen.token))
    return {
        "tokens": [chosen.token for chosen in piece.chosen],
        "token_logprobs": [chosen.logprob for chosen in piece.chosen],
        "top_logprobs": [dict(chosen.top) for chosen in piece.chosen],
        "text_offset": ends[:-1],
    }


def _by_token(piece: Piece) -> dict[str, Any] | None:
    def row(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    def one(chosen: Chosen) -> dict[str, Any]:
        return row(chosen.token, chosen.logprob) | {"top_logprobs": [row(*pair) for pair in chosen.top]}

    return {"content": [one(chosen) for chosen in piece.chosen], "refusal": None} if piece.chosen else None
