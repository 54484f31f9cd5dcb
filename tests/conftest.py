"""What every test may use: a cache of its own for statistics, and tiny models built once."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

# The suite tries the same examples every time: what it finds is found by everyone. `benchmarks/laws.py` searches at random
# and at length, with ERRATA_LAWS as many times the examples each law asks for.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("search", derandomize=False, deadline=None, print_blob=True)
LONGER = int(os.environ.get("ERRATA_LAWS", "0"))
settings.load_profile("search" if LONGER else "suite")
os.environ.setdefault("ERRATA_PLUGINS", "none")  # what else is installed here is not what is tested


# `pytest --quick`, for the hand: one architecture of each kind, and nothing that trains, benchmarks or starts processes.
QUICK = ("gpt2", "llama", "gemma2", "t5", "bert")
SLOW = (
    "bench/", "book/test_together", "cli/", "data/test_recipes", "e2e/", "test_docs", "test_errors", "test_fuzz", "test_peers",
    "test_size", "test_accelerator", "evaluate/test_harness", "evaluate/test_judge", "test_state_machine",
    "the_random_numbers_of_the_process",
    "process_that_lived", "others_are_imported_in_one_place", "the_id_is_stable", "whatever_is_written_and_dropped",
    "what_transformers_would_generate", "with_other_settings", "in_any_precision", "test_the_picture",
    "what_was_solved_before_does_not_matter", "mangled", "any_order", "any_way_through",
)  # fmt: skip

# What takes longest begins first, so that no worker waits for another at the end.
FIRST = ("e2e/test_kill", "e2e/test_main_job", "bench/", "data/test_recipes", "contract/", "e2e/", "test_peers", "cli/")


# Shapes and types are checked at each call, which is a fifth of what a tiny model costs: not where the same calls were
# checked already, nor where whole programs run and are judged by what they write.
UNCHECKED = ("bench/", "cli/", "e2e/", "serve/", "test_accelerator", "test_peers", "test_references")
CHECKED = ("bert", "gemma2", "gpt2", "llama", "mixtral", "t5")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="a choice of architectures, and no tests of many seconds")


def pytest_collection_finish() -> None:
    """Let the collector of garbage no longer look at what was imported and collected: it stays."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put tests that share what they compute on one worker, and let laws be tried longer where that is asked for."""
    if config.getoption("--quick"):
        chosen = {item: _quick(item) for item in items}
        config.hook.pytest_deselected(items=[item for item in items if not chosen[item]])
        items[:] = [item for item in items if chosen[item]]
    items.sort(key=lambda item: next((i for i, part in enumerate(FIRST) if part in item.nodeid), len(FIRST)))
    for item in items if config.pluginmanager.hasplugin("xdist") else ():
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    for item in items if LONGER else ():
        law = getattr(item, "obj", None)
        if getattr(law, "is_hypothesis_test", False):
            known = law._hypothesis_internal_use_settings
            law._hypothesis_internal_use_settings = settings(known, max_examples=known.max_examples * LONGER)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check shapes and types in this test, or not."""
    jaxtyping.config.update("jaxtyping_disable", not (LONGER or _checked(item)))


def _checked(item: pytest.Item) -> bool:
    case = getattr(item, "callspec", None)
    if case and "contract/" in item.nodeid:
        return case.params.get("name", CHECKED[0]) in CHECKED
    return not any(f"tests/{part}" in item.nodeid for part in UNCHECKED)


def _quick(item: pytest.Item) -> bool:
    """Return whether a test is none of the slow ones, and of no architecture but the few."""
    from tests.tiny import CONFIGS

    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    of = [value for value in values if isinstance(value, str) and value in CONFIGS]
    few = QUICK if "contract/" in item.nodeid else tuple(name for name in QUICK if name != "gemma2")
    return set(of) <= set(few) and not any(part in item.nodeid for part in SLOW)


def _group(item: pytest.Item) -> str:
    """Return what a test shares its models and solves with: its file, in the contract its architecture."""
    file = item.nodeid.partition("::")[0]
    if "e2e/test_main_job" in file or "e2e/test_kill" in file:
        return item.nodeid  # long ones, which share the statistics only
    case = getattr(item, "callspec", None)
    return f"{file} {case.params.get('name', '')}" if case and "contract/" in file else file


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep statistics of tests out of the user's cache: all workers of a run share one."""
    before, root = os.environ.get("ERRATA_CACHE"), tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    os.environ["ERRATA_CACHE"] = str(root / "cache")
    yield
    if before is None:
        del os.environ["ERRATA_CACHE"]
    else:
        os.environ["ERRATA_CACHE"] = before


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache that is this test's alone."""
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
