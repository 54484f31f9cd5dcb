"""What an edit will do to an index of keys, told before it stands: what is added, what grows, what is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from errata.delta import Graft, Site
from errata.edit import Edit
from errata.model.fold import derived
from errata.model.grafts.keyed import KINDS, Keyed, keyed
from errata.model.lm import LM

Held: TypeAlias = tuple[Edit, Graft]  # an edit, and where its keys are


def preview(lm: LM, name: str, past: Sequence[Edit], graft: Graft) -> dict[str, Any]:
    """Return what an edit will do to the index: its events, the clusters there are then, and what is forgotten, by edit.

    Args:
        name: the bank's. past: the edits that stand. graft: the new edit's keys.
    """
    kind, _, where = name.partition("@")
    index = Site.parse(where)

    def entered(held: list[Held], edit: Edit) -> list[Held]:
        found = keyed(edit.deltas, kind)
        if found and found[0] == index:
            held.append((edit, found[1]))
        return held

    held = derived(lm, ("keyed", name), past, list[Held], entered)
    standing = lm.weights.grafts.bank(name)
    if not isinstance(standing, Keyed) or standing.edits != len(held):
        made = KINDS[kind](index, lm)
        assert isinstance(made, Keyed)
        standing = made
        for _, keys in held:
            standing.take_keys(keys)
    with standing.trying(graft) as events:
        assert standing.clusters is not None
        lost = [_forgotten(held, standing, point) for event in events for point in event.forgotten]
        return {"events": [event.kind for event in events], "clusters": len(standing.clusters), "forgotten": lost}


def _forgotten(held: Sequence[Held], bank: Keyed, point: int) -> dict[str, str]:
    number = bank.opens[point]
    if number == len(held):
        return {"edit": "", "prompt": "a fact of this edit itself"}
    edit, _ = held[number]
    return {"edit": edit.id, "prompt": edit.facts[point - bank.opens.index(number)].prompt}
