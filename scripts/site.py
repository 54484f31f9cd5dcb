"""Put the pages of the documentation together, from which `make site` builds a site.

    python scripts/site.py [DIRECTORY]         # build/pages unless given

Pages of docs/ as they are; README, CHANGELOG, CONTRIBUTING and LOG beside them; notebooks as pages with what they printed.
Links between them are turned to where they then lie. Every page must be in zensical.toml's navigation, and nothing else.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BESIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LOG.md": "log.md",
}


def page_of(text: str) -> str:
    """Return a page's text with its links to pages where they lie in the site."""

    def turned(link: re.Match[str]) -> str:
        file, hash, anchor = link.group(2).partition("#")
        name = file.removeprefix("../").removeprefix("docs/")
        return f"{link.group(1)}{BESIDE.get(name, name.replace('.ipynb', '.md'))}{hash}{anchor})"

    return re.sub(r"(\]\()(?!https?://|#)([^)\s]+)\)", turned, text)


def notebook(path: Path) -> str:
    """Return a notebook as a page: its text, its code, and what that printed."""
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in _cell(cell)) + "\n"


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {})
        text = "".join(output.get("text") or data.get("text/plain") or "").rstrip()
        yield "".join(data["text/html"]) if "text/html" in data else f"```text\n{text}\n```"


def pages() -> dict[str, str]:
    """Return every page of the site by its name, as text."""
    found = {beside: page_of((ROOT / name).read_text(encoding="utf-8")) for name, beside in BESIDE.items()}
    found |= {path.name: page_of(path.read_text(encoding="utf-8")) for path in ROOT.glob("docs/*.md")}
    return found | {f"notebooks/{path.stem}.md": notebook(path) for path in ROOT.glob("docs/notebooks/*.ipynb")}


def named(nav: list[Any]) -> Iterator[str]:
    """Yield the pages that a navigation names."""
    for entry in nav:
        for value in entry.values():
            yield from named(value) if isinstance(value, list) else (value,)


def main(arguments: list[str]) -> int:
    """Write the pages; return 1, with what is wrong, where the navigation does not name each of them once."""
    target = Path(arguments[0]) if arguments else ROOT / "build/pages"
    found = pages()
    listed = sorted(named(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]))
    if listed != sorted(found):
        print(f"zensical.toml and the pages differ: {sorted(set(listed) ^ set(found))}", file=sys.stderr)
        return 1
    shutil.rmtree(target, ignore_errors=True)
    for name, text in found.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "docs/pictures", target / "pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
