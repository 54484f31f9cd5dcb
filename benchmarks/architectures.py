"""Every model type of the installed transformers: built tiny, found, checked, and edited by every method asked for.

    python benchmarks/architectures.py run [TYPE …]     # all, or some, into benchmarks/architectures.json; about 20 minutes
    python benchmarks/architectures.py page             # docs/model-types.md from it

Each type is built from its configuration class with random numbers (`tests.shrunk`), and each model is in a process that may be
ended when it takes too long. What the contract promises is looked at on each: solving leaves the model as it was and gives the
same bytes twice, the edit makes its answer likelier, and it is gone to the bit when it is dropped. A random model may carry
nothing from a subject to the answer, so that there is nothing to be had from it; three are tried.
"""

from __future__ import annotations

import json
import resource
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "architectures.json", ROOT / "docs" / "model-types.md"
METHODS: Final = ("rome", "memit", "ft", "kne", "lora", "melo")
ANYWHERE: Final = ("lora", "melo", "grace")  # need no dense matrix
SECONDS, BYTES, SEEDS = 240, 12 << 30, (2, 4, 7)
Row = dict[str, Any]


def main(words: Sequence[str]) -> int:
    """Run one of the commands above."""
    if words[:1] == ["work"]:
        return work()
    if words[:1] == ["run"]:
        known = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() and words[1:] else []
        rows = {(row["kind"], row["type"]): row for row in known}
        for row in supervised(wanted(words[1:])):
            rows[row["kind"], row["type"]] = row
            print(row["kind"], row["type"], row["by"], row.get("why", "")[:90], row.get("methods", ""), flush=True)
            about = {"transformers": version("transformers"), "rows": [rows[key] for key in sorted(rows)]}
            RESULTS.write_text(json.dumps(about, indent=1) + "\n")
        return 0
    if words == ["page"]:
        PAGE.write_text(page(json.loads(RESULTS.read_text())))
        return 0
    print(__doc__)
    return 2


