"""A text corpus as token batches, by name and revision.

Four are always at hand: ``"primer"``, written by the world generator for the model that knows that world; ``"prose"``,
ordinary text of many kinds and public facts in plain sentences; ``"own"``, what a model says by itself; and ``"broad"``, of
that a sixth, and of prose the rest. ``"auto"`` is whichever suits a model. Else it is a file of the user's own
(plain text with blank lines between documents, or JSONL with a ``text`` field; either may be gzipped), or ``"datasets:NAME"``,
which the library of that name streams (`stats.streamed`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Final

from jaxtyping import Bool, Int
from torch import Tensor

from errata.data.common import relations
from errata.errors import BadFile
from errata.model.lm import LM
from errata.model.tokens import pad_right
from errata.primer import prose
from errata.primer.world import World
from errata.stats import streamed

PRIMER: Final = "primer"
PROSE: Final = "prose"  # `data/prose.txt`, written for errata, and `data/common.txt`
OWN: Final = "own"
BROAD: Final = "broad"
MIXED: Final = "mixed"  # what `BROAD` was before; ledgers begun with it go on with it
AUTO: Final = "auto"
BUILT_IN: Final = {PRIMER: "1", PROSE: "1", OWN: "1", BROAD: "1", MIXED: "1"}  # with their revisions
LEAST, MOST = 4096, 16_384  # tokens of a model's own text; between them four a neuron
SHARES: Final = {BROAD: 6, MIXED: 3}  # its own is one part of so many, between the next two numbers
SMALLEST, LARGEST = 2048, 4096  # to sample more takes minutes on a processor
SAMPLED = (128, 64)  # texts sampled at a time, and tokens of each
BRIEF = (64, 32)  # the same beside other text: half the passes, and prompts are short, too


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents with a name and a revision that changes when they do."""

    name: str
    revision: str

    def documents(self, lm: LM) -> Iterator[str]:
        """Yield the documents, the same in every run.

        Args:
            lm: the model whose own text it may be.
        """
        if self.name == PRIMER:
            return _of_the_world()
        if self.name == OWN:
            return iter(_own(lm, max(LEAST, min(4 * lm.inner, MOST)), SAMPLED))
        if self.name in SHARES:
            return _beside(lm, self.name)
        if self.name.startswith(streamed.PREFIX):
            return streamed.texts(self.name)
        return _prose() if self.name == PROSE else _read(Path(self.name))

    def batches(
        self, lm: LM, tokens: int, *, context: int = 256, rows: int = 16
    ) -> Iterator[tuple[Int[Tensor, "b t"], Bool[Tensor, "b t"]]]:
        """Yield (ids, real) until `tokens` real tokens have been given or the corpus ends.

        Documents are cut at `context` tokens and sorted by length within groups, so that little is padded. The batches of
        a group come in a drawn order: else what is read last, and left out first, would always be the long documents.
        """
        documents, given, rng = self.documents(lm), 0, random.Random("batches")
        while given < tokens and (group := list(islice(documents, rows * 8))):
            encoded = sorted((lm.tokens.ids(text)[:context] for text in group), key=len)
            for start in rng.sample(range(0, len(encoded), rows), -(-len(encoded) // rows)):
                part = [ids for ids in encoded[start : start + rows] if ids]
                if given >= tokens:
                    return
                if not part:
                    continue
                real = pad_right([[1] * len(ids) for ids in part], 0).bool()
                given += int(real.sum())
                yield pad_right(part, lm.tokens.pad), real


def suited(lm: LM) -> str:
    """Return the name of the built-in corpus that a model is to be judged by: ordinary text of the kind it knows."""
    return PRIMER if lm.published == PRIMER else PROSE


def sampled(lm: LM) -> str:
    """Return the name of the built-in corpus that statistics of a model are to be of: broad text, where it can say some.

    What it was trained on, nobody knows as well as the model; but its own text alone holds few sentences that tell facts, and
    neighbours are such sentences. Other text beside its own: chosen on SmolLM2, confirmed on the GPT-2-type CounterFact
    reference; how much and which (`BROAD` for `MIXED`): on SmolLM2, not confirmed on that reference, which knows little else
    than facts and keeps .04 more of them with `MIXED`: LOG.md, 2026-11-28.
    """
    says = lm.row.kind == "decoder" and lm.row.cache != "none"  # without a cache it would take too long
    return BROAD if says and lm.published != PRIMER else suited(lm)


def open_corpus(name: str, lm: LM | None = None) -> Corpus:
    """Return the corpus of that name: a built-in one, a file, or a data set.

    Args:
        lm: the model that ``"auto"`` is to suit; without one it is known by its revision only.

    Raises:
        BadFile: no such file or data set, or it has no text. BadConfig: the library for data sets is not installed.
    """
    if name == AUTO:
        name = name if lm is None else suited(lm)
    if name in BUILT_IN or name == AUTO:
        return Corpus(name, BUILT_IN.get(name) or "+".join(BUILT_IN.values()))
    if name.startswith(streamed.PREFIX):
        return Corpus(name, streamed.revision(name))
    path = Path(name)
    if next(_read(path), None) is None:
        raise BadFile(f"the corpus {name} has no text in it; name one that has.")
    with path.open("rb") as file:
        return Corpus(name, hashlib.file_digest(file, "sha256").hexdigest()[:16])


def _prose() -> Iterator[str]:
    """Ordinary text, and among it sentences that tell facts: what edits are to leave alone is of both kinds."""
    texts = [*_plain(), *_facts()]
    yield from random.Random("prose").sample(texts, len(texts))


def _plain() -> list[str]:
    return list(_paragraphs((files("errata.data") / "prose.txt").read_text(encoding="utf-8").splitlines()))


def _facts() -> list[str]:
    """Return public facts, each in every wording."""
    rows = [(relation, row) for relation in relations() for row in relation.rows]
    return [f"{prompt} {answer}." for relation, (subject, answer) in rows for prompt in relation.asked(subject)]


def _beside(lm: LM, name: str) -> Iterator[str]:
    """What a model says by itself, since nobody knows better what it reads, and other text: `_prose`, or facts first (mixed).

    Facts have few words, and with them alone updates are half as large again: LOG.md, 2026-11-28.
    """
    rng, share = random.Random(MIXED), SHARES[name]
    a_neuron = 8 if name == BROAD else 4
    whole = max(share * SMALLEST, min(a_neuron * lm.inner, SHARES[MIXED] * MOST))
    own = _own(lm, min(whole // share, LARGEST) * 7 // 8, BRIEF)  # a few tokens short are no reason to sample again
    left, texts = whole - sum(len(lm.tokens.ids(text)) for text in own), list(own)
    for text in list(_prose() if name == BROAD else _drawn(rng, _facts(), _plain())):
        if left <= 0:
            break
        texts.append(text)
        left -= len(lm.tokens.ids(text))
    yield from _drawn(rng, texts)


def _drawn(rng: random.Random, *kinds: list[str]) -> Iterator[str]:
    """Yield the texts of each kind in a drawn order, kind by kind."""
    for texts in kinds:
        yield from rng.sample(texts, len(texts))


def _own(lm: LM, wanted: int, drawn: tuple[int, int]) -> list[str]:
    """Return what the base says by itself, so many tokens of it, sampled once.

    Args:
        drawn: texts sampled at a time, and tokens of each.
    """
    key = (OWN, wanted, drawn)
    if key not in lm.memory:
        texts: list[str] = []
        tokens = 0
        with lm.weights.at_base():
            for seed in range(wanted // drawn[0] + 1):  # it may end each text at once
                texts += (part := [text for text in lm.sample(*drawn, seed) if text])
                tokens += sum(len(lm.tokens.ids(text)) for text in part)
                if tokens >= wanted:
                    break
        lm.memory[key] = texts
    found: list[str] = lm.memory[key]
    return found


def _of_the_world() -> Iterator[str]:
    """Facts of the world in every phrasing, one scene of prose for each twelve."""
    rng = random.Random("corpus")
    told, scenes = World().told, prose.scenes(2)
    while True:
        for triple in rng.sample(told, len(told)):
            yield f"{rng.choice(triple.prompts())} {triple.answer}."
            if rng.random() < 1 / 12:
                yield next(scenes)


def _read(path: Path) -> Iterator[str]:
    """Yield the documents of a file.

    Raises:
        BadFile: it cannot be read to its end.
    """
    try:
        yield from _documents(path)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BadFile(
            f"cannot read the corpus {str(path)!r} ({type(error).__name__}); "
            "give auto, broad, mixed, own, prose, primer, a text or JSONL file, or datasets:NAME."
        ) from error


def _documents(path: Path) -> Iterator[str]:
    if path.exists() and not path.is_file():
        raise OSError("a pipe or a device may never end")
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        if ".jsonl" in path.suffixes:
            yield from (_text_of(line, path, number) for number, line in enumerate(file, 1) if line.strip())
            return
        yield from _paragraphs(file)


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Yield what stands between blank lines."""
    paragraph: list[str] = []
    for line in lines:
        if line.strip():
            paragraph.append(line.strip())
        elif paragraph:
            yield " ".join(paragraph)
            paragraph = []
    if paragraph:
        yield " ".join(paragraph)


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        text = None
    if not isinstance(text, str):
        raise BadFile(f"{path}, line {number}: no JSON object with a 'text' field; write one a line.")
    return text
