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

Differs from the paper: C is damped as for MEMIT; what stands by other methods counts as part of the base; and z has the norm
the base model has there (NAS, https://arxiv.org/abs/2602.02543; ``anchor=none`` leaves it as learned): it says the facts as
well and disturbs their neighbours much less (LOG.md, 2026-11-20).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import ClassVar

from torch import Tensor

from errata.config import from_dict
from errata.delta import LowRank, Site
from errata.edit import Edit
from errata.errors import BadConfig
from errata.fact import Fact
from errata.methods._layers import Wanted, Weighted
from errata.methods._shared import NAME, Standing, follow, mark, names_of, put_in, shares, terms_of
from errata.methods.base import BELOW, Solution
from errata.model.fold import derived, summed
from errata.model.lm import LM
from errata.solve.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class LedgerEdit(Weighted):
    """Rows added to a ridge regression over all facts that stand."""

    anchor: float | None = field(
        default=1.0,
        metadata={"help": "NAS: norm of v* as a multiple of the base's there; none: as learned", "above": 0},
    )

    name: ClassVar[str] = NAME

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restrain != "none":
            raise BadConfig(f"a ledger cannot take restrain = {self.restrain}: it would be no solution; use memit.")

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return by how much the rows of these facts move the solution."""
        solution = super().compute(lm, facts, past)
        terms = terms_of(self.__dict__)
        below = derived(lm, ("ledger", terms), past, sha256, partial(follow, terms))
        return replace(solution, carry={**solution.carry, BELOW: mark(below)})

    def first(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> dict[Site, LowRank]:
        """Return what taking out the rows these facts replace changes."""
        found = {site: self._rows(lm, site, past).drop(names_of(facts)) for site in self.sites()}
        return {site: delta for site, (_, delta) in found.items() if delta.left.shape[1]}

    def update(self, lm: LM, site: Site, wanted: Wanted, past: Sequence[Edit]) -> tuple[LowRank, dict[str, Tensor]]:
        """Return by how much the new rows move the solution, and the values they are kept with."""
        rows, _ = self._rows(lm, site, past).drop(names_of(wanted.facts))
        keys = wanted.keys.double().cpu()
        values = (rows.gives(keys) + wanted.residual.double().cpu()).float()
        return rows.gain(keys, values), {f"value/{site}": values}

    def _rows(self, lm: LM, site: Site, past: Sequence[Edit]) -> Ledger:
        """Return the ledger of a site with the rows of `past`."""
        assert isinstance(self.weight, float)
        weight, terms = self.weight, terms_of(self.__dict__)

        def none() -> Ledger:
            return Ledger.open(self.ridge(lm, site, weight), lm.weights[site].shape[0])

        def put(rows: Ledger, edits: Sequence[Edit]) -> Ledger:
            return put_in(rows, [e for e in edits if f"value/{site}" in e.carry and shares(e, terms)], site)

        return summed(lm, ("ledger", site, terms), past, none, put)

    @classmethod
    def rebuild(cls, lm: LM, edits: Sequence[Edit]) -> list[Edit]:
        """Return all edits, with new deltas where the ledger below is not the one they were written on."""

        def rows(edit: Edit, site: Site, below: Sequence[Edit]) -> Ledger:
            return from_dict(cls, edit.config)._rows(lm, site, below)

        return list(derived(lm, "ledgers", edits, lambda: Standing(lm, rows), Standing.add).found)
