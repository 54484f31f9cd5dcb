"""Inputs that nobody would write, for every reader: valid ones, cut, joined, flipped and sprinkled with what breaks parsers.

for name, reader in READERS.items():
    outcomes = fuzz(reader, 1000, seed=0, directory=tmp_path)      # Counter of "read" and error names; foreign ones are raised
"""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from errata.book.book import Book
from errata.book.verify import verify
from errata.config import from_toml
from errata.data.facts import read_facts
from errata.delta import Columns, Dense, Graft, LowRank, Site
from errata.edit import Edit
from errata.editing import gates
from errata.errors import ErrataError
from errata.fact import Fact, Probe
from errata.methods.memit import Memit

FACT: Final = Fact(
    prompt="The capital of France is", subject="France", target="Lyon", rephrases=("France is ruled from",),
    probes=(Probe("alias", "Paris is", "x"),), reason="n/a", source="🎉 אטלס",
)  # fmt: skip
ROWS: Final = (
    FACT.to_dict(),
    {
        "prompt": "{} plays the",
        "subject": "Alma",
        "target_new": "lute",
        "ground_truth": "cello",
        "portability": {"a": []},
    },
    {
        "case_id": 1,
        "requested_rewrite": {
            "prompt": "{} is",
            "subject": "X",
            "target_new": {"str": "a"},
            "target_true": {"str": "b"},
        },
    },
    {
        "src": "Where is X?",
        "subject": "X",
        "answers": ["a"],
        "alt": "b",
        "rephrase": "X is where?",
        "loc": "q",
        "loc_ans": "z",
    },
)
SPICE: Final[tuple[bytes, ...]] = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n",
    b'"',
    b"'",
    b",",
    b";",
    b"\t",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[" * 3000,
    b"\\u",
    b"\\",
    b"null",
    b"NaN",
    b"1e999",
    b"-0",
    b"9" * 5000,
    b"true",
    b"=",
    b"#",
    b"'''",
    b'"""',
    b"\xf0\x9f\x8e\x89",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\xe2\x80\xa8",
    b"__metadata__",
    b"../../etc/passwd",
    b"%s%n",
    b"{}",
    b"\x1f\x8b\x08",
    b"a" * 20000,
)


