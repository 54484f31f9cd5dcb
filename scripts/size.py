"""Check the budgets of the code: how long, how deep, how documented.

    python scripts/size.py [DIRECTORY]          # src/errata unless given; exits 1 and names what is over

A function of up to 60 lines is let through when its `def` line carries the reason: `def f():  # size: one formula`.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FILE_LINES, METHOD_FILE_LINES = 400, 220
# What each room may grow to. A room that needs more says why in the commit that raises its number.
ROOMS = {
    "the nouns": 2_650,  # the files beside the rooms: fact, answers, delta, edit, identity, errors, config, wire, plugins, sdk
    "data": 1_780, "primer": 780, "index": 740, "model": 5_680, "stats": 1_620,
    "solve": 3_590,
    "methods": 4_720, "evaluate": 2_900, "book": 3_240, "export": 1_350,
    "editing": 4_610,
    "bench": 600, "report": 2_180,
    "cluster": 1_380, "serve": 2_970,
    "cli": 3_320,
}  # fmt: skip
FUNCTION_LINES, EXCUSED_LINES, COMMAND_LINES = 40, 60, 30
NESTING = 3

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Function
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPES = (*_FUNCTIONS, ast.ClassDef, ast.Lambda)
# What branches or repeats; `with` does neither.
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.Match)


@dataclass(frozen=True, slots=True)
class Source:
    """One file: where it is, relative to the package, its lines and its tree."""

    path: Path
    lines: tuple[str, ...]
    tree: ast.Module

    def functions(self) -> list[Function]:
        """Return every function in the file, nested ones too."""
        return [node for node in ast.walk(self.tree) if isinstance(node, _FUNCTIONS)]


@dataclass(frozen=True, slots=True)
class Check:
    """One budget: its name and limit, the figure measured, and each place that is over."""

    name: str
    limit: str
    measured: str
    offenders: tuple[str, ...] = ()


def read(package: Path) -> list[Source]:
    """Return the package's files in the order of their names."""
    sources = []
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        sources.append(Source(path.relative_to(package), tuple(text.splitlines()), ast.parse(text)))
    return sources


def _rooms(sources: list[Source]) -> list[Check]:
    """Return the budget of each room there is, and the sum of all."""
    lines = dict.fromkeys(ROOMS, 0)
    for source in sources:
        name = source.path.parts[0] if len(source.path.parts) > 1 else "the nouns"
        lines[name] = lines.get(name, 0) + len(source.lines)
    found = [
        Check(f"lines in {name}", f"{limit:,}", f"{n:,}", (f"{name} has {n:,} lines",) if n > limit else ())
        for name, n in lines.items()
        if n and (limit := ROOMS.get(name, 0)) is not None
    ]
    return [*found, Check("  all together", "-", f"{sum(lines.values()):,}")]


def checks(sources: list[Source]) -> list[Check]:
    """Return every budget with its figure and offenders."""
    lengths = [_length(f) for s in sources for f in s.functions()] or [0]
    return [
        *_rooms(sources),
        Check("lines in a file", f"{FILE_LINES}", str(_longest(sources)), tuple(_long_files(sources))),
        Check("lines in a function", f"{FUNCTION_LINES}", str(max(lengths)), tuple(_long_functions(sources))),
        Check("  in the middle one", "-", f"{statistics.median(lengths):g}"),
        _count("nesting over 3", _deep_functions(sources)),
        _count("public without docstring", _undocumented(sources)),
        _count("not annotated", _unannotated(sources)),
        _count("print outside cli/app.py", _prints(sources)),
        _count("bare except, star import", _careless(sources)),
    ]


def _count(name: str, offenders: Iterable[str]) -> Check:
    found = tuple(offenders)
    return Check(name, "0", str(len(found)), found)


def _length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _longest(sources: list[Source]) -> int:
    return max((len(s.lines) for s in sources), default=0)


