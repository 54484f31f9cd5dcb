"""The prompt of a fact about others, whom an edit is to leave alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from errata.data.common import relations
from errata.fact import Fact, occurrences
from errata.model.fitting import fits
from errata.model.lm import LM
from errata.model.query import Query


def about_others(lm: LM, facts: Sequence[Fact], count: int, seed: int) -> list[Query]:
    """Return each fact's prompt about so many other subjects, drawn from the table of public facts.

    Args:
        facts: one that names no subject has none. count: subjects for each fact, as evenly of the table's kinds as can be.
        seed: what they are drawn from.
    """
    kinds = [[subject for subject, _ in relation.rows] for relation in relations()]
    found: list[Query] = []
    for fact in facts:
        if not fact.subject:
            continue
        rng = random.Random(f"{seed} {fact.prompt}")
        order = [rng.sample(kind, len(kind)) for kind in rng.sample(kinds, len(kinds))]
        turns = (kind[turn] for turn in range(max(map(len, order))) for kind in order if turn < len(kind))
        others = [name for name in dict.fromkeys(turns) if not occurrences(fact.prompt, name)][:count]
        found += [_about(fact, name) for name in others]
    return [query for query in found if fits(lm, query)]


def _about(fact: Fact, name: str) -> Query:
    """Return a fact's prompt with another name wherever its subject stands."""
    spans = occurrences(fact.prompt, fact.subject)
    ends = [0, *(end for _, end in spans)]
    pieces = [fact.prompt[end:start] for end, (start, _) in zip(ends, spans, strict=False)]
    rest = fact.prompt[ends[-1] :]
    text = name.join([*pieces, rest])
    start = len(text) - len(rest) - len(name)
    return replace(Query.of(fact, ""), prompt=text, span=(start, start + len(name)))