def mutated(seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Return one of the seeds after a few accidents, or none."""
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((0, 1, 1, 2, 3, 6))):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(6)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at:at] = draw.choice(SPICE)
        elif kind == 2:
            del data[at : at + draw.choice((1, 3, 30, len(data)))]
        elif kind == 3:
            other = draw.choice(seeds)
            start = draw.randrange(len(other) + 1)
            data[at:at] = other[start : start + draw.choice((5, 50, 500))]
        elif kind == 4:
            data[at : at + 8] = draw.randbytes(8)
        else:
            data[at:at] = bytes(data[at : at + 40]) * draw.choice((1, 2, 5))
    return bytes(data)


PAGE: Final = 4096  # bytes of one of SQLite's pages


def damaged(seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Return a database after accidents of a disk: bits, pages and ends that are not what they were."""
    data = bytearray(draw.choice(seeds))
    older = draw.choice(seeds)
    for _ in range(draw.choice((1, 1, 2, 4))):
        kind, pages = draw.randrange(8), max(1, len(data) // PAGE)
        one, two = draw.randrange(pages) * PAGE, draw.randrange(pages) * PAGE
        if kind == 0 and data:
            for _ in range(draw.choice((1, 3, 20))):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[draw.choice((one, draw.randrange(len(data) + 1))) :]
        elif kind == 2:  # two pages in each other's place
            data[one : one + PAGE], data[two : two + PAGE] = data[two : two + PAGE], data[one : one + PAGE]
        elif kind == 3:  # a page that was not written
            data[one : one + PAGE] = bytes(len(data[one : one + PAGE]))
        elif kind == 4:  # a page from before
            data[one : one + PAGE] = older[one : one + PAGE]
        elif kind == 5:
            data[one : one + PAGE] = data[two : two + PAGE]
        elif kind == 6 and len(data) > 100:  # what the file says of itself
            at = draw.choice((16, 18, 19, 24, 28, 32, 36, 40, 44, 52, 56, 60, 68, 92))
            data[at : at + draw.choice((1, 2, 4))] = draw.randbytes(draw.choice((1, 2, 4)))
        else:
            at = draw.randrange(len(data) + 1)
            data[at : at + draw.choice((1, 4, 64))] = draw.randbytes(draw.choice((1, 4, 64)))
    return bytes(data)


@dataclass(frozen=True, slots=True)
class Reader:
    """Something that reads what others wrote: its seeds, a function of (content, a directory), and what befalls seeds."""

    seeds: tuple[bytes, ...]
    read: Callable[[bytes, Path], Any]
    befall: Callable[[Sequence[bytes], random.Random], bytes] = mutated


def fuzz(reader: Reader, count: int, seed: int, directory: Path) -> Counter[str]:
    """Give a reader `count` inputs, and count what came of them; whatever is no error of ours comes out of here."""
    draw, found = random.Random(seed), Counter[str]()
    for _ in range(count):
        data = reader.befall(reader.seeds, draw)
        try:
            reader.read(data, directory)
            found["read"] += 1
        except ErrataError as error:
            sentence = 0 < len(str(error).strip()) <= error.longest
            found[type(error).__name__ if sentence else "no sentence"] += 1
        except Exception as error:
            error.add_note(f"input: {data[:400]!r}")
            raise
    return found


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """Return a reader of files of that name."""

    def of_bytes(data: bytes, directory: Path) -> object:
        path = directory / name
        path.write_bytes(data)
        return read(path)

    return of_bytes


def _edit_bytes() -> tuple[bytes, ...]:
    draw = torch.Generator().manual_seed(0)
    deltas = {
        Site(0, "down"): LowRank(torch.randn(3, 1, generator=draw), torch.randn(4, 1, generator=draw)),
        Site(1, "down"): Columns(torch.tensor([0, 2]), torch.randn(3, 2, generator=draw)),
        Site(2, "up"): Dense(torch.randn(2, 2, generator=draw)),
        Site(3, "down"): Graft("melo", {"r": 1}, {"keys": torch.ones(2)}),
    }
    made = Edit(method="rome", config={"lr": 0.1}, facts=(FACT,), base="f" * 32, deltas=deltas, tags=("a",))
    alone = Edit(method="ft", config={}, facts=(), base="", deltas={}, format=1)
    return made.to_bytes(), alone.to_bytes(), b"\x02\0\0\0\0\0\0\0{}"


def _read_edit(data: bytes, _: Path) -> None:
    edit = Edit.from_bytes(data)
    assert Edit.from_bytes(edit.to_bytes()).id == edit.id  # what was let in is whole


def book_seeds(directory: Path) -> tuple[bytes, ...]:
    """Return the database of a small book, and as it was before its last edit; its files stay in ``directory / "book"``."""
    made = [Edit(method="rome", config={}, facts=(FACT,), base="f" * 32, deltas={}, seed=n) for n in range(4)]
    found, path = list[bytes](), directory / "book" / "book.sqlite"
    with Book.open(directory / "book", "f" * 32, "tiny") as book:
        for part in (made[:1], made[1:]):
            book.append([(edit.meta(), edit.to_bytes()) for edit in part])
            book.drop([made[0].id]) if len(part) == 1 else None
            with book.query() as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            found.append(path.read_bytes())
    return tuple(found[::-1])


def read_book(data: bytes, directory: Path) -> None:
    """Put a database in the place of the book's, and use it: what it then says is what was written, or there is an error."""
    path = directory / "book"
    seeds = [[1, 2, 3], []]  # of what stands at the end, and what stood before: an older copy is told by its head only
    for left in ("book.sqlite-wal", "book.sqlite-shm"):
        (path / left).unlink(missing_ok=True)
    files = sorted(file.name for file in (path / "edits").iterdir())
    (path / "book.sqlite").write_bytes(data)
    with Book.open(path, "f" * 32, wait=1, create=False) as book:
        book.history()
        stands = [(record.id, record.meta["seed"]) for record in book.stand()]
        found = verify(book)
        for record in book.stand():
            book.read(record)
    assert sorted(file.name for file in (path / "edits").iterdir()) == files
    # What stands is asked of `stand` alone by whoever opens a model: it must be right, or be refused by then.
    assert [seed for _, seed in stands] in seeds, (stands, found.problems)


def readers(directory: Path) -> dict[str, Reader]:
    """Return every reader by name; the book's needs a directory of its own."""
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    jsonl = tuple(line.encode() for line in (*lines, "\n".join(lines), "\n" + lines[0] + "\n\n"))
    table = 'prompt,subject,target,rephrases\nThe capital of France is,France,Lyon,a|b\n"x, y",x,"q""z",\n'
    csv = (table.encode(), table.replace(",", ";").encode(), b"prompt\tsubject\ttarget\nA b\tA\tc\n")
    toml = (b'said = 0.9\nperplexity = 2.0\ntext = "primer"\nasked = 5\n', b'sentinel = 1.0\nsentinels = "s.jsonl"\n')
    settings = (b'lr = 0.5\nlayers = [0, 1]\nhistory = true\ncorpus = "primer"\n', b'steps = "auto"\nweight = 3\n')
    listed = (json.dumps(list(ROWS)).encode(), *jsonl[:1])
    return {
        "jsonl": Reader(jsonl, _file("facts.jsonl", read_facts)),
        "json": Reader(listed, _file("facts.json", read_facts)),
        "csv": Reader(csv, _file("facts.csv", read_facts)),
        "gz": Reader((*(gzip.compress(row, mtime=0) for row in jsonl), jsonl[0]), _file("facts.jsonl.gz", read_facts)),
        "gates": Reader(toml, _file("gates.toml", gates.read)),
        "toml": Reader(settings, lambda data, _: from_toml(Memit, data.decode("utf-8", "surrogateescape"))),
        "safetensors": Reader(_edit_bytes(), _read_edit),
        "book": Reader(book_seeds(directory)[:1], read_book),
        "pages": Reader(book_seeds(directory / "pages"), lambda data, root: read_book(data, root / "pages"), damaged),
    }
