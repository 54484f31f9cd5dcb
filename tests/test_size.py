"""The budgets hold, and the script that checks them sees what it should.

pytest tests/test_size.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "size.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_the_package_is_within_budget() -> None:
    result = run()
    assert result.returncode == 0, result.stdout


LONG = "\n".join(f"    x = {i}" for i in range(46))
OVER = {
    "a long function": (f'"""M."""\ndef _f() -> None:\n{LONG}\n', "mod.py:2 _f: 47 lines, at most 40"),
    "an excused one beyond 60": (
        f'"""M."""\ndef _f() -> None:  # size: why\n{LONG}\n{LONG}\n',
        "93 lines, at most 60",
    ),
    "a long file": ('"""M."""\n' + "\n" * 400, "mod.py: 401 lines, at most 400"),
    "no module docstring": ("X = 1\n", "the module: no docstring"),
    "no method docstring": ('"""M."""\nclass A:\n    """A."""\n    def f(self) -> None: ...\n', "A.f: no docstring"),
    "no argument type": ('"""M."""\ndef _f(x, *, y: int) -> None: ...\n', "_f: no type for x"),
    "no result type": ('"""M."""\ndef _f(x: int): ...\n', "_f: no type for the result"),
    "print": ('"""M."""\nprint(1)\n', "mod.py:2 print"),
    "bare except": ('"""M."""\ntry:\n    pass\nexcept:\n    pass\n', "mod.py:4 bare except"),
    "star import": ('"""M."""\nfrom os import *\n', "mod.py:2 star import"),
    "nesting": (
        '"""M."""\ndef _f() -> None:\n    if 1:\n     for _ in ():\n      while 1:\n       if 2:\n        pass\n',
        "nested 4 deep",
    ),
}


@pytest.mark.parametrize("what", OVER)
def test_what_is_over_budget_is_named(what: str, tmp_path: Path) -> None:
    text, complaint = OVER[what]
    (tmp_path / "mod.py").write_text(text)
    result = run(tmp_path)
    assert result.returncode == 1
    assert complaint in result.stdout


def test_what_is_allowed_is_let_through(tmp_path: Path) -> None:
    chain = "    if 1:\n        pass\n" + "".join(f"    elif {i}:\n        pass\n" for i in range(3))
    (tmp_path / "mod.py").write_text(
        f'"""M."""\n\n\ndef _f() -> None:  # size: one formula\n{chain}{LONG}\n    return None\n'
    )
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "app.py").write_text('"""M."""\nprint(1)\n')
    result = run(tmp_path)
    assert result.returncode == 0, result.stdout


def test_a_command_is_short_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "cli").mkdir()
    lines = "\n".join(f"    x = {i}" for i in range(31))
    (tmp_path / "cli" / "book.py").write_text(f'"""M."""\ndef _f() -> None:\n{lines}\n')
    result = run(tmp_path)
    assert "cli/book.py:2 _f: 32 lines, at most 30" in result.stdout


def test_a_room_nobody_planned_has_no_lines_to_spend(tmp_path: Path) -> None:
    (tmp_path / "shed").mkdir()
    (tmp_path / "shed" / "a.py").write_text('"""M."""\n')
    assert "shed has 1 lines" in run(tmp_path).stdout
