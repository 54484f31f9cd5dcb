"""Build a release and meet it as whoever installs it will: sdist, wheel, bill of materials, sums. Publishes nothing.

    python scripts/release.py                       # of the tag v1.2.3 that HEAD has; without one it is a rehearsal
    python scripts/release.py --set 1.2.3           # write a version wherever one stands, and stop
    python scripts/release.py --borrow .venv/bin/python      # dependencies from there, where downloading them takes too long

The version stands in the source and must be the tag's. It is not made from the tag, since runs and edits record it, and one
that changes with every commit would make every half-finished run another run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Where the version stands: the file, and what stands before and after it.
STANDS: Mapping[str, tuple[str, str]] = {
    "pyproject.toml": (r'^version = "', '"'),
    "src/errata/__init__.py": (r'^__version__ = "', '"'),
    "CITATION.cff": (r"^version: ", "$"),
    "README.md": (r"errata_lm-", "-py3"),
}
NEEDED = (
    "errata/py.typed",
    "errata/primer/model/model.safetensors",
    "errata/data/common.txt",
    "errata/methods/presets.toml",
)


def _version(before: str, after: str) -> re.Pattern[str]:
    return re.compile(rf"({before})(\d+\.\d+\.\d+[a-z0-9.]*)(?={after})", re.M)


def versions(root: Path) -> dict[str, str]:
    """Return the version by file, "" where none stands."""
    found = {}
    for name, ends in STANDS.items():
        match = _version(*ends).search((root / name).read_text(encoding="utf-8"))
        found[name] = match.group(2) if match else ""
    return found


def set_version(root: Path, version: str) -> None:
    """Write a version wherever one stands."""
    for name, ends in STANDS.items():
        path = root / name
        path.write_text(_version(*ends).sub(rf"\g<1>{version}", path.read_text(encoding="utf-8")), encoding="utf-8")


def problems(root: Path, tag: str = "") -> list[str]:
    """Return what forbids a release, a sentence each.

    Args:
        tag: the tag that the commit has, such as "v0.1.0"; "" asks nothing of it.
    """
    found = versions(root)
    wrong = []
    if len(set(found.values())) > 1:
        wrong.append(f"the version differs: {found}. Write one with scripts/release.py --set.")
    version = found["pyproject.toml"]
    if tag and tag != f"v{version}":
        wrong.append(f"the commit has the tag {tag}, and the source says {version}.")
    newest = re.search(
        r"^## (\S+).*?\n(.*?)(?=^## |\Z)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.M | re.S
    )
    if newest is None or newest.group(1) != version or not re.search(r"^- \S", newest.group(2), re.M):
        wrong.append(f"CHANGELOG.md does not begin with an entry for {version} that says what changed.")
    return wrong


def _run(*command: str | Path, **more: object) -> str:
    """Run a command that must end well, and return what it printed."""
    print("$", *command, flush=True)
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{command[0]} ended with {done.returncode}; nothing is released.")
    return str(done.stdout)


def _tag(root: Path) -> str:
    """Return the version tag of HEAD; "" where it has none, which makes this a rehearsal."""
    tags = _run("git", "-C", root, "tag", "--points-at", "HEAD", "--list", "v*").split()
    if tags and _run("git", "-C", root, "status", "--porcelain"):
        raise SystemExit("there are changes beside what is tagged; commit them, or put them away.")
    return tags[0] if tags else ""


def build(root: Path, out: Path) -> Path:
    """Build sdist and wheel, check them, and return the wheel."""
    shutil.rmtree(out, ignore_errors=True)
    _run(sys.executable, "-m", "build", "--outdir", out, root)
    files = sorted(out.iterdir())
    _run(sys.executable, "-m", "twine", "check", "--strict", *files)
    (wheel,) = (path for path in files if path.suffix == ".whl")
    names = zipfile.ZipFile(wheel).namelist()
    missing = [name for name in NEEDED if name not in names]
    if missing or any(name.startswith("tests/") for name in names):
        raise SystemExit(f"{wheel.name} lacks {missing}, or holds the tests.")
    return wheel


def install(wheel: Path, home: Path, borrow: str) -> Path:
    """Install the wheel into an environment of its own, and return its python."""
    venv.create(home, with_pip=True)
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    if borrow:
        theirs = _run(borrow, "-c", where).strip()
        (Path(_run(python, "-c", where).strip()) / "borrowed.pth").write_text(theirs, encoding="utf-8")
        _run(*pip, "--no-deps", "--ignore-installed", wheel)
    else:
        _run(*pip, "-c", ROOT / "constraints.txt", wheel)
        _run(python, "-m", "pip", "check")
    return python


def meet(python: Path, version: str) -> None:
    """Do what a newcomer does first, from an empty directory, with nothing of the source in reach."""
    bare = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "ERRATA_BOOK", "ERRATA_DATA")
    }
    with tempfile.TemporaryDirectory() as empty:
        said = _run(python, "-m", "errata", "--version", cwd=empty, env=bare).strip()
        where = _run(python, "-c", "import errata; print(errata.__file__)", cwd=empty, env=bare).strip()
        if said != f"errata {version}" or not Path(where).resolve().is_relative_to(python.parents[1].resolve()):
            raise SystemExit(f"what was installed says {said!r}, from {where}.")
        story = _run(python, "-m", "errata", "demo", cwd=empty, env=bare)
        print(story)
        if "Lyon" not in story or list(Path(empty).iterdir()):
            raise SystemExit("the demo does not tell its story, or leaves files behind.")


def bill_of_materials(python: Path, target: Path) -> None:
    """Write what is installed beside the wheel, with versions and licences, as CycloneDX."""
    command = (
        sys.executable,
        "-m",
        "cyclonedx_py",
        "environment",
        "--output-reproducible",
        "--of",
        "JSON",
        "-o",
        target,
    )
    _run(*command, "--pyproject", ROOT / "pyproject.toml", python)


def main(arguments: Sequence[str]) -> int:
    """Build, check, install and try a release; say what there is to publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="", metavar="VERSION")
    parser.add_argument("--borrow", default="", metavar="PYTHON")
    given = parser.parse_args(arguments)
    if given.set:
        set_version(ROOT, given.set)
        return 0
    tag, out = _tag(ROOT), ROOT / "dist"
    if wrong := problems(ROOT, tag):
        print("\n".join(wrong), file=sys.stderr)
        return 1
    version = versions(ROOT)["pyproject.toml"]
    wheel = build(ROOT, out)
    with tempfile.TemporaryDirectory() as home:
        python = install(wheel, Path(home) / "elsewhere", given.borrow)
        meet(python, version)
        bill_of_materials(python, out / f"errata_lm-{version}.cdx.json")
    sums = "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in sorted(out.iterdir()))
    (out / "SHA256SUMS").write_text(sums, encoding="utf-8")
    print(sums + ("" if tag else f"a rehearsal: HEAD has no tag; git tag v{version} makes it a release."))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
