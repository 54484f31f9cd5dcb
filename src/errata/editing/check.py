"""Asking a model about its own book: which edits hold.

[verdict for verdict in check(editor) if verdict.status == "forgotten"]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from errata.answers import same_answer
from errata.edit import Edit
from errata.editing.editor import Editor
from errata.editing.made import with_probes
from errata.evaluate.scorer import Scorer
from errata.fact import Fact, answered, question
from errata.model.query import Prompt, Query

MADE: Final = 100  # facts that probes are made for
STATUSES: Final = ("holds", "forgotten", "overridden", "expired", "early")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of asking about one fact.

    Args:
        edit_id, fact: what was asked about. said: what the model says.
        status: "holds"; "forgotten" (no edit since says otherwise, and still it is not said); "overridden" (a later edit
            answers the question otherwise); "expired" or "early" (today is not one of its days), whatever is said.
        by: the edit that overrides it.
        probes: for each kind of probe, how many were answered as they should be and how many were asked.
        made: kinds of which nobody had written any, so that they were made.
        dropped: whether the edit was dropped because it had expired.
    """

    edit_id: str
    fact: Fact
    said: str
    status: str
    by: str
    probes: Mapping[str, tuple[int, int]]
    dropped: bool = False
    made: tuple[str, ...] = ()


def check(editor: Editor, today: str = "", *, drop_expired: bool = False) -> list[Verdict]:
    """Ask about every fact that stands, and its probes; the newest `MADE` of those without any are given some.

    Args:
        today: a day, ISO 8601; by default this one. drop_expired: drop edits whose last day has passed.
    """
    today = today or datetime.now(UTC).date().isoformat()
    standing = editor.standing
    stored = [(edit, fact) for edit in standing for fact in edit.facts]
    asked = _probed(editor, stored)
    last = {question(fact): (edit.id, fact) for edit, fact in asked}
    probes = [(Query.asked(fact, p.prompt), p.answer) for _, fact in asked for p in fact.probes if p.answer]
    facts = [(Query.asked(fact), fact.target) for _, fact in asked]
    said: dict[Prompt, str] = {}
    for pairs in (probes, facts):  # apart, so that a long answer of a probe gives no other text to a fact
        room = editor.lm.room(answer for _, answer in pairs)
        found = Scorer(editor.lm).said([prompt for prompt, _ in pairs], room)
        said |= {prompt: text or "" for prompt, text in found.items()}
    verdicts = []
    for (edit, fact), (_, own) in zip(asked, stored, strict=True):
        by, newest = last[question(fact)]
        over = bool(edit.valid_until) and edit.valid_until < today
        text = said[Query.asked(fact)]
        status = "holds" if answered(fact, text) else "forgotten"
        if by != edit.id and not same_answer(newest.target, fact.target):
            status = "overridden"
        elif over:
            status = "expired"
        elif edit.valid_from > today:
            status = "early"
        by = by if status == "overridden" else ""
        dropped = drop_expired and over  # overridden or not: once the later edit is dropped, it would be said again
        made = tuple(dict.fromkeys(probe.kind for probe in fact.probes if probe.made))
        verdicts.append(Verdict(edit.id, own, text, status, by, _probes(fact, said), dropped, made))
    if expired := sorted({verdict.edit_id for verdict in verdicts if verdict.dropped}):
        editor.drop(*expired, reason="its last day has passed")
    return verdicts


def _probed(editor: Editor, asked: list[tuple[Edit, Fact]]) -> list[tuple[Edit, Fact]]:
    """Return facts with something to ask about each, which is what the unedited model says of others."""
    bare = [number for number, (_, fact) in enumerate(asked) if not fact.probes][-MADE:]
    if not bare:
        return asked
    facts = [asked[number][1] for number in bare]
    with editor.standing_as([]) as lm:
        found = with_probes(lm, facts, moved=[fact for _, fact in asked], sampled=False)
    probed = dict(zip(bare, found, strict=True))
    return [(edit, probed.get(number, fact)) for number, (edit, fact) in enumerate(asked)]


def _probes(fact: Fact, said: Mapping[Prompt, str]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for probe in fact.probes:
        if probe.answer:
            right, asked = found.get(probe.kind, (0, 0))
            text = said[Query.asked(fact, probe.prompt)]
            found[probe.kind] = right + answered(fact, text, probe.answer), asked + 1
    return found
