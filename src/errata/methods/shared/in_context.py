"""What methods share that write nothing and put text before prompts: `ike` and `scr`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from errata.delta import Site
from errata.edit import Edit
from errata.errors import BadFact, NotFinite
from errata.fact import Fact
from errata.methods.base import Method, Solution
from errata.model.generation import context
from errata.model.grafts.context import PLACE, ContextItem, graft_of, leaves_room, told_before
from errata.model.lm import LM
from errata.model.query import Query, joint

_SAID = 0.7  # mean loss of an answer's tokens below which it is likelier than all others together


@dataclass(frozen=True, kw_only=True)
class InContext(Method):
    """A fact as text that is retrieved for the prompts that ask about it."""

    least: float = field(
        default=0.5, metadata={"help": "how alike (cosine of words) a prompt and a fact without subject must be"}
    )

    batched: ClassVar[bool] = True
    located: ClassVar[bool] = False
    in_context: ClassVar[bool] = True

    def sites(self) -> tuple[Site, ...]:
        """Return no site: nothing is written."""
        return ()

    @abstractmethod
    def item(self, lm: LM, fact: Fact, past: Sequence[Edit]) -> ContextItem:
        """Return what is to be put before the prompts that ask about a fact."""

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the texts, and whether the model says what they say when it reads them.

        Raises:
            BadFact: a prompt is too long to have its text before it. NotFinite: the model's logits are not finite.
        """
        items = [self.item(lm, fact, past) for fact in facts]
        for fact, item in zip(facts, items, strict=True):
            if not leaves_room(lm, told_before(Query.of(fact), [item])):
                raise BadFact(
                    f"the prompt and the text that {self.name} puts before it leave no room in the {context(lm)} tokens "
                    f"that {lm.name} reads: shorten it, or take a method that writes weights."
                )
        graft = graft_of(items)
        asked = [Query.of(fact) for fact in facts]
        without = losses(lm, asked)
        with lm.weights.trial([{PLACE: graft}]):
            within = losses(lm, asked)
        report: dict[str, Any] = {"loss": within, "loss_without": without, "converged": [x < _SAID for x in within]}
        return Solution({PLACE: graft}, report={**report, **self.told(items)})

    def told(self, items: Sequence[ContextItem]) -> Mapping[str, Any]:
        """Return what else is reported of the texts."""
        return {}


def losses(lm: LM, asked: Sequence[Query]) -> list[float]:
    """Return the mean loss of each answer's tokens; raises NotFinite where one is not finite."""
    found = torch.stack([-logp.double().mean() for logp in lm.logprobs(asked)])
    if not bool(found.isfinite().all()):
        raise NotFinite("the model's logits are not finite; load it in float32 or bfloat16.")
    return [round(x, 6) for x in found.tolist()]


def statement(fact: Fact) -> str:
    """Return what a fact says: its prompt and its target."""
    between = joint(fact.prompt, fact.target) if fact.joint is None else fact.joint
    return f"{fact.prompt}{between}{fact.target}"
