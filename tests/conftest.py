"""What every test may use: a cache of its own for statistics, and tiny models built once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

# The suite tries the same examples every time: what it finds is found by everyone. `benchmarks/laws.py` searches at random
# and at length, with ERRATA_LAWS as many times the examples each law asks for.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("search", derandomize=False, deadline=None, print_blob=True)
LONGER = int(os.environ.get("ERRATA_LAWS", "0"))
settings.load_profile("search" if LONGER else "suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every law be tried with many more examples, where that is asked for."""
    for item in items if LONGER else ():
        law = getattr(item, "obj", None)
        if getattr(law, "is_hypothesis_test", False):
            known = law._hypothesis_internal_use_settings
            law._hypothesis_internal_use_settings = settings(known, max_examples=known.max_examples * LONGER)


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
