"""Statistics read in parts by workers that share nothing with who asked: what is sent back adds up to the serial result.

pytest tests/cluster/test_statistics.py; on a real Ray: tests/cluster/test_ray.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from errata import methods
from errata.cli import main
from errata.cluster import statistics
from errata.cluster.jobs import StatisticsPart
from errata.cluster.remote import Parcel, Worker
from errata.cluster.statistics import Where, collect
from errata.delta import Site
from errata.errors import BadConfig, ErrataError
from errata.model.lm import LM
from errata.model.loading import load
from errata.stats import store
from errata.stats.store import gradients, second_moments

TOKENS = 2000
AT = Site(5, "down")


@pytest.fixture
def lm() -> LM:
    return load("primer")


class Far:
    """A pool whose one worker keeps its statistics elsewhere."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._home, self._patch, self.read, self.lost = home, monkeypatch, list[str](), set[str]()

    def put(self, name: str, value: Any) -> None:
        raise AssertionError("the primer is everywhere")

    def run(self, jobs: Sequence[StatisticsPart], needs: Mapping[str, Parcel], how: str) -> Iterator[Any]:
        worker = Worker(self._home)
        for job in jobs:
            yield job, "running", None
            with self._patch.context() as patch:
                patch.setenv("ERRATA_CACHE", str(self._home / "cache"))
                if job.part in self.lost:
                    job = replace(job, names={**job.names, str(AT): "another"})
                files, why = getattr(worker, how)(json.dumps(job.to_dict()), needs[next(iter(needs))].to_dict(), {})
            self.read.append(job.part)
            yield job, "failed" if why else "done", why or files


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Far:
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "mine"))
    far = Far(tmp_path / "far", monkeypatch)

    @contextmanager
    def pool(*_: object) -> Iterator[Far]:
        yield far

    monkeypatch.setattr(statistics, "pool", pool)
    return far


def test_parts_that_are_sent_back_are_the_serial_result(
    lm: LM, far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = methods.make("oedit", {"tokens": TOKENS, "layer": AT.layer, "corpus": "primer"})
    far.lost = {"2/3"}
    with pytest.raises(
        ErrataError, match="part 2/3 of the statistics for oedit on primer: the text or the model is another"
    ):
        collect(lm, how, Where("primer", address="there:1"), 3)
    far.lost, far.read = set(), []
    told: list[tuple[str, str]] = []
    found = collect(lm, how, Where("primer", address="there:1"), 3, lambda part, what: told.append((part.part, what)))
    assert far.read == ["2/3"], "what is there is not read again"
    assert told == [("2/3", "running"), ("2/3", "done")]
    assert list(found) == ["5.down", "5.down gradient"]
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "serial"))
    serial = load("primer")
    for read in (second_moments, gradients):
        whole = read(serial, [AT], tokens=TOKENS)[AT]
        monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "mine"))
        parts = read(lm, [AT], tokens=TOKENS)[AT]
        monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "serial"))
        assert float((parts - whole).norm() / whole.norm()) < 1e-6
        assert not torch.equal(parts, torch.zeros_like(parts))


def test_what_has_no_parts_is_said(lm: LM, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="ft needs no covariance of keys; leave --ray out"):
        collect(lm, methods.make("ft", {}), Where("primer"))
    with pytest.raises(BadConfig, match="set tokens=N"):
        collect(lm, methods.make("memit", {}), Where("primer"))
    book = ["--book", str(tmp_path / "book")]
    for words, say in (
        (["--part", "1/4"], "give --part all/N"), (["--trust-remote-code"], "leave --trust-remote-code or --ray out"),
    ):  # fmt: skip
        assert main(["stats", "--ray", "local", *book, *words]) == 2
        assert say in capsys.readouterr().err
    assert not any(store.directory().glob("*.partial*"))
