"""SCR: facts are retrieved, confirmed by the model, and told before the prompt; no weight is changed.

Paper: He, Song and Sun, Knowledge Updating? No More Model Editing! Just Selective Contextual Reasoning,
https://arxiv.org/abs/2503.05212.

    R(x) = the k facts of the book most like x                                        (`model.grafts.context`)
    S(x) = {f in R(x): the model says that f answers x}
    P(y | x, edited) = P(y | S(x), x);  with S(x) empty, P(y | x)

Differs from the paper: only its account is at hand, not its prompts, so the wording is ours. It retrieves with Contriever, a
dense model; here a fact is retrieved for prompts that name its subject, and sorted by the words it shares. The paper lets the
model pick from a list, which takes one that follows instructions; here it is asked of each fact whether it answers the prompt,
and its log odds of yes to no are compared with those halfway between the fact's own prompts and other things said of its
subject. A model that cannot tell these apart is not asked, and the report says so (``confirms``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from errata.edit import Edit
from errata.fact import Fact
from errata.methods.shared.in_context import InContext, statement
from errata.model.grafts.context import TOLD, ContextItem, odds_of
from errata.model.lm import LM

_FRAME = (
    f"Context: {TOLD}\nAccording to the context,"  # of eight wordings the one SmolLM2 followed best: LOG.md, 2026-11-27
)
_OTHER = ("{subject} is", "Tell me about {subject}.", "{subject} was first mentioned in", "The age of {subject} is")


@dataclass(frozen=True, kw_only=True)
class SelectiveContext(InContext):
    """A fact told before the prompts it answers, as far as the model can tell."""

    count: int = field(default=5, metadata={"help": "k: most facts told before one prompt", "least": 1})
    confirm: bool = field(default=True, metadata={"help": "ask the model of each fact whether it answers the prompt"})

    name: ClassVar[str] = "scr"

    def item(self, lm: LM, fact: Fact, past: Sequence[Edit]) -> ContextItem:
        """Return the fact as a sentence, and how sure the model must be that it answers a prompt."""
        said = statement(fact)
        text = said if said[-1:] in ".!?。" else f"{said}."
        item = ContextItem(fact.subject, said, fact.prompt, text, None, _FRAME, self.count, self.least)
        return replace(item, odds=self._bar(lm, item, fact)) if self.confirm and fact.subject else item

    def _bar(self, lm: LM, item: ContextItem, fact: Fact) -> float | None:
        """Return the log odds halfway between what the fact answers and what it does not; None where they are mixed."""
        answered = (fact.prompt, *fact.rephrases)
        others = [text.format(subject=fact.subject) for text in _OTHER]
        yes, no = ([x for text in texts if (x := odds_of(lm, item, text)) is not None] for texts in (answered, others))
        return round((min(yes) + max(no)) / 2, 4) if yes and no and min(yes) > max(no) else None

    def told(self, items: Sequence[ContextItem]) -> Mapping[str, Any]:
        """Return of each fact whether the model confirms it."""
        return {"confirms": [item.odds is not None for item in items]}
