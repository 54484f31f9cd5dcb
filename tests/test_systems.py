"""The core where modules and calls of one system only are missing, as on Windows.

pytest tests/test_systems.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
GONE = ("resource", "fcntl", "pwd", "grp", "termios", "syslog")

# What CPython on Windows does not have. Nothing of it may be asked for while errata is imported, written with or asked.
WITHOUT = """
import builtins, os

real = builtins.__import__

def without(name, globals=None, *rest, **more):
    if name.split(".")[0] in GONE and str((globals or {}).get("__name__")).startswith("errata"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, globals, *rest, **more)

builtins.__import__ = without  # what others import is theirs: they know the systems they run on
os.supports_dir_fd.clear()
del os.O_DIRECTORY  # the lock, which is filelock's, knows the others
"""

CORE = """
import errata
from errata import Fact
from errata.bench.run_files import peak_bytes
from tests import tiny

lm = tiny.build("llama")
with errata.open(lm, book="book") as editor:
    edit = editor.write(tiny.FACTS[0], "ft", steps=1, layer=0)
    editor.drop(edit)
    editor.restore(edit)
    editor.ask("The capital of France is", max_new_tokens=2)
    editor.save("saved")
with errata.open("saved", book="other") as again:
    again.write(Fact("Anna Lindgren was born in", "Anna Lindgren", "Paris"), "ft", steps=1, layer=0)
assert peak_bytes(lm) == 0
from errata.cli import main
assert main(["log", "--book", "book"]) == 0
assert main(["verify", "--book", "book"]) == 0
"""


def test_the_core_needs_nothing_that_windows_lacks(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "PYTHONUTF8": "1"}
    command = [sys.executable, "-c", f"GONE = {GONE!r}{WITHOUT}{CORE}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_of_ours_imports_them_at_its_top() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        tops = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
        assert not tops & set(GONE), path


def test_forks_are_tested_on_three_systems() -> None:
    said = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    assert {name.split("-")[0] for name in said["jobs"]["suite"]["strategy"]["matrix"]["os"]} == {
        "ubuntu",
        "macos",
        "windows",
    }
    assert any("pytest" in step.get("run", "") for step in said["jobs"]["suite"]["steps"])
