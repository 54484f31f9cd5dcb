"""What tests of editing share: a tiny model at its base, a book for it, and a mouth that answers in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from errata.editing.editor import Editor
from errata.editing.opening import open as open_editor
from errata.model.lm import LM
from tests.editing.mouth import Mouth


@pytest.fixture
def lm(models: Callable[[str], LM]) -> Iterator[LM]:
    found = models("llama")
    found.weights.stand([])
    yield found
    found.weights.stand([])


@pytest.fixture
def editor(lm: LM, tmp_path: Path) -> Iterator[Editor]:
    with open_editor(lm, book=tmp_path / "book") as opened:
        yield opened


@pytest.fixture
def mouth(monkeypatch: pytest.MonkeyPatch) -> Mouth:
    return Mouth(monkeypatch)
