"""Ledger: the ridge solution over the facts that stand, from which any fact can be taken out again.

Paper: none has it; the update is MEMIT's, Meng et al., https://arxiv.org/abs/2210.07229, with the history term of
https://arxiv.org/abs/2605.26670, read as what it is: recursive least squares.

    rows (k_i, v_i) of the edits that stand, per layer, keys and values frozen when an edit is written
    ΔW = V Kᵀ G⁻¹,   G = λC + K Kᵀ                                                 (`solve.ledger`)
    one more row    ΔW ← ΔW + (v − ΔW k) kᵀ G⁻¹          with the new G
    one fewer       ΔW ← ΔW − (v − ΔW k) kᵀ (G − k kᵀ)⁻¹  with the old one

v_i is what the layer's change is to give at k_i: what it gave when the fact was written, and MEMIT's share of the rest.
ΔW depends on the set of rows alone, not on their order or on how they came. A fact asked before (same subject, same prompt)
takes its old row out, in the same edit, before anything is learned.

An edit's delta is by how much it moved ΔW when the edits below it stood. A log without drops adds these up. When an edit is
dropped, those above it keep their rows, and their deltas are derived from the rows anew, without running the model: the
weights stay base plus the deltas that stand, in order, and are to the bit what they would be had the edit never been
there with the same rows written; restored, they are to the bit what they were.

Differs from the paper: C is damped as for MEMIT; what stands by other methods counts as part of the base; and z has 1.2
times the base's norm there (NAS, https://arxiv.org/abs/2602.02543; ``anchor=none`` leaves it as learned), or as many halves
of it more as a fact needs to lead in every context (``anchor_lead``): as many facts are said, and neighbours less disturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor

from errata.config import from_dict
from errata.delta import LowRank, Site
from errata.edit import Edit
from errata.errors import BadConfig
from errata.fact import Fact, question
from errata.methods.base import BELOW, Solution, filled, stored
from errata.methods.shared.many_matrices import Wanted, Weighted
from errata.methods.shared.regularised import ANCHOR, LEAD
from errata.model.fold import fold, fold_in_blocks
from errata.model.lm import LM
from errata.solve.ledger import Ledger

NAME = "ledger"
MARK = 8  # bytes of a mark that name the edits below
ROWS = 2  # how rows are named, behind them: 2 by `fact.question`; nothing there: subjects that differ in case apart


@dataclass(frozen=True, kw_only=True)
class LedgerEdit(Weighted):
    """Rows added to a ridge regression over all facts that stand."""

    # Anchor: chosen on the GPT-2-type CounterFact reference; lead: on the primer; SmolLM2 looked at: LOG.md, 2026-11-28.
    anchor: float | None = field(default=1.2, metadata=ANCHOR)
    anchor_lead: float | None = field(default=4.0, metadata=LEAD)

    name: ClassVar[str] = NAME

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restrain != "none":
            raise BadConfig(f"a ledger cannot take restrain = {self.restrain}: it would be no solution; use memit.")

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return by how much the rows of these facts move the solution."""
        solution = super().compute(lm, facts, past)
        terms = terms_of(self.__dict__)
        below = fold(lm, ("ledger", terms), past, sha256, partial(follow, terms))
        return replace(solution, carry={**solution.carry, BELOW: mark(below)})

    def first(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> dict[Site, LowRank]:
        """Return what taking out the rows these facts replace changes."""
        found = {site: self._taken(lm, site, facts, past) for site in self.sites()}
        return {site: delta for site, (_, delta) in found.items() if delta.left.shape[1]}

    def update(self, lm: LM, site: Site, wanted: Wanted, past: Sequence[Edit]) -> tuple[LowRank, dict[str, Tensor]]:
        """Return by how much the new rows move the solution, and the values they are kept with."""
        rows, _ = self._taken(lm, site, wanted.facts, past)
        keys = wanted.keys.double().cpu()
        values = (rows.gives(keys) + wanted.residual.double().cpu()).float()
        return rows.gain(keys, values), {f"value/{site}": values}

    def _taken(self, lm: LM, site: Site, facts: Sequence[Fact], past: Sequence[Edit]) -> tuple[Ledger, LowRank]:
        """Return the ledger of a site without the rows that these facts replace, and by how much that moves it."""
        rows = self._rows(lm, site, past)
        return rows.drop(replaced(rows, names_of(facts)))

    def _rows(self, lm: LM, site: Site, past: Sequence[Edit]) -> Ledger:
        """Return the ledger of a site with the rows of `past`."""
        weight, terms = filled(self.weight), terms_of(self.__dict__)

        def none() -> Ledger:
            return Ledger.open(self.ridge(lm, site, weight), lm.weights[site].shape[0])

        def put(rows: Ledger, edits: Sequence[Edit]) -> Ledger:
            return put_in(rows, [e for e in edits if f"value/{site}" in e.carry and shares(e, terms)], site)

        return fold_in_blocks(lm, ("ledger", site, terms), past, none, put)

    @classmethod
    def rebuild(cls, lm: LM, edits: Sequence[Edit]) -> list[Edit]:
        """Return all edits, with new deltas where the ledger below is not the one they were written on."""

        def rows(edit: Edit, site: Site, below: Sequence[Edit]) -> Ledger:
            return from_dict(cls, edit.config)._rows(lm, site, below)

        return list(fold(lm, "ledgers", edits, lambda: Standing(lm, rows), Standing.add).found)


Terms = tuple[object, ...]


def terms_of(config: Mapping[str, object]) -> Terms:
    """Return what edits that share a solution have in common: λC."""
    return tuple(config[name] for name in ("weight", "damping", "corpus", "tokens"))


def shares(edit: Edit, terms: Terms) -> bool:
    """Say whether an edit is one of a ledger under these terms."""
    return edit.method == NAME and BELOW in edit.carry and terms_of(edit.config) == terms


def follow(terms: Terms, below: Any, edit: Edit) -> Any:
    """Return the hash of the ids below with an edit's after them, if it shares these terms; `sha256()` for none."""
    if shares(edit, terms):
        space = "" if below.digest() == sha256().digest() else " "
        below = below.copy()
        below.update(f"{space}{edit.id}".encode())
    return below


def mark(below: Any) -> Tensor:
    """Return eight bytes that name the edits below, in order, and the number of how rows are named."""
    return torch.tensor([*below.digest()[:8], ROWS], dtype=torch.uint8)


def names_of(facts: Sequence[Fact]) -> list[str]:
    """Return what the rows of facts go by: what is asked."""
    return ["\n".join(question(fact)) for fact in facts]


def rows_of(edit: Edit) -> list[str]:
    """Return what the rows of an edit go by: what its facts ask.

    Edits whose mark has no number were written when subjects that differ in case had rows of their own; they keep them.
    """
    names = names_of(edit.facts)
    if len(edit.carry[BELOW]) > MARK:
        return names
    return [f"{name}\n{' '.join(fact.subject.split())}" for name, fact in zip(names, edit.facts, strict=True)]


def replaced(rows: Ledger, names: Sequence[str]) -> list[str]:
    """Return the rows that rows of these names replace: those of the same names, and older ones that ask the same."""
    asked = set(names)
    return [*names, *(name for name in rows.rows if name.count("\n") > 1 and name.rpartition("\n")[0] in asked)]


def entered(rows: Ledger, edit: Edit, site: Site) -> tuple[Ledger, LowRank]:
    """Return the ledger with an edit's rows in place of those they replace, and by how much the solution moves."""
    names = rows_of(edit)
    rows, out = rows.drop(replaced(rows, names))
    rows, in_ = rows.add(names, edit.carry[f"key/{site}"], edit.carry[f"value/{site}"])
    both = out + in_ if out.left.shape[1] else in_
    assert isinstance(both, LowRank)
    return rows, both


def put_in(rows: Ledger, edits: Sequence[Edit], site: Site) -> Ledger:
    """Return the ledger with the rows of all these edits, each in place of those it replaces."""
    for _, group in groupby(edits, lambda edit: len(edit.carry[BELOW])):  # those that name their rows alike
        alike = list(group)
        names = [name for edit in alike for name in rows_of(edit)]
        keys, values = (torch.cat([e.carry[f"{kind}/{site}"].double() for e in alike]) for kind in ("key", "value"))
        rows, _ = rows.drop(replaced(rows, names))
        rows = rows.put(names, keys, values)
    return rows


class Standing:
    """The edits from the oldest on as they stand, one after another.

    Args:
        rows: from an edit, a site and the edits below to the ledger these make.
    """

    def __init__(self, lm: LM, rows: Callable[[Edit, Site, Sequence[Edit]], Ledger]) -> None:
        self._lm, self._made, self._seen = lm, rows, list[Edit]()
        self._below: dict[Terms, Any] = {}  # the hash of the ids below
        self._rows: dict[tuple[Terms, Site], Ledger] = {}  # where an edit had to be derived anew
        self.found: list[Edit] = []

    def add(self, edit: Edit) -> Standing:
        """Take in the next edit, which is not what was stored if the ledger below is not the one it was written on."""
        found = edit
        if edit.method == NAME and BELOW in edit.carry:
            terms = terms_of(edit.config)
            below = self._below.get(terms) or sha256()
            anew = not torch.equal(edit.carry[BELOW][:MARK], mark(below)[:MARK])
            moved = {site: self._move(edit, site, terms) for site in edit.deltas if anew or (terms, site) in self._rows}
            if anew:
                found = edit.with_deltas({site: stored(delta, self._lm) for site, delta in moved.items()})
            self._below[terms] = follow(terms, below, edit)
        self._seen.append(edit)
        self.found.append(found)
        return self

    def _move(self, edit: Edit, site: Site, terms: Terms) -> LowRank:
        if (terms, site) not in self._rows:
            self._rows[terms, site] = self._made(edit, site, self._seen)
        self._rows[terms, site], delta = entered(self._rows[terms, site], edit, site)
        return delta
