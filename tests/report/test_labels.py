"""What a run is called beside others of its method.

pytest tests/report/test_labels.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from errata.report.read import read_all


def written(directory: Path, method: str, config: dict[str, Any]) -> Path:
    directory.mkdir()
    about = {"method": method, "config": config, "model": "m", "cases": "c"}
    (directory / "run.json").write_text(json.dumps(about))
    (directory / "summary.json").write_text(json.dumps({"method": method, "checkpoints": []}))
    return directory


@pytest.mark.parametrize(
    ("configs", "labels"),
    [
        ([{"lr": 1, "p": 2}], ["kne"]),
        ([{"lr": 1, "p": 2}, {"lr": 3, "p": 2}], ["kne lr=1", "kne lr=3"]),
        ([{"lr": 1, "p": 2}, {"lr": 1, "p": 4}, {"lr": 3, "p": 2}], ["kne", "kne p=4", "kne lr=3"]),
        ([{"lr": 1}, {"lr": 1}], ["kne (0)", "kne (1)"]),
    ],
)
def test_a_run_is_named_by_what_most_others_do_not_have(
    configs: list[dict[str, Any]], labels: list[str], tmp_path: Path
) -> None:
    runs = [written(tmp_path / str(i), "kne", config) for i, config in enumerate(configs)]
    assert [run.label for run in read_all([*runs, written(tmp_path / "ft", "ft", {"lr": 9})])] == [*labels, "ft"]
