"""A user's own JSONL, and the primer's generated world.

A row of one's own has `prompt` and `target`, and optionally `subject`, `id`, `truth`, `rephrases` (a method may train
on these), `probes` (asked only; kinds paraphrase, neighborhood, portability, alias, unrelated), `generation`,
`references`, `source` and `reason`. Where there are no paraphrases among the probes, the rephrases are asked in their
place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from errata.data.case import Answerable, Case
from errata.data.readers.raw import RawRow, fact
from errata.errors import BadConfig, BadFact, did_you_mean
from errata.fact import PROBE_KINDS, Fact, Probe
from errata.primer.probes import Probes
from errata.primer.world import PEOPLE, Triple, World

AboutSubject = tuple[str, str, str]  # what it is about, a text up to where the answer begins, and the answer
FEW, MANY = 3, 24  # questions about the subject itself, and about others
_FIELDS = (
    *("prompt", "target", "subject", "id", "truth", "rephrases", "probes"),
    *("generation", "references", "source", "reason", "joint", "chat", "messages"),
)
_ASKED_ONLY = ("generation", "references")  # which no fact has


def jsonl(record: RawRow) -> Case:
    """Read one row of the user's own."""
    for key in record.keys():  # noqa: SIM118
        if key not in _FIELDS:
            raise record.bad(key, f"unknown.{did_you_mean(key, _FIELDS)} Known: {', '.join(_FIELDS)}.")
    probes = [_probe(item) for item in record.subs("probes")]
    name, subject = record.name("id"), record.text("subject", "")
    if "{}" in record.text("prompt") and not subject:
        raise record.bad("subject", "missing, and the prompt has a place '{}' for it.")
    prompt, target, truth = (
        record.text("prompt").replace("{}", subject),
        record.text("target"),
        record.text("truth", ""),
    )
    written = _put(record, fact(name, prompt, subject, target, truth))
    rephrases = record.texts("rephrases")
    source, reason = record.text("source", ""), record.text("reason", "")
    _check_writable(record)
    case = Case(
        id=name,
        prompt=prompt,
        target=target,
        subject=subject,
        truth=truth,
        fact=replace(written, rephrases=rephrases, source=source, reason=reason),
        generation=record.texts("generation"),
        references=record.texts("references"),
        source="jsonl",
    )
    return replace(with_probes(case, probes), rephrases=_asked(probes, "paraphrase") or rephrases)


def _check_writable(record: RawRow) -> None:
    """Complain of a row that `errata edit` would refuse: what is measured is what can be written."""
    row = {name: value for name, value in record.row.items() if value is not None and name not in _ASKED_ONLY}
    if isinstance(row.get("id"), int):
        row["id"] = str(row["id"])
    try:
        Fact.from_dict(row)
    except BadFact as error:
        raise record.bad("prompt", str(error)) from error


def _put(record: RawRow, written: Fact) -> Fact:
    """Return the fact in the form in which the row says it is put to the model."""
    given = {name: record.row[name] for name in ("joint", "chat", "messages") if name in record.row}
    try:
        return replace(written, **given)
    except BadFact as error:
        raise record.bad(next(iter(given)), str(error)) from error


def _probe(record: RawRow) -> Probe:
    kind = record.text("kind")
    if kind not in PROBE_KINDS:
        raise record.bad("kind", f"no kind {kind!r}.{did_you_mean(kind, PROBE_KINDS)} Known: {', '.join(PROBE_KINDS)}.")
    needed = None if kind in ("portability", "neighborhood") else ""
    return Probe(kind, record.text("prompt"), record.text("answer", needed))


def _asked(probes: list[Probe], kind: str) -> tuple[str, ...]:
    return tuple(p.prompt for p in probes if p.kind == kind)


def with_probes(case: Case, probes: list[Probe]) -> Case:
    """Return the case with `probes` sorted into its fields; those of kind "portability" are one hop away.

    A neighbour whose own answer is the new target is left out: it cannot tell change from knowledge.
    """
    kinds = {
        "one_hop": tuple((p.prompt, (p.answer,)) for p in probes if p.kind == "portability"),
        "alias": tuple((p.prompt, (p.answer or case.target,)) for p in probes if p.kind == "alias"),
    }
    portability: dict[str, tuple[Answerable, ...]] = {kind: asked for kind, asked in kinds.items() if asked}
    near = [(p.prompt, p.answer) for p in probes if p.kind == "neighborhood"]
    return replace(
        case,
        rephrases=_asked(probes, "paraphrase"),
        neighborhood=tuple((prompt, answer) for prompt, answer in near if answer != case.target),
        unrelated=tuple((p.prompt, p.answer) for p in probes if p.kind == "unrelated"),
        portability=portability,
    )


def primer(count: int, people: int | None = None, seed: int = 0) -> list[Case]:
    """Return `count` edits of the primer's world with all their probes.

    Args:
        people: size of the world; unless given that of the shipped model.
        seed: which facts are edited, to what, and which probes are drawn. The world itself is always the shipped one.

    Raises:
        BadConfig: the world has fewer facts.
    """
    people = people or PEOPLE
    world = World(people)
    if count > len(world.triples):
        raise BadConfig(
            f"a world of {people} people has {len(world.triples)} facts, not {count}: ask for fewer, or for a larger "
            f"world with primer:{count}:{people * (count // len(world.triples) + 1)}."
        )
    alike: dict[tuple[str, str], list[Triple]] = defaultdict(list)
    for triple in world.triples:
        alike[triple.relation, triple.answer].append(triple)
    return [_primer_case(alike, edit) for edit in Probes(world, seed).edits(count)]


def primer_knows(words: str = "") -> list[Triple]:
    """Return the facts of the shipped world that have these words in them, all unless some are given."""
    return World().known(words)


def _primer_case(alike: Mapping[tuple[str, str], list[Triple]], edit: Fact) -> Case:
    relation = edit.source.rpartition(" ")[2]
    case = Case(
        id=edit.id,
        prompt=edit.prompt,
        target=edit.target,
        subject=edit.subject,
        truth=edit.truth,
        fact=replace(edit, rephrases=(), probes=()),
        generation=(edit.subject,),
        references=tuple(f"{t.prompts()[0]} {t.answer}." for t in alike[relation, edit.target][:10]),
        source=f"primer {relation}",
    )
    return with_probes(case, list(edit.probes))


def primer_questions(
    prompt: str, subject: str, target: str
) -> tuple[list[str], list[AboutSubject], list[AboutSubject]]:
    """Return what to ask about a new answer in the primer's world, empty where the prompt is no phrasing of that world.

    Returns:
        the prompt in other words; the same of other subjects; what else is known of the subject and of others.
    """
    world = World(PEOPLE)
    asked = [t for t in world.triples if t.subject == subject and prompt.strip() in t.prompts()]
    if not asked:
        return [], [], []
    (one, *_), place = asked, asked[0].prompts().index(prompt.strip())
    same = [t for t in world.triples if t.relation == one.relation and t.subject != subject and t.answer != target]
    other = [t for t in world.triples if t.relation != one.relation and t.answer != target]
    own = [t for t in other if t.subject == subject][:FEW]
    return (
        [text for text in one.prompts() if text != prompt.strip()],
        [(t.subject, t.prompts()[place], t.answer) for t in _spread(same)],
        [(t.subject, t.prompts()[0], t.answer) for t in (*own, *_spread(other))],
    )


def _spread(triples: list[Triple]) -> list[Triple]:
    """Return some of many, from all over."""
    return triples[:: max(1, len(triples) // MANY)]
