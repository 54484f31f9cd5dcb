"""One job of a sweep: a benchmark run, known by the hash of all it depends on, done anywhere to the same rows.

    job = SweepJob(plan=plan, model="primer", fingerprint=lm.fingerprint, cases=digest(cases), text="1", threads=1)
    work(job, lm, cases, out / job.name)       # out/NAME is then a directory as errata bench writes it, and done.json

A directory without a done.json whose hash is that of its rows is unfinished, and is gone on with from its last mark.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch

from errata import methods
from errata.bench.run import CONTROL, Plan, Run, Tell
from errata.bench.run_files import keep
from errata.config import to_dict
from errata.data.case import Case
from errata.errors import BadConfig
from errata.evaluate.rows import config_hash
from errata.methods.base import versions
from errata.model.lm import LM
from errata.model.weights import processor

DONE: Final = "done.json"
ROWS: Final = "rows.jsonl"
KEPT: Final = ("run.json", ROWS, "marks.jsonl", "summary.json", DONE)  # of a finished job; the edits are not
# Of a plan, said by `config`, `cases` and `text` of the job, or by none of what rows depend on:
_ELSEWHERE: Final = ("command", "cases", "options", "text")
_LATER: Final = ("probes",)  # of a plan, what jobs before it had not: left out where nothing is said
FORMAT: Final = 1  # of what a job is known by


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """One run of `errata bench`, and what it depends on besides what it was asked.

    Args:
        plan: the run. model: its name in the sweep's plan. device, dtype: how it is loaded.
        fingerprint: of the model. config: hash of the method's settings as they are on it. cases: digest of the cases.
        text: revision of the corpus of the perplexity. threads: of the processor. versions: of the libraries.
    """

    plan: Plan
    model: str
    fingerprint: str
    config: str
    cases: str
    text: str
    threads: int = 1
    device: str | None = None
    dtype: str | None = None
    versions: Mapping[str, str] = field(default_factory=versions)

    @cached_property
    def name(self) -> str:
        """24 hexadecimal digits: of everything but the names of files, which may lie elsewhere, and the command."""
        content = {key: value for key, value in self.to_dict().items() if key != "model"}
        asked = {key: value for key, value in content["plan"].items() if key not in _ELSEWHERE}
        content["plan"] = {key: value for key, value in asked.items() if value or key not in _LATER}
        content["format"] = FORMAT
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return dict(json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SweepJob:
        """Read what `to_dict` gave."""
        given = {**values["plan"]}
        given |= {key: tuple(given[key]) for key in ("checkpoints", "harness", "probes") if key in given}
        return cls(**{**values, "plan": Plan(**given)})

    @property
    def label(self) -> str:
        """What to call it in a sentence."""
        settings = "".join(f" {word}" for word in _flags(self.plan.options))
        return f"job {self.name[:8]} ({self.plan.method}{settings} on {self.model}, {self.plan.cases}, seed {self.plan.seed})"

    @property
    def command(self) -> str:
        """The `errata bench` command that gives the same rows, with OMP_NUM_THREADS at `threads`."""
        plan = self.plan
        words = ["errata", "bench", "--model", self.model, "--cases", plan.cases, "--method", plan.method]
        words += [word for flag in _flags(plan.options) for word in ("--set", flag)]
        words += ["--edits", str(plan.edits), "--batch", str(plan.batch), "--seed", str(plan.seed), "--text", plan.text]
        words += ["--checkpoints", ",".join(map(str, plan.checkpoints))]
        words += [f"--{name}" for name in ("independent", "generation") if getattr(plan, name)]
        words += ["--probes", ",".join(plan.probes)] if plan.probes else []
        stop = plan.stop_at_perplexity
        return shlex.join([*words, *([] if stop is None else ["--stop-at-perplexity", str(stop)])])


def _flags(options: Mapping[str, Any]) -> list[str]:
    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            return ",".join(map(text, value))
        return str(value).lower() if value is None or isinstance(value, bool) else str(value)

    return [f"{key}={text(value)}" for key, value in options.items()]


def digest(cases: Sequence[Case]) -> str:
    """Return a hash of everything that is edited and asked."""
    text = json.dumps([asdict(case) for case in cases], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What is kept of a finished job beside its rows: their hash and size, the seconds it took, and where that was."""

    name: str
    sha256: str
    bytes: int
    seconds: float
    where: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self)


