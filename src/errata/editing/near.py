"""What a new edit is likeliest to break among the facts that stand, asked before the write and after it.

Those are the facts about its subjects, those that ask the same of other subjects, and those whose keys lie close to its own: a
closed form writes at keys, and what stands at the same key is written over whatever it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from errata.edit import Edit
from errata.fact import Fact, Question, answered, question
from errata.model.fold import fold
from errata.model.lm import LM
from errata.model.query import Query

SUBJECT: Final = 16  # how many standing facts of a subject are asked again after a write, the newest
RELATION: Final = 8  # of those that ask the same
KEYS: Final = 8  # of those with a key close to one of the new ones, the closest
# Cosine from which two keys are close. On the primer (rome and memit, pairs of different subjects and questions) none of 131
# facts was lost to one whose key was at less than .92, 98 of 113 to one at more than .93; hardly any pair lies between.
CLOSE: Final = 0.8
_BLOCK: Final = 64  # keys that are kept in one matrix

_LOST: Final = (
    "{prompt!r} is no longer answered with {target!r}, which edit {edit} had written: errata drop the new edit to have it "
    "back, or write both in one file with --method ledger."
)
_Written: TypeAlias = tuple[str, Fact]  # the id of the edit, and what it wrote


class Near:
    """Standing facts that a new edit is likeliest to break.

    Args:
        lm: the model, before anything is written. facts: what is to be written. standing: the edits that stand.
    """

    def __init__(self, lm: LM, facts: Sequence[Fact], standing: Sequence[Edit]) -> None:
        self._lm, self._standing = lm, standing
        self._asked = {question(fact) for fact in facts}
        known = fold(lm, "asked of", standing, _Asked, _Asked.add)
        found: dict[Question, _Written] = {}
        for subject, around in self._asked:
            same = (*known.subjects.get(subject, ())[-SUBJECT:], *known.relations.get(around, ())[-RELATION:])
            found |= {question(fact): (id, fact) for id, fact in same if question(fact) not in self._asked}
        self._asked |= {*found}
        self._known = self._said(list(found.values()))

    def _said(self, pairs: Sequence[_Written]) -> list[_Written]:
        """Return those facts that the model says as it stands."""
        if not pairs:
            return []
        asked = [Query.asked(fact) for _, fact in pairs]
        said = self._lm.generate(asked, self._lm.room(fact.target for _, fact in pairs))
        return [pair for pair, text in zip(pairs, said, strict=True) if answered(pair[1], text)]

    def noted(self, written: Sequence[Edit]) -> list[Edit]:
        """Return the edits, which stand in the model now; the last one's report names what is no longer said."""
        last = {question(fact): (edit.id, fact) for edit in written for fact in edit.facts}
        told = {question(f) for e in written for f, r in zip(e.facts, e.report.facts, strict=True) if r["said"]}
        before = [*self._known, *(pair for asked, pair in last.items() if asked in told and len(written) > 1)]
        close = fold(self._lm, "keys of", self._standing, _Keys, _Keys.add).nearest(written, self._asked)
        kept = {question(fact) for _, fact in self._said([*before, *close])}
        gone = [pair for pair in close if question(pair[1]) not in kept]
        pairs = [*before, *self._said_before(gone, written)]
        lost = [{"edit": id, "prompt": f.prompt, "target": f.target} for id, f in pairs if question(f) not in kept]
        if not lost:
            return list(written)
        report = written[-1].report
        notes = [*report.notes, *(_LOST.format(**{**row, "edit": row["edit"][:8]}) for row in lost)]
        return [*written[:-1], replace(written[-1], report=report.plus(notes=notes, lost=lost))]

    def _said_before(self, gone: Sequence[_Written], written: Sequence[Edit]) -> list[_Written]:
        """Return those facts that the model said before the write: which are close is known only after it, so that it is put
        back for a moment where one of them is not said now."""
        if not gone:
            return []
        before = [edit.deltas for edit in self._standing]
        self._lm.weights.stand(before)
        said = self._said(gone)
        self._lm.weights.stand([*before, *(edit.deltas for edit in written)])
        return said


class _Asked:
    """Facts that stand, by their subjects and by what is asked of these."""

    def __init__(self) -> None:
        self.subjects: dict[str, list[_Written]] = {}
        self.relations: dict[str, list[_Written]] = {}

    def add(self, edit: Edit) -> _Asked:
        """Take in the next edit."""
        for fact in edit.facts:
            subject, around = question(fact)
            self.subjects.setdefault(subject, []).append((edit.id, fact))
            self.relations.setdefault(around, []).append((edit.id, fact))
        return self


class _Keys:
    """The keys that edits carry, by their names: of length 1, in the order of the facts they are of."""

    def __init__(self) -> None:
        self._facts: dict[str, list[_Written]] = {}
        self._keys: dict[str, list[Tensor]] = {}

    def add(self, edit: Edit) -> _Keys:
        """Take in the next edit."""
        for name, keys in _keys(edit):
            self._facts.setdefault(name, []).extend((edit.id, fact) for fact in edit.facts)
            blocks = self._keys.setdefault(name, [])
            last = [blocks.pop()] if blocks and len(blocks[-1]) < _BLOCK else []
            blocks.append(torch.cat([*last, keys]))
        return self

    def nearest(self, written: Iterable[Edit], but: set[Question]) -> list[_Written]:
        """Return the facts with the closest keys, one for each question, but for questions in `but`."""
        found: dict[Question, tuple[float, _Written]] = {}
        for name, keys in (pair for edit in written for pair in _keys(edit)):
            close = [(block @ keys.T).amax(1) for block in self._keys.get(name, ())]
            for place, cosine in enumerate(torch.cat(close).tolist() if close else ()):
                if cosine > CLOSE:
                    pair = self._facts[name][place]
                    asked = question(pair[1])
                    found[asked] = (max(cosine, found.get(asked, (0.0,))[0]), pair)  # the newest of a question
        best = sorted(found.items(), key=lambda item: -item[1][0])
        return [pair for asked, (_, pair) in best if asked not in but][:KEYS]


def _keys(edit: Edit) -> list[tuple[str, Float[Tensor, "n in"]]]:
    """Return the keys that an edit carries, a row a fact, by their names."""
    found = ((name, keys) for name, keys in edit.carry.items() if name.startswith("key/"))
    return [(n, torch.nn.functional.normalize(k.float(), dim=1)) for n, k in found if len(k) == len(edit.facts)]
