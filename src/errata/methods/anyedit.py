"""AnyEdit: long answers in windows, one after the other, each written where the text before it ends.

Paper: Jiang et al., AnyEdit: Edit Any Knowledge Encoded in Language Models, https://arxiv.org/abs/2502.05628; over MEMIT,
https://arxiv.org/abs/2210.07229.

    Y = Y_1 … Y_K, windows of at most `window` tokens
    for k = 1 … K, with what the windows before have written in place:
        z_k learned at the last token of  X Y_1 … Y_{k−1},  maximising  P(Y_k | X, Y_<k)
        Δ^l = R Kᵀ (λC + K_p K_pᵀ + K Kᵀ)⁻¹  in each layer, keys and residuals recomputed, as `memit` has it

K_p are the keys of the windows before, and with ``history=False`` nothing. The answer is looked up at the end of what has been
read, not at a subject, so a fact needs none; with one window it is `memit` at the prompt's last token.

Differs from the paper: there all δ are learned first, each with those before added to the hidden states, and written at once;
here each window is written before the next is learned, so that what is learned is what will be there. Windows end where words
do. A user's turn has one window only: a chat template has no place for a reply that is to be gone on with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from errata.delta import Change, Dense, LowRank, Site
from errata.edit import Edit
from errata.errors import BadFact
from errata.fact import Fact
from errata.methods.base import Solution, filled
from errata.methods.shared.many_matrices import Wanted, Weighted, shielded
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve.least_squares import batch


@dataclass(frozen=True, kw_only=True)
class AnyEdit(Weighted):
    """A least-squares change for each window of an answer, after those of the windows before it."""

    window: int = field(default=40, metadata={"help": "most tokens of an answer that are written at once", "least": 1})
    kl: float = field(default=0.0, metadata={"help": "weight of the KL to the base on the text before", "least": 0})
    history: bool = field(default=True, metadata={"help": "keep what earlier edits' and windows' keys give"})

    name: ClassVar[str] = "anyedit"
    located: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("decoder",)

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return settings for a model nobody tuned: what follows a window is the next one, not what the base would say."""
        return {**super().automatic(lm), "follows": False}

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the sum of what the windows write, the first of every fact before the second of any."""
        each = [list(windows(lm, fact, self.window)) for fact in facts]
        found: list[Solution] = []
        below = list(past)
        with ExitStack() as stack:
            for place in range(max(map(len, each))):
                part = [one[place] for one in each if place < len(one)]
                solved = super().compute(lm, part, below)
                stack.enter_context(lm.weights.trial([solved.deltas]))
                below.append(_written(part, solved))
                found.append(solved)
        carry = {name: torch.cat([one.carry[name] for one in found]) for name in found[0].carry}
        report = {**found[0].report, "windows": [len(one) for one in each]}
        for name in ("loss", "steps", "converged"):
            report[name] = [value for one in found for value in one.report[name]]
        return Solution(_sum(found), carry, found[0].prefixes, report)

    def update(self, lm: LM, site: Site, wanted: Wanted, past: Sequence[Edit]) -> tuple[LowRank, dict[str, Tensor]]:
        """Return the least-squares change, which ordinary keys and, with history, earlier ones hold back."""
        ridge = self.ridge(lm, site, filled(self.weight))
        key = (site, self.corpus, self.tokens, self.damping, filled(self.weight))
        return batch(wanted.residual, wanted.keys, shielded(lm, key, past, site, ridge) if self.history else ridge), {}


def windows(lm: LM, fact: Fact, most: int) -> Iterator[Fact]:
    """Yield the windows of a fact's answer as facts: what is read before each, all of it the subject, and what is to be said.

    Args:
        most: tokens of a window; a single longer word is one.

    Raises:
        BadFact: a user's turn whose answer does not fit into one.
    """
    texts = list(_texts(lm, fact.target, most))
    if len(texts) > 1 and (fact.chat or fact.messages):
        raise BadFact(
            f"the reply to {fact.prompt!r} is longer than a window of {most} tokens, and a turn of a conversation is written "
            "in one: use --set window=N, another method, or --plain."
        )
    bare = replace(fact, rephrases=(), probes=(), truth="", id="")
    yield replace(bare, subject=fact.prompt, target=texts[0])
    read = lm.tokens.join(Query.of(fact, texts[0])) if len(texts) > 1 else ""
    for text in texts[1:]:
        yield replace(bare, prompt=read, subject=read, target=text, joint="")
        read += text


def _texts(lm: LM, answer: str, most: int) -> Iterator[str]:
    """Yield an answer in parts of at most so many tokens, each but the first with the space before its first word."""

    def size(text: str) -> int:
        return len(lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    part = ""
    for word in re.findall(r"\s*\S+|\s+$", answer):
        for piece in [word] if size(word) <= most else re.findall(r"\s*\S|\s+$", word):
            if part.strip() and size(part + piece) > most:
                yield part
                part = ""
            part += piece
    yield part


def _written(facts: Sequence[Fact], solved: Solution) -> Edit:
    """Return what a window wrote as an edit that stands below the next."""
    return Edit(method="anyedit", config={}, facts=tuple(facts), base="", deltas=solved.deltas, carry=solved.carry)


def _sum(found: Sequence[Solution]) -> dict[Site, Change]:
    total: dict[Site, LowRank | Dense] = {}
    for one in found:
        for site, delta in one.deltas.items():
            assert isinstance(delta, LowRank | Dense)
            both = total[site] + delta if site in total else delta
            assert isinstance(both, LowRank | Dense)
            total[site] = both
    return dict(total)
