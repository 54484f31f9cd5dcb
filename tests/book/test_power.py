"""Power that goes: what a book reported is there, whatever of the rest the disk had kept.

A slice; `benchmarks/power.py` runs the whole. pytest tests/book/test_power.py
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests import power


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[power.Step]:
    directory = tmp_path_factory.mktemp("power")
    pytest.importorskip("cryptography")
    if (watcher := power.library(directory)) is None:
        pytest.skip("there is no C compiler, or this is no Linux")
    return power.record(watcher, directory, rounds=2)


@pytest.mark.parametrize("how", power.MODES)
def test_what_was_reported_survives_a_power_cut(steps: list[power.Step], tmp_path: Path, how: str) -> None:
    draw, found = random.Random(how), set[str]()
    for number in range(10):
        cut = draw.randrange(len(steps) + 1)
        disk = power.Disk()
        for step in steps[:cut]:
            disk.do(step)
        disk.left(tmp_path / str(number), how, draw)
        found.add(power.check(tmp_path / str(number), steps, cut))
    assert "reported" in found


def test_the_disk_keeps_what_is_synced_and_no_more(tmp_path: Path) -> None:
    """The watcher itself: content without a name, a name without content, and a write that is torn."""
    disk, draw = power.Disk(), random.Random(0)
    opened = [power.Step("O", 1, 0, "", b""), power.Step("O", 2, 0, "a", b""), power.Step("O", 3, 0, "b", b"")]
    written = [power.Step("W", 2, 0, "", b"x" * 2048), power.Step("S", 2, 0, "", b""), power.Step("W", 3, 0, "", b"y")]
    for step in (*opened, *written):
        disk.do(step)
    disk.left(tmp_path / "lost", "nothing", draw)
    assert list((tmp_path / "lost").iterdir()) == []
    disk.left(tmp_path / "names", "names", draw)
    assert (tmp_path / "names" / "a").read_bytes() == b"x" * 2048
    assert (tmp_path / "names" / "b").read_bytes() == b""
    for step in (
        power.Step("S", 1, 0, "", b""),
        power.Step("R", 0, 0, "a", b"c"),
        power.Step("W", 2, 0, "", b"z" * 2048),
    ):
        disk.do(step)
    disk.left(tmp_path / "renamed", "nothing", draw)
    assert sorted(path.name for path in (tmp_path / "renamed").iterdir()) == ["a", "b"]
    torn = set()
    for number in range(20):
        disk.left(tmp_path / f"torn{number}", "some", draw)
        (kept,) = {path.name for path in (tmp_path / f"torn{number}").iterdir()} - {"b"}
        torn.add((tmp_path / f"torn{number}" / kept).read_bytes())
    assert len(torn) > 2
