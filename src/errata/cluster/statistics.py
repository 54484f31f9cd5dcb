"""Statistics of a large model over a large corpus, on Ray: each worker reads parts of the text, and their sums are added here.

    collect(lm, methods.make("memit", {"tokens": 10**6}), Where("primer", workers=2), parts=8)

A part that was read is kept under a name that says all it depends on, so that after a kill only what is missing is read, and a
worker that dies goes on at its last partial sum if its place is taken on the same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from errata.cluster.jobs import StatisticsPart
from errata.cluster.ray import LOCAL, Pool, pool
from errata.cluster.remote import Parcel, model_files
from errata.cluster.sweep import AGAIN
from errata.config import to_dict
from errata.errors import BadConfig, ClusterGone, ErrataError
from errata.methods.base import Method
from errata.methods.shared.locate_then_edit import LocateThenEdit
from errata.model.lm import LM
from errata.stats import store

Told = Callable[[StatisticsPart, str], None]


@dataclass(frozen=True, slots=True)
class Where:
    """Where workers are, and how they load the model.

    Args:
        model, device, dtype: as of `errata.model.loading.load`. address, workers: as of `errata.cluster.ray.pool`.
    """

    model: str
    device: str | None = None
    dtype: str | None = None
    address: str = LOCAL
    workers: int = 0


def collect(lm: LM, how: Method, where: Where, parts: int = 8, told: Told | None = None) -> dict[str, dict[str, Any]]:
    """Compute the statistics that a method needs on a model, as `Method.collect`, the text read in parts on Ray.

    Args:
        parts: how many; with as many the next time, those that are there are not read again.
        told: of each part, "running", "done" or "failed".

    Raises:
        BadConfig: the method needs no covariance, or has no number of tokens set. ClusterGone: Ray does not answer.
        ErrataError: a part could not be read; the others are kept.
    """
    if not isinstance(how, LocateThenEdit):
        raise BadConfig(f"{how.name} needs no covariance of keys; leave --ray out.")
    send = where.address != LOCAL
    every = [
        StatisticsPart(
            model=where.model, device=where.device, dtype=where.dtype, fingerprint=lm.fingerprint, method=how.name,
            options=to_dict(how), part=part, names=how.part_names(lm, part), send=send,
        )
        for part in (f"{number}/{parts}" for number in range(1, parts + 1))
    ]  # fmt: skip
    todo = [part for part in every if not all(map(store.is_kept, part.names.values()))]
    if todo:
        with pool(where.address, where.workers, float((where.device or "").startswith("cuda"))) as ray:
            _read(ray, todo, told or _quiet)
    return how.collect(lm, part=f"all/{parts}")


def _read(ray: Pool, todo: list[StatisticsPart], told: Told) -> None:
    """Let parts be read, and keep what is sent back; raises ErrataError with what went wrong once all were tried."""
    name = f"model {todo[0].model}"
    if todo[0].send and (files := model_files(todo[0].model)) is not None:
        ray.put(name, files)
    wrong, left = list[str](), len(todo)
    try:
        for part, what, found in ray.run(todo, {part.name: Parcel(name, "") for part in todo}, "read"):
            left -= what == "done"
            if what == "done":
                _keep(found)
            if what == "failed":
                wrong.append(f"{part.label}: {found}")
            told(part, what)
    except ClusterGone as error:
        raise ClusterGone(f"{error} {left} parts are left: {AGAIN}.") from error
    if wrong:
        more = f" {len(wrong) - 1} others failed, too;" if len(wrong) > 1 else ""
        raise ErrataError(f"{wrong[0]}{more} {AGAIN}.")


def _keep(files: Mapping[str, Any]) -> None:
    for name, content in files.items():  # of each statistic its manifest comes last, which says that it is whole
        store.put(store.directory() / name, content.tobytes())


def _quiet(_: StatisticsPart, __: str) -> None:
    """Tell nobody."""
