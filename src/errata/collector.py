"""Python's collector of cycles, kept away while very much is made that stays: modules, models, long lists.

It is called after every 700 new objects and goes through the young ones, now and then through all. While torch and
transformers are imported that is a fifth of the time and finds nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def growing() -> Iterator[None]:
    """Keep the collector from going through very many new objects, all of which stay, again and again while they are made."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
