"""Write the parts of the docs that are made from the code: commands, methods, architectures, metrics.

    python scripts/docs.py            # write them
    python scripts/docs.py --check    # write nothing, exit 1 if a page is out of date

In each page what stands above the marker is written by hand and kept.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from errata import methods, sdk, wire
from errata.cli import commands as known
from errata.evaluate.metrics import METRICS
from errata.model import arch

os.environ["ERRATA_PLUGINS"] = "none"  # pages are of errata, whatever else is installed here
DOCS = Path(__file__).parents[1] / "docs"
MARKER = "<!-- Below this line: made from the code by `make docs`. -->\n"
WIDTH = 100  # of help texts, whatever terminal this runs in


def commands() -> str:
    """Return what every command says to --help."""
    group = typer.main.get_command(known())
    top = typer.Context(group, info_name="errata", terminal_width=WIDTH)
    parts = [f"\n```\n{group.get_help(top)}\n```\n"]
    for name, command in group.commands.items():
        text = command.get_help(typer.Context(command, parent=top, info_name=name))
        parts.append(f"## errata {name}\n\n```\n{text}\n```\n")
    return "\n".join(parts)


def method_tables() -> str:
    """Return every method with its paper and settings."""
    parts = []
    for row in (wire.method(name, methods.get(name), methods.presets().values()) for name in methods.names()):
        short = row["paper"].removeprefix("https://")
        settings = [(f"`{s['name']}`", _value(s["default"]), s["help"], s["type"]) for s in row["settings"]]
        table = _table(("setting", "default", "what it does", "takes"), settings)
        parts.append(f"\n## {row['name']}\n\n{row['title']}\n[{short}]({row['paper']})\n\n{table}{_presets(row)}")
    return "".join(parts)


def _presets(row: dict[str, Any]) -> str:
    """Return a method's presets: each setting that one of them sets, with its source."""
    presets = row["presets"]
    if not presets:
        return ""
    names = [s["name"] for s in row["settings"] if any(s["name"] in preset["settings"] for preset in presets)]
    rows = [(f"`{name}`", *(_sourced(preset["settings"].get(name)) for preset in presets)) for name in names]
    titles = "".join(f"- `{preset['name']}`: {preset['title']}.\n" for preset in presets)
    return f"\nAs in the literature, by name (`--method {presets[0]['name']}`):\n\n{titles}\n" + _table(
        ("setting", *(f"`{preset['name']}`" for preset in presets)), rows
    )


def _sourced(setting: list[Any] | None) -> str:
    if setting is None:
        return ""
    value, source = setting
    return f"{_value(tuple(value) if isinstance(value, list) else value)} ({source})"


def architectures() -> str:
    """Return the table of architectures."""
    rows = []
    for name, row in sorted(arch.TABLE.items()):
        paths = [f"`{stack.blocks}.N.{stack.down}`" for stack in row.stacks]
        remarks = {"stored (in, out)": row.transposed, "norm after `down`": row.post_norm, "experts": row.experts}
        remark = ", ".join(text for text, holds in remarks.items() if holds)
        rows.append((f"`{name}`", row.kind, "<br>".join(["none"] if row.experts else paths), remark))
    return "\n" + _table(("model_type", "kind", "down projection", ""), rows)


def metric_table() -> str:
    """Return every number of a benchmark with its definition, as its function's docstring says it."""
    names = [metric.name for metric in METRICS]
    rows = []
    for metric in METRICS:
        twin = f"{metric.name}_paraphrase"
        if metric.name.endswith("_paraphrase"):
            continue
        shown = f"`{metric.name}`" + (f", `{twin}`" if twin in names else "")
        text = " ".join((metric.about.__doc__ or "").split()).removeprefix("Return ").replace("|", "\\|")
        asked = ", ".join(dict.fromkeys(probe.rstrip(".").replace("_", " ") for probe, _ in metric.columns))
        rows.append((shown, asked, text))
    return "\n" + _table(("number", "asked of", "definition, range, source"), rows)


def sdk_names() -> str:
    """Return every name of the SDK with the first line of what its own docstring says."""
    parts = []
    for title, names in sdk.PARTS.items():
        rows = [(f"`{name}`", _about(getattr(sdk, name))) for name in names]
        parts.append(f"\n## {title}\n\n{_table(('name', ''), rows)}")
    return "".join(parts)


def _about(value: object) -> str:
    if value is sdk.Auto or value is sdk.Role or value is sdk.Row or value is sdk.Score:
        return f"`{value}`".replace("typing.", "").replace("collections.abc.", "").replace(" | ", " or ")
    text = (value.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(text.split()).replace("|", "\\|")


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace(' | ', ' or ') for cell in line)} |\n" for line in lines)


def _value(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return "`none`" if value is None else f"`{text.lower() if isinstance(value, bool) else text}`"


def main(arguments: list[str]) -> int:
    """Write or check the pages; return 1 if one was out of date and only checked."""
    stale = []
    pages = {
        "cli": commands,
        "methods": method_tables,
        "architectures": architectures,
        "benchmarks": metric_table,
        "sdk": sdk_names,
    }
    for name, make in pages.items():
        path = DOCS / f"{name}.md"
        old = path.read_text(encoding="utf-8")
        new = old.partition(MARKER)[0] + MARKER + make()
        if new != old:
            stale.append(f"docs/{name}.md")
            if "--check" not in arguments:
                path.write_text(new, encoding="utf-8")
    print("".join(f"{page}\n" for page in stale) or "nothing to do\n", end="")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
