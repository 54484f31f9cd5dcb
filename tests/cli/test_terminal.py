"""What a terminal shows: a line an edit at any width, colour only where there is one to see it, notes and progress on request.

pytest tests/cli/test_terminal.py
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from errata.cli.common import TELL, ids_here, opened
from errata.cli.tables import base
from errata.cli.tables.book import log, show
from tests.cli.test_book import book  # noqa: F401 - a fixture
from tests.cli.test_cli import SRC, FakeEditor, Run, editor, run  # noqa: F401 - fixtures


def row(number: int, **more: Any) -> dict[str, Any]:
    fact = {"prompt": f"The capital of country number {number} of this long list is", "target": "Lyon"}
    return {
        "seq": number, "id": f"{number:016x}", "method": "ultraedit", "stands": True, "author": "Ada Lovelace",
        "reason": "the atlas of 2026 says so, and so do two others", "source": "", "created_at": "2026-01-02T03:04:05+00:00",
        "tags": ["atlas", "news"], "facts": [fact], "forgotten": [], "tenant": "", "valid_from": "", "valid_until": "", **more,
    }  # fmt: skip


def drawn(view: Any, width: int, **how: Any) -> list[str]:
    screen = Console(width=width, file=io.StringIO(), markup=False, **how)
    screen.print(view)
    return screen.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_log_is_a_line_an_edit_at_any_width(width: int) -> None:
    rows = [row(1), row(2, stands=False), row(300, facts=[row(1)["facts"][0]] * 3)]
    lines = drawn(log(rows), width)
    assert all(len(line) <= width for line in lines)
    edits = [line for line in lines if "2026-01-02" in line]
    assert len(edits) == 3
    for line, one in zip(edits, rows, strict=True):
        assert one["id"][:8] in line
        assert ("stands" if one["stands"] else "dropped") in line
        assert line.split()[0] == str(one["seq"])
        assert "The capital of c" in line
    assert ("why" in lines[1]) == (width == 160)
    assert ("ultraedit" in edits[0]) == (width >= 80)
    assert any("3 edits, 2 stand" in line for line in lines)


def test_show_is_short_unless_all_is_asked_for() -> None:
    event = {"kind": "write", "at": "2026-01-02T03:04:05+00:00", "author": "Ada", "reason": ""}
    report = {"facts": [{"before": " Paris.", "after": " Lyon.", "said": True}], "norm_ratio": {"5.down": 0.1}}
    one = row(1, report=report, config={"lr": 0.5}, history=[event, {**event, "kind": "drop", "reason": "wrong"}])
    short = "\n".join(drawn(show({**one, "all": False}), 80))
    for part in ("Paris.", "Lyon. ✓", "5.down by 0.1", "Ada Lovelace", "drop", "wrong", "--all"):
        assert part in short
    assert "config.lr" not in short
    assert "config.lr" in "\n".join(drawn(show({**one, "all": True}), 80))


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    green = "\x1b[32m"
    assert green not in "".join(drawn(log([row(1)]), 80))
    assert green in "".join(drawn(log([row(1)]), 80, force_terminal=True))
    monkeypatch.setenv("NO_COLOR", "1")
    assert green not in "".join(drawn(log([row(1)]), 80, force_terminal=True))


def test_what_does_not_fit_a_screen_is_paged(monkeypatch: pytest.MonkeyPatch) -> None:
    paged: list[str] = []
    monkeypatch.setenv("LESS", "")
    monkeypatch.setattr("rich.pager.SystemPager.show", lambda self, content: paged.append(content))
    for count, terminal, long in ((3, True, True), (90, False, True), (90, True, False), (90, True, True)):
        screen = Console(width=80, height=20, file=io.StringIO(), force_terminal=terminal)
        monkeypatch.setattr(base, "console", lambda screen=screen: screen)
        with base.paged(log([row(n) for n in range(count)]), long) as (where, what):
            where.print(what)
        assert bool(paged) == (count == 90 and terminal and long)


def test_a_pipe_gets_every_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert base.console().width == base.PIPED
    monkeypatch.setenv("COLUMNS", "70")
    assert base.console().width == 70


def test_quiet_says_no_notes(run: Run, editor: FakeEditor) -> None:  # noqa: F811
    editor.notes = ("its FP8 weights were dequantised.",)
    assert "FP8" in run("ask", "x")[2]
    code, out, err = run("ask", "x", "--quiet")
    assert (code, err) == (0, "")
    assert "Paris" in out


def test_waiting_says_how_far_it_is_after_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(width=80, file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(base, "console", lambda stderr: screen)
    with base.Waiting("edit", after=60) as waiting:
        waiting.tell("writing", 1, 3)
    assert not screen.file.getvalue()  # type: ignore[attr-defined]
    with base.Waiting("edit", after=0) as waiting:
        waiting._timer.join()
        waiting.tell("writing", 1, 3)
    assert "edit: writing" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_who_watches_is_told_by_the_editor(editor: FakeEditor) -> None:  # noqa: F811
    told: list[object] = []
    token = TELL.set(lambda *now: told.append(now))
    try:
        opened("m", book="b")
    finally:
        TELL.reset(token)
    opened("m", book="b")
    loading = [call[3] for call in editor.calls]
    assert callable(loading[0]["progress"])
    assert "progress" not in loading[1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_options_and_ids(shell: str, book: Path) -> None:  # noqa: F811
    def completed(words: str) -> str:
        asked = {"_ERRATA_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": words, "COMP_WORDS": words}
        asked |= {"COMP_CWORD": str(len(words.split(" ")) - 1), "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        environment = os.environ | asked | {"PYTHONPATH": str(SRC)}
        command = [sys.executable, "-m", "errata"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout

    if shell == "bash":
        assert "migrate" in completed("errata mig")
        assert "--standing" in completed("errata log --stan")
    first = completed(f"errata show --book {book} ")
    assert len([word for word in first.replace('"', " ").split() if len(word.strip(":'")) >= 8]) >= 2


def test_ids_of_no_book_are_none(tmp_path: Path) -> None:
    class Context:
        params = {"book": tmp_path / "absent"}  # noqa: RUF012

    assert ids_here(Context(), "") == []  # type: ignore[arg-type]


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "errata", "--version"]
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.startswith("errata ")) == (0, True), done.stderr