def wanted(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return (kind, type) of everything there is, or of the types named."""
    from tests import shrunk

    return [(kind, name) for kind in shrunk.LOADERS for name in shrunk.types(kind) if not names or name in names]


# ------------------------------------------------------------------ processes


def supervised(asked: Sequence[tuple[str, str]]) -> Iterator[Row]:
    """Yield a row for each type; a worker that hangs or dies is replaced, and its type is said to have done so."""
    worker = _worker()
    for kind, name in asked:
        assert worker.stdin
        assert worker.stdout
        worker.stdin.write(f"{kind} {name}\n")
        worker.stdin.flush()
        line, end = "", time.monotonic() + SECONDS
        while not line.startswith("{") and time.monotonic() < end and worker.poll() is None:
            if select.select([worker.stdout], [], [], 1)[0]:
                line = worker.stdout.readline()
        if line.startswith("{"):
            yield json.loads(line)
            continue
        why = f"took more than {SECONDS} s" if worker.poll() is None else "ended the process (memory)"
        worker.kill()
        worker = _worker()
        yield {"kind": kind, "type": name, "by": "not built", "why": why}
    assert worker.stdin
    worker.stdin.close()
    worker.wait()


def _worker() -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "work"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)


def work() -> int:
    """Answer types on stdin with rows on stdout."""
    import torch

    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    torch.set_num_threads(1)
    for line in sys.stdin:
        kind, name = line.split()
        try:
            print(json.dumps(row_of(kind, name)), flush=True)
        except Exception as error:
            print(json.dumps({"kind": kind, "type": name, "by": "not built", "why": _said(error)}), flush=True)
    return 0


# ------------------------------------------------------------------ one type


def row_of(kind: Any, name: str) -> Row:
    """Return what is to be said of a type: how it was found, what it has, and which methods keep the contract on it."""
    import torch
    from tests import shrunk

    from errata.errors import ErrataError
    from errata.model import arch
    from errata.model.shape import has_experts, inputs_for

    row: Row = {"kind": kind, "type": name}
    try:
        made = shrunk.model(name, kind, SEEDS[0])
        with torch.no_grad():  # what transformers itself cannot run in this size says nothing of errata
            made(**inputs_for(made, shrunk.tokenizer(name), kind), use_cache=False)
    except Exception as error:
        return row | {"by": "not built", "why": _said(error)}
    found = arch.row(made.config.model_type) is not None
    try:
        lm = shrunk.build(name, kind, SEEDS[0])
    except ErrataError as error:
        said = str(error).partition("by their shape: ")[2] or str(error).partition("does not pass: ")[2] or str(error)
        return row | {"by": "refused", "why": " ".join(said.split())[:300], "experts": has_experts(made)}
    has = {role: sum(lm.has(_site(layer, role)) for layer in range(lm.depth)) for role in ("down", "attention")}
    row |= {"by": "row" if found else "shape", "works as": lm.row.kind, "layers": lm.depth, **has}
    row["experts written"] = len(lm.experts)
    row |= {"post_norm": lm.row.post_norm, "experts": lm.row.experts, "cache": lm.row.cache}
    return row | {"methods": {method: kept(method, kind, name, lm) for method in methods_for(lm, has["down"])}}


def methods_for(lm: Any, dense: int) -> tuple[str, ...]:
    """Return the methods that a model is to work with: rome without a dense matrix writes experts."""
    if lm.row.kind not in ("decoder", "encoder-decoder"):
        return ANYWHERE if lm.row.kind == "classifier" else ()
    return METHODS if dense else ("rome", *ANYWHERE) if lm.experts else ANYWHERE


def _site(layer: int, role: str) -> Any:
    from errata.delta import Site

    return Site(layer, role)


def kept(method: str, kind: Any, name: str, lm: Any) -> str:
    """Return "" where a method keeps the contract on a type, else what it does not keep."""
    from tests import shrunk

    failed = ""
    for seed in SEEDS:
        try:
            failed = failing(method, lm if seed == SEEDS[0] else shrunk.build(name, kind, seed))
        except Exception as error:
            return _said(error)
        if failed != "the answer is no likelier":
            return failed
    return failed


def failing(method: str, lm: Any) -> str:
    """Return what a method does not keep on a model, "" if it keeps everything."""
    from dataclasses import replace

    import torch
    from tests.contract.test_contract import FACTS, changed, logits, losses, small, snapshot

    facts = FACTS[:1]
    if lm.row.kind == "classifier":
        facts = (replace(facts[0], target=list(lm.tokens.classes)[-1]),)
    how = small(method)
    if lm.row.kind == "classifier":
        return failing_classifier(method, lm, facts)
    before, plain = snapshot(lm), logits(lm)
    edit = how.solve(lm, facts)
    if differences := changed(before, snapshot(lm)):
        return f"solving changes {differences[0]}"
    if how.solve(lm, facts).to_bytes() != edit.to_bytes():
        return "two solutions of one fact differ"
    old = losses(lm, facts, edit)
    lm.weights.stand([edit.deltas])
    new = losses(lm, facts, edit)
    lm.weights.stand([])
    if changed(before, snapshot(lm)) or not torch.equal(plain, logits(lm)):
        return "what is dropped is not gone to the bit"
    return "" if new[0] < old[0] else "the answer is no likelier"


def failing_classifier(method: str, lm: Any, facts: Sequence[Any]) -> str:
    """Return what a method does not keep on a model that classifies."""
    import torch
    from tests.contract.test_contract import changed, small, snapshot

    from errata.model.query import Query

    query = [Query(facts[0].prompt, facts[0].target)]
    how, before, old = small(method), snapshot(lm), lm.logprobs(query)[0]
    edit = how.solve(lm, facts)
    if differences := changed(before, snapshot(lm)):
        return f"solving changes {differences[0]}"
    lm.weights.stand([edit.deltas])
    new = lm.logprobs(query)[0]
    lm.weights.stand([])
    if not torch.equal(lm.logprobs(query)[0], old):
        return "what is dropped is not gone to the bit"
    return "" if float(new.sum()) > float(old.sum()) else "the answer is no likelier"


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


# ------------------------------------------------------------------ the page


def counts(rows: Sequence[Row]) -> dict[str, Counter[str]]:
    """Return how many types of each kind were found in which way."""
    kinds = dict.fromkeys(row["kind"] for row in rows)
    return {kind: Counter(row["by"] for row in rows if row["kind"] == kind) for kind in kinds}


def dense(rows: Sequence[Row]) -> list[Row]:
    """Return the decoder types that have a dense feed-forward part; of those refused, the ones without experts."""
    return [
        row for row in rows
        if row["kind"] == "decoder" and (row.get("down") or (row["by"] == "refused" and not row["experts"]))
    ]  # fmt: skip


def whole(row: Mapping[str, Any]) -> bool:
    """Say whether every method asked of a type keeps the contract on it."""
    return "methods" in row and not any(row["methods"].values())


def page(results: Mapping[str, Any]) -> str:
    """Return the page of counts."""
    rows = results["rows"]
    wide, good = dense(rows), [row for row in dense(rows) if whole(row)]
    none = [row for row in rows if row["kind"] == "decoder" and row.get("down") == 0]
    ways = ("row", "shape", "refused", "not built")
    tables: dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]] = {
        "What is refused, and why": (("type", "kind", "why"), _lines(rows, "refused")),
        "What was found, and a method does not keep": (("type", "kind", "what"), [
            (f"`{r['type']}`", r["kind"], "; ".join(f"{m}: {said}" for m, said in r["methods"].items() if said))
            for r in rows if "methods" in r and not whole(r)
        ]),
        "What was not built": (("type", "kind", "why"), _lines(rows, "not built")),
        "What works": (("type", "kind", "found by", "dense `down`", ""), [
            (f"`{r['type']}`", r["works as"], r["by"], f"{r['down']} of {r['layers']} blocks", _remarks(r))
            for r in rows if whole(r)
        ]),
    }  # fmt: skip
    unknown = (
        "Nothing is known of these: their configuration could not be shrunk, they need another package, or transformers\n"
        "cannot run them on a text.\n\n"
    )
    totals = [(kind, *(str(found[by]) for by in ways)) for kind, found in counts(rows).items()]
    share, rest = f"{len(good)} ({len(good) / len(wide):.0%})", sum(map(whole, none))
    head = (
        "# Model types\n\n"
        f"Every type of transformers {results['transformers']} that goes on with texts, classifies them, or does so beside\n"
        "images, built tiny with random numbers from its configuration class, looked at and edited. Made by\n"
        "`python benchmarks/architectures.py`; [architectures.md](architectures.md) says what is looked at.\n\n"
        f"{_table(('', 'a row', 'by shape', 'refused', 'not built'), totals)}\n"
        f"Of the {len(wide)} decoder types with a dense feed-forward part (among those refused, the ones without experts),\n"
        f"{share} keep the contract with all of {', '.join(METHODS)}: solving leaves the model as it\n"
        "was and gives the same bytes twice, the answer becomes likelier, and dropping restores every bit.\n"
        f"Of the {len(none)} without one, {rest} keep it with\n"
        f"{', '.join(ANYWHERE)}, and with rome where their experts are found.\n\n"
    )
    parts = (f"## {name}\n\n{unknown if 'built' in name else ''}{_table(*table)}" for name, table in tables.items())
    return head + "\n".join(parts)


def _lines(rows: Sequence[Row], by: str) -> list[tuple[str, ...]]:
    return [(f"`{row['type']}`", row["kind"], row["why"]) for row in rows if row["by"] == by]


def _remarks(row: Row) -> str:
    said = {
        "experts": row["experts"], "norm or scale after `down`": row["post_norm"],
        "its own cache": row["cache"] == "own", "no cache": row["cache"] == "none",
    }  # fmt: skip
    return ", ".join(text for text, holds in said.items() if holds)


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = (heads, ("---",) * len(heads), *rows)
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
