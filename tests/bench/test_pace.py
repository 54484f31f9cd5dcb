"""How long a run still takes.

pytest tests/bench/test_pace.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from errata.bench.pace import Pace
from errata.bench.run import Plan, Run
from errata.data.cases import parse
from tests import tiny


def test_what_is_left_is_counted_by_kind() -> None:
    pace = Pace({"edit": 10, "case": 4, "text": 0})
    pace.took("case", 4, 8.0, wanted=False)  # the unedited model: what a case takes, none of those asked for
    assert pace.left is None, "nothing was edited yet"
    pace.took("edit", 2, 6.0)
    assert pace.left == pytest.approx(8 * 3.0 + 4 * 2.0)
    pace.skip("edit", 7)
    pace.took("case", 4, 12.0)
    assert pace.left == pytest.approx(1 * 3.0)
    pace.took("edit", 5, 1.0)
    assert pace.left == 0, "more was done than was asked for"


@pytest.mark.parametrize("independent", [False, True])
def test_a_run_ends_with_nothing_left(tmp_path: Path, independent: bool) -> None:
    cases = parse("primer:4")
    plan = Plan(
        method="ft",
        options={"steps": 1},
        cases="primer:4",
        edits=4,
        checkpoints=(2,),
        independent=independent,
        text="primer",
    )
    told: list[tuple[int, int, float | None]] = []
    Run(plan, tiny.build("gpt2"), cases, tmp_path).go(lambda *one: told.append(one))
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert {wanted for _, wanted, _ in told} == {4}
    assert told[0][2] is None, "nothing was edited yet"
    assert all(left is not None and left > 0 for done, _, left in told if 0 < done < 4)
    if independent:
        assert told[-1] == (4, 4, 0)
    told.clear()
    Run(plan, tiny.build("gpt2"), cases, tmp_path).go(lambda *one: told.append(one))
    assert told[-1] == (4, 4, 0), "a run that is done has nothing left"
