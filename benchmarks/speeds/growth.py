"""What one more edit costs when many stand: solving it, and writing it into a book; the first ones in turn with it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from errata import methods
from errata.book.book import Book
from errata.delta import Change, Graft, LowRank
from errata.edit import Edit
from errata.editing.editor import Editor
from errata.fact import Fact
from errata.methods.ledger import follow, mark, terms_of
from errata.model.lm import LM
from errata.model.loading import load
from errata.primer.probes import edits
from speeds.measure import Row

METHODS: Mapping[str, Mapping[str, Any]] = {
    "rome": {}, "memit": {}, "ledger": {}, "alphaedit": {}, "oedit": {"full": "leading"}, "melo": {},
}  # fmt: skip


def history(lm: LM, name: str, options: Mapping[str, Any], count: int) -> list[Edit]:
    """Return one true edit's likes: other facts, and numbers at random of the same size, so small that they change little."""
    how, draw = methods.make(name, dict(options)), torch.Generator().manual_seed(0)
    how.prepare(lm)
    true = how.solve(lm, edits(1, seed=9))

    def like(tensor: torch.Tensor, size: float = 1.0) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        drawn = torch.randn(tensor.shape, generator=draw, dtype=tensor.dtype)
        return drawn * (size * tensor.norm() / drawn.norm())

    def change(delta: Change) -> Change:
        if isinstance(delta, Graft):  # keys so far from one another that each opens its own
            return replace(
                delta, state={k: like(t, {"b": 1e-3, "keys": 4.0}.get(k, 1.0)) for k, t in delta.state.items()}
            )
        assert isinstance(delta, LowRank)
        return LowRank(like(delta.left, 1e-3), like(delta.right))

    made, below = list[Edit](), sha256()
    for i in range(count):
        fact = Fact(prompt=f"Number {i} is called", subject=f"Number {i}", target="one")
        carry = {k: like(t, 1e-3 if k.startswith("value/") else 1.0) for k, t in true.carry.items()}
        deltas = {site: change(delta) for site, delta in true.deltas.items()}
        edit = replace(true, facts=(fact,), deltas=deltas, carry=carry)
        if "below" in carry:
            edit = replace(edit, carry={**carry, "below": mark(below)})
            below = follow(terms_of(edit.config), below, edit)
        made.append(edit)
    return made


def solved(lms: tuple[LM, LM], name: str, past: Sequence[Edit], numbers: Sequence[int], repeats: int) -> Iterator[Row]:
    """Yield the processor seconds of solving edit number N on top of N - 1, and of the first ones in turn with it.

    As in a sequence, the state for N - 2 is known; what a new process takes to find it is told apart.
    """
    how, facts = methods.make(name, dict(METHODS[name])), edits(repeats + 1, seed=3)
    for number in numbers:
        taken: tuple[list[float], list[float]] = ([], [])
        for lm in lms:
            lm.memory.clear()
            how.prepare(lm)
        for i, fact in enumerate(facts):
            for lm, count, seconds in zip(lms, (i, number - 1 + i), taken, strict=True):
                lm.weights.stand([edit.deltas for edit in past[:count]])
                started = time.process_time()
                how.solve(lm, [fact], past[:count])
                seconds.append(time.process_time() - started)
        yield {"part": "growth", "method": name, "edit": number, **_compared("solve", *taken),
               "catching_up_s": round(taken[1][0] - taken[0][0], 2)}  # fmt: skip


def _compared(what: str, first: Sequence[float], last: Sequence[float]) -> Row:
    """Return medians of what both took in turn, without the first time, which found what is kept, and their ratio."""
    one, other = median(first[1:]), median(last[1:])
    return {f"first_{what}_s": round(one, 4), f"{what}_s": round(other, 4), f"{what}_of_first": round(other / one, 3)}


def written(lms: tuple[LM, LM], name: str, past: Sequence[Edit], numbers: Sequence[int], repeats: int) -> Iterator[Row]:
    """Yield the processor seconds of `Editor.write` into a book of N - 1 edits, in turn with an empty one."""
    for number in numbers:
        with ExitStack() as stack:
            room = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            opened, editors = [], list[Editor]()
            for lm, count in zip(lms, (0, number - 1), strict=True):
                lm.memory.clear()
                with Book.open(room / f"{len(editors)}", base=lm.fingerprint, name=lm.name) as book, patch("os.fsync"):
                    book.append([(edit.meta(), edit.to_bytes()) for edit in past[:count]])
                started = time.process_time()
                book = Book.open(room / f"{len(editors)}", base=lm.fingerprint, name=lm.name)
                editors.append(stack.enter_context(Editor(lm, book)))
                opened.append(time.process_time() - started)
                stack.callback(lm.weights.stand, [])
            yield {"part": "written", "method": name, "edit": number, "open_s": round(opened[1], 3),
                   **_in_turn(editors, name, repeats)}  # fmt: skip


def _in_turn(editors: Sequence[Editor], name: str, repeats: int) -> Row:
    """Return what writing takes in each of two editors, as a whole and in parts."""
    whole, parts = ([], []), {part: ([], []) for part in ("solve", "apply")}  # type: ignore[var-annotated]
    for fact in edits(repeats + 1, seed=3):
        for side, editor in enumerate(editors):
            started = time.process_time()
            edit = editor.write(fact, name, **METHODS[name])
            whole[side].append(time.process_time() - started)
            for part, seconds in parts.items():
                seconds[side].append(dict[str, Any](edit.report)["seconds"][part])
    found = _compared("write", *whole) | {"catching_up_s": round(whole[1][0] - whole[0][0], 2)}
    for part, (one, other) in parts.items():
        found |= {f"first_{part}_s": round(median(one[1:]), 4), f"{part}_s": round(median(other[1:]), 4)}
    return found


def growth(names: Sequence[str], numbers: Sequence[int], repeats: int = 5) -> Iterator[Row]:
    """Yield all rows of the methods."""
    lms = load("primer"), load("primer")
    for name in names:
        past = history(lms[0], name, METHODS[name], max(numbers) + repeats)
        yield from solved(lms, name, past, numbers, repeats)
        yield from written(lms, name, past, numbers, repeats)
