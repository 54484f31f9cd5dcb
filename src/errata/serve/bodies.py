"""What clients send to change the book or to ask about it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

At = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=2000)]


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
