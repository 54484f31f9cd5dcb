"""The one thread that holds the model: requests for text run in batches, a batch a state, and everything else in between.

    owner = Owner(editor)
    owner.start()
    owner.ask(Asking("primer@now", "The capital of France is", 8, deliver))
    owner.call(lambda editor: editor.drop(id)).result()  # runs alone, between two steps
    owner.stop()

A model has one state at a time, which is a sum: between states the thread takes turns, some steps each. What a state answers
does not depend on what else is asked.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from operator import is_
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, Protocol, TypeVar

import torch

from errata.editing.answering import Answer, answer
from errata.editing.editor import Editor
from errata.editing.writing import check_room
from errata.errors import ErrataError
from errata.model.batching import Running, check_speaks
from errata.model.query import Query
from errata.serve.asking import Asking, Piece
from errata.serve.states import ServedState, States

ROWS: Final = 64  # that run together
PADDED, SHORT = 2, 32  # prompts up to so many times as long as the shortest, or of so many tokens, are read in one pass
TURN: Final = 8  # steps of one state while another waits
WAITING: Final = 1024  # requests that may wait

_T = TypeVar("_T")


class ServerBusy(ErrataError):
    """More requests wait than the server takes, or it is stopping."""


class Watches(Protocol):
    """What is told of the work, to be counted."""

    def first(self, seconds: float) -> None:
        """Take in how long a request waited for its first token."""

    def step(self, rows: int) -> None:
        """Take in one step of a batch."""

    def switched(self, seconds: float) -> None:
        """Take in how long it took to let another state stand."""


@dataclass(slots=True)
class _Batch:
    """The requests of one state that run together."""

    state: ServedState
    running: Running
    rows: list[Asking] = field(default_factory=list)


@dataclass(slots=True)
class _Call:
    """Something to be done alone."""

    work: Callable[[Editor], Any]
    done: Future[Any]


class Owner:
    """Holds an `Editor` in a thread of its own; nobody else touches the model.

    Args:
        editor: the model with its book. watch: is told of the work.
    """

    def __init__(self, editor: Editor, watch: Watches | None = None) -> None:
        self._editor, self._watch = editor, watch
        self.states = States(editor)
        self._inbox: SimpleQueue[Asking | _Call | None] = SimpleQueue()
        self._waiting: dict[tuple[str, ...], deque[Asking]] = defaultdict(deque)
        self._batches: deque[_Batch] = deque()
        self._left = 0  # steps of the batch whose turn it is
        self._stopping = False
        self._thread = Thread(target=self._run, name="errata-owner", daemon=True)

    # ---------------------------------------------------------------- from other threads

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, seconds: float = 30.0) -> bool:
        """Take nothing more in, finish what was begun, and say whether that was done in time."""
        self._stopping = True
        self._inbox.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive() and not self._stopping

    @property
    def waiting(self) -> int:
        """How many requests wait for their first token."""
        return sum(map(len, list(self._waiting.values()))) + self._inbox.qsize()

    def ask(self, asking: Asking) -> None:
        """Take in a request for text; raises ServerBusy."""
        if self._stopping:
            raise ServerBusy("the server is stopping; ask again when it is back.")
        if self.waiting >= WAITING:
            raise ServerBusy(f"{WAITING} requests are waiting already; ask again in a moment.")
        asking.asked_at = time.perf_counter()
        self._inbox.put(asking)

    def call(self, work: Callable[[Editor], _T]) -> Future[_T]:
        """Do something alone, between two steps; raises ServerBusy."""
        if self._stopping:
            raise ServerBusy("the server is stopping; try again when it is back.")
        done: Future[_T] = Future()
        self._inbox.put(_Call(work, done))
        return done

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        while True:
            idle = not self._batches and not any(self._waiting.values())
            if idle and self._stopping and self._inbox.empty():
                return
            try:
                self._take_in(wait=idle)
                self._admit()
                if self._batches:
                    self._step(self._batches[0])
            except Exception as error:  # whatever it is: those whose turn it was are told, the others go on
                self._fail(error)

    def _take_in(self, wait: bool) -> None:
        """Sort in what has come; what is to be done alone is done."""
        while True:
            try:
                item = self._inbox.get(block=wait)
            except Empty:
                return
            wait = False
            if isinstance(item, Asking):
                self._open(item)
            elif isinstance(item, _Call) and item.done.set_running_or_notify_cancel():
                try:
                    self._home()
                    item.done.set_result(item.work(self._editor))
                except BaseException as error:
                    item.done.set_exception(error)

    def _open(self, asking: Asking) -> None:
        """Find the state and the tokens of a request, and let it wait for its turn."""
        lm = self._editor.lm
        try:
            check_speaks(lm)
            asking.state = self.states.find(asking.model)
            asking.start = lm.tokens.opening(asking.prompt)
            left = check_room(lm, asking.prompt)
        except Exception as error:
            asking.deliver(Piece(error=error))
            return
        asking.most = left if asking.most is None else min(asking.most, left)
        self._waiting[asking.state.ids].append(asking)

    def _admit(self) -> None:
        """Let requests that wait into the batch of their state, or a new one."""
        for ids, queue in list(self._waiting.items()):
            if not queue:
                del self._waiting[ids]
                continue
            batch = next((b for b in self._batches if b.state.ids == ids and b.running.joins), None)
            if batch is None and not any(b.state.ids == ids for b in self._batches):
                state = queue[0].state
                assert state is not None
                batch = _Batch(state, Running(self._editor.lm))
                self._batches.append(batch)
            if batch is not None and (batch is self._batches[0] or not batch.rows):
                self._let_in(batch, queue)

    def _let_in(self, batch: _Batch, queue: deque[Asking]) -> None:
        taken = [queue.popleft() for _ in range(min(len(queue), ROWS - len(batch.rows)))]
        taken = [asking for asking in taken if not asking.cancelled]
        for rows in _alike(taken, self._pads(batch, taken)):
            if not batch.running.joins:
                queue.extendleft(reversed(rows))
                continue
            try:
                self._show(batch.state)
                logits = batch.running.join([asking.start for asking in rows])
            except Exception as error:
                for asking in rows:
                    asking.deliver(Piece(error=error))
                continue
            begun = len(batch.rows)
            batch.rows += rows
            self._told(batch, logits, begun)
        if not batch.rows and batch in self._batches:
            self._batches.remove(batch)

    def _pads(self, batch: _Batch, askings: Sequence[Asking]) -> bool:
        """Return whether prompts may be padded, which depends on the state; of one length nobody need ask."""
        if len({len(asking.start) for asking in askings}) < 2:
            return False
        try:
            self._show(batch.state)
        except ErrataError:
            return False  # each is told when it is read
        return batch.running.pads

    def _step(self, batch: _Batch) -> None:
        """Let every row of a batch say a token, and give the next state its turn."""
        self._show(batch.state)
        logits = batch.running.step(torch.tensor([asking.ids[-1] for asking in batch.rows]))
        self._told(batch, logits, 0)
        self._left = (self._left or TURN) - 1
        if not batch.rows:
            self._batches.popleft()
            self._left = 0
        elif not self._left:
            self._batches.rotate(-1)

    def _told(self, batch: _Batch, logits: torch.Tensor, begun: int) -> None:
        """Deliver what the rows from `begun` on say next, and let those that have ended leave."""
        lm, going, watch = self._editor.lm, list(range(begun)), self._watch
        now = time.perf_counter()
        for place, (asking, row) in enumerate(zip(batch.rows[begun:], logits, strict=True), begun):
            if watch is not None and not asking.ids:
                watch.first(now - asking.asked_at)
            piece = Piece(finish="stop") if asking.cancelled else asking.take(row, lm.tokens, lm.stops)
            asking.deliver(piece)
            if not piece.last:
                going.append(place)
        if watch is not None:
            watch.step(len(batch.rows) - begun)
        if len(going) < len(batch.rows):
            batch.rows = [batch.rows[i] for i in going]
            batch.running.keep(going)

    def _show(self, state: ServedState) -> None:
        """Let a state stand in the model."""
        deltas, weights = self.states.deltas(state), self._editor.lm.weights
        if _same(deltas, weights.stood):
            return
        begun = time.perf_counter()
        weights.stand(deltas)
        if self._watch is not None:
            self._watch.switched(time.perf_counter() - begun)

    def asked(self, model: str, query: Query, most: int, top: int) -> tuple[ServedState, Answer]:
        """Return what a state says and its likeliest next tokens; within `call` only."""
        state = self.states.find(model)
        self._show(state)
        return state, answer(self._editor.lm, query, most, top)

    def _home(self) -> None:
        """Let stand what stands in the book, as the editor believes."""
        deltas = [edit.deltas for edit in self._editor.standing]
        if not _same(deltas, self._editor.lm.weights.stood):
            self._editor.lm.weights.stand(deltas)

    def _fail(self, error: Exception) -> None:
        logging.getLogger("errata").exception("a step failed")
        if not self._batches:
            return
        batch = self._batches.popleft()
        self._left = 0
        for asking in batch.rows:
            asking.deliver(Piece(error=error))


def _alike(askings: Sequence[Asking], pads: bool) -> list[list[Asking]]:
    """Return those that are read in one pass: of one length, or where rows may be padded of like ones."""
    found: list[list[Asking]] = []
    for asking in sorted(askings, key=lambda asking: len(asking.start)):
        least = len(found[-1][0].start) if found else 0
        if found and len(asking.start) <= (max(PADDED * least, SHORT) if pads else least):
            found[-1].append(asking)
        else:
            found.append([asking])
    return found


def _same(wanted: Sequence[Any], stood: Sequence[Any]) -> bool:
    return len(wanted) == len(stood) and all(map(is_, wanted, stood))
