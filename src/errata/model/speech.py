"""What a model says: greedy text after prompts, and texts sampled from nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from errata.errors import NotFinite, UnsupportedModel
from errata.model.arch import Row
from errata.model.decoding import Speaker, follow
from errata.model.tokens import Batch, Query, Tokens


class Speech(ABC):
    """The part of a language model that generates."""

    model: Any
    tokenizer: Any
    name: str
    row: Row
    tokens: Tokens

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where inputs go."""

    @property
    @abstractmethod
    def stops(self) -> frozenset[int]:
        """Tokens that end a text."""

    @abstractmethod
    def answer_logits(self, batch: Batch, cache: Any = None) -> Float[Tensor, "a v"]:
        """Return the logits that predict the batch's labels."""

    @abstractmethod
    def generation(self, **settings: Any) -> Any:
        """Return settings of a generation."""

    def generate(self, prompts: Sequence[str], max_new_tokens: int = 32, rows: int = 64) -> list[str]:
        """Return what the model says after each prompt: greedy, up to the end of the text or line.

        Prompts of one length run together, so there is no padding and a batch says what its rows say alone. A classifier
        says the name of the class it takes each for.
        """
        if self.row.kind == "classifier":
            return [
                self.word(int(c)) for at in range(0, len(prompts), rows) for c in self._classes(prompts[at : at + rows])
            ]
        starts = [self.tokens.opening(prompt) for prompt in prompts]
        found = follow(
            cast(Speaker, self), starts, max_new_tokens, ends=lambda place, token: self.ends(token), rows=rows
        )
        return [self.tokens.line(ids) for ids in found]

    def room(self, answers: Iterable[str], least: int = 32) -> int:
        """Return how many tokens let the model say any of these answers to its end: one cut short would count as wrong."""
        long = (answer for answer in answers if len(answer.encode()) + 2 > least)  # a token has at least a byte
        return max([least, *(len(self.tokens.ids(answer)) + 2 for answer in long)])

    @torch.no_grad()
    def _classes(self, prompts: Sequence[str]) -> Tensor:
        return self.answer_logits(self.tokens.batch([Query(prompt) for prompt in prompts])).argmax(-1)

    def word(self, token: int) -> str:
        """Return what a number of the model's output stands for: a token as text, or the name of a class."""
        if self.row.kind != "classifier":
            return self.tokens.word(token)
        return next((name for name, number in self.tokens.classes.items() if number == token), str(token))

    def ends(self, token: int) -> bool:
        """Return whether a text or its line ends with this token; a full stop never ends it."""
        return token in self.stops or "\n" in self.tokens.word(token)

    def sample(self, count: int, length: int, seed: int) -> list[str]:
        """Return `count` texts of about `length` tokens, sampled from nothing; global random state is untouched."""
        start = self.tokenizer.bos_token_id
        start = self.tokenizer.eos_token_id if start is None else start
        ids = torch.full((count, 1), 0 if start is None else start)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            out = self._run(ids, max_new_tokens=length, do_sample=True, top_k=0)
        return [" ".join(self.tokens.decode(row.tolist()).split()) for row in out]

    @torch.no_grad()
    def _run(self, ids: Tensor, **options: Any) -> Tensor:
        if self.row.kind in ("encoder", "classifier"):
            raise UnsupportedModel(f"{self.name} is an encoder and cannot generate text; ask a model that can.")
        special = {"pad_token_id": self.tokens.pad, "eos_token_id": sorted(self.stops) or None}
        settings = self.generation(**special, decoder_start_token_id=self.tokens.start, **options)
        ids = ids.to(self.device)
        given = {"attention_mask": torch.ones_like(ids), "logits_processor": [_finite] if options["do_sample"] else []}
        with self._without_taste():
            out: Tensor = self.model.generate(ids, generation_config=settings, **given)
        return out[:, ids.shape[1] :] if self.row.kind == "decoder" else out[:, 1:]

    @contextmanager
    def _without_taste(self) -> Iterator[None]:
        """Set aside the penalties and temperatures that came with the checkpoint: transformers mixes them into every
        generation, and what is asked here is what the model says."""
        before = self.model.generation_config
        self.model.generation_config = self.generation()
        try:
            yield
        finally:
            self.model.generation_config = before


def _finite(ids: Tensor, scores: Tensor) -> Tensor:
    if not bool(scores.isfinite().all()):
        raise NotFinite("the model's logits are not finite, so nothing can be sampled; load it in float32 or bfloat16.")
    return scores
