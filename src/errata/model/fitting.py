"""Whether a text is short enough for a model's positions, and what to do with one that is not."""

from __future__ import annotations

from errata.model.generation import Speaker, context
from errata.model.query import Query

# A token has at least a byte, but a tokenizer may write one byte as several and puts a few tokens of its own around a text.
TIMES, AROUND = 4, 16


def fits(lm: Speaker, query: Query) -> bool:
    """Return whether the model has a position for every token that is read of a prompt and its answer.

    A model that classifies reads the beginning of a longer text.

    Raises:
        BadFact: as `Tokens.batch`.
    """
    most = context(lm)
    bound = TIMES * len(lm.tokens.join(query).encode()) + AROUND
    if lm.row.kind == "classifier" or bound <= most:
        return True
    return int(lm.tokens.batch([query]).inputs["input_ids"].shape[1]) <= most


def clipped(lm: Speaker, text: str) -> str:
    """Return as much of the beginning of a text as the model has positions for."""
    while len(text) > 1 and not fits(lm, Query(text)):
        text = text[: len(text) * 7 // 8]
    return text


def essence(lm: Speaker, subject: str) -> Query:
    """Return "{subject} is a", whose next word tells what a subject is; of a subject that is too long its end."""
    while not fits(lm, asked := Query(f"{subject} is a", "", (0, len(subject)))) and len(subject) > 1:
        subject = subject[-(len(subject) * 7 // 8) :].lstrip() or subject[-1:]
    return asked