def _long_files(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        method = source.path.parent == Path("methods") and source.path.name != "base.py"  # the contract is no method
        limit = METHOD_FILE_LINES if method else FILE_LINES
        if len(source.lines) > limit:
            yield f"{source.path}: {len(source.lines)} lines, at most {limit}"


def _long_functions(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        for function in source.functions():
            limit = _limit(source, function)
            if _length(function) > limit:
                yield f"{source.path}:{function.lineno} {function.name}: {_length(function)} lines, at most {limit}"


def _limit(source: Source, function: Function) -> int:
    """Return how long this function may be: commands are shortest, a stated reason allows more."""
    head = source.lines[function.lineno - 1 : function.body[0].lineno - 1] or source.lines[function.lineno - 1 :][:1]
    if any("# size: " in line for line in head):
        return EXCUSED_LINES
    return COMMAND_LINES if source.path.parent == Path("cli") else FUNCTION_LINES


def _deep_functions(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        for function in source.functions():
            if (depth := max(_depth(child) for child in function.body)) > NESTING:
                yield f"{source.path}:{function.lineno} {function.name}: nested {depth} deep"


def _depth(node: ast.AST) -> int:
    """Return how many blocks lie inside one another here; `elif` is no deeper than its `if`."""
    if isinstance(node, _SCOPES):
        return 0
    deepest = 0
    for child in ast.iter_child_nodes(node):
        chained = isinstance(node, ast.If) and node.orelse == [child] and isinstance(child, ast.If)
        deepest = max(deepest, _depth(child) - chained)
    return deepest + isinstance(node, _BLOCKS)


def _undocumented(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        for node, name in _public(source.tree, ""):
            empty = isinstance(node, ast.Module) and not node.body
            overload = any(getattr(d, "id", "") == "overload" for d in getattr(node, "decorator_list", ()))
            if not (empty or overload) and ast.get_docstring(node) is None:
                yield f"{source.path}:{getattr(node, 'lineno', 1)} {name or 'the module'}: no docstring"


def _public(node: Documented, name: str) -> Iterator[tuple[Documented, str]]:
    """Yield the module, its public classes and functions, and their public methods; never what is inside a function."""
    yield node, name
    if isinstance(node, _FUNCTIONS):
        return
    for child in node.body:
        if isinstance(child, (*_FUNCTIONS, ast.ClassDef)) and not child.name.startswith("_"):
            yield from _public(child, f"{name}.{child.name}".strip("."))


def _unannotated(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        methods = {f for c in ast.walk(source.tree) if isinstance(c, ast.ClassDef) for f in c.body}
        for function in source.functions():
            a = function.args
            every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
            static = any(getattr(d, "id", "") == "staticmethod" for d in function.decorator_list)
            bound = function in methods and not static  # then the first argument is self or cls
            missing = [arg.arg for arg in every[bound:] if arg.annotation is None]
            missing += [] if function.returns else ["the result"]
            if missing:
                yield f"{source.path}:{function.lineno} {function.name}: no type for {', '.join(missing)}"


def _prints(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        for node in ast.walk(source.tree):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and called.id == "print" and source.path != Path("cli/app.py"):
                yield f"{source.path}:{called.lineno} print"


def _careless(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                yield f"{source.path}:{node.lineno} bare except"
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                yield f"{source.path}:{node.lineno} star import"


def main(arguments: list[str]) -> int:
    """Print the table and the offenders; return 1 if there are any."""
    package = Path(arguments[0]) if arguments else Path(__file__).parents[1] / "src" / "errata"
    found = checks(read(package))
    print(f"{'':<28}{'limit':>8}{'now':>8}")
    for check in found:
        print(f"{check.name:<28}{check.limit:>8}{check.measured:>8}{'  over' if check.offenders else ''}")
    offenders = [line for check in found for line in check.offenders]
    print("".join(f"\n  {line}" for line in offenders).removeprefix("\n") or "all within budget")
    return 1 if offenders else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
