"""Whether a model can say an answer at all, asked before it is made to.

A model that has never seen a name may have no way to spell it: the pieces are in its vocabulary, and it has never learned to
put them in a row. An edit then changes what the answer begins with, at best. So the fact is told right before the question,
the answer's first token is given, and what is left of the answer should be likelier than by chance.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Final

from errata.errors import UnsayableWarning
from errata.fact import Fact
from errata.model.generation import context
from errata.model.lm import LM
from errata.model.query import Query

# Nats a token below chance (one in the vocabulary) from which an answer cannot be said: LOG.md, 2026-11-28.
BELOW: Final = 3.0


def unsayable(lm: LM, facts: Sequence[Fact]) -> dict[str, float]:
    """Return the answers that a model can hardly say: how likely each token after the first is, once the fact is told.

    An answer of one token, what a model has no room for twice, and the classes of a classifier are not looked at.
    """
    if lm.row.kind == "classifier":
        return {}
    most, asked = context(lm), dict[str, Query]()
    for fact in facts:
        query = Query.of(fact)
        told = query.after(f"{fact.prompt}{'' if query.joint == '' else ' '}{fact.target}.")
        if len(lm.tokens.ids(lm.tokens.join(told))) < most:
            asked.setdefault(fact.target, told)
    rests = (logs[1:] for logs in lm.logprobs(list(asked.values())))
    likely = {target: float(rest.mean()) for target, rest in zip(asked, rests, strict=True) if len(rest)}
    least = -math.log(int(lm.head().weight.shape[0])) - BELOW  # type: ignore[index]
    return {target: math.exp(logs) for target, logs in likely.items() if logs < least}


def warn(lm: LM, facts: Sequence[Fact]) -> frozenset[str]:
    """Warn of every answer that a model can hardly say (UnsayableWarning), and return them."""
    found = unsayable(lm, facts)
    if found:
        names = ", ".join(repr(target) for target in list(found)[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        known = " `errata ask --list` shows what it can say." if lm.name == "primer" else ""
        warnings.warn(
            f"{lm.name} can hardly say {names}{more}: told so, and given how it begins, it holds each token that follows for "
            f"{max(found.values()):.0e} likely. It is tried all the same; choose an answer that the model knows.{known}",
            UnsayableWarning,
            stacklevel=3,
        )
    return frozenset(found)
