"""Which colour, marker and dash a method has: the same in every report, whatever it is compared with.

A slot is a number: its remainder by eight is the colour, and from eight on curves are dashed and markers other ones. The
methods that are compared most have a colour to themselves; two of one colour stand rarely in one report. Of several runs of a
method the first has its slot; others, and methods of plugins, have one by their name, or the next that is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from zlib import crc32

from errata.report.read import RunReport

_ORDER: Final = (
    "rome", "memit", "ledger", "alphaedit", "ft", "lora", "melo", "none",
    "kn", "locft", "wise", "grace", "emmet", "oedit", "ultraedit", "kne",
    "scr", "crispedit", "rlsedit", "ike", "mend", "anyedit",
)  # fmt: skip
OWN: Final = {method: slot for slot, method in enumerate(_ORDER)}


def slots_of(runs: Sequence[RunReport]) -> dict[str, int]:
    """Return a slot for each label, no two the same."""
    labels = {run.label: run.method for run in runs}
    slots: dict[str, int] = {}
    for label, method in labels.items():
        if method in OWN and OWN[method] not in slots.values():
            slots[label] = OWN[method]
    for label in labels:
        if label not in slots:
            slots[label] = _free(crc32(label.encode("utf-8", "surrogatepass")) % len(OWN), set(slots.values()))
    return {label: slots[label] for label in labels}


def _free(wanted: int, taken: set[int]) -> int:
    """Return the slot wanted, or the next that is free; one of an unused colour where there is one."""
    turned = [(wanted + step) % len(OWN) for step in range(len(OWN))]
    colours = {slot % 8 for slot in taken}
    free = [slot for slot in turned if slot not in taken]
    fresh = [slot for slot in free if slot % 8 not in colours]
    return (fresh or free or [max(taken) + 1])[0]
