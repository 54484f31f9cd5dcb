"""What a model says after a prompt, as it stands."""

from __future__ import annotations

from dataclasses import dataclass

from errata.display import short, table
from errata.edit import Edit
from errata.editing.writing import check_room
from errata.model.generation import generate_tokens
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Room


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says after a prompt: greedy text up to a natural stop, and the likeliest next tokens, or its classes.

    Args:
        top: (token or class, probability), likeliest first. of: which of the two: ``"next token"`` or ``"class"``.
        chat: whether the prompt was the user's turn in the model's chat template.
        notes: what one should know of it, such as that it was cut because the model reads no further.
    """

    prompt: str
    text: str
    top: tuple[tuple[str, float], ...]
    of: str = "next token"
    chat: bool = False
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        likely = ", ".join(f"{token!r} {p:.2f}" for token, p in self.top[:3])
        return f"<Answer {short(self.prompt)!r} → {short(self.text)!r}{f'; {self.of}: {likely}' if likely else ''}>"

    def _repr_html_(self) -> str:
        said = table(("prompt", "answer"), [(self.prompt, self.text)])
        return said + (table((self.of, "p"), self.top) if self.top else "")


def answer(lm: LM, prompt: Query, max_new_tokens: int | Room, top: int) -> Answer:
    """Return what the model says as it stands, with the `top` likeliest.

    Raises:
        BadFact: the prompt fills the model. UnsupportedModel: it cannot generate, or converse.
    """
    most = Room(max_new_tokens) if isinstance(max_new_tokens, int) else max_new_tokens
    left = check_room(lm, prompt)
    likely = tuple(lm.top(prompt, top)) if top > 0 else ()
    of = "class" if lm.row.kind == "classifier" else "next token"
    if left >= most.tokens or lm.row.kind == "classifier":
        return Answer(prompt.prompt, lm.generate([prompt], most)[0], likely, of, prompt.turn)
    text, ended = _up_to_the_end(lm, prompt, left, most.lines)
    note = f"the answer is cut after {left} tokens, where {lm.name} reads no further: shorten the prompt to have more."
    return Answer(prompt.prompt, text, likely, of, prompt.turn, () if ended else (note,))


def enough(lm: LM, standing: list[Edit]) -> Room:
    """Return how much lets the model say the longest answer that stands, and 32 tokens at least."""
    known: tuple[list[Edit], Room] | None = lm.memory.get("room")
    if known is None or known[0] is not standing:  # an editor makes a new list for every change
        known = lm.memory["room"] = standing, lm.room(fact.target for edit in standing for fact in edit.facts)
    return known[1]


def _up_to_the_end(lm: LM, prompt: Query, left: int, lines: int) -> tuple[str, bool]:
    """Return what is said in the room a prompt leaves, and whether it has come to its end there."""
    (ids,) = generate_tokens(lm, [lm.tokens.opening(prompt)], left, ends=lm.endings(lines))
    ends = lm.endings(lines)
    return lm.tokens.lines(ids, lines), [ends(0, token) for token in ids][-1]
