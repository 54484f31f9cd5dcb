"""A method's colour, marker and dash are the same in every report.

pytest tests/report/test_slots.py
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from errata import methods
from errata.bench.run import CONTROL
from errata.report.slots import OWN, slots_of
from errata.report.svg import colour, mark


def runs(*labels: str) -> list[Any]:
    return [SimpleNamespace(label=label, method=label.split(" ")[0]) for label in labels]


def test_every_method_has_its_own() -> None:
    assert set(OWN) == {*methods.names(), CONTROL}
    drawn = {(colour(slot), mark(slot, 0, 0)) for slot in OWN.values()}
    assert len(drawn) == len(OWN)


def test_company_changes_nothing() -> None:
    alone = {name: slots_of(runs(name))[name] for name in OWN}
    assert slots_of(runs(*OWN)) == alone
    assert slots_of(runs(*reversed(OWN))) == alone


def test_a_second_run_of_a_method_has_another_and_takes_nobody_else_s() -> None:
    found = slots_of(runs("rome layer=2", "rome layer=4", "a-plugin", "memit"))
    assert (found["rome layer=2"], found["memit"]) == (OWN["rome"], OWN["memit"])
    assert len(set(found.values())) == 4
    assert list(found) == ["rome layer=2", "rome layer=4", "a-plugin", "memit"]


def test_what_no_table_knows_has_one_by_its_name() -> None:
    assert slots_of(runs("a-plugin", "rome"))["a-plugin"] == slots_of(runs("memit", "a-plugin"))["a-plugin"]
    assert len(set(slots_of(runs(*(f"m{n}" for n in range(40)))).values())) == 40
