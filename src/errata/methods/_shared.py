"""Which edits share a ridge solution, and how they stand once one below them was dropped; see `methods.ledger`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from errata.delta import LowRank, Site
from errata.edit import Edit
from errata.fact import Fact, question
from errata.methods._stored import stored
from errata.methods.base import BELOW
from errata.model.lm import LM
from errata.solve.ledger import Ledger

NAME = "ledger"
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
    """Return eight bytes that name the edits below, in order."""
    return torch.tensor(list(below.digest()[:8]), dtype=torch.uint8)


def names_of(facts: Sequence[Fact]) -> list[str]:
    """Return what the rows of facts go by: what is asked."""
    return ["\n".join(question(fact)) for fact in facts]


def entered(rows: Ledger, edit: Edit, site: Site) -> tuple[Ledger, LowRank]:
    """Return the ledger with an edit's rows in place of those they replace, and by how much the solution moves."""
    names = names_of(edit.facts)
    rows, out = rows.drop(names)
    rows, in_ = rows.add(names, edit.carry[f"key/{site}"], edit.carry[f"value/{site}"])
    both = out + in_ if out.left.shape[1] else in_
    assert isinstance(both, LowRank)
    return rows, both


def put_in(rows: Ledger, edits: Sequence[Edit], site: Site) -> Ledger:
    """Return the ledger with the rows of all these edits, each in place of those it replaces."""
    if not edits:
        return rows
    names = [name for edit in edits for name in names_of(edit.facts)]
    keys, values = (torch.cat([edit.carry[f"{kind}/{site}"].double() for edit in edits]) for kind in ("key", "value"))
    return rows.put(names, keys, values)


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
            anew = not torch.equal(edit.carry[BELOW], mark(below))
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
