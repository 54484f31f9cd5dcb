"""The prompt of a fact about others, whom an edit is to leave alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from errata.data.common import relations
from errata.fact import Fact
from errata.model.fitting import fits
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve import keys


def about_others(lm: LM, facts: Sequence[Fact], count: int, seed: int) -> list[Query]:
    """Return each fact's prompt about so many other subjects, drawn from the table of public facts.

    Args:
        facts: one that names no subject has none. count: subjects for each fact, as evenly of the table's kinds as can be.
        seed: what they are drawn from.
    """
    kinds = [[subject for subject, _ in relation.rows] for relation in relations()]
    found: list[Fact] = []
    for fact in facts:
        if not fact.subject or fact.subject not in fact.prompt:
            continue
        rng = random.Random(f"{seed} {fact.prompt}")
        order = [rng.sample(kind, len(kind)) for kind in rng.sample(kinds, len(kinds))]
        turns = (kind[turn] for turn in range(max(map(len, order))) for kind in order if turn < len(kind))
        others = [name for name in dict.fromkeys(turns) if name not in fact.prompt][:count]
        found += [replace(fact, prompt=fact.prompt.replace(fact.subject, name), subject=name) for name in others]
    asked = keys.queries(lm, found, [""], answers=False) if found else []
    return [query for query in asked if fits(lm, query)]
