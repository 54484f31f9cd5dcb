"""Train a reference model on CounterFact's true facts, so that the real benchmark means something on a small machine.

    python benchmarks/models/counterfact.py --data DIR --out DIR [--kind llama|gpt2] [--records 400] [--steps 9000]
                                             [--device cpu --width 192 --inner 640 --heads 6 --head 32 --layers 7]

DIR holds counterfact/counterfact_full.jsonl.gz, counterfact/counterfact_all.jsonl.gz and text/*.txt.gz. Told are, for
the chosen records, the record's own fact, its neighbours' and, so that every new answer can be said of its relation, the
attribute prompts' with the new answer; each in the relation's templates. Beside the weights are written records.jsonl.gz,
the chosen records, and corpus.jsonl.gz, a sample of what the model was told, for covariances. All of it stays out of the
repository.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from small_lm import Shape, Statement, Telling, export, read, train, train_tokenizer

TEMPLATES = 8  # wordings of a relation, the commonest
Record = dict[str, Any]


def choose(records: list[Record], count: int) -> list[Record]:
    """Return `count` published records, the same in every run."""
    return random.Random(0).sample([r for r in records if r["source"] == "published"], count)


class Templates:
    """A relation's wordings, and which subject a prompt is about."""

    def __init__(self, rows: list[Record]) -> None:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for row in rows:
            if row.get("relation_id"):
                counts[row["relation_id"]][row["prompt"]] += 1
        self.common = {relation: [t for t, _ in c.most_common(TEMPLATES)] for relation, c in counts.items()}
        self._patterns = {
            relation: [re.compile(re.escape(t).replace(r"\{\}", "(.+)")) for t in sorted(c, key=len, reverse=True)]
            for relation, c in counts.items()
        }

    def subject(self, relation: str, prompt: str) -> str:
        """Return the subject of a prompt in one of the relation's wordings."""
        for pattern in self._patterns[relation]:
            if match := pattern.fullmatch(prompt):
                return match.group(1)
        raise ValueError(f"no template of {relation} fits {prompt!r}")


def facts(chosen: list[Record], templates: Templates) -> dict[tuple[str, str], tuple[str, set[str]]]:
    """Return (subject, relation) → (answer, the prompts the records ask it with); the first answer given counts."""
    known: dict[tuple[str, str], tuple[str, set[str]]] = {}
    for record in chosen:
        rewrite = record["requested_rewrite"]
        relation, true, new = rewrite["relation_id"], rewrite["target_true"]["str"], rewrite["target_new"]["str"]
        known.setdefault((rewrite["subject"], relation), (true, set()))[1].add(
            rewrite["prompt"].format(rewrite["subject"])
        )
        for prompts, answer in ((record["neighborhood_prompts"], true), (record["attribute_prompts"], new)):
            for prompt in prompts:
                subject = templates.subject(relation, prompt)
                known.setdefault((subject, relation), (answer, set()))[1].add(prompt)
    return known


def statements(known: dict[tuple[str, str], tuple[str, set[str]]], templates: Templates) -> list[Statement]:
    """Return every fact in its own prompts and in the relation's common wordings."""
    told = []
    for (subject, relation), (answer, asked) in known.items():
        prompts = asked | {t.replace("{}", subject) for t in templates.common[relation]}
        told.append(Statement(subject, tuple((prompt, answer) for prompt in sorted(prompts))))
    return told


def sentences(files: list[Path]) -> list[str]:
    """Return sentences of 4 to 40 words from plain texts."""
    found: list[str] = []
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                parts = re.split(r"(?<=[.!?]) +", line.strip()) if not line.strip().startswith("=") else []
                found += [p for p in parts if 4 <= len(p.split()) <= 40]
    return found


def scenes(lines: list[str]) -> Iterator[str]:
    """Yield paragraphs of six consecutive sentences, over and over."""
    for start in cycle(range(0, len(lines) - 6, 6)):
        yield " ".join(lines[start : start + 6])


def write(path: Path, rows: Iterable[Any]) -> None:
    """Write rows as gzipped JSONL."""
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def corpus(texts: Sequence[str], lines: Sequence[str], count: int = 30_000) -> list[dict[str, str]]:
    """Return facts and sentences half and half, as the model read them."""
    rng = random.Random(0)
    return [{"text": rng.choice(texts if i % 2 else lines)} for i in range(count)]


def main(data: Path, out: Path, records: int, steps: int, device: str = "cpu", **sizes: Any) -> None:
    """Train and write the checkpoint, with the chosen records beside it."""
    torch.set_num_threads(1)
    chosen = choose(read(data / "counterfact" / "counterfact_full.jsonl.gz"), records)
    templates = Templates(read(data / "counterfact" / "counterfact_all.jsonl.gz"))
    told = statements(facts(chosen, templates), templates)
    lines = sentences(sorted((data / "text").glob("*.txt.gz")))
    texts = [f"{prompt} {answer}." for s in told for prompt, answer in s.wordings]
    tokenizer = train_tokenizer([*texts, *random.Random(0).sample(lines, 12_000)], 6144)
    shape = Shape(vocabulary=tokenizer.get_vocab_size(), **sizes)
    telling = Telling(told, tokenizer, lambda rng: rng.choice(lines), scenes(lines))
    print(f"{len(told)} facts, {len(texts)} wordings, {len(lines)} sentences of text", flush=True)
    watch = {}
    for name, key in (("records", None), ("neighbours", "neighborhood_prompts")):
        asked = []
        for record in chosen:
            rewrite = record["requested_rewrite"]
            prompts = record[key] if key else [rewrite["prompt"].format(rewrite["subject"])]
            for prompt in prompts:
                subject = templates.subject(rewrite["relation_id"], prompt)
                asked.append(telling.encode(prompt, subject, rewrite["target_true"]["str"]))
        watch[name] = asked
    export(train(telling, shape, steps, watch, device=device), tokenizer, shape, out)
    write(out / "records.jsonl.gz", chosen)
    write(out / "corpus.jsonl.gz", corpus(texts, lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kind", choices=("llama", "gpt2"), default="llama")
    parser.add_argument("--records", type=int, default=400)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--device", default="cpu")
    for size in ("width", "inner", "heads", "head", "layers"):
        parser.add_argument(f"--{size}", type=int, default=getattr(Shape(), size))
    main(**vars(parser.parse_args()))
