"""The shipped primer, loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from errata.editing.editor import Editor
from errata.editing.opening import open as open_editor
from errata.model.lm import LM
from errata.model.loading import load


@pytest.fixture(scope="session")
def shipped() -> LM:
    return load("primer")


@pytest.fixture
def primer(shipped: LM) -> Iterator[LM]:
    """The primer at its base, whatever the test before left standing."""
    shipped.weights.stand([])
    yield shipped
    shipped.weights.stand([])


@pytest.fixture
def editor(primer: LM, tmp_path: Path) -> Iterator[Editor]:
    with open_editor(primer, book=tmp_path / "book") as opened:
        yield opened


def state(lm: LM) -> dict[str, Tensor]:
    """A copy of every tensor of the model."""
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
