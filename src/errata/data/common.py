"""Public facts of ten relations in several wordings, to measure a model by: what it tells apart and what it knows.

    for relation in relations():
        relation.name, relation.asked("France")       # "capital", ("The capital of France is", …)

The table is `common.txt`, which anyone can read and add to.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class CommonRelation:
    """One relation of the table.

    Args:
        name: such as "capital". wordings: text up to where the answer begins, {} for what it is about.
        questions: the same as questions. rows: (what it is about, the answer), most widely known first.
    """

    name: str
    wordings: tuple[str, ...]
    questions: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]

    def asked(self, subject: str) -> tuple[str, ...]:
        """Return the wordings about a subject; the questions are not among them."""
        return tuple(wording.replace("{}", subject) for wording in self.wordings)


@cache
def relations() -> tuple[CommonRelation, ...]:
    """Return the table's relations."""
    text = (files("errata.data") / "common.txt").read_text(encoding="utf-8")
    return tuple(_relation(part) for part in text.split("\n[")[1:])


def _relation(part: str) -> CommonRelation:
    name, *lines = part.splitlines()
    wordings = [line for line in lines if "{}" in line]
    rows = [line.split(" | ") for line in lines if " | " in line]
    return CommonRelation(
        name.rstrip("]"),
        tuple(line for line in wordings if not line.startswith("? ")),
        tuple(line.removeprefix("? ") for line in wordings if line.startswith("? ")),
        tuple((subject, answer) for subject, answer in rows),
    )
