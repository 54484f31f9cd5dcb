"""A sweep in a directory: every job of a plan, done here, by shards that know nothing of each other, or on Ray.

    sweep = Sweep.planned(Path("plan.toml"), Path("runs"))     # loads each model once, to look whether all can be run
    sweep.go(tell)                                              # what is not finished yet
    Sweep.kept(Path("runs")).merge([Path("other")])             # take finished jobs over from another directory

    runs/sweep.json            the jobs, by their names
    runs/jobs/NAME/            each one's run, as errata bench writes it, and done.json with the hash of its rows
    runs/report.html

Several processes may work in one directory: who holds a job's lock does it, the others leave it to him.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from errata import report
from errata.bench.run import Plan
from errata.bench.run_files import keep
from errata.cluster import plan as plans
from errata.cluster.jobs import KEPT, Done, SweepJob, config_of, digest, done, work
from errata.cluster.plan import SweepPlan
from errata.content import DISK_REFUSES
from errata.data.case import Case
from errata.data.cases import parse
from errata.errors import BadConfig, BadFile, ErrataError
from errata.model.lm import LM
from errata.model.loading import load
from errata.stats.corpus import open_corpus

INDEX: Final = "sweep.json"
_DISK: Final = "the disk "  # what is said of one that is full begins so, whether it is said here or by a book
AGAIN: Final = "what is finished is kept, and the same command goes on"


@dataclass(frozen=True, slots=True)
class JobState:
    """Where a job stands: waiting, running, done, failed, or with another process; and how far it is, where that is known."""

    job: SweepJob
    state: str = "waiting"
    done: Done | None = None
    why: str = ""
    edits: int = 0

    @property
    def full(self) -> bool:
        """Say whether it failed for the disk, which the next one would, too."""
        return self.why.startswith(_DISK)

    def to_dict(self, directory: Path) -> dict[str, Any]:
        """Return it as JSON-able values, with the numbers of its last checkpoint.

        Args:
            directory: where the job was done.
        """
        plan = self.job.plan
        about: dict[str, Any] = {key: getattr(plan, key) for key in ("method", "options", "cases", "seed")}
        about |= {"name": self.job.name, "model": self.job.model, "state": self.state, "why": self.why}
        about["command"] = self.job.command
        if self.done is None:
            return about
        summary = json.loads((directory / "summary.json").read_bytes())
        last = summary["checkpoints"][-1]
        about |= {key: value for key, value in self.done.to_dict().items() if key != "name"}
        return {**about, "stopped": summary["stopped"], "edits": last["edits"], "metrics": last["metrics"]}


OnJob = Callable[[JobState], None]
CasesOf = Mapping[tuple[str, int], Sequence[Case]]


@dataclass
class Models:
    """The models of a sweep, one in memory at a time."""

    device: str | None = None
    dtype: str | None = None
    _held: tuple[str, LM] | None = None

    def get(self, name: str) -> LM:
        """Return the model of that name; raises what `errata.model.loading.load` raises."""
        if self._held is None or self._held[0] != name:
            self._held = None  # before the next one is loaded
            self._held = name, load(name, device=self.device, dtype=self.dtype)
        return self._held[1]


@dataclass
class Sweep:
    """The jobs of a plan, and the directory they are done in."""

    jobs: Sequence[SweepJob]
    out: Path
    models: Models = field(default_factory=Models)

    @classmethod
    def planned(cls, path: Path, out: Path) -> Sweep:
        """Read a plan, look whether every job of it can be run, and write down what they are.

        Raises:
            BadFile: the plan cannot be read. BadConfig: everything that is wrong with it; nothing was run.
        """
        plan, variants = plans.read(path)
        runs, wrong = list(plan.runs(variants)), list[str]()
        cases = cases_of(runs)
        models, jobs = Models(plan.device, plan.dtype), list[SweepJob]()
        for model in plan.models:
            try:
                lm = models.get(model)
            except ErrataError as error:
                wrong.append(str(error))
                continue
            wrong += plans.misfits(lm, runs, cases)
            jobs += [] if wrong else _jobs(plan, runs, model, lm, cases)
        plans.refuse(path, wrong)
        sweep = cls(jobs, Path(out), models)
        sweep._write()
        return sweep

    @classmethod
    def kept(cls, out: Path) -> Sweep:
        """Return the sweep that is in a directory; raises BadFile if there is none."""
        try:
            found = json.loads((out / INDEX).read_bytes())
            return cls([SweepJob.from_dict(job) for job in found["jobs"]], out)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise BadFile(
                f"{out} holds no sweep ({type(error).__name__}): name a directory that errata sweep wrote."
            ) from error

    def _write(self) -> None:
        with _written_down():
            for folder in ("jobs", "locks"):
                (self.out / folder).mkdir(parents=True, exist_ok=True)
            keep(self.out / INDEX, {"jobs": [job.to_dict() for job in self.jobs]})

    def directory(self, job: SweepJob) -> Path:
        """Return where a job is done."""
        return self.out / "jobs" / job.name

    def states(self) -> list[JobState]:
        """Return every job with what is finished of it."""
        found = ((job, done(self.directory(job))) for job in self.jobs)
        return [JobState(job, "waiting" if one is None else "done", one) for job, one in found]

    def shard(self, text: str) -> Sweep:
        """Return the sweep with one of n parts of the jobs, ``"2/4"``: every n-th.

        Raises:
            BadConfig: the text is no such thing.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        number, of = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= of:
            raise BadConfig(f"{text!r} is no shard: give 1/4 to 4/4 to do one of four, then errata sweep merge.")
        return Sweep(self.jobs[number - 1 :: of], self.out, self.models)

    # ---------------------------------------------------------------- doing

    def go(self, told: OnJob | None = None) -> list[JobState]:
        """Do here, one after the other, what is not finished; return every job with what came of it.

        A job that fails is told, and the others are done; a full disk ends the sweep.
        """
        from filelock import FileLock, Timeout

        tell = told or _quiet
        states = self.states()
        cases = cases_of([s.job.plan for s in states if s.state != "done"])
        for number, state in enumerate(states):
            if state.state != "done":
                try:
                    with FileLock(self.out / "locks" / state.job.name, blocking=False):
                        states[number] = self._one(state.job, cases, tell)
                except Timeout:
                    states[number] = JobState(state.job, "elsewhere", why="another process is at it.")
            tell(states[number])
            if states[number].full:
                break
        return states

    def _one(self, job: SweepJob, cases: CasesOf, tell: OnJob) -> JobState:
        if (found := done(self.directory(job))) is not None:  # another process was quicker
            return JobState(job, "done", found)
        tell(JobState(job, "running"))
        try:
            lm = self.models.get(job.model)
            given = cases[job.plan.cases, job.plan.seed][: job.plan.edits]
            where = self.directory(job)
            found = work(job, lm, given, where, lambda edits, *_: tell(JobState(job, "running", edits=edits)))
            return JobState(job, "done", found)
        except (ErrataError, OSError, MemoryError) as error:
            return JobState(job, "failed", why=explained(error))

    # ---------------------------------------------------------------- putting together

    def take(self, job: SweepJob, files: Mapping[str, bytes]) -> JobState:
        """Keep what a job gave elsewhere: the files of its directory; whole or not at all."""
        directory = self.directory(job)
        part = directory.with_name(f".{job.name}")
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            for name in KEPT:
                (part / name).write_bytes(files[name])
            shutil.rmtree(directory, ignore_errors=True)
            part.rename(directory)
        except OSError as error:
            return JobState(job, "failed", why=explained(error))
        found = done(directory)
        return JobState(
            job, "failed" if found is None else "done", found, "" if found else "its rows did not arrive whole."
        )

    def merge(self, others: Sequence[Path] = ()) -> tuple[list[JobState], list[str]]:
        """Take over from other directories what is finished there and not here.

        Returns:
            every job, and what is to be known: jobs that have other rows elsewhere, and those of other plans.
        """
        notes, states = list[str](), {state.job.name: state for state in self.states()}
        for other in others:
            found = [one for place in sorted((other / "jobs").glob("[0-9a-f]*")) if (one := done(place)) is not None]
            for one in found:
                mine, place = states.get(one.name), other / "jobs" / one.name
                if mine is not None and mine.done is None:
                    states[one.name] = self.take(mine.job, {name: (place / name).read_bytes() for name in KEPT})
                elif mine is not None and mine.done is not None and mine.done.sha256 != one.sha256:
                    notes.append(
                        f"{mine.job.label} has other rows in {other} ({one.where}) than here: these were kept."
                    )
            if strange := sum(one.name not in states for one in found):
                notes.append(f"{other} has {strange} finished jobs that this plan does not name: they were left there.")
        return list(states.values()), notes

    def rows(self, states: Iterable[JobState]) -> list[dict[str, Any]]:
        """Return jobs as JSON-able values."""
        return [state.to_dict(self.directory(state.job)) for state in states]

    def report(self, states: Iterable[JobState]) -> Path | None:
        """Write one page of every finished job and return where it is; None if none is finished."""
        runs = [self.directory(state.job) for state in states if state.state == "done"]
        if not runs:
            return None
        with _written_down():
            report.write(runs, self.out / "report.html")
        return self.out / "report.html"


