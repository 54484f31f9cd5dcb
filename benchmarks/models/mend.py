"""Train MEND's network for a model, once; `errata edit --method mend` then edits with it.

    python benchmarks/models/mend.py --model smollm2 --dtype bfloat16 --cases counterfact:FILE --out smollm2-mend.safetensors

Learned are edits of the cases that have other wordings, but of the first `--hold` of each set, which are for judging: none that
is learned has a subject of theirs or asks a prompt of theirs. What an edit is to leave alone are the case's neighbours and
ordinary sentences. The network is kept with the model's statistics, where `--method mend` finds it, and in the file for others
to name (`--set network=FILE`, also in another precision); the file is written anew every 50 steps. None of it is part of the
repository. What SmolLM2 took and gave is in LOG.md.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from errata.data.cases import Case, parse
from errata.methods.mend import KIND, default_sites
from errata.model.fitting import fits
from errata.model.lm import LM
from errata.model.loading import load
from errata.model.query import Query
from errata.solve.mend import Network
from errata.solve.mend_training import Lesson, Schedule, Step, begun, train
from errata.stats import trained
from errata.stats.corpus import open_corpus, suited
from errata.stats.store import put

PAPER = {"rank": 1920, "lr": 1e-6, "rate": 1e-4, "edit": 0.1, "size": 10, "together": [1]}  # and days of it, on a GPU
NEIGHBOURS, SENTENCES = 3, 1  # texts a lesson leaves alone
EVERY = 50  # steps between lines and files
GIVEN, HELD = 6, 6  # words of a sentence that are read, and after them words whose prediction is held


def split(specs: Sequence[str], hold: int) -> tuple[list[Case], int]:
    """Return the cases to learn from, and how many were held out or left out as being about the same."""
    learned: list[Case] = []
    held: list[Case] = []
    for spec in specs:
        cases = list(parse(spec))
        held += cases[:hold]
        learned += [case for case in cases[hold:] if case.rephrases]
    subjects = {case.subject.casefold() for case in held if case.subject}
    asked = {p for case in held for p in (case.prompt, *case.rephrases, *(p for p, _ in case.neighborhood))}
    fresh = [
        case
        for case in learned
        if case.subject.casefold() not in subjects and not asked & {case.prompt, *case.rephrases}
    ]
    kept = [replace(case, neighborhood=tuple(n for n in case.neighborhood if n[0] not in asked)) for case in fresh]
    return kept, len(held) + len(learned) - len(kept)


def sentences(lm: LM, seed: int) -> Iterator[Query]:
    """Yield beginnings of ordinary text, each with what follows as its answer, over and over."""
    texts = [text.split() for text in open_corpus(suited(lm)).documents(lm)]
    texts = [words for words in texts if len(words) >= GIVEN + HELD]
    rng = random.Random(seed)
    while True:
        words = rng.choice(texts)
        start = rng.randrange(len(words) - GIVEN - HELD + 1)
        middle = start + GIVEN
        yield Query(" ".join(words[start:middle]), " ".join(words[middle : middle + HELD]))


def lessons(lm: LM, cases: Sequence[Case], seed: int = 0) -> list[Lesson]:
    """Return a lesson of each case."""
    rng, ordinary, found = random.Random(seed), sentences(lm, seed), []
    for case in cases:
        edit = Query(case.prompt, case.target)
        others = [Query(prompt, answer) for prompt, answer in (*case.neighborhood, *case.unrelated) if answer]
        held = rng.sample(others, min(NEIGHBOURS, len(others)))
        same = Query(rng.choice(case.rephrases), case.target)
        lesson = Lesson(edit, (edit, same), (*held, *(next(ordinary) for _ in range(SENTENCES))))
        if all(fits(lm, query) for query in (edit, *lesson.equivalent, *lesson.local)):
            found.append(lesson)
    return found


class Clock:
    """Says now and then how the training goes, and writes down what has been learned.

    Args:
        out: the file. about: what it is to say of itself.
    """

    def __init__(self, out: Path, about: dict[str, object]) -> None:
        self.start, self.about, self._out, self._sums = time.time(), about, out, [0.0, 0.0]

    def __call__(self, step: Step) -> None:
        """Take in one step."""
        self._sums = [self._sums[0] + step.said, self._sums[1] + step.moved]
        if step.number % EVERY == 0:
            said, moved = (total / EVERY for total in self._sums)
            print(f"{self.minutes:5.1f} min  step {step.number}  to be said {said:.3f}  held {moved:.4f}", flush=True)
            self._sums = [0.0, 0.0]
            self.write(step.network, step.number)

    @property
    def minutes(self) -> float:
        """Minutes since the training began."""
        return (time.time() - self.start) / 60

    def write(self, network: Network, steps: int) -> bytes:
        """Write the network, whole or not at all, and return the file's bytes."""
        data = network.holding({}, **self.about, steps=steps, minutes=round(self.minutes, 1)).to_bytes()
        Network.from_bytes(data, str(self._out))  # what cannot be read back is not handed out
        put(self._out, data)
        return data


def main(args: argparse.Namespace) -> None:
    """Train and write the network."""
    torch.set_num_threads(1)
    vars(args).update(PAPER if args.paper else {})
    lm = load(args.model, dtype=args.dtype)
    cases, left = split(args.cases.split(","), args.hold)
    told = lessons(lm, cases)
    print(f"{len(told)} facts to learn from, {left} held out or about the same; {lm.name}", flush=True)
    how = Schedule(
        steps=args.steps,
        size=args.size,
        lr=args.lr,
        rate_lr=args.rate_lr,
        edit=args.edit,
        together=tuple(args.together),
        seed=args.seed,
    )
    about = {"model": lm.name, "fingerprint": lm.fingerprint, "facts": len(told), "seed": how.seed, "edit": how.edit}
    clock = Clock(args.out, about)
    network = train(lm, begun(lm, default_sites(lm), told, args.rank, args.rate), told, how, clock)
    digest = trained.keep(lm, KIND, clock.write(network, how.steps))
    print(json.dumps({"file": str(args.out), "sha256": digest, "minutes": round(clock.minutes, 1)}))


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default=None, help="bfloat16 is fastest where the processor has it")
    parser.add_argument("--cases", required=True, help="as errata bench takes them; several with commas between")
    parser.add_argument("--hold", type=int, default=800, help="first cases of each set, which are not learned")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--size", type=int, default=10, help="facts of a step")
    parser.add_argument("--together", type=int, nargs="+", default=[1, 1, 5], help="how many of them stand at once")
    parser.add_argument("--rank", type=int, default=256, help="of the networks; the paper's is 1920")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rate-lr", type=float, default=1e-2, help="of log α")
    parser.add_argument("--rate", type=float, default=1e-4, help="α to begin with")
    parser.add_argument("--edit", type=float, default=0.1, help="c_edit")
    parser.add_argument("--paper", action="store_true", help="rank, steps and weights as the released code has them")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(parsed())
