"""Whose turn it is: one thread, and in an event loop one task, has the model at a time."""

from __future__ import annotations

import sys
import threading
from typing import Any

from errata.errors import InputError


class ModelLock:
    """Held by whoever asks or changes the model, which has room for one at a time; may be nested.

    Another thread waits. Another task of the same thread cannot: it would keep the loop from ending what it waits for, and a
    lock of threads alone would let it in, to see a trial it knows nothing of. It is refused.

    Raises (on entering):
        InputError: another task of this thread's event loop has the model.
    """

    def __init__(self) -> None:
        self._threads, self._depth, self._task = threading.RLock(), 0, None

    def __enter__(self) -> None:
        self._threads.acquire()
        task = _task()
        if self._depth and task is not self._task:
            self._threads.release()
            raise InputError(
                "another task of this event loop has the model, in a trial that has not ended: ask in a thread of its own, "
                "as in await asyncio.to_thread(editor.ask, prompt)."
            )
        self._depth, self._task = self._depth + 1, task

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        self._threads.release()


def _task() -> Any:
    """Return the task that runs here; None outside an event loop, for which nothing is imported."""
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio.current_task() if asyncio is not None else None
    except RuntimeError:  # no loop runs in this thread
        return None
