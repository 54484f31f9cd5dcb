"""Who may import whom: rooms lie on levels, and imports go down only.

pytest tests/test_layers.py
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
PACKAGE = SRC / "errata"

LEVELS = (
    ("answers", "errors", "config", "content", "display", "fact", "delta", "edit", "identity", "plugins", "collector"),
    ("index", "primer", "data", "model", "stats"),
    ("solve",),
    ("methods", "evaluate", "book", "export"),
    ("editing",),
    ("bench", "report", "wire", "sdk"),
    ("cluster",),
    ("serve",),
    ("cli",),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# On one level rooms do not know each other, but for these: what a room of level 1 may import of its neighbours.
MAY = {"data": {"primer"}, "model": {"index"}, "stats": {"data", "model", "primer"}}

# The primer is data: these may open the box, and nobody else.
OPENS_PRIMER = {"stats.corpus", "data.readers.own", "cli.demo"}


def modules() -> dict[str, ast.Module]:
    """Return every module of the package by its name below `errata`; the root is "errata"."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "errata"
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield what is imported anywhere in it, functions and type checking included, as full dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(tree: ast.AST) -> set[str]:
    """Return the modules of this package that are imported, by their names below `errata`."""
    found = set()
    for name in imports(tree):
        if name.split(".")[0] != "errata":
            continue
        inner = name.removeprefix("errata").removeprefix(".")
        while inner and inner not in MODULES:
            inner = inner.rpartition(".")[0]
        if name != "errata.__version__":
            found.add(inner or "errata")
    return found


def room(module: str) -> str:
    return module.split(".")[0]


def level(module: str) -> int:
    """Return the module's level; a room nobody has placed yet is an error here."""
    return LEVEL[room(module)]


def users(*names: str) -> set[str]:
    """Return the modules that import one of the packages `names`."""
    return {module for module, tree in MODULES.items() if any(i.split(".")[0] in names for i in imports(tree))}


def calls(tree: ast.AST) -> set[str]:
    """Return the names called or looked up: `print`, `torch.load`, `block.register_forward_hook`, …"""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.add(node.func.id)
        if isinstance(node, ast.Attribute):
            found.add(f"{node.value.id if isinstance(node.value, ast.Name) else ''}.{node.attr}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    if module == "errata":
        return  # the public face opens onto every room, lazily
    for other in ours(MODULES[module]):
        if room(other) == room(module) or (other == "errata" and room(module) == "cli"):
            continue
        if level(other) == level(module) > 0:
            assert room(other) in MAY.get(room(module), ()), f"{module} imports its neighbour {other}"
        assert level(other) <= level(module), f"{module} imports {other}, which lies above it"


def test_the_report_reads_rows_and_measures_nothing() -> None:
    for module, tree in MODULES.items():
        if room(module) == "report":
            measuring = {o for o in ours(tree) if room(o) == "evaluate"}
            assert all(o.startswith(("evaluate.metrics", "evaluate.summary")) for o in measuring), (module, measuring)


def test_no_module_imports_itself_by_a_detour() -> None:
    below = {module: {o for o in ours(tree) if o != module} for module, tree in MODULES.items() if module != "errata"}
    while leaves := {module for module, needs in below.items() if not needs & below.keys()}:
        below = {module: needs for module, needs in below.items() if module not in leaves}
    assert not below, f"these import one another in a circle, or hang on one: {sorted(below)}"


def test_no_method_imports_a_method() -> None:
    for module, tree in MODULES.items():
        if re.fullmatch(r"methods\.(?!base$)\w+", module):
            others = {o for o in ours(tree) if room(o) == "methods" and not o.startswith("methods.shared.")}
            assert others <= {"methods.base"}, f"{module} imports {others}: what methods share lies in methods/shared"


def test_only_those_who_may_open_the_primer() -> None:
    outside = {m for m, tree in MODULES.items() if room(m) != "primer" and any(room(o) == "primer" for o in ours(tree))}
    assert outside <= OPENS_PRIMER
    for module, tree in MODULES.items():
        if room(module) == "primer":
            assert all(level(o) == 0 for o in ours(tree) if room(o) != "primer"), f"{module} is more than data"


def test_others_are_imported_in_one_place_each() -> None:
    assert users("transformers") <= {"model.lm", "model.loading"}
    assert users("lm_eval") <= {"evaluate.harness_model"}
    assert users("peft") <= {"methods.lora"}
    assert {room(m) for m in users("sqlite3")} <= {"book"}
    assert {room(m) for m in users("typer")} <= {"cli"}
    assert all(m.startswith("cli.tables") for m in users("rich"))
    assert users("gguf") <= {"export.gguf"}
    assert users("ray") <= {"cluster.ray"}
    assert users("datasets") <= {"stats.streamed"}
    assert {room(m) for m in users("fastapi", "uvicorn", "starlette")} <= {"serve"}
    assert users("cryptography") <= {"book.signing"}


def test_hooks_and_prints_keep_to_their_files() -> None:
    for module, tree in MODULES.items():
        if module != "model.trace":
            hooks = {
                c for c in calls(tree) if "." in c and c.split(".")[1].startswith("register_") and c.endswith("hook")
            }
            assert not hooks, f"{module} registers hooks: {hooks}"
        if module != "cli.app":
            assert "print" not in calls(tree), f"{module} prints"


def test_nothing_reads_pickles_or_runs_text() -> None:
    assert not users("pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal")
    for module, tree in MODULES.items():
        assert "torch.load" not in set(imports(tree)), f"{module} imports torch.load"
        bad = calls(tree) & {"eval", "exec", "compile", "__import__", "torch.load"}
        assert not bad, f"{module} uses {bad}"


def test_no_state_but_what_is_passed() -> None:
    for module, tree in MODULES.items():
        stated = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Global)]
        assert not stated, f"{module} says `global` in lines {stated}"


LIGHT = (
    "",
    ".errors",
    ".fact",
    ".data.facts",
    ".config",
    ".book",
    ".wire",
    ".cli",
    ".cli.book",
    ".cli.export",
    ".cli.ci",
    ".sdk",
)


def test_what_answers_at_once_does_not_import_torch() -> None:
    code = f"""
import importlib, sys
for name in {LIGHT!r}:
    importlib.import_module("errata" + name)
    assert "torch" not in sys.modules, "errata" + name
"""
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_rules_see_a_breach() -> None:
    tree = ast.parse(
        "import errata\nfrom errata import editing, __version__\nfrom errata.solve.keys import k\nx.register_hook(f)"
    )
    assert ours(tree) >= {"errata"}
    assert ours(ast.parse("from errata import __version__")) == set()
    assert ".register_hook" not in calls(tree)
    assert "x.register_hook" in calls(tree)


def test_one_name_one_thing() -> None:
    homes: dict[str, set[str]] = {}
    for module, tree in MODULES.items():
        if room(module) == "cli":  # options are named after what they take
            continue
        for node in tree.body:
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for name in names:
                if name[0].isupper() and not name.isupper():
                    homes.setdefault(name, set()).add(module)
    assert not {name: found for name, found in homes.items() if len(found) > 1}
