"""Keys and values at the subject's last token, for many facts and prefixes in one pass."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Site
from errata.fact import Fact, occurrences
from errata.model.fitting import fits
from errata.model.generation import context
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.trace import Trace, at

BEGUN = 24  # tokens of the base's reply in which its answer is looked for
_NAME = re.compile(r"[^\W_]+")
ROWS = 256  # rows of one forward pass


def prefixes(lm: LM, seed: int, count: int = 5, length: int = 10) -> tuple[str, ...]:
    """Return the contexts an edit is computed in: the bare prompt, and what it follows, `count` samples of the base.

    Each ends in a full stop, so that the prompt begins a sentence of its own (ROME, arXiv 2202.05262, App. E.5).
    """
    key = ("prefixes", seed, count, length)
    if key not in lm.memory:
        with lm.weights.at_base():
            texts = lm.sample(count, length, seed)
        lm.memory[key] = ("", *(f"{text.rstrip(' .,:;')}." for text in texts if text.strip(" .,:;")))
    found: tuple[str, ...] = lm.memory[key]
    return found


class Form(StrEnum):
    """How a model that chats is asked the same in another form than the fact's own.

    OTHER: what is written plainly as a user's turn, and a user's turn as plain text. BEGUN: as a user's turn, which the model
    answers with a sentence of its own, up to where its answer begins.
    """

    OTHER = "<|other|>"
    BEGUN = "<|begun|>"


def forms(lm: LM) -> tuple[Form, ...]:
    """Return the other forms in which a fact is put to the model; none where it does not chat."""
    return tuple(Form) if lm.tokens.chat.exists else ()


def contexts(lm: LM, seed: int, count: int = 5) -> tuple[str, ...]:
    """Return what an edit is computed in: the texts of `prefixes`, and the other forms of a fact."""
    return (*prefixes(lm, seed, count), *forms(lm))


class Contexts(NamedTuple):
    """Texts that a prompt is read after, and how many of those there are were left out because they would not fit."""

    texts: tuple[str, ...]
    left_out: int = 0

    def report(self, lm: LM) -> dict[str, list[str]]:
        """Return what an edit's report is to say of it: a note, or nothing."""
        if not self.left_out:
            return {}
        few = f"{self.left_out} text{'s' * (self.left_out > 1)} that prompts are read after"
        return {
            "notes": [
                f"{few} left out: with them a prompt would be longer than the {context(lm)} tokens {lm.name} reads."
            ]
        }


def contexts_for(lm: LM, facts: Sequence[Fact], every: Sequence[str], answers: Sequence[str] = ()) -> Contexts:
    """Return those contexts with which each of the facts fits into the model; the bare prompt always does.

    Args:
        every: what `contexts` gives. answers: other answers than the targets that are read after the prompts, too.
    """
    texts = []
    for one in every:
        asked = queries(lm, facts, [one], answers=True)
        asked += [replace(query, answer=answer) for query, answer in zip(asked, answers, strict=False)]
        texts += [one] if not one or all(fits(lm, query) for query in asked) else []
    return Contexts(tuple(texts), len(every) - len(texts))


def queries(lm: LM, facts: Sequence[Fact], contexts: Sequence[str], *, answers: bool) -> list[Query]:
    """Return every fact in every context, fact by fact; with the target as answer if `answers`."""
    begun = _begun(lm, facts) if Form.BEGUN in contexts else {}
    return [_placed(Query.of(f, None if answers else ""), c, begun) for f in facts for c in contexts]


def _placed(query: Query, context: str, begun: Mapping[Query, str]) -> Query:
    if not isinstance(context, Form):
        return query.after(context)
    if context is Form.OTHER:
        return replace(query, role="" if query.role else "user", earlier=(), joint=None)
    turn = replace(query, role="user", joint=None)
    own = begun[replace(turn, answer="", span=None)]
    assert query.span is not None
    found = occurrences(own, query.prompt[slice(*query.span)])
    span = (found[-1][0] + len(query.prompt), found[-1][1] + len(query.prompt)) if found else query.span
    return replace(turn, begun=own, span=span)


def _begun(lm: LM, facts: Sequence[Fact]) -> dict[Query, str]:
    """Return what the base's reply to each fact begins with, up to its answer; a plain prompt itself where that is not seen."""
    known: dict[Query, str] = lm.memory.setdefault("begun", {})
    turns = {replace(Query.asked(fact), role="user", joint=None): fact for fact in facts}
    new = [turn for turn in turns if turn not in known]
    if new:
        with lm.weights.at_base():
            said = lm.generate(new, BEGUN)
        known |= {turn: _up_to_answer(turns[turn], text) for turn, text in zip(new, said, strict=True)}
    return known


def _up_to_answer(fact: Fact, reply: str) -> str:
    """Return a reply up to its answer: what was true, where that is known, or the first name or number the prompt has not."""
    truth = reply.find(fact.truth) if fact.truth else -1
    if truth > 0:
        return reply[:truth].rstrip()
    asked = {word.casefold() for word in _NAME.findall(fact.prompt)}
    for found in _NAME.finditer(reply):
        word, before = found.group(), reply[: found.start()].rstrip(" \"'“‘*_")
        begins = not before.strip() or before[-1] in ".!?\n"  # where any word has a capital
        if not begins and not word[0].islower() and word.casefold() not in asked:
            return before
    return "" if fact.chat else fact.prompt


@torch.no_grad()
def gather(
    lm: LM, asked: Sequence[Query], *, inputs: Sequence[Site] = (), outputs: Sequence[Site] = ()
) -> tuple[dict[Site, Float[Tensor, "q in"]], dict[Site, Float[Tensor, "q out"]]]:
    """Return inputs and outputs of sites at each query's lookup token, in one pass up to the deepest block."""
    stop = Site(max(site.layer for site in (*inputs, *outputs)), "block")
    parts: list[tuple[dict[Site, Tensor], dict[Site, Tensor]]] = []
    for part in _chunks(asked):
        batch = lm.tokens.batch(part)
        with Trace(lm, inputs=inputs, outputs=outputs, stop=stop) as trace:
            lm.forward(batch)
        parts.append(
            (
                {s: at(trace.inputs[s], batch.lookup) for s in inputs},
                {s: at(trace.outputs[s], batch.lookup) for s in outputs},
            )
        )
    return {s: torch.cat([p[0][s] for p in parts]) for s in inputs}, {
        s: torch.cat([p[1][s] for p in parts]) for s in outputs
    }


def _chunks(asked: Sequence[Query]) -> Iterator[Sequence[Query]]:
    for start in range(0, len(asked), ROWS):
        yield asked[start : start + ROWS]


def mean_keys(
    lm: LM, sites: Sequence[Site], facts: Sequence[Fact], contexts: Sequence[str]
) -> dict[Site, Float[Tensor, "n in"]]:
    """Return k*: the key of each fact's subject, averaged over the contexts."""
    found, _ = gather(lm, queries(lm, facts, contexts, answers=False), inputs=sites)
    return {site: k.reshape(len(facts), len(contexts), -1).mean(1) for site, k in found.items()}
