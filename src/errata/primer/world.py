"""The primer's world: who was born where, what is whose capital, and every way to ask.

A world is a pure function of its seed and size. It writes the sentences the primer is trained on and generates, for any
fact, an edit with every kind of probe evaluation needs: paraphrases, neighbours, compositions, aliases and unrelated
questions, each with its exact answer.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from errata.primer import geography, names
from errata.primer.relations import ALIAS, ATOMIC, COMPOSED, INSTRUMENTS, LANGUAGES, OCCUPATIONS, PRODUCTS, Relation

RELATIONS: dict[str, Relation] = {r.name: r for r in (*ATOMIC, ALIAS, *(c[0] for c in COMPOSED))}
HELD_OUT = 0.2  # share of compositions never written down in training
PEOPLE = 640  # size of the shipped world


@dataclass(frozen=True, slots=True)
class Triple:
    """One true statement; `told` is False where training never states it (held-out compositions and alias facts)."""

    subject: str
    relation: str
    answer: str
    told: bool = True

    def prompts(self) -> list[str]:
        """Return every phrasing, up to where the answer begins."""
        return [p.format(s=self.subject) for p in RELATIONS[self.relation].phrasings]


class World:
    """All facts of one world.

    Args:
        people: number of invented people; towns and companies grow with it. 20,000 people make about 100,000 facts.
        seed: same seed and size, same world.
    """

    def __init__(self, people: int = PEOPLE, seed: int = 0) -> None:
        self.seed = seed
        rng = random.Random(f"world:{seed}:{people}")
        self.people = names.people(rng, people)
        self.towns = names.towns(rng, max(48, people // 14))
        self.companies = names.companies(rng, max(40, people // 20))
        self.triples: tuple[Triple, ...] = (*_geography(), *self._towns(rng), *self._companies(rng), *self._people(rng))
        self._answer = {(t.subject, t.relation): t.answer for t in self.triples}
        self.compositions: tuple[Triple, ...] = tuple(self._composed(rng))
        self.aliases: tuple[Triple, ...] = tuple(self._aliases(rng))

    def _towns(self, rng: random.Random) -> Iterator[Triple]:
        countries = rng.sample([c.name for c in geography.COUNTRIES], 24)
        for town in self.towns:
            yield Triple(town, "located_in", rng.choice(countries))

    def _companies(self, rng: random.Random) -> Iterator[Triple]:
        founders = rng.sample(self.people, len(self.companies))
        for company, founder in zip(self.companies, founders, strict=True):
            yield Triple(company, "founded_by", founder)
            yield Triple(company, "headquartered_in", rng.choice(self.towns))
            yield Triple(company, "makes", rng.choice(PRODUCTS))

    def _people(self, rng: random.Random) -> Iterator[Triple]:
        pools: dict[str, Sequence[str]] = {
            "works_as": OCCUPATIONS, "employed_by": self.companies, "speaks": LANGUAGES, "plays": INSTRUMENTS,
        }  # fmt: skip
        for person in self.people:
            yield Triple(person, "born_in", rng.choice(self.towns))
            # Not everything is known about everybody: two of the four other relations.
            for relation in rng.sample(list(pools), 2):
                yield Triple(person, relation, rng.choice(pools[relation]))

    def _composed(self, rng: random.Random) -> Iterator[Triple]:
        for relation, first, second in COMPOSED:
            for person in self.people:
                bridge = self._answer.get((person, first))
                if bridge is not None:
                    yield Triple(person, relation.name, self._answer[bridge, second], told=rng.random() >= HELD_OUT)

    def _aliases(self, rng: random.Random) -> Iterator[Triple]:
        aliased = rng.sample(self.people, min(60, len(self.people) // 10))
        for person, alias in zip(aliased, names.nicknames(rng, len(aliased)), strict=True):
            yield Triple(person, ALIAS.name, alias)
            for triple in self.about[person]:
                yield Triple(alias, triple.relation, triple.answer, told=rng.random() >= HELD_OUT)

    @cached_property
    def about(self) -> dict[str, list[Triple]]:
        """Facts by subject."""
        index: dict[str, list[Triple]] = defaultdict(list)
        for triple in self.triples:
            index[triple.subject].append(triple)
        return index

    def known(self, words: str = "") -> list[Triple]:
        """Return what a reader may ask: every fact, or those that have the words in question or answer, in any letters."""
        wanted = words.casefold()
        return [t for t in self.triples if wanted in f"{t.prompts()[0]} {t.answer}".casefold()]

    @property
    def told(self) -> list[Triple]:
        """Every triple training may state."""
        return [t for t in (*self.triples, *self.compositions, *self.aliases) if t.told]


def _geography() -> Iterator[Triple]:
    for country in geography.COUNTRIES:
        for relation in ("capital", "continent", "language", "currency"):
            yield Triple(country.name, relation, getattr(country, relation))
    for region, capital in geography.REGIONS:
        yield Triple(region, "capital", capital)
