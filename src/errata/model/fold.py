"""Fold the standing edits into a state, and keep the result so that one more edit costs one step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from hashlib import sha256
from itertools import zip_longest
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

_State = TypeVar("_State")
_One = TypeVar("_One")  # an edit; anything with an id of its own will do


@runtime_checkable
class Remembers(Protocol):
    """All that is used of a model: where what is worth keeping is kept while it lives; an `LM` has it."""

    memory: dict[Any, Any]


BLOCKS: Final = (512, 64, 8, 1)  # edits entered at once; each divides the one before


def fold(
    lm: Remembers,
    key: Hashable,
    edits: Sequence[_One],
    start: Callable[[], _State],
    step: Callable[[_State, _One], _State],
) -> _State:
    """Return what `edits`, folded one after another into `start`, come to.

    What was known for a beginning of them is gone on with, so that one more edit costs the same however many came before;
    as edits are always entered in this order, the result is to the bit what a new process finds.
    """
    known, state = lm.memory.pop(key, ([], None))  # put back when all went well: `step` may change what it is given
    if state is None or _common(known, edits) < len(known):
        known, state = [], start()
    for edit in edits[len(known) :]:
        state = step(state, edit)
    lm.memory[key] = (list(edits), state)
    found: _State = state
    return found


def fold_in_blocks(
    lm: Remembers,
    key: Hashable,
    edits: Sequence[_One],
    start: Callable[[], _State],
    step: Callable[[_State, Sequence[_One]], _State],
) -> _State:
    """Return what `edits` come to, where many can be entered at once much faster than one by one.

    They are entered in blocks at places that depend on their order alone: as many of 512 as there are, then of 64, of 8, and
    single ones. Who has lived through all edits goes back to the last such place when the next block is full, so the result
    is to the bit what a new process finds, and an edit costs one entry however many came before.

    Args:
        step: from a state and some edits to the state with these, too; it must leave what it is given as it is.
    """
    known, marks = lm.memory.get(key, ([], ()))
    same = _common(known, edits)
    at, state, found = 0, None, list[tuple[int, _State]]()
    for size, mark in zip_longest(BLOCKS, marks):
        if mark is not None and at <= mark[0] <= same:
            at, state = mark
        elif state is None:
            state = start()
        while at + size <= len(edits):
            state = step(state, edits[at : at + size])
            at += size
        found.append((at, state))
    lm.memory[key] = (list(edits), tuple(found))
    return found[-1][1]


def ground_of(lm: Remembers, edits: Sequence[_One]) -> str:
    """Return `errata.edit.ground` of the edits that stand: what was hashed is not hashed again."""

    def entered(below: tuple[Any, str], edit: Any) -> tuple[Any, str]:
        digest, space = below
        digest.update(f"{space}{edit.id}".encode())
        return digest, " "

    digest, _ = fold(lm, "ground", edits, lambda: (sha256(), ""), entered)
    return str(digest.hexdigest()[:16]) if edits else ""


def _common(known: Sequence[Any], edits: Sequence[Any]) -> int:
    """Return how many edits two lists begin with in common."""
    shorter = min(len(known), len(edits))
    if list(known[:shorter]) == list(edits[:shorter]):  # edits are equal to themselves only
        return shorter
    return next((i for i, (a, b) in enumerate(zip(known, edits, strict=False)) if a is not b and a.id != b.id), shorter)
