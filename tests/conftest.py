"""What every test may use: a cache of its own for statistics, and tiny models built once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep statistics of tests out of the user's cache."""
    before = os.environ.get("ERRATA_CACHE")
    os.environ["ERRATA_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["ERRATA_CACHE"]
    else:
        os.environ["ERRATA_CACHE"] = before


@pytest.fixture(scope="session")
def models() -> Callable[[str], object]:
    """Return the function that gives the run's one `LM` of an architecture; leave it as you found it."""
    from tests import tiny  # here, so that tests without models do not wait for torch

    made: dict[str, object] = {}

    def model(name: str) -> object:
        if name not in made:
            made[name] = tiny.build(name)
        return made[name]

    return model
