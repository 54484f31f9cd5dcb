"""A stand-in for what a model says: tiny random models say nothing that one could ask about.

mouth = Mouth(monkeypatch)
mouth.base["The capital of France is"] = "Paris"
mouth.edited["The capital of France is"] = "Lyon"      # as soon as any matrix is another than the base's
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
import torch

from errata.book.book import Book
from errata.edit import Edit
from errata.evaluate.scorer import Scorer
from errata.model.lm import LM
from errata.model.query import Prompt, as_query
from errata.model.tokens import Room


class Mouth:
    """Answers in place of every model, each cut after as many tokens as were asked for.

    Attributes:
        base: what is said by prompt, otherwise nothing. edited: what is said instead by a model that is edited.
        asked: every list of prompts, in order.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base: dict[str, str] = {}
        self.edited: dict[str, str] = {}
        self.asked: list[list[str]] = []
        monkeypatch.setattr(LM, "generate", lambda lm, prompts, room=32, **_: self.answers(lm, prompts, room))
        monkeypatch.setattr(Scorer, "said", self._scorer())

    @staticmethod
    def _edited(lm: LM) -> bool:
        return any(not torch.equal(lm.weights[s].cpu(), lm.weights.base(s).cpu()) for s in lm.weights.touched())

    def answers(self, lm: LM, prompts: Sequence[Prompt], room: int | Room) -> list[str]:
        most = Room(room) if isinstance(room, int) else room
        asked = [as_query(prompt).prompt for prompt in prompts]
        self.asked.append(asked)
        texts = {**self.base, **self.edited} if self._edited(lm) else self.base
        return [lm.tokens.lines(lm.tokens.ids(texts.get(prompt, ""))[: most.tokens], most.lines) for prompt in asked]

    def _scorer(self) -> object:
        def said(scorer: Scorer, prompts: Iterable[Prompt], room: int | Room = 32) -> dict[Prompt, str | None]:
            asked = list(dict.fromkeys(prompts))
            return {p: text or None for p, text in zip(asked, self.answers(scorer.lm, asked, room), strict=True)}

        return said


def put(book: Book, *edits: Edit) -> None:
    """Append edits to a book, one transaction each."""
    for edit in edits:
        book.append([(edit.meta(), edit.to_bytes())])


def state(lm: LM) -> dict[str, torch.Tensor]:
    """Return a copy of every tensor of the model."""
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def same(lm: LM, before: dict[str, torch.Tensor]) -> bool:
    """Return whether the model is what it was, to the bit."""
    return all(torch.equal(before[name], tensor) for name, tensor in lm.model.state_dict().items())