def cases_of(runs: Iterable[Plan]) -> dict[tuple[str, int], tuple[Case, ...]]:
    """Return the cases of runs, by their name and seed; raises what `errata.data.cases.parse` raises."""
    return {key: parse(key[0], seed=key[1]).cases for key in dict.fromkeys((run.cases, run.seed) for run in runs)}


def _jobs(plan: SweepPlan, runs: Sequence[Plan], model: str, lm: LM, cases: CasesOf) -> Iterator[SweepJob]:
    text = open_corpus(plan.text).revision
    digests = {key: digest(found[: plan.edits]) for key, found in cases.items()}
    seen = set()
    for run in runs:
        job = SweepJob(
            plan=run, model=model, device=plan.device, dtype=plan.dtype, fingerprint=lm.fingerprint, text=text,
            config=config_of(run, lm), cases=digests[run.cases, run.seed], threads=plan.threads,
        )  # fmt: skip
        if job.name not in seen:  # settings may come to the same
            seen.add(job.name)
            yield job


def explained(error: BaseException) -> str:
    """Return what went wrong with a job, as a clause that ends with what to do."""
    if isinstance(error, OSError):
        why = f"{_DISK}refuses" if error.errno in DISK_REFUSES else "a file cannot be used"
        return f"{why} ({error.strerror or error}): make room or change permissions; {AGAIN}."
    if isinstance(error, MemoryError):
        return f"there is not enough memory: use fewer workers or a larger machine; {AGAIN}."
    return f"{str(error).removesuffix('.')}; {AGAIN}." if str(error).startswith(_DISK) else str(error)


@contextmanager
def _written_down() -> Iterator[None]:
    """Let a disk that refuses be a sentence, of what belongs to no job, too."""
    try:
        yield
    except OSError as error:
        raise BadFile(f"the sweep cannot be written down: {explained(error)}") from error


def _quiet(_: JobState) -> None:
    """Tell nobody."""
