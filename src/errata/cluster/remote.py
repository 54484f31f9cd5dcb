"""What a worker on another machine does: it unpacks what it was sent, works in a folder of its own, and sends files back.

Nothing here knows what carried it there; `errata.cluster.ray` does.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from errata import methods
from errata.cluster.jobs import KEPT, SweepJob, work
from errata.cluster.sweep import Models, explained
from errata.data.case import Case
from errata.errors import BadConfig, BadModel, ErrataError
from errata.model.lm import LM
from errata.stats import parts, store

# What of a model's directory is sent: nothing that could run code.
SENT: Final = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
Files = Mapping[str, Any]  # bytes by name, as arrays that need not be copied


@dataclass(frozen=True, slots=True)
class Parcel:
    """Under which names what a job needs was put: its model's files, if they can be sent; its cases; statistics."""

    model: str
    cases: str
    statistics: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return self.model, self.cases, *self.statistics

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsJob:
    """One part of the statistics that a method reads of a text.

    Args:
        model, device, dtype: as they are loaded. fingerprint: of the model. method, options: with every setting filled in.
        part: ``"2/4"``. names: under which it is kept. kept: the directory where it is wanted, if workers see it, too.
    """

    model: str
    device: str | None
    dtype: str | None
    fingerprint: str
    method: str
    options: Mapping[str, Any]
    part: str
    names: tuple[str, ...]
    kept: str = ""

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return self.part

    @property
    def label(self) -> str:
        """What to call it in a sentence."""
        return f"part {self.part} (of {self.method} on {self.model})"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self)


def model_files(name: str) -> dict[str, Any] | None:
    """Return the files of a model that is a directory; None of one that each machine finds by itself, such as the primer."""
    path = Path(os.path.expanduser(name))
    if not path.is_dir():
        return None
    return {file.name: np.fromfile(file, dtype=np.uint8) for kind in SENT for file in sorted(path.glob(kind))}


def statistic_files(name: str) -> dict[str, Any]:
    """Return the files of a statistic that was computed here, what makes it whole last; nothing of one that was not."""
    return {path.name: np.fromfile(path, dtype=np.uint8) for path in store.files(name)} if store.there(name) else {}


def unpacked(place: Path, files: Files, *, over: bool = True) -> None:
    """Write files, each whole or not at all; those that are there already only if they may be written over."""
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if over or not (place / name).exists():
            part = place / f".{name}.{os.getpid()}"
            content.tofile(part)
            os.replace(part, place / name)


class Worker:
    """Does jobs, one at a time, with the last model in memory.

    Args:
        home: where it unpacks and works; a folder of this user's among the machine's temporary ones unless given.
    """

    def __init__(self, home: Path | None = None) -> None:
        self._models: dict[tuple[str | None, str | None], Models] = {}
        self._home = home or _own_folder()
        self._home.mkdir(parents=True, exist_ok=True)
        self._cases: dict[str, Sequence[Case]] = {}

    def fetch(self, ref: Any) -> Any:
        """Return what was sent under a reference; here it is the thing itself."""
        return ref

    def work(self, job: str, parcel: Mapping[str, Any], refs: Mapping[str, Any]) -> tuple[dict[str, bytes], str]:
        """Do a job; return the files of its directory, and "" or why there are none.

        Args:
            job: as JSON. parcel: what it needs, as `Parcel.to_dict`. refs: what of that was sent, by name.
        """
        what = SweepJob.from_dict(json.loads(job))
        try:
            for name in parcel["statistics"]:
                unpacked(store.directory(), self.fetch(refs[name]), over=False)
            if parcel["cases"] not in self._cases:
                self._cases[parcel["cases"]] = self.fetch(refs[parcel["cases"]])
            lm = self._model(what, refs.get(parcel["model"]))
            with self._folder(what.name) as folder:
                work(what, lm, self._cases[parcel["cases"]][: what.plan.edits], folder)
                return {name: (folder / name).read_bytes() for name in KEPT}, ""
        except (ErrataError, OSError, MemoryError) as error:
            return {}, _why(error)

    def read(self, job: str, parcel: Mapping[str, Any], refs: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Read a part of a statistic; return its files, unless they are where they are wanted, and "" or why there are none.

        Args:
            job: a `StatisticsJob` as JSON. parcel, refs: as in `work`.
        """
        what = StatisticsJob(**json.loads(job))
        try:
            lm = self._model(what, refs.get(parcel["model"]))
            how = methods.make(what.method, dict(what.options)).resolve(lm)
            wanted = parts.of_part(how.wanted(lm), *parts.parsed(what.part))
            names = [key.name() for named in wanted for key in named.values()]
            if names != list(what.names):
                raise BadConfig("it has another model, text or version of errata: give it the same.")
            parts.share(lm, how.wanted(lm), what.part)
            here = what.kept == str(store.directory())
            return {} if here else {k: v for name in names for k, v in statistic_files(name).items()}, ""
        except (ErrataError, OSError, MemoryError) as error:
            return {}, _why(error)

    def _model(self, job: SweepJob | StatisticsJob, ref: Any) -> LM:
        """Return the job's model: this machine's own if it has the same, else what was sent."""
        models = self._models.setdefault((job.device, job.dtype), Models(job.device, job.dtype))
        here = ref is None or Path(os.path.expanduser(job.model)).is_dir()
        if here and (ref is None or models.get(job.model).fingerprint == job.fingerprint):
            return models.get(job.model)
        place = self._home / "models" / job.fingerprint
        if not (place / "whole").exists():
            unpacked(place, self.fetch(ref))
            (place / "whole").touch()
        lm = models.get(str(place))
        lm.name = job.model
        return lm

    @contextmanager
    def _folder(self, name: str) -> Iterator[Path]:
        """Give a folder to do a job in, where a worker that died on this machine may have begun it; gone when it is done."""
        from filelock import FileLock, Timeout

        lock = FileLock(self._home / f"{name}.lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:  # one that was given up on is still at it
            with tempfile.TemporaryDirectory() as other:
                yield Path(other) / name
            return
        try:
            yield self._home / name
            shutil.rmtree(self._home / name, ignore_errors=True)
        finally:
            lock.release()


def _why(error: BaseException) -> str:
    """Return what went wrong on this machine."""
    host = socket.gethostname()
    if isinstance(error, BadModel):
        return f"the worker on {host} has no such model ({error}) Put it there under the same name."
    return f"{explained(error)} (on {host})"


def _own_folder() -> Path:
    """Return a folder that survives this process and belongs to nobody else."""
    path = Path(tempfile.gettempdir()) / f"errata-sweep-{os.getuid() if hasattr(os, 'getuid') else 'me'}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or (
        hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o077)
    ):
        return Path(tempfile.mkdtemp(prefix="errata-sweep-"))
    return path
