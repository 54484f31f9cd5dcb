"""Edits of the world with every way to check them.

An edit gives a subject another answer of the same relation, which training has stated of some other subject, so that
the model can say it. Its probes have exact answers:

    paraphrase    the other phrasings → the new answer
    neighborhood  other subjects with the same true answer (where there are none, other subjects) → their own answer
    portability   a composition over the edited fact → what follows from the new answer
    alias         the same question about the subject's nickname → the new answer
    unrelated     other relations of the subject, and facts of other relations → unchanged
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from errata.fact import Fact, Probe
from errata.primer.relations import ALIAS, ATOMIC, COMPOSED
from errata.primer.world import RELATIONS, Triple, World

NEIGHBORS = 5


class Probes:
    """Edits of one world, indexed once.

    Args:
        world: where facts come from.
        seed: which new answers and probes are drawn.
    """

    def __init__(self, world: World, seed: int = 0) -> None:
        self._world, self._seed = world, seed
        self._alike: dict[tuple[str, str], list[Triple]] = defaultdict(list)  # (relation, answer) → facts
        self._relation: dict[str, list[Triple]] = defaultdict(list)
        for triple in world.triples:
            self._alike[triple.relation, triple.answer].append(triple)
            self._relation[triple.relation].append(triple)
        self._answers = {name: sorted({t.answer for t in facts}) for name, facts in self._relation.items()}
        self._known = {(t.subject, t.relation): t.answer for t in world.triples}
        self._told = {(t.subject, t.relation) for t in world.told}
        self._alias = {t.subject: t.answer for t in world.aliases if t.relation == ALIAS.name}

    def edits(self, count: int) -> list[Fact]:
        """Return `count` edits of different facts, drawn evenly from all of them.

        Raises:
            ValueError: the world has fewer facts.
        """
        rng = random.Random(f"edits:{self._seed}")
        chosen = rng.sample(range(len(self._world.triples)), count)
        return [
            self.edit(self._world.triples[i], random.Random(f"edit:{self._seed}:{i}"), f"primer-{i}") for i in chosen
        ]

    def edit(self, triple: Triple, rng: random.Random, name: str = "") -> Fact:
        """Return the edit of one fact to a new answer, with its probes."""
        new = rng.choice([a for a in self._answers[triple.relation] if a != triple.answer])
        prompt, *rephrases = triple.prompts()
        probes = (*(Probe("paraphrase", p, new) for p in rephrases), *self._neighbors(triple, rng))
        probes += (*self._portability(triple, new), *self._aliased(triple, new), *self._unrelated(triple, rng))
        return Fact(
            id=name, prompt=prompt, subject=triple.subject, target=new, truth=triple.answer,
            rephrases=tuple(rephrases), probes=probes, source=f"primer world, {triple.relation}",
        )  # fmt: skip

    def _neighbors(self, triple: Triple, rng: random.Random) -> Iterator[Probe]:
        near = [t for t in self._alike[triple.relation, triple.answer] if t.subject != triple.subject]
        near = near or [t for t in self._relation[triple.relation] if t.subject != triple.subject]
        for other in rng.sample(near, min(NEIGHBORS, len(near))):
            yield Probe("neighborhood", rng.choice(other.prompts()), other.answer)

    def _portability(self, triple: Triple, new: str) -> Iterator[Probe]:
        # Only compositions training has stated of this subject: the model must know the old to be asked the new.
        for relation, first, second in COMPOSED:
            if first != triple.relation or (triple.subject, relation.name) not in self._told:
                continue
            follows = self._known.get((new, second))
            if follows and follows != self._known[triple.answer, second]:
                yield Probe("portability", relation.phrasings[0].format(s=triple.subject), follows)

    def _aliased(self, triple: Triple, new: str) -> Iterator[Probe]:
        alias = self._alias.get(triple.subject)
        if alias and (alias, triple.relation) in self._told:
            yield Probe("alias", RELATIONS[triple.relation].phrasings[0].format(s=alias), new)

    def _unrelated(self, triple: Triple, rng: random.Random) -> Iterator[Probe]:
        own = [t for t in self._world.about[triple.subject] if t.relation != triple.relation]
        other = rng.choice([r.name for r in ATOMIC if r.name != triple.relation and self._relation[r.name]])
        for fact in (*own, rng.choice(self._relation[other])):
            yield Probe("unrelated", fact.prompts()[0], fact.answer)


def edits(count: int, world: World | None = None, seed: int = 0) -> Sequence[Fact]:
    """Return `count` edits of a world (the shipped one unless given) with all their probes.

    Raises:
        ValueError: the world has fewer facts.
    """
    return Probes(world or World(), seed).edits(count)
