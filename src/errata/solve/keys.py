"""Keys and values at the subject's last token, for many facts and prefixes in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Site
from errata.fact import Fact
from errata.model.fitting import fits
from errata.model.generation import context
from errata.model.lm import LM
from errata.model.tokens import Query
from errata.model.trace import Trace, at

ROWS = 256  # rows of one forward pass


def prefixes(lm: LM, seed: int, count: int = 5, length: int = 10) -> tuple[str, ...]:
    """Return the contexts an edit is computed in: the bare prompt, and what it follows, `count` samples of the base.

    Each ends in a full stop, so that the prompt begins a sentence of its own (ROME, arXiv 2202.05262, App. E.5).
    """
    key = ("prefixes", seed, count, length)
    if key not in lm.memory:
        with lm.weights.at_base():
            texts = lm.sample(count, length, seed)
        lm.memory[key] = ("", *(f"{text.rstrip(' .,:;')}." for text in texts if text.strip(" .,:;")))
    found: tuple[str, ...] = lm.memory[key]
    return found


class Contexts(NamedTuple):
    """Texts that a prompt is read after, and how many of those there are were left out because they would not fit."""

    texts: tuple[str, ...]
    left_out: int = 0

    def report(self, lm: LM) -> dict[str, list[str]]:
        """Return what an edit's report is to say of it: a note, or nothing."""
        if not self.left_out:
            return {}
        few = f"{self.left_out} text{'s' * (self.left_out > 1)} that prompts are read after"
        return {
            "notes": [
                f"{few} left out: with them a prompt would be longer than the {context(lm)} tokens {lm.name} reads."
            ]
        }


def contexts_for(lm: LM, facts: Sequence[Fact], every: Sequence[str], answers: Sequence[str] = ()) -> Contexts:
    """Return those contexts with which each of the facts fits into the model; the bare prompt always does.

    Args:
        every: what `prefixes` gives. answers: other answers than the targets that are read after the prompts, too.
    """
    asked = [*map(Query.of, facts), *(Query.of(f, a) for f, a in zip(facts, answers, strict=False))]
    texts = tuple(c for c in every if not c or all(fits(lm, query.after(c)) for query in asked))
    return Contexts(texts, len(every) - len(texts))


def queries(facts: Sequence[Fact], contexts: Sequence[str], *, answers: bool) -> list[Query]:
    """Return every fact after every context, fact by fact; with the target as answer if `answers`."""
    return [Query.of(f, None if answers else "").after(c) for f in facts for c in contexts]


@torch.no_grad()
def gather(
    lm: LM, asked: Sequence[Query], *, inputs: Sequence[Site] = (), outputs: Sequence[Site] = ()
) -> tuple[dict[Site, Float[Tensor, "q in"]], dict[Site, Float[Tensor, "q out"]]]:
    """Return inputs and outputs of sites at each query's lookup token, in one pass up to the deepest block."""
    stop = Site(max(site.layer for site in (*inputs, *outputs)), "block")
    parts: list[tuple[dict[Site, Tensor], dict[Site, Tensor]]] = []
    for part in _chunks(asked):
        batch = lm.tokens.batch(part)
        with Trace(lm, inputs=inputs, outputs=outputs, stop=stop) as trace:
            lm.forward(batch)
        parts.append(
            (
                {s: at(trace.inputs[s], batch.lookup) for s in inputs},
                {s: at(trace.outputs[s], batch.lookup) for s in outputs},
            )
        )
    return {s: torch.cat([p[0][s] for p in parts]) for s in inputs}, {
        s: torch.cat([p[1][s] for p in parts]) for s in outputs
    }


def _chunks(asked: Sequence[Query]) -> Iterator[Sequence[Query]]:
    for start in range(0, len(asked), ROWS):
        yield asked[start : start + ROWS]


def mean_keys(
    lm: LM, sites: Sequence[Site], facts: Sequence[Fact], contexts: Sequence[str]
) -> dict[Site, Float[Tensor, "n in"]]:
    """Return k*: the key of each fact's subject, averaged over the contexts."""
    found, _ = gather(lm, queries(facts, contexts, answers=False), inputs=sites)
    return {site: k.reshape(len(facts), len(contexts), -1).mean(1) for site, k in found.items()}
