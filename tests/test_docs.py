"""The docs say what the code does: examples are run, generated pages are up to date, every public name has its place.

pytest tests/test_docs.py
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import errata
from errata.cli.app import COMMANDS

ROOT = Path(__file__).parents[1]
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def test_the_readmes_first_screen_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, expected = re.findall(
        r"```(?:python|text)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S
    )[:2]
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert printed.getvalue() == expected


def test_what_somebody_coming_from_elsewhere_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/coming-from.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "coming-from.md", "exec"), names)
    assert names["answer"].text == " Lyon."
    for command in re.findall(r"`errata ([a-z]+)", text):
        assert command in COMMANDS, f"docs/coming-from.md names errata {command}"


def test_generated_pages_are_up_to_date_whatever_else_is_installed(tmp_path: Path) -> None:
    about = tmp_path / "other-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n", encoding="utf-8")
    groups = ("methods", "readers", "exports", "metrics")
    points = "".join(f"[errata.{group}]\nother = nowhere\n" for group in groups)
    (about / "entry_points.txt").write_text(points, encoding="utf-8")
    command = [sys.executable, "-W", "error", ROOT / "scripts" / "docs.py", "--check"]
    environment = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{tmp_path}", "PATH": ""}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{result.stdout}{result.stderr}run: make docs"


def test_the_api_page_lists_exactly_what_is_exported() -> None:
    listed = re.findall(r"^## `errata\.(\w+)`$", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(errata.__all__)
    assert len(set(listed)) == len(listed)
    for name in listed:
        assert getattr(errata, name) is not None


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        linked = (page.parent / file) if file else page
        assert linked.exists(), f"{page.name} links to {target}"
        words = linked.read_text(encoding="utf-8") if anchor else ""  # a picture has none
        heads = re.findall(r"^#+ (.+)$", words, re.M)
        anchors = {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}
        assert not anchor or anchor in anchors, f"{page.name} links to {target}"


def test_every_dependency_says_why_and_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    reasons = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    assert project["version"] == errata.__version__
    assert f"## {errata.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for wanted in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        name = re.split(r"[><=~]", wanted)[0]
        assert re.search(rf"^\| \*?{name}\*? \|", reasons, re.M), f"CONTRIBUTING.md does not say why {name} is needed"
        assert re.search(rf"^{name}==", pinned, re.M), f"{name} is not pinned"


def test_the_map_names_what_is_there() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    package = ROOT / "src/errata"
    named = set(re.findall(r"`([\w/ .]+?\.py|[\w/]+/)`", text))
    paths = {word for name in named for word in name.split()} - {"tests/test_layers.py", "scripts/size.py"}
    inside = {"app.py", "base.py", "shared/", "tables/", "grafts/", "descent/"}  # of the wing of that line
    for name in paths - inside:
        assert (package / name).exists(), f"docs/architecture.md names {name}"
    wings = {path.name for path in package.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    for wing in wings:
        assert f"| `{wing}/` |" in text, f"docs/architecture.md does not say what {wing}/ is for"
    from tests.test_layers import LEVELS, MAY  # the one table both hold

    drawn = text.split("```")[1].strip().splitlines()
    assert [set(re.findall(r"\w+", line)) for line in drawn] == [set(level) for level in reversed(LEVELS)]
    for line in drawn:
        arrows = [(a, b) for a, b in re.findall(r"(?=\b(\w+)\s+→\s+(\w+))", line)]
        arrows += [(b, a) for a, b in re.findall(r"(?=\b(\w+)\s+←\s+(\w+))", line)]
        assert all(a in MAY.get(b, ()) for a, b in arrows), arrows
