"""The command line of sweeps: every command of docs/sweeps.md and docs/scale.md, and what is drawn in 80 columns.

pytest tests/cluster/test_commands.py
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from rich.console import Console

from errata.bench.run import Plan
from errata.cli import main
from errata.cli.tables.sweep import Board
from errata.cli.tables.sweep import sweep as table
from errata.cluster.jobs import Done, SweepJob
from errata.cluster.sweep import JobState, Sweep
from tests.cluster import small
from tests.cluster.small import ROOT, commands


def test_every_command_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    small.plan(tmp_path, methods=["none"], seeds=[0, 1])
    (tmp_path / "plan.toml").write_text(re.sub(r"\[settings.*", "", (tmp_path / "plan.toml").read_text(), flags=re.S))
    known = [shlex.split(line) for line in commands("sweeps.md") if line.startswith("errata")]
    assert [words[1] for words in known] == ["sweep"] * 7 + ["stats"] * 3
    for words in known[:7]:
        if "--ray" in words:
            continue  # tests/cluster/test_ray.py
        if "elsewhere" in words:
            (tmp_path / "elsewhere").mkdir()
        assert main(words[1:]) == 0, words
        printed = capsys.readouterr().out
        assert max(map(len, printed.splitlines())) <= 80 or "#SBATCH" in printed
        assert "2 jobs: 2 done" in printed or "#SBATCH" in printed or "--shard" in words
    assert main(["sweep", "merge", "runs", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [job["state"] for job in found["jobs"]] == ["done", "done"]
    assert Path(found["report"]).exists()


def test_the_statistics_of_the_page_are_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "cache"))
    one, every, _ = [shlex.split(line)[1:] for line in commands("sweeps.md") if line.startswith("errata stats")]
    one, every = (
        [*words[:-3], "tokens=1000", *words[-2:]] for words in (one, every)
    )  # as many batches as parts, and more
    assert main(every) == 1
    assert "1/4, 2/4, 3/4, 4/4 are not in" in capsys.readouterr().err
    for number in range(1, 5):
        assert main([*one[:-1], f"{number}/4"]) == 0
    assert "that is all of this part" in capsys.readouterr().out
    assert main(every) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "0.down" in printed


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["none.toml", "--out", "x"], "cannot read a plan from none.toml"),
        (["plan.toml"], "name the plan and where to"),
        (["merge"], "name the directory of the sweep"),
        (["merge", "nowhere"], "nowhere holds no sweep"),
        (["plan.toml", "--out", "x", "--ray", "local", "--shard", "1/2"], "leave --shard out"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    words: list[str], say: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert say in captured.err
    assert captured.err.count("\n") == 1


def test_statistics_on_a_full_disk_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, _: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path))
    monkeypatch.setattr("errata.stats.store.put", full)
    assert main(["stats", "--set", "tokens=200", "--part", "1/2", "--book", str(tmp_path / "book")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"errata: the disk refuses at {tmp_path}")
    assert "(No space left on device): make room, and give the same command again." in said
    assert said.count("\n") == 1


def test_what_is_missing_after_a_merge_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Sweep([job("rome", 0), job("rome", 1)], tmp_path)._write()
    assert main(["sweep", "merge", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "2 of 2 jobs are not done yet" in captured.err
    assert "2 jobs: 2 waiting" in captured.out


def job(method: str, seed: int, model: str = "primer") -> SweepJob:
    plan = Plan(method=method, options={"steps": 3}, cases="primer:100", edits=100, seed=seed)
    return SweepJob(plan=plan, model=model, fingerprint="f" * 32, config="c", cases="d", text="1")


def done(job: SweepJob, seconds: float = 30.0) -> JobState:
    return JobState(job, "done", Done(name=job.name, sha256="0", bytes=1, seconds=seconds, where="here"))


def drawn(view: object, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width, highlight=False, markup=False, emoji=False).print(view)
    return file.getvalue()


def test_the_board_says_what_is_done_what_it_costs_and_what_is_left() -> None:
    jobs = [job(method, seed) for method in ("rome", "memit") for seed in range(4)]
    board = Board(jobs, price=2.0)
    board.told(JobState(jobs[0], "running"))
    board.told(JobState(jobs[4], "running", edits=17))
    assert board.summed() == "0 of 8 jobs done · 0:00:00 worked (0.00)"
    board.told(done(jobs[0], 1800))
    board.told(JobState(jobs[1], "failed", why="it does."))
    # six are left, each as long as what is known, by two workers
    assert board.summed() == "1 of 8 jobs done, 1 failed · 0:30:00 worked (1.00) · about 1:30:00 left"
    text = drawn(board.draw())
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"primer\s+rome steps=3\s+1/4\s+1800\.0 s", text)
    assert re.search(r"primer\s+memit steps=3\s+0/4\s+1, 17 edits", text)


def test_the_table_is_of_means_over_seeds() -> None:
    rows = [
        {
            "method": method, "options": {"steps": 3}, "model": "primer", "cases": "primer:100", "seed": seed, "state": "done",
            "seconds": 10.0, "stopped": None, "edits": 100, "metrics": {"said": {"mean": mean, "half_width": 0.3}},
        }
        for method, seed, mean in (("rome", 0, 0.5), ("rome", 1, 0.7), ("ft", 0, 0.1))
    ]  # fmt: skip
    text = drawn(table({"jobs": [*rows, {"state": "failed"}], "report": "runs/report.html"}))
    assert re.search(r"rome steps=3\s+100\s+2\s+0\.60±0\.14", text)
    assert re.search(r"ft steps=3\s+100\s+1\s+0\.10±0\.30", text)
    assert "4 jobs: 3 done, 1 failed; 0:00:30 worked." in text


def test_the_benchmarks_of_the_page_on_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from errata.editing import materialised

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(tmp_path)
    import merging
    import scale

    def opening(place: Path) -> dict[str, object]:
        scale.opened(str(place))
        return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))

    monkeypatch.setattr(scale, "opening", opening)
    monkeypatch.setattr(materialised, "EVERY", 10)
    known = [shlex.split(line) for line in commands("scale.md") if line.startswith("python")]
    assert [words[1] for words in known] == ["benchmarks/scale.py", "benchmarks/merging.py"]
    monkeypatch.setattr(sys, "argv", [*known[0][1:], "--numbers", "10,20", "--books", "2,3", "--out", "scale.jsonl"])
    scale.main()
    rows = [json.loads(line) for line in Path("scale.jsonl").read_text().splitlines()]
    assert [(row["edits"], row["differences"]) for row in rows[:2]] == [(10, []), (20, [])]
    assert all(row[name] > 0 for row in rows[:2] for name in scale.GROWING)
    assert [(row["books"], row["edits"], row["at_once_s"] > 0) for row in rows[2:]] == [(2, 20, True), (3, 30, True)]
    monkeypatch.setattr(sys, "argv", [*known[1][1:], "--books", "2", "--edits", "1", "--out", "merging.jsonl"])
    merging.main()
    one, two = (json.loads(line) for line in Path("merging.jsonl").read_text().splitlines())
    assert (one["books"], one["edits"], one["alone"], one["together"]) == (1, 1, 1, 1)
    assert (two["books"], two["edits"], two["asked"]) == (2, 2, 2)


def test_the_merges_of_the_page_on_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from errata.book.book import Book
    from errata.model.loading import load

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from speeds.growth import history

    lm = load("primer")
    known = [shlex.split(line) for line in commands("scale.md") if line.startswith("errata")]
    assert [words[1] for words in known] == ["merge"] * 3
    edits = history(lm, "rome", {}, 3)
    for number, words in enumerate(known):
        room = tmp_path / str(number) / "mine"
        for name, edit in zip(("mine", "ada", "bob"), edits, strict=True):
            with Book.open(room.parent / name / ".errata", base=lm.identity, name=lm.name) as book:
                book.append([(edit.meta(), edit.to_bytes())])
        monkeypatch.chdir(room)
        assert main([*words[1:], "--json"]) == 0, words
        found = json.loads(capsys.readouterr().out)
        assert len(found["took"]) == sum("errata" in word for word in words[2:])
        with Book.open(room / ".errata", look=True) as book:
            assert len(book.stand()) == 1 + len(found["took"])
