"""Progress of a job as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from errata.serve.jobs import Job, Jobs


async def progress(jobs: Jobs, job: Job) -> AsyncIterator[dict[str, str]]:
    """Yield a job whenever it has moved, and when it is over."""
    while True:
        at = (job.status, job.done)
        yield {"event": "job", "data": json.dumps(job.shown())}
        if job.over or jobs.stopping:
            return
        await jobs.arrived(job, 20.0, at)
