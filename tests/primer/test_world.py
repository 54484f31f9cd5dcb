"""The world is a function of seed and size, and its probes have exact answers."""

from __future__ import annotations

from collections import Counter

import pytest

from errata.fact import PROBE_KINDS
from errata.primer.geography import COUNTRIES
from errata.primer.probes import Probes, edits
from errata.primer.relations import ALIAS, ATOMIC, COMPOSED
from errata.primer.world import RELATIONS, Triple, World


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_same_seed_same_world_other_seed_other_world(world: World) -> None:
    assert World().triples == world.triples
    assert World().aliases == world.aliases
    assert World(seed=1).triples != world.triples


def test_sizes(world: World) -> None:
    assert len(COUNTRIES) >= 120
    assert len(set(world.people)) >= 600
    assert len(World(32_000).triples) > 100_000
    assert all(len(r.phrasings) >= 6 for r in ATOMIC)
    assert all(sum("?" in p for p in r.phrasings) == 2 for r in ATOMIC)


def test_names_are_shared_so_that_only_the_whole_name_identifies(world: World) -> None:
    first, last = (Counter(name.split()[i] for name in world.people) for i in (0, 1))
    assert min(first.values()) > 1
    assert min(last.values()) > 1


def test_one_answer_to_every_question(world: World) -> None:
    answers: dict[str, str] = {}
    for triple in (*world.triples, *world.compositions, *world.aliases):
        for prompt in triple.prompts():
            assert answers.setdefault(prompt, triple.answer) == triple.answer, prompt


def test_no_prompt_is_the_beginning_of_another_about_the_same_subject() -> None:
    """Else the model could not know whether to answer or to go on."""
    relations = (*ATOMIC, ALIAS, *(c[0] for c in COMPOSED))
    phrasings = [(r.subject, p) for r in relations for p in r.phrasings]
    for kind, prompt in phrasings:
        assert not [p for k, p in phrasings if k == kind and p != prompt and p.startswith(prompt)]


def test_compositions_follow_from_their_parts_and_a_fifth_is_never_told(world: World) -> None:
    known = {(t.subject, t.relation): t.answer for t in world.triples}
    parts = {relation.name: (first, second) for relation, first, second in COMPOSED}
    for triple in world.compositions:
        first, second = parts[triple.relation]
        assert triple.answer == known[known[triple.subject, first], second]
    held = [t for t in world.compositions if not t.told]
    assert 0.15 < len(held) / len(world.compositions) < 0.25
    assert not set(held) & set(world.told)


def test_every_edit_asks_for_an_answer_training_has_given(world: World) -> None:
    said = {(t.relation, t.answer) for t in world.triples}
    relation_of = {p.format(s=t.subject): t.relation for t in world.triples for p in RELATIONS[t.relation].phrasings}
    for fact in edits(300, world):
        assert (relation_of[fact.prompt], fact.target) in said
        assert fact.target != fact.truth


def test_every_kind_of_probe_has_its_exact_answer(world: World) -> None:
    truth = {p: t for t in (*world.triples, *world.compositions, *world.aliases) for p in t.prompts()}
    seen = Counter()
    for fact in edits(600, world):
        about = truth[fact.prompt]
        for probe in fact.probes:
            seen[probe.kind] += 1
            asked = truth[probe.prompt]
            if probe.kind == "paraphrase":
                assert (asked.subject, asked.relation, probe.answer) == (about.subject, about.relation, fact.target)
            elif probe.kind in ("neighborhood", "unrelated"):
                assert (asked.subject, asked.relation) != (about.subject, about.relation)
                assert probe.answer == asked.answer
            elif probe.kind == "alias":
                assert (asked.relation, probe.answer) == (about.relation, fact.target)
            else:
                assert asked.subject == about.subject
                assert asked.told
                assert probe.answer != asked.answer
    assert set(seen) == set(PROBE_KINDS)


def test_edits_depend_on_the_seed_only(world: World) -> None:
    assert edits(20, world) == edits(20, World())
    assert edits(20, world, seed=1) != edits(20, world)
    one = world.triples[7]
    assert isinstance(one, Triple)
    assert len({f.id for f in Probes(world).edits(100)}) == 100
