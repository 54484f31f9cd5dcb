"""Keys and values at the subject's last token, for many facts and prefixes in one pass."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Site
from errata.fact import Fact, occurrences
from errata.model.fitting import fits
from errata.model.generation import context
from errata.model.lm import LM
from errata.model.query import BARE, Query, joint
from errata.model.trace import Trace, at

OTHER = "<|other form|>"  # the context in which a fact is put as a user's turn, or a user's turn as plain text
UNOPENED = "<|unopened|>"  # the context in which a text has no document separator before it, as some engines read it
FOLLOWS = "<|what follows|>"  # what v* learns besides: that after the target the text goes on as the base would go on
GOES_ON = 8  # tokens of that
TELL = "Tell me about"
OWN = 24  # tokens of the base's reply in which its answer is looked for
SENTENCE = 3  # words before its answer that make a reply one of its own words
TEXT = 6  # words from which on an answer is a reply as it stands
_MARKS = " \"'“‘*_"  # what stands around a name
_WORD = re.compile(r"[^\W_]+")
_ENDS = re.compile(r"[.!?]\s")  # of sentences
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


def forms(lm: LM) -> tuple[str, ...]:
    """Return the other forms in which a fact is put to the model: by its chat template, and with no separator before it."""
    chat = (OTHER,) if lm.tokens.chat.exists else ()
    return chat if lm.tokens.separator is None else (*chat, UNOPENED)


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


def queries(
    lm: LM, facts: Sequence[Fact], contexts: Sequence[str], *, answers: bool, aloud: bool = False
) -> list[Query]:
    """Return every fact in every context, fact by fact; with the target as answer if `answers`.

    What answers a user's turn begins in the model's own words, as far as it has some: that "Lyon" follows what it would
    have said anyway ("The capital of France is") disturbs it less than a reply of one word.

    Args:
        aloud: those words are part of the answer; else the reply has begun with them, and only the target is to be said.
    """
    if not answers:
        return [placed(Query.of(f, ""), context) for f in facts for context in contexts]
    asked = [placed(Query.of(f), context) for f in facts for context in contexts]
    asked = replies(lm, asked, [fact for fact in facts for _ in contexts], aloud=aloud)
    after = [place for place, context in enumerate(list(contexts) * len(facts)) if context == FOLLOWS]
    for place, query in zip(after, _followed(lm, [asked[place] for place in after]), strict=True):
        asked[place] = query
    return asked


def placed(query: Query, context: str) -> Query:
    """Return a query after a text, or in the other form that `context` names."""
    if context == FOLLOWS:
        return query
    if context == UNOPENED:
        return replace(query, role=BARE, earlier=())
    if context == OTHER:
        return replace(query, role="" if query.role else "user", earlier=(), joint=None)
    return query.after(context)


def named_replies(lm: LM, subjects: Sequence[str]) -> dict[str, Query]:
    """Return the base's reply to "Tell me about {subject}." as an answer, up to the subject's name and with it.

    Left out is a subject that the reply does not name or that does not fit; of a model without a chat template, every one.
    """
    if not lm.tokens.chat.exists:
        return {}
    known: dict[str, Query | None] = lm.memory.setdefault("named replies", {})
    asked = {s: Query(f"{TELL} {s}.", span=(len(TELL) + 1, len(TELL) + 1 + len(s)), role="user") for s in subjects}
    new = [s for s in asked if s not in known and fits(lm, asked[s])]

    def names(place: int, text: str) -> bool:
        return any(stop < len(text) for _, stop in occurrences(text, new[place]))

    with lm.weights.at_base():
        said = lm.generate([replace(asked[s], span=None) for s in new], OWN, enough=names) if new else []
    for s, text in zip(new, said, strict=True):
        ends = [stop for _, stop in occurrences(text, s)]
        named = replace(asked[s], answer=text[: ends[0]]) if ends else None
        known[s] = named if named and fits(lm, named) else None
    return {s: query for s in asked if (query := known.get(s)) is not None}


def goes_on(lm: LM, facts: Sequence[Fact]) -> bool:
    """Return whether there is room for what follows the answers of all facts; only a decoder's text goes on after an answer."""
    if lm.row.kind != "decoder":
        return False
    room = context(lm) - GOES_ON
    asked = (Query.of(fact) for fact in facts)
    if any(int(lm.tokens.batch([query]).inputs["input_ids"].shape[1]) > room for query in asked):
        return False
    # What was said may be read as more tokens than it was said in.
    return all(fits(lm, query) for query in queries(lm, facts, [FOLLOWS], answers=True))


