"""uvicorn, told to stop by a signal as any command here is: it ends what it does, and the process has the last word."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn


class Listening(uvicorn.Server):
    """A server that takes SIGINT and SIGTERM as a wish, and does not raise them again when it has stopped."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listen to signals inside, and put back what listened before."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
