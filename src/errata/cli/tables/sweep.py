"""Sweeps: a live board while jobs are done, and a table of what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from errata.cli.tables.base import Json, clock, console, many, shortened, table_of
from errata.cli.tables.bench import FIRST, _Fitting
from errata.evaluate.metrics import named

if TYPE_CHECKING:
    from errata.cluster.jobs import SweepJob
    from errata.cluster.sweep import JobState


@contextmanager
def board(jobs: Sequence[SweepJob], price: float = 0.0) -> Iterator[Callable[[JobState], None]]:
    """Draw how far a sweep is, on stderr, and yield what is told of each job; where no terminal is, a line a finished job.

    Args:
        price: of an hour of one worker; 0: only the time is told.
    """
    out, drawn = console(stderr=True), Board(jobs, price)
    if not out.is_terminal:

        def line(state: JobState) -> None:
            drawn.told(state)
            if state.state in ("done", "failed") and drawn.news:
                out.print(f"{state.state} {state.job.label} · {drawn.summed()}", soft_wrap=True)

        yield line
        return
    with Live(get_renderable=drawn.draw, console=out, transient=True, refresh_per_second=2):
        yield drawn.told


class Board:
    """How far each method is on each model, what it took, and what is left."""

    def __init__(
        self, jobs: Sequence[SweepJob], price: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._price, self._clock, self._began = price, clock, clock()
        self._states: dict[str, JobState | None] = {job.name: None for job in jobs}
        self._jobs = {job.name: job for job in jobs}
        self._found = 0  # finished before
        self._most = 1  # at work at once
        self.news = False

    def told(self, state: JobState) -> None:
        """Take down where a job stands."""
        before = self._states[state.job.name]
        self.news = before is not None
        self._found += before is None and state.state == "done"
        self._states[state.job.name] = state
        self._most = max(self._most, len(self._in("running")))

    def _in(self, *wanted: str) -> list[JobState]:
        return [state for state in self._states.values() if state is not None and state.state in wanted]

    def summed(self) -> str:
        """Return the sum of it in a line: jobs done, the workers' time and what it costs, and the time left."""
        done, failed = self._in("done"), self._in("failed")
        spent = sum(state.done.seconds for state in done if state.done is not None)
        parts = [f"{len(done)} of {len(self._states)} jobs done" + (f", {len(failed)} failed" if failed else "")]
        cost = f" ({spent / 3600 * self._price:,.2f})" if self._price else ""
        parts.append(f"{clock(spent)} worked{cost}")
        left = self._left()
        return " · ".join([*parts, *([] if left is None else [f"about {clock(left)} left"])])

    def _left(self) -> float | None:
        """Return the seconds left: of each method the mean time of its finished jobs, by as many workers as there are."""
        every = [state.done.seconds for state in self._in("done") if state.done is not None]
        if not every:
            return None
        total = 0.0
        for lines in self._grouped().values():
            known = [state.done.seconds for _, state in lines if state is not None and state.done is not None]
            open_ = sum(state is None or state.state in ("waiting", "running") for _, state in lines)
            total += open_ * fmean(known or every)
        return total / self._most

    def _grouped(self) -> Mapping[tuple[str, str], list[tuple[SweepJob, JobState | None]]]:
        found: dict[tuple[str, str], list[tuple[SweepJob, JobState | None]]] = {}
        for name, state in self._states.items():
            job = self._jobs[name]
            found.setdefault((job.model, _called(job.plan.method, job.plan.options)), []).append((job, state))
        return found

    def draw(self) -> RenderableType:
        """Return the board."""
        table = table_of("model", "method", "done", "at work", "a job")
        for (model, method), lines in self._grouped().items():
            known = [s.done.seconds for _, s in lines if s is not None and s.done is not None]
            going = [s for _, s in lines if s is not None and s.state == "running"]
            edits = f", {going[0].edits} edits" if len(going) == 1 and going[0].edits else ""
            cells = (f"{len(known)}/{len(lines)}", f"{len(going)}{edits}" if going else "")
            table.add_row(_ending(model), shortened(method, 30), *cells, f"{fmean(known):.1f} s" if known else "")
        return Group(table, Text(self.summed()))


def sweep(row: Json) -> RenderableType:
    """A line for each method with its settings on each model and set of cases: means over seeds; or the sbatch file."""
    if "sbatch" in row:
        return Text(row["sbatch"], no_wrap=True, overflow="ignore")
    done = [job for job in row["jobs"] if job["state"] == "done"]
    groups: dict[tuple[str, str, str], list[Json]] = {}
    for job in done:
        groups.setdefault((job["model"], _called(job["method"], job["options"]), job["cases"]), []).append(job)
    parts: list[RenderableType] = []
    if done:
        parts.append(_table(groups))
    states = [job["state"] for job in row["jobs"]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    seconds = sum(job["seconds"] for job in done)
    parts.append(Text(f"{many(states, 'job')}: {counts}; {clock(seconds)} worked."))
    return Group(*parts, *([Text(f"The report is {row['report']}.")] if row["report"] else []))


def _table(groups: Mapping[tuple[str, str, str], list[Json]]) -> RenderableType:
    shown = [found for name in FIRST if (found := named(name)) is not None]
    held = {
        m.name: m.short or m.name for m in shown if any(m.name in j["metrics"] for js in groups.values() for j in js)
    }
    several = [len({key[place] for key in groups}) > 1 for place in (0, 2)]  # models, cases: a column where they differ
    heads = ["method", *(["model"] if several[0] else []), *(["cases"] if several[1] else []), "edits", "seeds"]
    lines = []
    for (model, method, cases), jobs in groups.items():
        where = [*([_ending(model, 20)] if several[0] else []), *([_ending(cases, 20)] if several[1] else [])]
        stopped = " (stopped)" if any(job["stopped"] for job in jobs) else ""
        counted = [str(max(job["edits"] for job in jobs)), str(len(jobs))]
        lines.append([shortened(method, 30) + stopped, *where, *counted, *(_mean(jobs, name) for name in held)])
    note = "± standard deviation over seeds; of one seed its 95 % interval."
    return _Fitting([*heads, *held.values()], lines, len(heads) + 1, note)


def _mean(jobs: Sequence[Json], name: str) -> str:
    found = [job["metrics"][name] for job in jobs if job["metrics"].get(name, {}).get("mean") is not None]
    if not found:
        return "–"
    means = [one["mean"] for one in found]
    half = stdev(means) if len(means) > 1 else found[0]["half_width"]
    digits = 2 if abs(fmean(means)) < 100 else 0
    return f"{fmean(means):.{digits}f}" + ("" if half is None else f"±{half:.{digits}f}")


def _called(method: str, options: Mapping[str, Any]) -> str:
    return " ".join([method, *(f"{key}={value}" for key, value in options.items())])


def _ending(name: str, most: int = 24) -> str:
    """Return a name, of a long one its end: that is where paths differ."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
