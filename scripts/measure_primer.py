"""Measure what the primer knows and whether it can be edited, and write its model card.

python scripts/measure_primer.py src/errata/primer/model [--edits 100]
"""

from __future__ import annotations

import argparse
import math
import random
from itertools import islice
from pathlib import Path

import torch

from errata import methods
from errata.answers import says
from errata.delta import Site
from errata.model.lm import LM
from errata.model.loading import load
from errata.model.tokens import Query
from errata.model.trace import Trace, at
from errata.primer import prose
from errata.primer.probes import edits
from errata.primer.relations import ATOMIC
from errata.primer.world import Triple, World


def said(lm: LM, triples: list[Triple], phrasing: int | None = None) -> float:
    """Share of (triple, phrasing) answered rightly in free greedy generation."""
    asked = [(p, t.answer) for t in triples for i, p in enumerate(t.prompts()) if phrasing in (None, i)]
    answers = lm.generate([p for p, _ in asked], max_new_tokens=8, rows=256)
    return sum(says(a, right) for a, (_, right) in zip(answers, asked, strict=True)) / len(asked)


def perplexity(lm: LM) -> float:
    """exp(mean NLL) over 100 scenes of prose from a seed training never used."""
    scenes = [text.split(" ", 1) for text in islice(prose.scenes(77), 100)]
    logp = torch.cat(lm.logprobs([Query(first, rest) for first, rest in scenes]))
    return math.exp(-float(logp.mean()))


@torch.no_grad()
def swap(lm: LM, world: World, layer: int, pairs: int = 200) -> float:
    """Share of prompts that give another subject's answer once its hidden state stands at the last subject token."""
    rng, hit, tried = random.Random(3), 0, 0
    block = Site(layer, "block")
    while tried < pairs:
        relation = rng.choice(ATOMIC)
        one, other = rng.sample([t for t in world.triples if t.relation == relation.name], 2)
        i = rng.randrange(len(relation.phrasings))
        batches = [lm.tokens.batch([_query(t, i, answer=True)]) for t in (one, other)]
        if batches[0].labels[0] == batches[1].labels[0]:
            continue
        with Trace(lm, outputs=[block]) as trace:
            lm.forward(batches[1])
        vector = at(trace.outputs[block], batches[1].lookup)

        def put(hidden: torch.Tensor, v: torch.Tensor = vector, where: int = int(batches[0].lookup[0])) -> torch.Tensor:
            hidden = hidden.clone()
            hidden[:, where] = v
            return hidden

        with Trace(lm, replace={block: put}):
            logits = lm.answer_logits(batches[0])
        hit += int(logits[0].argmax()) == int(batches[1].labels[0])
        tried += 1
    return hit / tried


def _query(triple: Triple, phrasing: int, *, answer: bool) -> Query:
    prompt = triple.prompts()[phrasing]
    start = prompt.index(triple.subject)
    return Query(prompt, triple.answer if answer else "", (start, start + len(triple.subject)))


@torch.no_grad()
def norms(lm: LM, world: World) -> list[float]:
    """Mean norm of each block's output at the last subject token."""
    asked = [_query(t, 0, answer=False) for t in random.Random(4).sample(world.triples, 100)]
    batch, sites = lm.tokens.batch(asked), [Site(i, "block") for i in range(lm.depth)]
    with Trace(lm, outputs=sites) as trace:
        lm.forward(batch)
    return [float(at(trace.outputs[s], batch.lookup).float().norm(dim=1).mean()) for s in sites]


def edited(lm: LM, name: str, count: int) -> dict[str, float]:
    """Shares said by kind of probe, each edit alone."""
    method, scores = methods.make(name, {}), {}
    for fact in edits(count, seed=1):
        edit = method.solve(lm, [fact])
        asked = [("said", fact.prompt, fact.target), *((p.kind, p.prompt, p.answer) for p in fact.probes)]
        with lm.weights.trial([edit.deltas]):
            answers = lm.generate([prompt for _, prompt, _ in asked], max_new_tokens=8, rows=256)
        for (kind, _, right), answer in zip(asked, answers, strict=True):
            scores.setdefault(kind, []).append(says(answer, right))
    return {kind: sum(x) / len(x) for kind, x in scores.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--edits", type=int, default=100)
    args = parser.parse_args()
    lm, world = load(str(args.model.resolve())), World()
    told = [t for t in world.compositions if t.told]
    held = [t for t in world.compositions if not t.told]
    print("facts, by phrasing", [round(said(lm, list(world.triples), i), 4) for i in range(6)])
    print("compositions told", said(lm, told), "held out", said(lm, held))
    for name in ("birth_country", "employer_seat"):
        print("  held out", name, said(lm, [t for t in held if t.relation == name]))
    print("aliases told", said(lm, [t for t in world.aliases if t.told]))
    print("aliases held out", said(lm, [t for t in world.aliases if not t.told]))
    print("perplexity", perplexity(lm))
    print("norms", [round(x, 1) for x in norms(lm, world)])
    print("swap", [round(swap(lm, world, layer), 3) for layer in range(lm.depth)])
    for name in ("rome", "memit", "ft"):
        print(name, edited(lm, name, args.edits))
