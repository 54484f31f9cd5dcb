"""`benchmarks/accelerator.py` on a tiny model on a processor: its rows, what a failed one leaves, and its budget."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
Rows = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the benchmark."""
    monkeypatch.setenv("ERRATA_CACHE", "set here so that it is put back")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("accelerator", ROOT / "benchmarks" / "accelerator.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "accelerator", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rows(bench: ModuleType, tmp_path: Path) -> Rows:
    """Return what runs it and gives its rows by their part."""

    def run(*options: str) -> dict[str, dict[str, Any]]:
        out = tmp_path / "found.json"
        assert bench.main(["--shape", "tiny", "--device", "cpu", "--out", str(out), *options]) == 0
        return {row["part"]: row for row in json.loads(out.read_text())["rows"]}

    return run


def test_a_failure_is_one_row_and_what_stood_is_gone_to_the_bit(
    bench: ModuleType, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(bench, "solve", broken)
    found = rows("--only", "melo,stand")
    assert found["melo"]["error"] == "RuntimeError: out of memory"
    assert [name for name, row in found.items() if "error" in row] == ["melo"]
    assert "to the bit: True, all matrices: True" in found["drop all"]["note"]
    assert found["all weights as drawn, in the end"]["note"] == "True"


def test_nothing_is_begun_when_the_budget_is_spent(
    bench: ModuleType, rows: Rows, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def left(meter: Any) -> float:
        return float(meter.budget) - (100 if len(meter.rows) > 2 else 0)

    monkeypatch.setattr(bench.Meter, "left", property(left))
    found = rows("--only", "kne,ft", "--budget-s", "100")
    assert "error" not in found["kne"]
    assert found["ft"]["error"] == "not begun: the budget is spent"
    assert found["all weights as drawn, in the end"]["note"] == "True"
    assert "without a figure: ft;" in capsys.readouterr().out


def test_what_takes_too_long_is_broken_off(bench: ModuleType) -> None:
    def forever() -> None:
        with bench.no_longer_than(0):
            while True:
                pass

    with pytest.raises(bench.Late):
        forever()
