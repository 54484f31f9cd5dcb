"""A book bound to a model, in a directory with an awkward name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sample_edits
from sample_edits import BASE

from errata.book import Book


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    with Book.open(tmp_path / "my book é 書", BASE, "primer", wait=5) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _nothing_made_yet() -> None:
    sample_edits._MADE.clear()
