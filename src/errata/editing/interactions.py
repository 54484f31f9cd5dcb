"""What several people's edits do to one another: does the model with all of them still say what it says with each one's alone?

    interactions(lm, {"ours": ours, "theirs": theirs})

Whose edits come first does not matter: each side is asked its own facts with its own edits alone, then all sides theirs with
the edits of all. Every side's edits stand in the order they have, and what several sides have stands once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from errata import methods
from errata.book import facts
from errata.edit import Edit
from errata.editing.collisions import collisions
from errata.evaluate.scorer import Scorer
from errata.fact import Fact, Question, answered, question
from errata.model.lm import LM
from errata.model.query import Query

MOST: Final = 1_000  # facts asked of a side, the newest


@dataclass(frozen=True, slots=True)
class LostFact:
    """A fact that the model says with its side's edits alone, and not with everybody's.

    Args:
        side: whose it is. edit_id: the edit that writes it. said: by the model with all edits.
        by: the other sides' edits that are likeliest to have done it. why: "contradiction", "inverse", "key" (its key is moved
            by them), or "" where neither facts nor keys tell.
    """

    side: str
    edit_id: str
    fact: Fact
    said: str
    by: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Interactions:
    """What came of putting sides together.

    Args:
        alone, together: for each side, how many of its facts are said with its edits alone, and with those of all.
        asked: how many were asked. lost: those said alone and not together. won: those said together only.
    """

    alone: Mapping[str, int]
    together: Mapping[str, int]
    asked: Mapping[str, int]
    lost: Sequence[LostFact] = field(default_factory=list)
    won: int = 0


def interactions(lm: LM, sides: Mapping[str, Sequence[Edit]]) -> Interactions:
    """Ask each side's facts of the model with its edits alone, and with those of all sides; the model is put back.

    Args:
        sides: the edits of each, oldest first, by what it is to be called. Of a question that a side answers twice the last
            answer is asked.
    """
    stood, wanted = lm.weights.stood, {name: _last(edits) for name, edits in sides.items()}
    alone: dict[str, dict[Question, bool]] = {}
    try:
        for name, edits in sides.items():
            said = _said(lm, edits, wanted[name].values())
            alone[name] = {asked: answered(one.fact, said[asked]) for asked, one in wanted[name].items()}
        union = list({edit.id: edit for edits in sides.values() for edit in edits}.values())
        said = _said(lm, union, [one for asked in wanted.values() for one in asked.values()])
    finally:
        lm.weights.stand(stood)
    both = {
        name: {asked: answered(one.fact, said[asked]) for asked, one in asks.items()} for name, asks in wanted.items()
    }
    gone = [
        (name, asked)
        for name, asks in alone.items()
        for asked, right in asks.items()
        if right and not both[name][asked]
    ]
    causes = _causes(sides, [(name, wanted[name][asked]) for name, asked in gone]) if gone else {}
    lost = [
        LostFact(name, one.edit_id, one.fact, said[asked].strip(), *causes.get((name, asked), ((), "")))
        for name, asked in gone
        for one in [wanted[name][asked]]
    ]
    one, all_ = ({name: sum(asks.values()) for name, asks in found.items()} for found in (alone, both))
    won = sum(both[name][asked] and not right for name, asks in alone.items() for asked, right in asks.items())
    return Interactions(one, all_, {name: len(asks) for name, asks in wanted.items()}, lost, won)


def _last(edits: Iterable[Edit]) -> dict[Question, facts.Said]:
    """Return what edits say last of each question, the newest of many."""
    found: dict[Question, facts.Said] = {}
    for edit in edits:
        for fact in edit.facts:
            found.pop(question(fact), None)
            found[question(fact)] = facts.Said(fact, edit.id)
    return dict(list(found.items())[-MOST:])


def _said(lm: LM, edits: Sequence[Edit], wanted: Iterable[facts.Said]) -> dict[Question, str]:
    """Return what the model says to each question with exactly these edits."""
    lm.weights.stand([edit.deltas for edit in methods.rebuilt(lm, edits)])
    asked = {question(one.fact): one.fact for one in wanted}
    room = lm.room(fact.target for fact in asked.values())
    said = Scorer(lm).said([Query.asked(fact) for fact in asked.values()], room)
    return {key: said[Query.asked(fact)] or "" for key, fact in asked.items()}


def _causes(
    sides: Mapping[str, Sequence[Edit]], lost: Sequence[tuple[str, facts.Said]]
) -> dict[tuple[str, Question], tuple[tuple[str, ...], str]]:
    """Return, for each lost fact, the other sides' edits that get in its way, and how; facts are looked at before keys."""
    every = [edit for edits in sides.values() for edit in edits]
    near: dict[str, list[str]] = {}
    compared = list({edit.id: edit for edit in every}.values())
    for pair in (
        collisions(compared) if len(compared) <= 2 * MOST else ()
    ):  # every key with every change: not of very many
        near.setdefault(pair.edit_id, []).append(pair.other_id)
    found = {}
    for name, one in lost:
        own = {edit.id for edit in sides[name]}
        others = [facts.Said(fact, edit.id) for edit in every if edit.id not in own for fact in edit.facts]
        clashes = [c for c in facts.conflicts([one], others) if c.kind != "duplicate"]
        by, why = [c.second.edit_id for c in clashes], clashes[0].kind if clashes else ""
        if not by and (by := [id for id in near.get(one.edit_id, ()) if id not in own]):
            why = "key"
        found[name, question(one.fact)] = tuple(dict.fromkeys(by)), why
    return found
