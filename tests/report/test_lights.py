"""The row of lights: which light a number is, and that the page has it where critics were asked.

pytest tests/report/test_lights.py
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from errata import report
from errata.report.lights import light, unsure
from errata.report.read import Measured
from tests.report import fabricated
from tests.report.test_page import rows_of


@pytest.mark.parametrize(
    ("mean", "half", "kind", "dashed"),
    [
        (0.9, 0.05, "full", False),
        (0.9, 0.2, "full", True),
        (0.8, 0.0, "full", False),
        (0.6, 0.05, "half", False),
        (0.6, 0.15, "half", True),
        (0.45, 0.1, "hollow", True),
        (0.1, 0.0, "hollow", False),
        (0.1, None, "hollow", True),  # one fact
    ],
)
def test_which_light(mean: float, half: float | None, kind: str, dashed: bool) -> None:
    value = Measured(mean, half)
    assert (light(value), unsure(value)) == (kind, dashed)


def test_no_number_is_no_light() -> None:
    assert light(Measured(None)) is None
    assert not unsure(Measured(None))


def test_the_page_has_a_row_for_the_unedited_model_and_each_method(tmp_path: Path) -> None:
    runs = [fabricated.run(tmp_path, method) for method in ("rome", "memit")]
    assert 'class="lights"' not in report.build(runs)
    path = runs[0] / "summary.json"
    summary = json.loads(path.read_text())
    for point in summary["checkpoints"]:
        point["metrics"]["negation"] = {"mean": 1.0 if not point["edits"] else 0.25, "half_width": 0.1, "n": 40}
        point["metrics"]["negation_old"] = {"mean": 0.5, "half_width": 0.1, "n": 40}
    path.write_text(json.dumps(summary))
    page = report.build(runs)
    rows = rows_of(page, "lights")
    assert list(rows) == ["", "unedited", "memit", "rome"]
    at = rows[""].index("denied")
    assert rows["unedited"][at] == "full1.00± 0.10"
    assert rows["rome"][at] == "hollow0.25± 0.10"
    assert rows["memit"][at] == "–"
    assert "its own old answer unsaid in 0.50 of the cases" in page
