"""IKE: the fact is told in the prompt, after demonstrations of what to do with such facts; no weight is changed.

Paper: Zheng et al., Can We Edit Factual Knowledge by In-Context Learning?, https://arxiv.org/abs/2305.12740; its code,
github.com/Zce1112zslx/IKE, whose wording of the context is kept.

    P(y | x, edited) = P(y | d_1, …, d_k, "New Fact: f. Prompt: f", "New Fact: f. Prompt: x")    x asks about the fact f
    d = "New Fact: f'. Prompt: p a"    copy: p as in f'  update: in other words  retain: of a neighbour, with its old answer

k demonstrations, copy to update to retain as 1 to 3 to 4, are those most like f, the most alike last. Which fact of the book a
prompt asks about is found by a retriever (`model.grafts.context`), which the paper leaves open: it gives every question the
fact it is tested on.

Differs from the paper: so does a question here that names the fact's subject, and no other one: a neighbour is never told the
fact, and its logits are the model's own to the bit. Sentences are compared by their words, weighted by how rare they are, in
place of all-MiniLM-L6-v2; demonstrations come from sixteen records of our own in place of CounterFact's last 19,919, and each
can be asked in all three ways; there are 8 (paper: 32), because small models read slowly and gain nothing from more, and no
more than fill half of what the model reads. A fact too long to be told twice is told once, and not copied first.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from errata.edit import Edit
from errata.fact import Fact
from errata.index.statements import Statements
from errata.methods.shared.demonstrations import RECORDS, Demonstration
from errata.methods.shared.in_context import InContext, statement
from errata.model.generation import context
from errata.model.grafts.context import TOLD, ContextItem, leaves_room
from errata.model.lm import LM
from errata.model.query import Query

_SHARES = (0, 1, 1, 1, 2, 2, 2, 2)  # copy, update, retain: in eights of all


@dataclass(frozen=True, kw_only=True)
class InContextEdit(InContext):
    """A fact told before the prompts that ask about it, after demonstrations."""

    demonstrations: int = field(
        default=8, metadata={"help": "k: told before the fact, at most 48; 0: the fact alone", "least": 0}
    )

    name: ClassVar[str] = "ike"

    def item(self, lm: LM, fact: Fact, past: Sequence[Edit]) -> ContextItem:
        """Return the demonstrations and the fact, up to where the prompt stands."""
        said = statement(fact)
        once = f"New Fact: {said}\nPrompt:"
        twice = f"{once} {said}\n\n{once}"
        own = twice if leaves_room(lm, Query.of(fact).after(twice)) else once
        told = chosen(said, self.demonstrations, self.seed)
        while told and len(lm.tokens.ids("".join(told) + own)) > context(lm) // 2:
            del told[0]
        text = "".join(told) + own
        return ContextItem(fact.subject, said, fact.prompt, text, None, TOLD, 1, self.least)


def chosen(said: str, count: int, seed: int) -> list[str]:
    """Return the demonstrations for a fact, the most alike last; which is asked in which way is drawn from the seed."""
    drawn = random.Random(seed)
    ways = [_SHARES[place % len(_SHARES)] for place in range(count)]
    drawn.shuffle(ways)
    order = Statements([record.statement for record in RECORDS]).nearest(said, count=len(RECORDS))
    free: list[tuple[Demonstration, set[int]]] = [(RECORDS[place], {0, 1, 2}) for place in order]
    found = []
    for way in ways:
        record, left = next(((r, w) for r, w in free if way in w and len(w) == 3), None) or next(
            ((r, w) for r, w in free if way in w), (RECORDS[order[0]], set[int]())
        )
        left.discard(way)
        found.append(f"New Fact: {record.statement}\nPrompt: {record.asked(way)}\n\n")
    return found[::-1]
