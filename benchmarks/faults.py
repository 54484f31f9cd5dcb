"""Break the book in every way at hand, and count what was lost.

    python benchmarks/faults.py kills --count 100 --seed 0 --out faults.jsonl    # kill -9 at random moments; --only edit
    python benchmarks/faults.py accidents --out faults.jsonl                     # disks, permissions, writers, damage, clocks
    python benchmarks/faults.py table faults.jsonl                               # what came of it, for docs/reliability.md

A row says what was done, how often, in how many cases something that had been reported was lost, and in how many the outcome
was neither success nor a sentence of ours. Models are tiny and random, so that a kill costs a second at most. Run it from the
root of the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.accidents import ACCIDENTS
from tests import synthetic, tiny

from errata.book.book import Book
from errata.book.compact import compact
from errata.book.merge import merge
from errata.book.verify import orphans, verify
from errata.delta import LowRank, Site
from errata.editing.editor import Editor
from errata.editing.migrate import migrate
from errata.fact import Fact
from errata.methods.base import Method, Solution
from errata.model.lm import LM

OPS = ("edit", "drop", "merge", "compact", "migrate")
LONGEST = 0.08  # seconds a writer lives on at most once it has begun


@dataclass(frozen=True, kw_only=True)
class Quick(Method):
    """A method that computes nothing: a rank-one change drawn from the seed."""

    name: ClassVar[str] = "quick"
    layer: int = field(default=1, metadata={"help": "layer"})

    def sites(self) -> tuple[Site, ...]:
        """Return the site written to."""
        return (Site(self.layer, "down"),)

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Any]) -> Solution:
        """Return a random change."""
        draw = torch.Generator().manual_seed(hash((self.seed, facts[0].subject)) % 2**31)
        out, inner = lm.parameter(self.sites()[0]).shape
        left, right = torch.randn(out, 1, generator=draw), torch.randn(inner, 1, generator=draw)
        return Solution({self.sites()[0]: LowRank(left * 0.01, right)})


def facts(number: int) -> list[Fact]:
    """Return two facts nobody has written yet."""
    names = [f"Town {number} {half}" for half in "ab"]
    return [Fact(prompt=f"{name} is in", subject=name, target="Mali") for name in names]


class Bench:
    """Two models, the books in a directory, and what was reported of them."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random = root, random.Random(seed)
        self.lm, self.second = tiny.build("llama"), tiny.build("llama", seed=1)
        for lm in (self.lm, self.second):  # what the model says is of no interest here
            lm.generate = lambda prompts, *_, **__: ["?"] * len(prompts)  # type: ignore[method-assign]
        self.bases = {s: self.lm.parameter(s).detach().clone() for s in _sites(self.lm)}
        self.number = seed * 1_000_000
        self.reset()

    def reset(self) -> None:
        """Begin with new books."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        with Book.open(self.root / "main", self.lm.fingerprint, "tiny") as book:
            book.append([synthetic.item(self.lm, self.next()) for _ in range(6)])
        Book.open(self.root / "target", self.second.fingerprint, "second").close()

    def next(self) -> int:
        """Return a number that was never used."""
        self.number += 1
        return self.number

    def kill_one(self, op: str) -> dict[str, Any]:
        """Fork a writer that does `op` again and again, kill it, and compare what there is with what it reported."""
        with Book.open(self.root / "main") as book:
            before = [r.id for r in book.stand()]
        with Book.open(self.root / "target") as book:
            there = [r.id for r in book.stand()]
        self.number += 1000
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            try:
                _write(self, op, writer)
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as told:
            lines: list[str] = []
            for _ in range(self.random.randint(0, 2)):  # until it has begun: not at all, once, or twice
                lines.append(told.readline())
                while f'"begin": "{op}"' not in lines[-1]:
                    lines.append(told.readline())
            time.sleep(self.random.uniform(0, LONGEST))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            said = ("".join(lines) + told.read()).split("\n")[:-1]  # a torn last line was not reported
        return self.look(op, before, there, [json.loads(line) for line in said])

    def look(self, op: str, before: list[str], there: list[str], said: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what a kill came to; raises AssertionError for anything that must not be."""
        ended = [row for row in said if "standing" in row]
        standing = ended[-1]["standing"] if ended else before
        begun = said[-1] if said and "begin" in said[-1] else {}
        with Book.open(self.root / "main", self.lm.fingerprint) as book:
            found = [r.id for r in book.stand()]
            new, gone = set(found) - set(standing), set(standing) - set(found)
            late = _allowed(begun, new, gone)
            assert late is not None, (op, begun, len(new), len(gone))
            findings = verify(book)
            assert findings.problems == [], findings.problems
            left = len(orphans(book, book.records()))
            editor = Editor(self.lm, book)
            for site, base in self.bases.items():
                deltas = [edit.deltas[site] for edit in editor.standing if site in edit.deltas]
                assert torch.equal(self.lm.parameter(site), synthetic.by_hand(base, deltas)), site
            self.lm.weights.stand([])
        with Book.open(self.root / "target") as book:
            reported = there + [row["moved"] for row in said if "moved" in row]
            target = [r.id for r in book.stand()]
            assert target[: len(reported)] == reported, "a migrated edit was lost"
            assert len(target) <= len(reported) + 1
            late = late or len(target) > len(reported)
            assert verify(book).problems == []
        return {
            "op": op,
            "reported": len(ended) + len(reported) - len(there),
            "in flight": bool(begun),
            "late": late,
            "left": left,
        }


