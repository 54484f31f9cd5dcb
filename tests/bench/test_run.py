"""A run that was interrupted gives the same rows as one that was not.

pytest tests/bench/test_run.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from errata.bench.run import CONTROL, Plan, Run, refused
from errata.cli.tables.bench import bench as table
from errata.data.cases import parse
from errata.delta import Site
from errata.edit import Edit, Report
from errata.errors import BadConfig
from errata.evaluate.metrics import named, retention
from errata.evaluate.summary import at, read_rows, summarize
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.loading import load

CASES = list(parse("primer:4", seed=3))


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("primer")


def plan(**changes: object) -> Plan:
    given = {"method": "ft", "options": {"steps": 3}, "cases": "primer:4", "edits": 4, "checkpoints": (1, 2)} | changes
    return Plan(**given)  # type: ignore[arg-type]


def rows(out: Path) -> bytes:
    return (out / "rows.jsonl").read_bytes()


@pytest.fixture(scope="module")
def uncut(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], tuple[Path, dict[str, Any]]]:
    """Return the function that gives a run nothing interrupted, made once: its directory and its summary."""
    made: dict[bool, tuple[Path, dict[str, Any]]] = {}

    def run(independent: bool) -> tuple[Path, dict[str, Any]]:
        if independent not in made:
            out = tmp_path_factory.mktemp("whole") / "run"
            made[independent] = out, Run(plan(independent=independent), lm, CASES, out).go()
        return made[independent]

    return run


def test_what_errata_edit_would_refuse_is_measured_and_said(lm: LM, tmp_path: Path) -> None:
    site = Site(0, "down")
    for ratio, facts, said in ((1.0, 1, False), (6.0, 1, True), (6.0, 2, False)):
        some = tuple(Fact(prompt=f"Town {n} is", subject=f"Town {n}", target="x") for n in range(facts))
        made = Edit(
            method="x", config={}, facts=some, base="b", deltas={}, report=Report({"norm_ratio": {str(site): ratio}})
        )
        assert refused(made) is said, (ratio, facts)
    one, other = (Fact(prompt="Ulm is", subject="Ulm", target=target) for target in "ab")
    assert refused(Edit(method="x", config={}, facts=(one, other), base="b", deltas={}))
    summary = Run(plan(edits=1, options={"steps": 3, "lr": 30.0}, independent=True), lm, CASES, tmp_path / "run").go()
    assert summary["unwritable"] == 1
    page = Console(width=100, record=True)
    page.print(table([summary]))
    assert "made 1 updates that errata edit refuses" in " ".join(page.export_text().split())


class Killed(BaseException):
    """What a kill looks like from inside."""


@pytest.mark.parametrize("independent", [False, True])
def test_a_run_interrupted_again_and_again_goes_on_to_the_same_bytes(
    lm: LM,
    uncut: Callable[[bool], tuple[Path, dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    independent: bool,
) -> None:
    out, whole = uncut(independent)
    measure, calls = Run._measure, []

    def dies(self: Run, *arguments: object) -> object:
        calls.append(1)
        if len(calls) > 1:
            raise Killed
        return measure(self, *arguments)  # type: ignore[arg-type]

    for units in (1, 2, 3):  # done when it is killed, one by each go
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Run, "_measure", dies)
            patch.setattr(Run, "_once", lambda self, what, key, work: work())  # a new process knows nothing of the base
            with pytest.raises(Killed):
                Run(plan(independent=independent), lm, CASES, tmp_path / "cut").go()
        assert len((tmp_path / "cut" / "marks.jsonl").read_text().splitlines()) == units
        with (tmp_path / "cut" / "rows.jsonl").open("ab") as file:
            file.write(b'{"case": "torn')
    resumed = Run(plan(independent=independent), lm, CASES, tmp_path / "cut").go()
    assert rows(tmp_path / "cut") == rows(out)
    assert [p["metrics"] for p in resumed["checkpoints"]] == [p["metrics"] for p in whole["checkpoints"]]
    assert not lm.weights[next(iter(lm.weights._base))].isnan().any()


def test_the_control_changes_nothing_and_the_unedited_model_comes_first(lm: LM, tmp_path: Path) -> None:
    summary = Run(plan(method=CONTROL, options={}), lm, CASES, tmp_path / "none").go()
    assert [p["edits"] for p in summary["checkpoints"]] == [0, 1, 2, 4]
    assert all(p["metrics"]["said"]["mean"] == 0 for p in summary["checkpoints"])
    last = summary["checkpoints"][-1]["metrics"]
    assert last["locality_unchanged"]["mean"] == 1
    assert json.loads((tmp_path / "none" / "summary.json").read_text())["method"] == CONTROL


def test_the_unedited_model_is_asked_once_for_all_methods(
    lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, asked, measured = CASES[:2], [], Run._measure

    def counted(self: Run, *given: Any) -> list[dict[str, Any]]:
        asked.append((self._plan.method, given[1]))
        return measured(self, *given)

    monkeypatch.setattr(Run, "_measure", counted)
    for key in [key for key in lm.memory if isinstance(key, tuple) and key[0] == "benchmark of the base"]:
        del lm.memory[key]
    for method, seed in (("ft", 0), (CONTROL, 0), (CONTROL, 1)):
        given = plan(method=method, options={}, edits=2, checkpoints=(2,), seed=seed)
        Run(given, lm, few, tmp_path / f"{method}{seed}").go()
    assert asked == [("ft", 0), ("ft", 2), (CONTROL, 2), (CONTROL, 0), (CONTROL, 2)]  # another seed asks other probes
    one, other = (read_rows(tmp_path / name / "rows.jsonl") for name in ("ft0", f"{CONTROL}0"))
    bases = [[{**row, "method": "", "config": ""} for row in found if row["checkpoint"] == 0] for found in (one, other)]
    assert bases[0] == bases[1]
    assert {row["method"] for row in other} == {CONTROL}


def test_every_number_of_a_summary_has_a_row_in_the_table_of_metrics(lm: LM, tmp_path: Path) -> None:
    given = plan(generation=True, checkpoints=())
    summary = Run(given, lm, CASES, tmp_path / "run").go()
    numbers = {name: value for point in summary["checkpoints"] for name, value in point["metrics"].items()}
    assert len(numbers) > 20
    assert not [name for name in numbers if named(name) is None]
    for group, facts in retention([case.id for case in CASES], seed=given.seed).items():
        said = summarize(at(read_rows(tmp_path / "run" / "rows.jsonl"), checkpoint=4), facts=facts)["said"]
        assert numbers[f"retention_{group}"] == said.to_dict()


def test_a_collapsed_run_stops_and_says_so(lm: LM, tmp_path: Path) -> None:
    summary = Run(plan(stop_at_perplexity=1.0), lm, CASES, tmp_path / "stop").go()
    assert [p["edits"] for p in summary["checkpoints"]] == [0, 1]
    assert summary["stopped"].startswith("perplexity")


def test_another_run_in_the_same_directory_is_refused(lm: LM, tmp_path: Path) -> None:
    Run(plan(edits=1), lm, CASES, tmp_path / "run")
    with pytest.raises(BadConfig, match="another run"):
        Run(plan(edits=2), lm, CASES, tmp_path / "run")
