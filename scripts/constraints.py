"""Pin what the suite runs with anew: constraints.txt, from what pip would install today.

    python scripts/constraints.py                    # every dependency and extra
    python scripts/constraints.py ruff mypy          # these, and what they bring

pip resolves and installs nothing. Pins of packages that only other systems or only a foregone extra needs stay as they are, and
are named. Run the suite before you commit the result.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILE = ROOT / "constraints.txt"
ALONE = ("smollm2",)  # extras whose package is taken without what it asks for (CONTRIBUTING.md)


def canonical(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def refreshed(old: str, found: Mapping[str, str]) -> str:
    """Return the file with the versions that were found, by canonical name; others as they were, all in order."""
    pins = dict(line.split("==") for line in old.split())
    spelled = {canonical(name): name for name in pins}
    for name, version in found.items():
        pins[spelled.get(name, name)] = version.partition("+")[0]  # torch 2.13.0+cpu is 2.13.0 elsewhere
    return "".join(f"{name}=={pins[name]}\n" for name in sorted(pins, key=lambda name: (canonical(name), name)))


def resolved(wanted: Sequence[str]) -> dict[str, str]:
    """Return what pip would install for these requirements, by canonical name."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--report",
        "-",
        *wanted,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    rows: list[dict[str, Any]] = json.loads(done.stdout)["install"]
    found = {canonical(row["metadata"]["name"]): str(row["metadata"]["version"]) for row in rows}
    return {name: version for name, version in found.items() if name != "errata-lm"}


def main(wanted: Sequence[str]) -> int:
    """Write the file, and say what became of each pin."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = ",".join(name for name in project["optional-dependencies"] if name not in ALONE)
    old = FILE.read_text(encoding="utf-8")
    found = resolved(wanted or [f".[{extras}]"])
    new = refreshed(old, found)
    FILE.write_text(new, encoding="utf-8")
    before, after = (dict(line.split("==") for line in text.split()) for text in (old, new))
    for name in after:
        if before.get(name) != after[name]:
            print(f"{name} {before.get(name, '(new)')} → {after[name]}")
    kept = [name for name in after if canonical(name) not in found]
    print(
        f"{len(found)} resolved; kept as they were: {', '.join(kept) or 'none'}"
        if not wanted
        else f"{len(found)} resolved"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
