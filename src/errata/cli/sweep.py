"""Command of sweeps: many benchmark runs by one plan, here, in shards, or on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from errata.cli import common as opt
from errata.cli.common import Shown
from errata.errors import BadConfig

if TYPE_CHECKING:
    from errata.cluster.sweep import JobState, Sweep

MERGE = "merge"


def sweep(
    what: Annotated[
        str, typer.Argument(metavar="PLAN", help="TOML file of the plan; or merge, to put shards together.")
    ],
    directories: Annotated[
        list[Path] | None, typer.Argument(metavar="DIR", help="After merge: the sweep, and others to take jobs from.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory of the sweep; what is finished there is kept.")
    ] = None,
    ray: Annotated[str, typer.Option("--ray", metavar="ADDRESS", help="On Ray: local, auto, HOST:PORT.")] = "",
    workers: Annotated[int, typer.Option("--workers", min=0, help="How many on Ray; 0: one a processor.")] = 0,
    shard: Annotated[str, typer.Option("--shard", metavar="I/N", help="Do one of N parts of the jobs.")] = "",
    slurm: Annotated[
        int | None, typer.Option("--slurm", metavar="N", help="Only print an sbatch file for N shards.")
    ] = None,
    price: Annotated[float, typer.Option("--price", min=0, help="Of a worker's hour, to be told what it costs.")] = 0.0,
    as_json: opt.Json = False,
) -> Shown:  # size: an option a line
    """Run methods × models × cases × seeds by a plan; what is finished is never run again.

    On a cluster, each of N processes does a --shard of the jobs, and `errata sweep merge DIR` puts them together.
    """
    if what == MERGE:
        return _merged(directories or [], as_json)
    if out is None or directories:
        raise BadConfig("name the plan and where to: errata sweep PLAN --out DIR.")
    if ray and shard:
        raise BadConfig("--ray gives the jobs out by itself: leave --shard out.")
    if slurm is not None:
        return _sbatch(Path(what), out, slurm)
    from errata.cli.tables.sweep import board
    from errata.cluster.sweep import Sweep

    found = Sweep.planned(Path(what), out)
    found = found.shard(shard) if shard else found
    with board(found.jobs, price) as told:
        return _shown(found, _done(found, told, ray, workers), [], as_json)


def _done(found: Sweep, told: Any, ray: str, workers: int) -> list[JobState]:
    if not ray:
        return found.go(told)
    from errata.cluster.spread import spread

    return spread(found, told, ray, workers)


def _sbatch(plan: Path, out: Path, shards: int) -> Shown:
    from errata.cluster import plan as plans
    from errata.cluster.slurm import sbatch

    read, _ = plans.read(plan)
    gpu = (read.device or "").startswith("cuda") or read.device == "auto"
    return Shown({"sbatch": sbatch(plan, out, shards, read.threads, gpu)})


def _merged(directories: list[Path], as_json: bool) -> Shown:
    from errata.cluster.sweep import Sweep

    if not directories:
        raise BadConfig(
            "name the directory of the sweep: errata sweep merge DIR, and others to take jobs from after it."
        )
    found = Sweep.kept(directories[0])
    states, notes = found.merge(directories[1:])
    return _shown(found, states, notes, as_json)


def _shown(found: Sweep, states: list[JobState], notes: list[str], as_json: bool) -> Shown:
    """Return what is shown of a sweep; exit code 1 where a job is missing or has failed."""
    page = found.report(states)
    notes = [*notes, *(f"{s.job.label}: {s.why}" for s in states if s.state in ("failed", "elsewhere"))]
    waiting = sum(state.state == "waiting" for state in states)
    if waiting:
        notes.append(
            f"{waiting} of {len(states)} jobs are not done yet: do their shards, or run the sweep without --shard."
        )
    value = {"jobs": found.rows(states), "report": None if page is None else str(page)}
    return Shown(value, as_json, code=int(any(s.state != "done" for s in states)), notes=notes)
