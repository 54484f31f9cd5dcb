"""What every test of statistics has: a cache of its own, and a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from errata.model.lm import LM
from tests import tiny


@pytest.fixture(autouse=True)
def _alone(cache: Path) -> None:
    pass


@pytest.fixture
def lm() -> LM:
    return tiny.build("llama")
