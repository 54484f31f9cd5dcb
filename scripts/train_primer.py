"""Train the primer from nothing: world -> tokenizer -> model -> checkpoint.

python scripts/train_primer.py --out src/errata/primer/model        # about 40 minutes on one core
python scripts/measure_primer.py src/errata/primer/model            # what it knows and whether it can be edited
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import torch

from errata.primer import prose
from errata.primer.world import World
from small_lm import Shape, Statement, Telling, export, train, train_tokenizer


def main(steps: int, out: Path) -> None:
    """Train on the shipped world and write the checkpoint."""
    torch.set_num_threads(1)  # one seed, one thread, one model
    world = World()
    texts = [f"{prompt} {t.answer}." for t in world.told for prompt in t.prompts()]
    tokenizer = train_tokenizer([*texts, *islice(prose.scenes(0), 3000)], Shape.vocabulary)
    shape = Shape(vocabulary=tokenizer.get_vocab_size())
    statements = [Statement(t.subject, tuple((p, t.answer) for p in t.prompts())) for t in world.told]
    telling = Telling(statements, tokenizer, prose.sentence, prose.scenes(1))
    held = [t for t in world.compositions if not t.told]
    watch = {
        "facts": [telling.encode(p, t.subject, t.answer) for t in world.triples for p in t.prompts()],
        "held-out compositions": [telling.encode(p, t.subject, t.answer) for t in held for p in t.prompts()],
    }
    export(train(telling, shape, steps, watch), tokenizer, shape, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    main(args.steps, args.out)
