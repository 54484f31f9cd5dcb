"""Sweeps on a real Ray, started here: workers are killed at random, and rows are those of a serial run.

make test-ray, or pytest -m ray tests/cluster/test_ray.py; ERRATA_RAY_JOBS=200 for a long one
"""

from __future__ import annotations

import os
import shlex
import socket
from pathlib import Path

import pytest
import torch

from errata import methods
from errata.cli import main
from errata.cluster.ray import pool
from errata.cluster.spread import spread
from errata.cluster.statistics import OnRay, read
from errata.cluster.sweep import Sweep
from errata.errors import BadConfig, ClusterGone
from errata.model.loading import load
from errata.stats.store import ensure
from tests.cluster.small import Killer, commands, finished, plan, rows, second_model

pytestmark = pytest.mark.ray
ray = pytest.importorskip("ray")
JOBS = int(os.environ.get("ERRATA_RAY_JOBS", "12"))


def test_killed_workers_give_the_rows_of_a_serial_run(tmp_path: Path) -> None:
    path, tell = plan(tmp_path, seeds=list(range(JOBS // 2))), Killer("ray::_OnRay", every=max(3, JOBS // 20))
    serial, on_ray = Sweep.planned(path, tmp_path / "serial"), Sweep.planned(path, tmp_path / "ray")
    assert finished(spread(on_ray, tell, workers=2))
    assert tell.killed
    assert len(on_ray.jobs) == JOBS
    assert tell.given_out() > JOBS, "a job that was at work was given out again"
    assert finished(serial.go())
    assert rows(on_ray) == rows(serial)
    again = Killer("nobody", every=1)
    assert finished(spread(on_ray, again, workers=2))
    assert again.given_out() == 0, "what is finished is not run again"


def test_five_methods_on_two_models_with_three_seeds(tmp_path: Path) -> None:
    path, tell = (
        plan(
            tmp_path, methods=["none", "ft", "rome", "memit", "melo"], models=["primer", str(second_model(tmp_path))],
            seeds=[0, 1, 2],
            settings={"ft": {"steps": 2}, "rome": {"steps": 3}, "memit": {"steps": 3}, "melo": {"steps": 3}},
        ),
        Killer("ray::_OnRay", every=5),
    )  # fmt: skip
    serial, on_ray = Sweep.planned(path, tmp_path / "serial"), Sweep.planned(path, tmp_path / "ray")
    assert finished(spread(on_ray, tell, workers=2))
    assert tell.killed
    assert finished(serial.go())
    assert len(serial.jobs) == 30
    assert rows(on_ray) == rows(serial)


def test_a_job_that_fails_says_why_and_the_others_are_done(tmp_path: Path) -> None:
    model = second_model(tmp_path)
    sweep = Sweep.planned(
        plan(tmp_path, methods=["none"], models=["primer", str(model)], seeds=[0], settings={}), tmp_path / "ray"
    )
    (model / "model.safetensors").write_bytes(b"")
    first, second = spread(sweep, lambda _: None, workers=1)
    assert first.state == "done"
    assert second.state == "failed"
    assert "has no such model" in second.why
    assert str(model) in second.why


def test_statistics_whose_workers_are_killed_are_the_serial_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "ray"))
    lm, method, kill = load("primer"), methods.make("oedit", {"tokens": 20_000}), Killer("ray::_OnRay", every=2)
    told = list[tuple[int, int]]()

    def tell(done: int, of: int) -> None:
        if (done, of) not in told:
            told.append((done, of))
            kill.at_random(done % 2 == 1)

    found = read(lm, method, "all/6", OnRay(workers=2), tell)
    assert told[-1] == (6, 6)
    assert len(kill.killed) > 1
    assert read(lm, method, "all/6", OnRay("127.0.0.1:1")) == found, "what is read needs no Ray"
    ours = [ensure(lm, named) for named in method.resolve(lm).wanted(lm)]
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "serial"))
    other = load("primer")
    for mine, named in zip(ours, method.resolve(other).wanted(other), strict=True):
        for site, (total, ended) in ensure(other, named).items():
            assert mine[site][1].tokens == ended.tokens
            scale = float(total.mean.abs().max())
            torch.testing.assert_close(mine[site][0].mean, total.mean, rtol=0, atol=1e-6 * scale)


def test_every_command_of_the_page_that_starts_a_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "cache"))
    plan(tmp_path)
    known = [shlex.split(line)[1:] for line in commands("sweeps.md") if "--ray" in line]
    sweep, elsewhere, stats = known
    assert elsewhere[-1].startswith("10.")  # where somebody's cluster is
    assert main(sweep) == 0
    assert "4 jobs: 4 done" in capsys.readouterr().out
    assert main(stats) == 0
    printed = capsys.readouterr().out
    assert "0.down gradient" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_a_ray_that_does_not_answer_is_one_sentence() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    with pytest.raises(ClusterGone, match="no Ray answers at"), pool(f"127.0.0.1:{port}"):
        pass
    with pytest.raises(BadConfig, match="no address of a Ray"), pool("somewhere"):
        pass
    with pytest.raises(ClusterGone, match="no Ray runs on this machine"), pool("auto"):
        pass
