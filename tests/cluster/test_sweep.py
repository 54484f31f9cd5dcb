"""Sweeps here and in shards: the rows of `errata bench`, nothing run twice, and a plan's mistakes all at once.

pytest tests/cluster/test_sweep.py
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from errata.bench.run import Plan, Run
from errata.cli import main
from errata.cluster import jobs, plan
from errata.cluster.jobs import SweepJob
from errata.cluster.remote import Parcel, Worker, model_files
from errata.cluster.slurm import sbatch
from errata.cluster.sweep import JobState, Sweep, cases_of
from errata.errors import BadBook, BadConfig, BadFile, ErrataError
from tests.cluster import small


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep of four jobs, done here."""
    folder = tmp_path_factory.mktemp("serial")
    sweep = Sweep.planned(small.plan(folder), folder / "out")
    assert small.finished(sweep.go())
    return sweep


def copied(sweep: Sweep, out: Path) -> Sweep:
    shutil.copytree(sweep.out, out)
    return replace(sweep, out=out)


def test_rows_are_those_of_errata_bench(serial: Sweep, tmp_path: Path) -> None:
    job = serial.jobs[-1]
    assert torch.get_num_threads() == job.threads == 1, "run tests with OMP_NUM_THREADS=1"
    assert main([*shlex.split(job.command)[1:], "--out", str(tmp_path / "bench"), "--json"]) == 0
    there = (tmp_path / "bench" / job.plan.method / "rows.jsonl").read_bytes()
    assert (serial.directory(job) / "rows.jsonl").read_bytes() == there