def _allowed(begun: dict[str, Any], new: set[str], gone: set[str]) -> bool | None:
    """Return whether the operation that was cut off had been done without being reported; None if it was done by half."""
    if not (new or gone):
        return False
    whole = {
        "edit": len(new) == 2 and not gone,
        "drop": gone == set(begun.get("ids", ())) and not new,
        "merge": new == set(begun.get("ids", ())) and not gone,
    }
    return True if whole.get(begun.get("begin", "")) else None


def _sites(lm: LM) -> list[Site]:
    return [Site(layer, role) for layer in range(lm.depth) for role in ("down", "attention")]


def _write(bench: Bench, op: str, pipe: int) -> None:
    """Do `op` until killed, and tell the pipe what begins and what has ended."""

    def tell(**row: Any) -> None:
        os.write(pipe, (json.dumps(row) + "\n").encode())

    book = Book.open(bench.root / "main", bench.lm.fingerprint)
    editor = Editor(bench.lm, book)
    while True:
        standing = [r.id for r in book.stand()]
        if op == "migrate":
            tell(begin="migrate", ids=[])
            _migrate(bench, book, tell)
            tell(begin="edit", ids=[])
            editor.write_all(facts(bench.next()), Quick())
            tell(standing=[r.id for r in book.stand()])
            continue
        if op == "drop" and len(standing) < 3:
            items = [synthetic.item(bench.lm, bench.next()) for _ in range(6)]
            tell(begin="merge", ids=[meta["id"] for meta, _ in items])
            book.append(items)
            tell(standing=[r.id for r in book.stand()])
            continue
        ids: list[str] = bench.random.sample(standing, 2) if op == "drop" else []
        if op == "merge":
            with Book.open(bench.root / f"other{bench.next()}", bench.lm.fingerprint, "tiny") as other:
                ids = [r.id for r in other.append([synthetic.item(bench.lm, bench.next()) for _ in range(3)])]
        if op == "compact":
            (book.path / "edits" / f"{bench.next():064d}.safetensors").write_bytes(b"left behind" * 100)
            tell(begin="drop", ids=standing[:1])
            book.drop(standing[:1]) if len(standing) > 2 else None
            tell(standing=[r.id for r in book.stand()])
        tell(begin=op, ids=ids)
        if op == "edit":
            editor.write_all(facts(bench.next()), Quick())
        elif op == "drop":
            editor.drop(*ids)
        elif op == "merge":
            with Book.open(bench.root / f"other{bench.number - 3}") as other:
                merge(book, other)
        else:
            compact(book, forget=True)
        tell(standing=[r.id for r in book.stand()])


def _migrate(bench: Bench, old: Book, tell: Callable[..., None]) -> None:
    with Book.open(bench.root / "target", bench.second.fingerprint) as book:
        for moved in migrate(old, Editor(bench.second, book), Quick()):
            if moved.outcome in ("written", "not said"):
                tell(moved=moved.new_id)
            else:
                assert moved.outcome == "stands", moved


def kills(count: int, seed: int, out: Path, ops: Sequence[str] = OPS) -> None:
    """Kill `count` writers that do one of `ops` each, and add one row for each to `out`."""
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(Path(root) / "books é", seed)
        for n in range(count):
            if n % 20 == 0:
                bench.reset()
            row = bench.kill_one(ops[n % len(ops)])
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"fault": f"kill -9, {row['op']}", "lost": 0, "foreign": 0, **row}) + "\n")


def accidents(out: Path) -> None:
    """Run every accident, and add its row to `out`."""
    lm = tiny.build("llama")
    for accident in ACCIDENTS:
        with tempfile.TemporaryDirectory() as root:
            rows = accident(lm, Path(root))
        with out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        print(accident.__name__, *(json.dumps(row) for row in rows), sep="\n  ", flush=True)


def table(files: Sequence[Path]) -> None:
    """Print one line a fault: how often, what came of it, what was lost."""
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["fault"]].append(row)
    print("| fault | times | what came of it | reported and lost | not a sentence of ours |\n|---|---|---|---|---|")
    for fault, group in groups.items():
        sums: Counter[str] = Counter()
        for row in group:
            sums.update({k: int(v) for k, v in row.items() if isinstance(v, int) and k not in ("times",)})
        times = sum(row.get("times", 1) for row in group)
        what = group[0].get("what") or (
            f"{sums['reported']} changes reported; {sums['in flight']} cut off in the middle, of which {sums['late']} were "
            f"whole in the book"
        )
        print(f"| {fault} | {times} | {what} | {sums['lost']} | {sums['foreign']} |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("kills")
    one.add_argument("--count", type=int, default=100)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--only", default=",".join(OPS), help="operations, with commas")
    two = commands.add_parser("accidents")
    for each in (one, two):
        each.add_argument("--out", type=Path, default=Path("faults.jsonl"))
    commands.add_parser("table").add_argument("files", type=Path, nargs="+")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.command == "kills":
        kills(given.count, given.seed, given.out, given.only.split(","))
    elif given.command == "accidents":
        accidents(given.out)
    else:
        table(given.files)


if __name__ == "__main__":
    main()
