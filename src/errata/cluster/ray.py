"""Jobs on Ray: one that is started here, or a cluster that runs. The only file that imports ray (extra ``errata-lm[ray]``).

    with pool("local", workers=4) as ray:
        for job, files, why in ray.run(jobs, fetch): …

Workers are actors, so that a model is loaded once in each. What they need is put into Ray's store once: the files of models in
directories, the cases, the statistics. A worker that dies is started again, and its job given out again.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

from errata.cluster.jobs import SweepJob
from errata.cluster.remote import Parcel, StatisticsJob, Worker
from errata.errors import BadConfig, ClusterGone

LOCAL: Final = "local"
STARTS: Final = 3  # of a Ray here, before it is given up
_SLOW: Final = "timed out during startup"
_TOKENS: Final = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
DEATHS: Final = 8  # workers that may die with a job before it is given up
_DIED: Final = f"its worker died {DEATHS} times: it may want more memory than there is, so use fewer workers."
_TOKEN: Final = (
    "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to the file with the token, to what the cluster was started with (by default "
    "~/.ray/auth_token there)"
)


@contextmanager
def pool(address: str = LOCAL, workers: int = 0, gpus: float = 0) -> Iterator[Pool]:
    """Connect to Ray, or start one here, and leave it again.

    Args:
        address: "local" starts one; "auto" finds one on this machine; or HOST:PORT, or ray://HOST:PORT.
        workers: how many; 0: as many as there are processors, or accelerators if `gpus` are asked for each.

    Raises:
        BadConfig: ray is not installed. ClusterGone: nobody answers there, or the token is another.
    """
    _knock(address)
    _prepare(address)
    ray = _library()
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": False}
    own: dict[str, Any] = {"include_dashboard": False, "num_cpus": workers or None} if address == LOCAL else {}
    with redirect_stdout(_Hushed(sys.stdout)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what will be other in a later ray
        _connect(ray, address, {**quiet, **own})
        try:
            yield Pool(ray, address, workers, gpus)
        finally:
            ray.shutdown()


def _connect(ray: Any, address: str, options: Mapping[str, Any]) -> None:
    """Connect; a Ray that is started here gives its own parts half a minute, which on a busy machine is not always enough."""
    for left in reversed(range(STARTS)):
        try:
            ray.init(address=address, **options)
            return
        except (Exception, SystemExit) as error:  # whatever it is that ray raises
            ray.shutdown()
            if address != LOCAL or not left or _SLOW not in str(error):
                raise _gone(ray, address, error) from error


def _prepare(address: str) -> None:
    """Let Ray show its token to a cluster where there is one: by itself it does so only of a Ray that it starts."""
    own = Path.home() / ".ray" / "auth_token"
    if address != LOCAL and (any(os.environ.get(name) for name in _TOKENS) or own.is_file()):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _library() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise BadConfig("sweeps on Ray need the library ray: pip install 'errata-lm[ray]'.") from error


def _knock(address: str) -> None:
    """Look whether anybody listens: ray itself would wait for minutes."""
    found = re.fullmatch(r"(?:ray://)?([^/:]+|\[[^]]+\]):(\d{1,5})", address)
    if found is None:
        if address not in (LOCAL, "auto"):
            raise BadConfig(f"{address!r} is no address of a Ray: give local, auto, HOST:PORT or ray://HOST:PORT.")
        return
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ClusterGone(
            f"no Ray answers at {address} ({error}): start one with ray start --head, or use --ray local; nothing was run."
        ) from error


def _gone(ray: Any, address: str, error: BaseException) -> ClusterGone:
    text = " ".join(str(error).split())
    if isinstance(error, ray.exceptions.AuthenticationError) or "token" in text.lower():
        return ClusterGone(f"the Ray at {address} wants another token: {_TOKEN}.")
    if _SLOW in text:
        return ClusterGone("Ray did not start on this busy machine: run again when less runs here, or without --ray.")
    if address not in (LOCAL, "auto") and isinstance(error, ConnectionError):  # somebody listens: `_knock` has seen it
        return ClusterGone(
            f"what listens at {address} does not let this one in, as a Ray with another token: {_TOKEN}."
        )
    if address == "auto" and isinstance(error, ConnectionError):
        return ClusterGone("no Ray runs on this machine: start one with ray start --head, or use --ray local.")
    return ClusterGone(f"the Ray at {address} cannot be used ({type(error).__name__}: {text[:200]}).")


AnyJob = TypeVar("AnyJob", SweepJob, StatisticsJob)


class Pool:
    """Workers on a Ray that is connected."""

    def __init__(self, ray: Any, address: str, workers: int, gpus: float) -> None:
        self._ray, self._address, self._gpus = ray, address, gpus
        found = ray.cluster_resources().get("GPU" if gpus else "CPU", 1)
        self.workers = workers or max(1, int(found / (gpus or 1)))
        self._put: dict[str, Any] = {}

    def put(self, name: str, value: Any) -> None:
        """Put something that workers need into Ray's store, once."""
        self._put[name] = self._ray.put(value)

    def run(
        self, jobs: Sequence[AnyJob], needs: Mapping[str, Parcel], do: str = "work"
    ) -> Iterator[tuple[AnyJob, str, Any]]:
        """Give jobs to workers; yield (job, "running" | "done" | "failed", files or why) as it happens.

        Args:
            needs: of each job, by its name: what was `put` that its worker wants. do: the `Worker`'s method that does it.

        Raises:
            ClusterGone: Ray does not answer any more. What was yielded before is done.
        """
        ray, waiting = self._ray, deque(jobs)
        deaths: list[str] = []
        worker = ray.remote(num_cpus=1, num_gpus=self._gpus, max_restarts=0)(_OnRay)
        free = [worker.remote() for _ in range(min(self.workers, len(jobs)))]
        busy: dict[Any, tuple[AnyJob, Any]] = {}
        try:
            while waiting or busy:
                while waiting and free:
                    job, actor = waiting.popleft(), free.pop()
                    busy[self._given(getattr(actor, do), job, needs[job.name])] = job, actor
                    yield job, "running", None
                (ready, *_), _ = ray.wait(list(busy), num_returns=1)
                job, actor = busy.pop(ready)
                found = self._got(ready)
                free.append(worker.remote() if found is None else actor)
                if found is None and (deaths := [*deaths, job.name]).count(job.name) < DEATHS:
                    waiting.append(job)  # behind the others: it may be what kills its workers
                    continue
                files, why = found or ({}, _DIED)
                yield job, "failed" if why else "done", why or files
        except (ConnectionError, ray.exceptions.RaySystemError) as error:
            raise _gone(ray, self._address, error) from error

    def _got(self, ref: Any) -> tuple[dict[str, bytes], str] | None:
        """Return what a worker gave; None if it was killed, or its machine went away."""
        errors = self._ray.exceptions
        try:
            files, why = self._ray.get(ref)
        except errors.RaySystemError:
            raise
        except errors.RayTaskError as error:  # what the worker did not foresee
            return {}, f"{type(error.cause).__name__}: {error.cause}. This was not foreseen."
        except errors.RayError:
            return None
        return files, why

    def _given(self, does: Any, job: AnyJob, parcel: Parcel) -> Any:
        refs = {name: [self._put[name]] for name in parcel.names if name in self._put}  # in a list: fetched when wanted
        return does.remote(json.dumps(job.to_dict()), parcel.to_dict(), refs)


class _Hushed(io.TextIOBase):
    """What stands in for stdout while a Ray is connected, and leaves out what its threads print there: who has died."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._thread = out, threading.get_ident()

    def write(self, text: str) -> int:
        """Write what the thread that connected writes."""
        return self._out.write(text) if threading.get_ident() == self._thread else len(text)

    def flush(self) -> None:
        """Flush what stood here before."""
        self._out.flush()


class _OnRay(Worker):
    """A worker that fetches what it wants from Ray's store."""

    def fetch(self, ref: Any) -> Any:
        """Return what was put."""
        return _library().get(ref[0])