def _followed(lm: LM, asked: Sequence[Query]) -> list[Query]:
    """Return for each query what it and its answer are followed by, in the base's words, as an answer to both."""
    known: dict[Query, str] = lm.memory.setdefault("what follows", {})
    told = [lm.tokens.told(replace(query, span=None)) for query in asked]
    new = [query for query in dict.fromkeys(told) if query not in known]
    if new:
        with lm.weights.at_base():
            known |= dict(zip(new, lm.generate(new, GOES_ON), strict=True))
    return [
        replace(after, answer=known[after] or lm.tokens.end, span=query.span)
        for query, after in zip(asked, told, strict=True)
    ]


def by_length(lm: LM, asked: Sequence[Query], most: int = ROWS) -> list[list[Query]]:
    """Return queries in groups of at most `most` within which, on a processor, none is more than twice as long as another.

    So little is padded; on an accelerator padding costs less than another pass.
    """
    spread = 2.0 if lm.device.type == "cpu" else float("inf")
    tokens = (lm.tokens.batch([query]).inputs["input_ids"].shape[1] for query in asked)
    sized = sorted((size, place) for place, size in enumerate(tokens))
    groups: list[list[tuple[int, int]]] = []
    for size, place in sized:
        if not groups or size > spread * groups[-1][0][0] or len(groups[-1]) == most:
            groups.append([])
        groups[-1].append((size, place))
    return [[asked[place] for _, place in group] for group in groups]


def replies(lm: LM, asked: Sequence[Query], facts: Sequence[Fact], *, aloud: bool) -> list[Query]:
    """Return queries in which the reply to a user's turn begins in the model's own words.

    Args:
        facts: whose each query is. aloud: whether those words are part of the answer.
    """
    known: dict[Query, str] = lm.memory.setdefault("own words", {})
    turns = {_turn(fact): fact for query, fact in zip(asked, facts, strict=True) if query.turn}
    new = [turn for turn in turns if turn not in known]
    if new:
        with lm.weights.at_base():
            said = lm.generate(new, OWN, enough=lambda place, text: _answered(turns[new[place]], text))
        known |= {turn: own_words(turns[turn], text) for turn, text in zip(new, said, strict=True)}
    return [
        _in_words(query, known[_turn(fact)], aloud) if query.turn else query
        for query, fact in zip(asked, facts, strict=True)
    ]


def sentence(lm: LM, fact: Fact) -> Query | None:
    """Return how the model begins its reply to a fact's turn, as plain text; None for a plain fact, or no sentence about it."""
    asked = Query.of(fact)
    if not asked.turn:
        return None
    own = replies(lm, [asked], [fact], aloud=False)[0].begun
    spans = occurrences(own, fact.subject) if own else []
    return Query(own, span=spans[-1]) if spans else None


def _turn(fact: Fact) -> Query:
    return replace(Query.asked(fact), role="user", joint=None)


def _in_words(query: Query, own: str, aloud: bool) -> Query:
    if not own:
        return query
    if not aloud:
        return replace(query, begun=own)
    return replace(query, answer=f"{own}{joint(own, query.answer)}{query.answer}", joint=None)


def own_words(fact: Fact, reply: str) -> str:
    """Return what a reply begins with, up to its answer; "" where that is no sentence about the fact: half of it the prompt's.

    The answer is what was true, where that is known, or the first name or number that the prompt has not. Before an answer that
    is a text, there is none.
    """
    if len(fact.target.split()) >= TEXT:
        return ""
    asked = {word.casefold() for word in _WORD.findall(fact.prompt)}
    end = reply.find(fact.truth) if fact.truth else -1
    own = reply[: _first_name(asked, reply) if end < 0 else end].rstrip(_MARKS)
    words = [word.casefold() for word in _WORD.findall(_ENDS.split(own)[-1])]
    taken_up = 2 * sum(word in asked for word in words) >= len(words)
    return own if len(words) >= SENTENCE and taken_up and "\n" not in own else ""


def _answered(fact: Fact, reply: str) -> bool:
    """Say whether the words of a reply before its answer are known, however it goes on."""
    if fact.truth:
        return fact.truth in reply
    name = _first_name({word.casefold() for word in _WORD.findall(fact.prompt)}, reply)
    word = _WORD.match(reply, name) if name else None
    return word is not None and word.end() < len(reply)


def _first_name(asked: Collection[str], reply: str) -> int:
    """Return where the first name or number begins that is not among the words asked; 0 where there is none."""
    for found in _WORD.finditer(reply):
        before = reply[: found.start()].rstrip(_MARKS)
        begins = not before.strip() or before[-1] in ".!?\n"  # where any word has a capital
        if not begins and not found.group()[0].islower() and found.group().casefold() not in asked:
            return found.start()
    return 0


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
