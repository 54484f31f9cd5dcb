"""Sweeps on a real Ray, started here: workers are killed at random, and rows are those of a serial run.

make test-ray, or pytest -m ray tests/cluster/test_ray.py; ERRATA_RAY_JOBS=200 for a long one
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from errata.cluster.ray import pool
from errata.cluster.spread import spread
from errata.cluster.sweep import Sweep
from errata.errors import BadConfig, ClusterGone
from tests.cluster.small import Killer, finished, plan, rows, second_model

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
