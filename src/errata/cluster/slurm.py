"""An sbatch file for a sweep: an array of shards that need nothing but errata and a directory that all of them see."""

from __future__ import annotations

import shlex
from pathlib import Path

from errata.errors import BadConfig


def sbatch(plan: Path, out: Path, shards: int, threads: int = 1, gpus: bool = False) -> str:
    """Return the file, to be given to sbatch.

    A shard that is killed or runs out of time is put back into the queue by Slurm and goes on where it was.

    Raises:
        BadConfig: no shards.
    """
    if shards < 1:
        raise BadConfig(f"--slurm takes the number of shards, from 1; not {shards}.")
    where, plan, out = shlex.quote(str(out)), plan.absolute(), out.absolute()
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={shlex.quote(plan.stem)}",
        f"#SBATCH --array=1-{shards}",
        f"#SBATCH --cpus-per-task={threads}",
        *(["#SBATCH --gpus-per-task=1"] if gpus else []),
        "#SBATCH --time=24:00:00",
        "#SBATCH --requeue",
        f"#SBATCH --output={shlex.quote(str(out / 'slurm-%A_%a.log'))}",
        "",
        "# Put here what makes errata found: module load …, or source …/bin/activate.",
        "# The statistics of a large model are read once if they are there before: errata stats, or a shared $ERRATA_CACHE.",
        "set -e",
        f"export OMP_NUM_THREADS={threads}",
        shlex.join(["errata", "sweep", str(plan), "--out", str(out), "--shard"]) + f' "$SLURM_ARRAY_TASK_ID/{shards}"',
        "",
        f"# When the array has ended: errata sweep merge {where}",
    ]
    return "\n".join(lines)
