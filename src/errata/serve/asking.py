"""One request for text while it is being answered: what is sampled next, what of the text can be shown, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from errata.model.query import Prompt
from errata.serve.states import ServedState

_UNFINISHED: Final = "\ufffd"  # what a character is decoded to of which some bytes have yet to come


class Decodes(Protocol):
    """All that is used of `errata.model.tokens.Tokens`."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some tokens."""

    def word(self, token: int) -> str:
        """Return one token as text."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A token that was said, its log-probability, and the likeliest ones in its place, where they were asked for."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What a request has come to since the piece before.

    Args:
        text: what can be shown now. tokens: how many were said. chosen: what is known of them.
        finish: "stop" or "length" in the last piece; "" before. error: what went wrong, in the last piece.
    """

    text: str = ""
    tokens: int = 0
    chosen: tuple[Chosen, ...] = ()
    finish: str = ""
    error: Exception | None = None

    @property
    def last(self) -> bool:
        """Whether nothing comes after it."""
        return bool(self.finish) or self.error is not None


@dataclass(slots=True)
class Asking:
    """A request for text, answered token by token by the thread that holds the model.

    Args:
        model: the name of the state that answers. prompt: what is asked. most: tokens to say at most; None is all
            there is room for.
        deliver: is called with each `Piece`, by the owner's thread. stop: texts before which it ends.
        temperature: 0 takes the likeliest token. top_p: samples among the likeliest that make up this share.
        seed: of the sampling; the same seed gives the same text, whatever is asked at the same time.
        logprobs: how many likely tokens to tell of each place; None tells nothing.
        lines: ends the text after so many lines that hold anything; 0 does not.

    Attributes:
        state: what the name meant when the request was taken in. start: the prompt's tokens. ids: what was said.
    """

    model: str
    prompt: Prompt
    most: int | None
    deliver: Callable[[Piece], None]
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    logprobs: int | None = None
    lines: int = 0
    cancelled: bool = False
    asked_at: float = 0.0
    state: ServedState | None = None
    start: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    _shown: int = 0
    _draw: np.random.Generator | None = None

    def choose(self, logits: Float[Tensor, " v"]) -> int:
        """Return the next token."""
        if self.temperature <= 0:
            return int(logits.argmax())
        p = (logits.double() / max(self.temperature, 1e-4)).softmax(-1).cpu()
        values, order = p.sort(descending=True)
        below = values.cumsum(-1)
        if self.top_p < 1:
            keep = max(1, int((below - values < self.top_p).sum()))
            below = below[:keep] / below[keep - 1]
        self._draw = self._draw or np.random.default_rng(self.seed)
        place = int(torch.searchsorted(below, torch.tensor(self._draw.random(), dtype=below.dtype)))
        return int(order[min(place, len(below) - 1)])

    def take(self, logits: Float[Tensor, " v"], tokens: Decodes, stops: frozenset[int]) -> Piece:
        """Choose the next token and return what that comes to."""
        token = self.choose(logits)
        chosen = (self._told(logits, token, tokens),) if self.logprobs is not None else ()
        if token in stops:
            return self._ended(tokens.decode(self.ids), 0, (), "stop")
        self.ids.append(token)
        text = tokens.decode(self.ids)
        if (cut := self._cut(text)) is not None:
            return self._ended(text[:cut], 1, chosen, "stop")
        if self.most is not None and len(self.ids) >= self.most:
            return self._ended(text, 1, chosen, "length")
        safe = len(text) - self._held(text)
        piece = Piece(text[self._shown : safe], 1, chosen)
        self._shown = max(self._shown, safe)
        return piece

    def _ended(self, text: str, count: int, chosen: tuple[Chosen, ...], why: str) -> Piece:
        return Piece(text[self._shown :], count, chosen, why)

    def _cut(self, text: str) -> int | None:
        """Return where the text ends; None where it goes on."""
        places = [place for word in self.stop if (place := text.find(word)) >= 0]
        begins = len(text) - len(text.lstrip())
        if self.lines and text[begins:].count("\n") >= self.lines:
            places.append(begins + len("\n".join(text[begins:].split("\n")[: self.lines])))
        return min(places, default=None)

    def _held(self, text: str) -> int:
        """Return how many characters at the end cannot be shown yet: a character may be incomplete, or a stop begin."""
        held = len(text) - len(text.rstrip(_UNFINISHED))
        for word in self.stop:
            most = min(len(word) - 1, len(text))
            held = max(held, next((n for n in range(most, 0, -1) if text.endswith(word[:n])), 0))
        return held

    def _told(self, logits: Tensor, token: int, tokens: Decodes) -> Chosen:
        logp = logits.log_softmax(-1)
        values, ids = logp.topk(min(self.logprobs or 0, len(logp)))
        top = tuple((tokens.word(int(i)), float(v)) for i, v in zip(ids, values, strict=True))
        return Chosen(tokens.word(token), float(logp[token]), top)
