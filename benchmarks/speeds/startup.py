"""How long a command that needs no model takes to start, and what of that is the interpreter and the command-line library."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from errata.book.book import Book
from speeds.measure import Row

LOG = "import sys; from errata.cli import main; main(['log', '--book', sys.argv[1], *sys.argv[2:]])"
TYPER = (
    "import typer; from typing import Annotated; app = typer.Typer(add_completion=False)\n"
    "@app.command()\ndef log(book: Annotated[str, typer.Option()] = ''): pass\n"
    "typer.main.get_command(app).main(['--book', 'x'], standalone_mode=False)"
)
WORKS = {"python": ("pass",), "typer": (TYPER,), "log": (LOG,), "log_json": (LOG, "--json")}
UNUSED = ("torch", "transformers", "numpy", "errata.edit", "errata.cli.bench")


def startup(repeats: int = 15) -> Iterator[Row]:
    """Yield least and median processor seconds of a whole process, in turn."""
    with tempfile.TemporaryDirectory() as room:
        Book.open(f"{room}/book", base="0" * 32, name="none").close()
        taken: dict[str, list[float]] = {name: [] for name in WORKS}
        for _ in range(max(5, repeats) + 1):
            for name, (code, *more) in WORKS.items():
                taken[name].append(_seconds([code, f"{room}/book", *more]))
        check = f"{LOG}; assert not set({UNUSED}) & set(sys.modules)"
        _seconds([check, f"{room}/book"])
    for name, (_, *found) in taken.items():  # the first one may have compiled
        yield {"part": "startup", "process": name, "least_s": round(min(found), 3),
               "median_s": round(statistics.median(found), 3)}  # fmt: skip


def _seconds(words: list[str]) -> float:
    """Return the processor seconds of a process; the interpreter may keep what it compiled, as when it is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", *words], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
