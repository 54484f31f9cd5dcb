"""Statistics of a model over a large text, read in parts by the workers of a Ray, and added up here.

    read(lm, method, "all/8", OnRay(workers=2))        # what `errata stats --part all/8 --ray local` does

A part that is there already is not read again; one whose worker was killed goes on where it was if it lands on the same
machine. The sum is what one process would have found, to the rounding of adding in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from errata.cluster.ray import LOCAL, pool
from errata.cluster.remote import Parcel, StatisticsJob, model_files, unpacked
from errata.config import to_dict
from errata.errors import BadConfig, ClusterGone, StatsMissing
from errata.methods.base import Method
from errata.model.lm import LM
from errata.stats import parts, store

AGAIN: Final = "what is read is kept, and the same command goes on"
OnParts = Callable[[int, int], None]  # parts that are done, of how many


@dataclass(frozen=True, slots=True)
class OnRay:
    """Where parts are read: address and workers as `errata.cluster.ray.pool` has them; and how each loads the model."""

    address: str = LOCAL
    workers: int = 0
    device: str | None = None
    dtype: str | None = None


def read(lm: LM, method: Method, part: str, on: OnRay, told: OnParts | None = None) -> dict[str, dict[str, Any]]:
    """Read all parts of the statistics that a method needs on Ray, add them up here, and return how each ended.

    Args:
        lm: workers load it by its name; files of a directory are sent. part: ``"all/N"``.
        told: is told how many parts are done, of how many.

    Raises:
        BadConfig: it is another part, no number of tokens was set, or ray is not installed. ClusterGone: Ray does not answer.
        StatsMissing: a part could not be read.
    """
    number, of = parts.parsed(part)
    how = method.resolve(lm)
    wanted = how.wanted(lm)
    if number or not wanted:
        raise BadConfig(
            f"{how.name} keeps no statistics of a text; leave --ray out." if not wanted else
            f"on Ray all parts are read: give --part all/{of}."
        )  # fmt: skip
    todo = list[StatisticsJob]()
    for each in range(1, of + 1):
        keys = [key for named in parts.of_part(wanted, each, of) for key in named.values()]
        if any(store.read(key) is None for key in keys):
            todo.append(
                StatisticsJob(
                    model=lm.name, device=on.device, dtype=on.dtype, fingerprint=lm.fingerprint, method=how.name,
                    options=to_dict(how), part=f"{each}/{of}", names=tuple(key.name() for key in keys),
                    kept=str(store.directory()) if on.address == LOCAL else "",
                )
            )  # fmt: skip
    if todo:
        _spread(todo, told or _quiet, of, on)
    return parts.share(lm, wanted, part)


def _spread(jobs: Sequence[StatisticsJob], told: OnParts, of: int, on: OnRay) -> None:
    job, failed, left = jobs[0], list[str](), len(jobs)
    with pool(on.address, on.workers, float((on.device or "").startswith("cuda"))) as ray:
        if on.address != LOCAL and (files := model_files(job.model)) is not None:
            ray.put(f"model {job.model}", files)
        needs = {one.name: Parcel(f"model {job.model}", "") for one in jobs}
        try:
            for one, what, found in ray.run(jobs, needs, "read"):
                if what == "done":
                    unpacked(store.directory(), found)
                elif what == "failed":
                    failed.append(f"{one.label}: {found}")
                left -= what != "running"
                told(of - left, of)
        except ClusterGone as error:
            raise ClusterGone(f"{error} {left} of {of} parts are left: {AGAIN}.") from error
    if failed:
        raise StatsMissing(f"{len(failed)} of {of} parts could not be read, the others are kept: {failed[0]}")


def _quiet(_: int, __: int) -> None:
    """Tell nobody."""