def done(directory: Path) -> Done | None:
    """Return what a finished job left; None of one that is unfinished, torn or altered."""
    try:
        found = Done(**json.loads((directory / DONE).read_bytes()))
        whole = (directory / "summary.json").exists() and _hash(directory / ROWS) == found.sha256
    except (OSError, ValueError, TypeError):
        return None
    return found if whole and found.name == directory.name else None


def work(job: SweepJob, lm: LM, cases: Sequence[Case], directory: Path, tell: Tell | None = None) -> Done:
    """Do a job, or what is left of it, in a directory of its name.

    Raises:
        BadConfig: the model, the cases or the libraries here are others than the job was planned with. What a run raises.
    """
    check_same(job, lm, cases)
    began = time.perf_counter()
    before = _gone_on(job, lm, directory)
    with threads(job.threads):
        Run(replace(job.plan, command=job.command), lm, cases, directory).go(tell)
    seconds = before + time.perf_counter() - began
    rows = directory / ROWS
    found = Done(name=job.name, sha256=_hash(rows), bytes=rows.stat().st_size, seconds=seconds, where=_where(lm))
    keep(directory / DONE, found.to_dict())
    shutil.rmtree(directory / "book", ignore_errors=True)  # a sweep is after numbers; the job's command writes it again
    return found


def config_of(plan: Plan, lm: LM) -> str:
    """Return a hash of the settings that a run's method has on a model, as it stands in the run's rows."""
    return config_hash(
        {} if plan.method == CONTROL else to_dict(methods.make(plan.method, dict(plan.options)).resolve(lm))
    )


def check_same(job: SweepJob, lm: LM, cases: Sequence[Case]) -> None:
    """Raise BadConfig where what is at hand would give other rows than the job is known by."""
    mine, planned = versions(), job.versions
    differs = [f"{name} {mine.get(name)} for {planned[name]}" for name in planned if planned[name] != mine.get(name)]
    differs += [] if lm.fingerprint == job.fingerprint else ["other weights"]
    differs += [] if digest(cases) == job.cases else ["other cases"]
    differs += [] if differs or config_of(job.plan, lm) == job.config else ["other settings left at auto"]
    if differs:
        raise BadConfig(
            f"{socket.gethostname()} has {', '.join(differs)} than the sweep was planned with: give it the same, and go on "
            "with the same command."
        )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads inside: sums depend on it, to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _gone_on(job: SweepJob, lm: LM, directory: Path) -> float:
    """Make an unfinished job's directory one that can be gone on with, or clear it; return the seconds its edits took.

    What was begun under this name is this job, although the files it was asked with may have lain elsewhere.
    """
    try:
        marks = [json.loads(line) for line in (directory / "marks.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
        begun = dict(json.loads((directory / "run.json").read_bytes()))
        rows = (directory / ROWS).stat().st_size
        whole = not (directory / DONE).exists() and (not marks or marks[-1]["bytes"] <= rows)
        seconds = sum(float(taken) for mark in marks for taken, *_ in mark["spent"])
    except (OSError, ValueError, LookupError, TypeError):
        begun, whole, seconds = {}, False, 0.0
    if not whole:  # torn, or finished and its rows are not what was written
        shutil.rmtree(directory, ignore_errors=True)
        return 0.0
    names = {"cases": job.plan.cases, "text": job.plan.text, "options": dict(job.plan.options), "model": lm.name}
    keep(directory / "run.json", begun | names)
    return seconds


def _where(lm: LM) -> str:
    return f"{socket.gethostname()}, {processor(lm.device)}"


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
