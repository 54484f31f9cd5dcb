"""The notebooks: their code runs, and prints what they say it prints.

pytest tests/test_notebooks.py            # here; with -m notebooks in Jupyter's own kernel (make notebooks)
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs/notebooks").glob("*.ipynb"))
Cell = dict[str, Any]


def cells(path: Path) -> list[Cell]:
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]


def printed(cell: Cell) -> str:
    return "".join("".join(out["text"]) for out in cell["outputs"] if out["output_type"] == "stream")


def measured(text: str) -> str:
    """Return a text without the digits of what is measured, which another processor may round otherwise."""
    return re.sub(r"\d+\.\d+", "#", text)


def test_there_is_one_for_researchers_and_one_for_engineers() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["engineering", "research"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_code_prints_what_the_notebook_says(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names: dict[str, Any] = {"__name__": "__main__"}
    assert any(printed(cell) for cell in cells(path)), "it was never run: make notebooks"
    for cell in cells(path):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("".join(cell["source"]), f"{path.name} {cell['id']}", "exec"), names)
        assert measured(out.getvalue()) == measured(printed(cell)), cell["id"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_of_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < 40_000
    written = json.dumps([cell["outputs"] for cell in cells(path)])
    assert not [word for word in ("/tmp", "/home", "/root", "\\\\Users", "Traceback", "Warning") if word in written]
    assert all(out["output_type"] in ("stream", "execute_result") for cell in cells(path) for out in cell["outputs"])


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_jupyter(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    client, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    book = nbformat.read(path, as_version=4)
    client.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    nbformat.validate(book)
    found = [measured(printed(c)) for c in book.cells if c.cell_type == "code"]
    assert found == [measured(printed(c)) for c in cells(path)]
