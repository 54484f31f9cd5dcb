"""KnowEdit: six tasks, three forms.

Data: Zhang et al., https://arxiv.org/abs/2401.01286. `wiki_recent`, `wiki_counterfact` and `zsre` share one form,
`wikibio` continues passages, `convsent` turns the sentiment of replies, `sanitation` makes a model refuse.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator

from errata.data.case import Answerable, Case
from errata.data.readers.counterfact import flat
from errata.data.readers.raw import RawRow, build
from errata.errors import BadFile

_KINDS = {"Reasoning": "one_hop", "Subject_Aliasing": "alias", "Logical_Generalization": "logical"}


def triples(source: str) -> Callable[[RawRow], Case]:
    """Return the reader of wiki_recent, wiki_counterfact or zsre records, named `source`."""

    def read(record: RawRow) -> Case:
        prompt, subject, target, truth = flat(record)
        return build(
            source,
            record.name("case_id"),
            prompt,
            target,
            subject=subject,
            truth=truth,
            rephrases=(*record.texts("rephrase"), *record.texts("rephrase_prompt")),
            unrelated=_unrelated(record),
            portability=portability(record),
        )

    return read


def asked(record: RawRow, field: str) -> Iterator[tuple[str, RawRow]]:
    """Yield (name of the kind, question) for {"Name of a kind": [{"prompt", "ground_truth"}]}."""
    if (groups := record.sub(field)) is None:
        return
    for name in groups.keys():  # noqa: SIM118
        yield from ((name, item) for item in groups.subs(name))


def _unrelated(record: RawRow) -> tuple[tuple[str, str], ...]:
    return tuple((item.text("prompt"), item.answer("ground_truth")) for _, item in asked(record, "locality"))


def portability(record: RawRow, field: str = "portability") -> dict[str, tuple[Answerable, ...]]:
    """Return the questions in {"Name of a kind": [{"prompt", "ground_truth"}]}, those without an answer left out."""
    found: dict[str, tuple[Answerable, ...]] = {}
    for name, item in asked(record, field):
        kind = _KINDS.get(name) or re.sub(r"\W+", "_", name.lower())
        prompt, answers = item.text("prompt"), item.answers("ground_truth")
        if answers:
            found[kind] = (*found.get(kind, ()), (prompt, answers))
    return found


def wikibio(record: RawRow) -> Case:
    """Read one passage to be continued with the true sentence."""
    prompt, target, subject = record.text("text"), record.text("labels"), record.text("concept")
    number = record.name("case_id")
    return build("wikibio", number, prompt, target, subject=subject, unrelated=_unrelated(record))


def convsent(record: RawRow) -> Case:
    """Read one entity with replies of both sentiments, to be given the one it is drawn (by its name, half and half).

    The target is the first reply of that sentiment, the truth the first of the other; all replies of the wanted
    sentiment are references for `consistency`. The question is SERAC's (Mitchell et al.,
    https://arxiv.org/abs/2206.06520).
    """
    entity = record.text("ent")
    sides = ("pos", "neg") if zlib.crc32(entity.encode()) % 2 else ("neg", "pos")
    wanted, other = (record.texts(side) for side in sides)
    if not wanted:
        raise record.bad(sides[0], "missing or empty.")
    prompt = f"What do you think of {entity}?"
    return build(
        f"convsent to {sides[0]}",
        record.name("case_id"),
        prompt,
        wanted[0],
        subject=entity,
        truth=other[0] if other else "",
        generation=(prompt,),
        references=wanted,
    )


def sanitation_records(record: RawRow) -> Iterator[RawRow]:
    """Yield one record for each answer to forget, the questions to retain dealt out among them.

    Raises:
        BadFile: the file is not one object with {"success", "locality"} or {"K_F", "K_R"}.
    """
    forget, retain = ("K_F", "K_R") if "K_F" in record else ("success", "locality")
    asked = record.subs(forget)
    if not asked:
        raise record.bad(forget, "missing; the file has one object with success and locality, or K_F and K_R.")
    kept = [(item.text("question"), item.text("ground_truth")) for item in record.subs(retain)]
    for number, item in enumerate(asked):
        mine = [{"prompt": p, "answer": a} for p, a in kept[number :: len(asked)]]
        yield RawRow(f"{item.place} number {number + 1}", {**item.row, "retain": mine}, number)


def sanitation(record: RawRow) -> Case:
    """Read one question whose answer shall be refused; only half of the published files name a subject."""
    if "retain" not in record:
        raise BadFile(f"{record.place}: not a sanitation record; the file has one object, as it was published.")
    return build(
        "sanitation",
        record.name("case_id"),
        record.text("question"),
        record.text("target_new"),
        subject=record.text("subject", ""),
        truth=record.text("ground_truth"),
        unrelated=tuple((item.text("prompt"), item.text("answer")) for item in record.subs("retain")),
    )
