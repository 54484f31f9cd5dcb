"""Long work: queued, told of while it runs, cancelled, and taken up again where it was after the server was killed.

    job = jobs.submit("write", {"facts": […], "method": "rome"}, who, key="…")
    jobs.get(job.id).status                            # queued, running, done, failed or cancelled

A job is a file in the book's folder `jobs`, on the disk before it is answered to anybody, and signed where the book's events
are: what somebody else put there is not done in the owner's name. What it changes in the book carries its
id, as a tag of edits and in the data of other events: after a kill that tells what of it was done. The same idempotency key
and request is the same job, however often it is sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import RLock
from typing import Any, Final

from errata.book import files
from errata.book.records import Signs
from errata.book.signing import holds
from errata.errors import ErrataError, InputError
from errata.serve.owner import ServerBusy

OVER: Final = ("done", "failed", "cancelled")
LARGEST: Final = 1 << 28  # bytes of a job's file
KEPT: Final = 500  # jobs whose files are kept once they are over
QUEUED: Final = 200  # jobs that may wait
LOOKS: Final = 0.02  # seconds between two looks at whether a job has moved
log = logging.getLogger("errata")
audit = logging.getLogger("errata.audit")


class UnknownJob(InputError):
    """There is no job of this id, or no more."""


class KeyUsedOtherwise(InputError):
    """An idempotency key came with another request than the first time."""


class JobCancelled(ErrataError):
    """The job was cancelled; what it had not finished is not done."""


@dataclass(slots=True)
class Job:
    """A piece of long work.

    Args:
        kind: one of `WORK` in `errata.serve.work`. who: by whose token. request: what is wanted, JSON-able.
        status: "queued", "running", "done", "failed" or "cancelled". done, of: how far it is.
        result: JSON-able, once it is done. error: what went wrong: message and HTTP status.
        asked: hash of the request. seen: the version of the book that whoever asked had seen.
    """

    id: str
    kind: str
    who: str
    request: dict[str, Any]
    status: str = "queued"
    done: int = 0
    of: int = 0
    result: Any = None
    error: dict[str, Any] | None = None
    asked: str = ""
    seen: int | None = None
    created: float = field(default_factory=time.time)
    again: bool = False
    cancel: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in OVER

    def shown(self) -> dict[str, Any]:
        """Return what clients are told."""
        names = ("id", "kind", "who", "status", "done", "of", "result", "error", "created")
        return {name: getattr(self, name) for name in names}


Work = Callable[[Job, "Jobs"], Any]  # does a job, telling `Jobs.tell` how far it is; returns the result


class Jobs:
    """The jobs of one server.

    Args:
        folder: where their files are. work: what does each kind of job. changes: the kinds that change the book, which are
            done one after the other. status: the HTTP status of an error. signer: signs them. book: the id of the book.
    """

    def __init__(
        self,
        folder: Path,
        work: Mapping[str, Work],
        changes: frozenset[str],
        status: Callable[[Exception], int],
        signer: Signs | None = None,
        book: str = "",
    ) -> None:
        self._folder, self._work, self._changes, self._status = folder, work, changes, status
        self._signer, self._book = signer, book
        self._lock = RLock()
        self._jobs: dict[str, Job] = {}
        self._stopping = False
        self._hands = {change: ThreadPoolExecutor(1, "errata-jobs") for change in (True, False)}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.sync_whole(folder)

    def start(self) -> None:
        """Take up what was not over when the server stopped or was killed."""
        found = [job for path in self._folder.glob("*.json") if (job := self._read(path.name)) is not None]
        for job in sorted(found, key=lambda job: job.created):
            self._jobs[job.id] = job
            if not job.over:
                job.status, job.again = "queued", True
                self._put(job)
        self._forget()

    def stop(self) -> None:
        """Finish the step that is being done; what is left is taken up at the next start."""
        self._stopping = True
        for hands in self._hands.values():
            hands.shutdown(wait=True, cancel_futures=True)

    def submit(self, kind: str, request: dict[str, Any], who: str, *, key: str = "", seen: int | None = None) -> Job:
        """Queue a job, or return the one that the same key and request made.

        Raises:
            KeyUsedOtherwise: the key came with another request. ServerBusy: too many wait, the server is stopping, or the
                disk refuses.
        """
        asked = hashlib.sha256(json.dumps([kind, request], sort_keys=True).encode()).hexdigest()
        id = _id(who, key) if key else secrets.token_hex(8)
        with self._lock:
            if (known := self._jobs.get(id)) is not None:
                if known.asked != asked:
                    raise KeyUsedOtherwise("this Idempotency-Key came with another request before; take a new one.")
                return known
            if self._stopping or sum(not job.over for job in self._jobs.values()) >= QUEUED:
                raise ServerBusy("too many jobs are waiting; try again when some are done.")
            job = Job(id, kind, who, request, asked=asked, seen=seen)
            try:
                self._save(job)
            except OSError as error:
                raise ServerBusy(f"the disk of the server refuses ({error.strerror}); try again later.") from error
            self._jobs[id] = job
            self._put(job)
            self._forget()
        return job

    def get(self, id: str) -> Job:
        """Return a job; raises UnknownJob."""
        if (job := self._jobs.get(id)) is None:
            raise UnknownJob(f"no job {id!r}: GET /api/jobs lists them.")
        return job

    def all(self) -> list[Job]:
        """Return every job that is known, the newest first."""
        return sorted(self._jobs.values(), key=lambda job: -job.created)

    def cancel(self, id: str) -> Job:
        """Ask a job to end; one that is being computed ends with its step, and what was written in it is undone."""
        with self._lock:
            job = self.get(id)
            job.cancel = True
            if job.status == "queued":
                self._over(job, "cancelled")
        return job

    async def arrived(self, job: Job, seconds: float, since: tuple[str, int] | None = None) -> bool:
        """Wait until a job is over, or has moved on from a status and a step; say whether it is over."""
        end = time.monotonic() + seconds
        while not job.over and (since is None or since == (job.status, job.done)):
            if time.monotonic() >= end or self._stopping:
                break
            await asyncio.sleep(LOOKS)
        return job.over

    @property
    def stopping(self) -> bool:
        """Whether nothing new is begun."""
        return self._stopping

    def knows(self, who: str, key: str) -> bool:
        """Whether a job was made with this key before."""
        return _id(who, key) in self._jobs

    def tell(self, job: Job, done: int, of: int) -> None:
        """Say how far a job is.

        Raises:
            JobCancelled: somebody has asked it to end. ServerBusy: the server is stopping, and the rest is left for
                the next start.
        """
        job.done, job.of = done, of
        if job.cancel:
            raise JobCancelled("cancelled; what was not finished is not done.")
        if self._stopping and done < of:
            raise ServerBusy("the server is stopping; the job goes on when it is back.")

    # ---------------------------------------------------------------- inside

    def _put(self, job: Job) -> None:
        self._hands[job.kind in self._changes].submit(self._do, job)

    def _do(self, job: Job) -> None:
        if job.over or self._stopping:
            return
        job.status = "running"
        try:
            job.result = self._work[job.kind](job, self)
            self._over(job, "done")
        except JobCancelled:
            self._over(job, "cancelled")
        except ServerBusy:
            job.status = "queued"  # as its file says
        except Exception as error:
            status = self._status(error)
            if status >= 500:
                log.exception("job %s failed", job.id)
            message = (
                str(error) if isinstance(error, ErrataError) else "this was not foreseen; the server's log says more."
            )
            job.error = {"message": message, "status": status, "type": type(error).__name__}
            self._over(job, "failed")

    def _over(self, job: Job, status: str) -> None:
        if job.kind in self._changes:
            row = {"at": time.time(), "who": job.who, "what": job.kind, "job": job.id, "status": status}
            why = (job.error or {}).get("message")
            audit.info("%s", json.dumps(row | ({"why": why} if why else {})))
        with self._lock:
            told = replace(job, status=status)
            with suppress(OSError):  # it is known until a restart, after which the book says what was done
                self._save(told)
            job.status = status

    def _save(self, job: Job) -> None:
        row = asdict(job)
        signed = {} if self._signer is None else {"signature": self._signer.sign(self._said(row))}
        files.put(self._folder, f"{job.id}.json", json.dumps({**row, **signed}).encode())
        files.sync(self._folder)

    def _said(self, row: Mapping[str, Any]) -> str:
        """Return what is signed of a job: all of it, and of which book it is."""
        return hashlib.sha256(json.dumps([self._book, row], sort_keys=True).encode()).hexdigest()

    def _read(self, name: str) -> Job | None:
        """Return the job of a file; None of what is none, or none of ours."""
        try:
            row = dict(json.loads(files.read_whole(self._folder, name, LARGEST)))
            signature, job = row.pop("signature", ""), Job(**row)
            whole = isinstance(job.request, dict) and all(isinstance(v, str) for v in (job.kind, job.who, job.status))
            right = whole and f"{job.id}.json" == name and isinstance(job.created, float) and job.kind in self._work
        except (OSError, ValueError, TypeError, RecursionError):
            right, job = False, None
        ours = right and (self._signer is None or holds(self._signer.public, str(signature), self._said(row)))
        if not ours:
            log.warning("%s is no job%s and is left alone", name, " of this server's key" if right else "")
        return job if ours else None

    def _forget(self) -> None:
        over = sorted((job for job in self._jobs.values() if job.over), key=lambda job: job.created)
        for job in over[: max(0, len(over) - KEPT)]:
            del self._jobs[job.id]
            with suppress(OSError):
                (self._folder / f"{job.id}.json").unlink()


def _id(who: str, key: str) -> str:
    """Return the id of the job that a key makes."""
    return hashlib.sha256(f"{who} {key}".encode("utf-8", "replace")).hexdigest()[:16]
