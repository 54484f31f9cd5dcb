"""What goes out: versions agree, the changelog speaks, pins are refreshed, and the site has every page.

pytest tests/test_release.py
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / f"scripts/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


release, constraints, site = (script(name) for name in ("release", "constraints", "site"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (*release.STANDS, "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_this_could_be_released() -> None:
    assert release.problems(ROOT) == []
    version = release.versions(ROOT)["pyproject.toml"]
    assert release.problems(ROOT, f"v{version}") == []
    assert "has the tag v9.9.9" in release.problems(ROOT, "v9.9.9")[0]


@pytest.mark.parametrize("name", release.STANDS)
def test_a_version_that_differs_is_no_release(tree: Path, name: str) -> None:
    path = tree / name
    path.write_text(path.read_text(encoding="utf-8").replace(release.versions(tree)[name], "7.7.7"), encoding="utf-8")
    assert "the version differs" in release.problems(tree)[0]


def test_a_version_is_written_everywhere(tree: Path) -> None:
    release.set_version(tree, "3.2.1")
    assert set(release.versions(tree).values()) == {"3.2.1"}
    (said,) = release.problems(tree)
    assert "CHANGELOG.md does not begin with an entry for 3.2.1" in said
    log = tree / "CHANGELOG.md"
    text = log.read_text(encoding="utf-8")
    log.write_text(text.replace("## 0.1.0", "## 3.2.1\n\n## 0.1.0", 1), encoding="utf-8")
    assert release.problems(tree)  # a heading that says nothing
    log.write_text(text.replace("## 0.1.0", "## 3.2.1\n\n- It is better.\n\n## 0.1.0", 1), encoding="utf-8")
    assert release.problems(tree) == []


def test_pins_are_refreshed_and_others_kept() -> None:
    old = "Jinja2==3.1.6\ncolorama==0.4.6\ntorch==2.13.0\n"
    new = constraints.refreshed(old, {"jinja2": "3.2.0", "torch": "2.14.0+cpu", "a-new-one": "1.0"})
    assert new == "a-new-one==1.0\ncolorama==0.4.6\nJinja2==3.2.0\ntorch==2.14.0\n"
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert sorted(constraints.refreshed(text, {}).split()) == sorted(text.split())


def test_the_site_has_every_page_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    assert site.main([str(tmp_path / "pages")]) == 0
    pages = {path.relative_to(tmp_path / "pages").as_posix(): path for path in (tmp_path / "pages").rglob("*.md")}
    assert {"index.md", "glossary.md", "limits.md", "coming-from.md", "notebooks/research.md"} <= pages.keys()
    for name, path in pages.items():
        for target in re.findall(r"\]\((?!https?://|#)([^)\s#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{name} links to {target}"