def test_shards_that_were_killed_and_merged_give_the_same_rows(
    serial: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def dies(*_: object) -> object:
        raise Killed

    for number in range(1, 5):
        shard = replace(serial, out=tmp_path / str(number)).shard(f"{number}/4")
        shard._write()
        if number == 2:
            with monkeypatch.context() as patch:
                patch.setattr(Run, "_sequential", dies)
                with pytest.raises(Killed):
                    shard.go()
            continue
        assert [len(shard.jobs), small.finished(shard.go())] == [1, True]
    whole = replace(serial, out=tmp_path / "whole")
    whole._write()
    states, notes = whole.merge([tmp_path / str(number) for number in range(1, 5)])
    assert [state.state for state in states] == ["done", "waiting", "done", "done"]
    assert notes == []
    assert small.finished(replace(serial, out=tmp_path / "2").shard("2/4").go())
    states, notes = Sweep.kept(tmp_path / "whole").merge([tmp_path / "2"])
    assert small.finished(states)
    assert small.rows(whole) == small.rows(serial)
    page = whole.report(states)
    assert page is not None
    assert page.read_text(encoding="utf-8").count("seed") > 1


def test_what_is_finished_is_not_run_again_and_what_was_altered_is(
    serial: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, ran = copied(serial, tmp_path / "out"), list[str]()
    work = jobs.work

    def counted(job: SweepJob, *rest: object) -> object:
        ran.append(job.name)
        return work(job, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("errata.cluster.sweep.work", counted)
    assert small.finished(sweep.go())
    assert ran == []
    altered, lost = sweep.jobs[0], sweep.jobs[1]
    rows = sweep.directory(altered) / "rows.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b'"said"', b'"sang"', 1))
    (sweep.directory(lost) / "done.json").unlink()
    assert small.finished(sweep.go())
    assert ran == [altered.name, lost.name]
    assert small.rows(sweep) == small.rows(serial)


def test_other_rows_of_the_same_job_are_told(serial: Sweep, tmp_path: Path) -> None:
    other = copied(serial, tmp_path / "other")
    place = other.directory(other.jobs[0])
    (place / "rows.jsonl").write_bytes(b"{}\n")
    found = json.loads((place / "done.json").read_bytes())
    (place / "done.json").write_text(json.dumps(found | {"sha256": jobs._hash(place / "rows.jsonl")}))
    _, notes = serial.merge([tmp_path / "other"])
    assert len(notes) == 1
    assert "has other rows" in notes[0]


def test_a_job_is_known_by_all_it_depends_on_and_not_by_where_files_lie(serial: Sweep) -> None:
    job = serial.jobs[-1]
    same = replace(job, model="elsewhere", plan=replace(job.plan, cases="other:name", text="other.txt"))
    assert same.name == job.name == SweepJob.from_dict(json.loads(json.dumps(job.to_dict()))).name
    others = [
        replace(job, fingerprint="0" * 32), replace(job, config="0" * 16), replace(job, cases="0"), replace(job, text="0"),
        replace(job, threads=2), replace(job, versions={**job.versions, "torch": "1"}),
        *(replace(job, plan=replace(job.plan, **one)) for one in ({"seed": 9}, {"edits": 9}, {"independent": True})),
    ]  # fmt: skip
    assert len({one.name for one in (job, *others)}) == 10


def test_everything_wrong_with_a_plan_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path = small.plan(
        tmp_path, methods=["rom", "ft"], models=["primer", "./no/such/model", "nobody/nothing"],
        cases=["counterfct:x.json", "primer:1"],
        edits=2, batch=3, text="gone.txt", colour="red", seeds=["one"], 
        settings={"ft": {"stps": 3, "steps": -1}, "rome": {"steps": 2}},
    )  # fmt: skip
    with pytest.raises(BadConfig) as found:
        Sweep.planned(path, tmp_path / "out")
    said = str(found.value)
    for part in (
        "no method 'rom'. Did you mean rome?", "no data set 'counterfct'. Did you mean counterfact?", "no setting 'stps'",
        "primer:1 has 1 cases, fewer than edits = 2", "gone.txt", "a plan has no key 'colour'", "seeds = ['one'] does not fit",
        "'./no/such/model' is not there", "cannot load 'nobody/nothing'", "steps = -1 makes no sense",
        "settings.rome is of no method that the plan names",
    ):  # fmt: skip
        assert part in said
    assert "11 mistakes, and nothing was run" in said
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["errata:", *(f"({number})" for number in range(1, 12))]
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_a_model_is_said_of_every_model(tmp_path: Path) -> None:
    path = small.plan(tmp_path, methods=["rome", "memit"], settings={"rome": {"layer": 99}, "memit": {"layers": [77]}})
    with pytest.raises(BadConfig, match=r"2 mistakes.*not 99.*not 77"):
        Sweep.planned(path, tmp_path / "out")
    with pytest.raises(BadConfig, match="it names no methods: give one or more in a list"):
        plan.read(small.plan(tmp_path, methods=[]))
    with pytest.raises(BadFile, match="cannot read a plan"):
        plan.read(tmp_path / "none.toml")


def test_several_tables_of_settings_are_tried_each_once(tmp_path: Path) -> None:
    path = small.plan(tmp_path, methods=["none", "ft"], seeds=[0], settings={})
    with path.open("a", encoding="utf-8") as file:
        file.write("\n[[settings]]\nft = {steps = 2}\n[[settings]]\nft = {steps = 3}\n")
    read, variants = plan.read(path)
    assert [(run.method, dict(run.options)) for run in read.runs(variants)] == [
        ("none", {}), ("ft", {"steps": 2}), ("ft", {"steps": 3}),
    ]  # fmt: skip


def test_a_full_disk_ends_a_sweep_and_a_failed_job_does_not(
    serial: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: BaseException) -> Callable[..., None]:
        def work(*_: object) -> None:
            raise error

        return work

    sweep = replace(serial, out=tmp_path / "out")
    sweep._write()
    monkeypatch.setattr("errata.cluster.sweep.work", fails(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    states = sweep.go()
    assert [state.state for state in states] == ["failed", "waiting", "waiting", "waiting"]
    assert states[0].why.startswith("the disk refuses (No space left on device): make room")
    monkeypatch.setattr("errata.cluster.sweep.work", fails(BadBook("the disk of the book b refuses (disk I/O error).")))
    states = sweep.go()
    assert [state.state for state in states] == ["failed", "waiting", "waiting", "waiting"]
    assert states[0].why.endswith("and the same command goes on.")
    monkeypatch.setattr("errata.cluster.sweep.work", fails(ErrataError("it does not converge.")))
    assert [state.why for state in sweep.go()] == ["it does not converge."] * 4


def test_a_worker_elsewhere_uses_what_it_was_sent(serial: Sweep, tmp_path: Path) -> None:
    model = small.second_model(tmp_path)
    path = small.plan(tmp_path, methods=["none"], models=[str(model)], seeds=[0], settings={})
    sweep = Sweep.planned(path, tmp_path / "out")
    (job,) = sweep.jobs
    refs = {"model": model_files(str(model)), "cases": cases_of([job.plan])[job.plan.cases, job.plan.seed]}
    shutil.rmtree(model)
    worker = Worker(tmp_path / "home")
    files, why = worker.work(json.dumps(job.to_dict()), Parcel("model", "cases").to_dict(), refs)
    assert why == ""
    assert sweep.take(job, files).state == "done"
    other = replace(job, versions={**job.versions, "torch": "1.0"})
    files, why = worker.work(json.dumps(other.to_dict()), Parcel("model", "cases").to_dict(), refs)
    assert files == {}
    assert "than the sweep was planned with" in why
    files, why = Worker(tmp_path / "bare").work(json.dumps(job.to_dict()), Parcel("", "cases").to_dict(), refs)
    assert "has no such model" in why
    assert str(model) in why


def test_the_sbatch_file_runs_a_shard(serial: Sweep, tmp_path: Path) -> None:
    text = sbatch(tmp_path / "my plan.toml", tmp_path / "out", 4)
    (line,) = [line for line in text.splitlines() if line.startswith("errata")]
    words = shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", "3"))
    assert words == [
        "errata",
        "sweep",
        str(tmp_path / "my plan.toml"),
        "--out",
        str(tmp_path / "out"),
        "--shard",
        "3/4",
    ]
    assert "#SBATCH --array=1-4" in text
    with pytest.raises(BadConfig, match="number of shards"):
        sbatch(tmp_path / "plan.toml", tmp_path, 0)
    for bad in ("0/4", "5/4", "1", "a/b"):
        with pytest.raises(BadConfig, match="is no shard"):
            serial.shard(bad)


def test_who_holds_a_job_does_it(serial: Sweep, tmp_path: Path) -> None:
    from filelock import FileLock

    sweep = replace(serial, out=tmp_path / "out", jobs=serial.jobs[:1])
    sweep._write()
    told: list[JobState] = []
    with FileLock(sweep.out / "locks" / sweep.jobs[0].name):
        (state,) = sweep.go(told.append)
    assert (state.state, state.why) == ("elsewhere", "another process is at it.")


def test_jobs_from_before_there_were_probes_are_known_by_the_same_name() -> None:
    asked = Plan(method="ft", options={"steps": 3}, cases="primer:2", edits=2)
    job = SweepJob(plan=asked, model="m", fingerprint="f", config="c", cases="d", text="t", versions={})
    content = {key: value for key, value in job.to_dict().items() if key != "model"} | {"format": 1}
    for later in ("command", "cases", "options", "text", "probes"):
        del content["plan"][later]
    assert job.name == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
    older = job.to_dict()
    del older["plan"]["probes"]
    assert SweepJob.from_dict(older) == job
    wild = replace(job, plan=replace(asked, probes=("negation", "q4")))
    assert wild.name != job.name
    assert SweepJob.from_dict(wild.to_dict()) == wild
    assert "--probes negation,q4" in wild.command
    assert "--probes" not in job.command
