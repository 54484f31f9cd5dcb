"""A sweep on Ray: what jobs need is made ready and sent once, jobs are given out, what they give is kept as it comes."""

from __future__ import annotations

from collections.abc import Sequence

from errata import methods
from errata.bench.run import CONTROL
from errata.cluster.jobs import SweepJob, threads
from errata.cluster.ray import LOCAL, Pool, pool
from errata.cluster.remote import Parcel, model_files, statistic_files
from errata.cluster.sweep import AGAIN, JobState, Models, OnJob, Sweep, cases_of
from errata.errors import ClusterGone


def spread(sweep: Sweep, told: OnJob, address: str = LOCAL, workers: int = 0) -> list[JobState]:
    """Do on Ray what is not finished of a sweep; return every job with what came of it.

    Args:
        address, workers: as `errata.cluster.ray.pool`; an accelerator for each where the plan's device is one.

    Raises:
        ClusterGone: Ray does not answer, or not any more; what is finished is kept. BadConfig: ray is not installed.
    """
    states = {state.job.name: state for state in sweep.states()}
    for state in states.values():
        told(state)
    todo = [state.job for state in states.values() if state.state != "done"]
    if not todo:
        return list(states.values())
    gpus = float((sweep.models.device or "").startswith("cuda"))
    with pool(address, workers, gpus) as ray:
        needs = _sent(sweep, todo, ray, here=address == LOCAL)
        left = len(todo)
        try:
            for job, what, found in ray.run(todo, needs):
                now = JobState(job, what, why=found) if what == "failed" else JobState(job, what)
                states[job.name] = sweep.take(job, found) if what == "done" else now
                left -= what != "running"
                told(states[job.name])
                if states[job.name].full:
                    break
        except ClusterGone as error:
            raise ClusterGone(f"{error} {left} jobs are left: {AGAIN}.") from error
    return list(states.values())


def _sent(sweep: Sweep, jobs: Sequence[SweepJob], ray: Pool, *, here: bool) -> dict[str, Parcel]:
    """Put what jobs need into Ray's store, and return the names under which each finds it.

    Statistics are computed before, here and once: workers that all want the same would all read the text for it.
    """
    for (name, seed), cases in cases_of([job.plan for job in jobs]).items():
        ray.put(f"cases {name} {seed}", cases)
    for model in dict.fromkeys(job.model for job in jobs):
        if (files := None if here else model_files(model)) is not None:
            ray.put(f"model {model}", files)
    found = {}
    for job in jobs:
        names = f"model {job.model}", f"cases {job.plan.cases} {job.plan.seed}"
        found[job.name] = *names, _statistics(sweep, job)
    if not here:
        for name in {name for *_, names in found.values() for name in names}:
            ray.put(name, statistic_files(name))
    sweep.models = Models(sweep.models.device, sweep.models.dtype)  # the memory is the workers' now
    return {job: Parcel(model, cases, () if here else names) for job, (model, cases, names) in found.items()}


def _statistics(sweep: Sweep, job: SweepJob) -> tuple[str, ...]:
    """Compute the statistics that a job's method needs, unless they are there, and return their names."""
    if job.plan.method == CONTROL:
        return ()
    lm = sweep.models.get(job.model)
    how = methods.make(job.plan.method, dict(job.plan.options)).resolve(lm)
    with threads(job.threads):
        how.prepare(lm)
    return tuple(key.name() for named in how.wanted(lm) for key in named.values())
