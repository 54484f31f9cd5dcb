"""Keys in two parts: what a prompt is about, at whichever token that stands, and what it asks, at its last token.

Why: at one token late in a prompt the same question about another subject lies nearer than another wording about the same one,
so no radius can be right. The subject is told from others at an early layer, by its token and the direction of what goes into
`up`; the question at a late one, by the direction at the prompt's last token (`gauge`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from errata.data.common import relations
from errata.delta import Graft
from errata.edit import Edit
from errata.errors import BadFact
from errata.fact import Fact, occurrences, question
from errata.methods.base import Auto, roles_of
from errata.methods.shared.gauge import EARLY, LATE, SAID_OF, Gauge, gauge, layers_within, read
from errata.methods.shared.routed import Routed, own_words, training_query, variants
from errata.model.fitting import fits
from errata.model.grafts.standing import places
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Room
from errata.solve.keys import Contexts, contexts, contexts_for, forms, prefixes, queries, sentence

READ_AFTER = 3  # the bare prompt, and sampled texts it is learned after
GOES_ON = Room(16, 3)  # tokens and lines after a target that are to stay
SLACK = 1.2  # how far beyond the radius a question still counts as near
SAME = 0.25  # keys of a fact nearer than this share of what is allowed are one key


def key_state(lm: LM, found: Gauge, facts: Sequence[Fact], contexts: Sequence[str]) -> dict[str, Tensor]:
    """Return the keys of facts as a graft stores them: in each context, at the start of a text, and in small letters.

    Args:
        contexts: what the prompts are read after, and the other forms they are read in.
    """
    state: dict[str, list[Tensor]] = {name: [] for name in ("subjects", "tokens", "about", "keys", "asks")}
    for number, fact in enumerate(facts):
        prompts = queries(lm, [fact], contexts, answers=False)
        prompts += [_reworded(fact, text) for text in _worded(lm, fact)]
        prompts += [own] if (own := sentence(lm, fact)) else []
        names = [Query(f"{name} is", span=(0, len(name))) for name in _spelled(fact.subject)]
        names += [replace(Query.of(fact, ""), prompt=_lower(fact)) for _ in _spelled(fact.subject)[1:] if fact.span]
        named_in = [query for query in [*prompts, *names] if query.span and fits(lm, query)]
        asked = read(lm, prompts, [], [found.question])
        named = read(lm, named_in, [found.subject], [])
        kept = _apart(named.subjects[found.subject] - found.means[0], SAME * found.reach, named.tokens.tolist())
        state["subjects"].append(named.subjects[found.subject][kept])
        state["tokens"].append(named.tokens[kept])
        state["about"].append(torch.full((len(kept),), number))
        kept = _apart(asked.questions[found.question] - found.means[1], SAME * found.radius)
        state["keys"].append(asked.questions[found.question][kept])
        state["asks"].append(torch.full((len(kept),), number))
    means = {"subject_mean": found.means[0], "mean": found.means[1]}
    return {**{name: torch.cat(parts).cpu() for name, parts in state.items()}, **{n: m.cpu() for n, m in means.items()}}


def _worded(lm: LM, fact: Fact) -> list[str]:
    """Return a fact's own other wordings, those left out that would be longer with the target than what the model reads."""
    return [text for text in own_words(fact) if fits(lm, training_query(lm, fact, text))]


def left_out(lm: LM, facts: Sequence[Fact], seed: int) -> Contexts:
    """Return how many of the texts that facts would be read after or as are too long, to be told in a report."""
    worded = sum(len(own_words(fact)) - len(_worded(lm, fact)) for fact in facts)
    return Contexts((), contexts_for(lm, facts, contexts(lm, seed)).left_out + worded)


def _reworded(fact: Fact, text: str) -> Query:
    spans = occurrences(text, fact.subject)
    return replace(Query.asked(fact, text), span=spans[-1] if spans else None)


def _spelled(subject: str) -> tuple[str, ...]:
    """Return how a subject may be written."""
    small = subject.lower()
    return (subject,) if small == subject or len(small) != len(subject) else (subject, small)


def _lower(fact: Fact) -> str:
    assert fact.span is not None
    start, end = fact.span
    return f"{fact.prompt[:start]}{fact.prompt[start:end].lower()}{fact.prompt[end:]}"


def _apart(keys: Float[Tensor, "n d"], within: float, tokens: Sequence[int] = ()) -> list[int]:
    """Return the numbers of keys none of which lies as near as that to another of the same token; the first is one of them."""
    turned = torch.nn.functional.normalize(keys, dim=-1)
    far = 1 - turned @ turned.T
    kept: list[int] = []
    for i in range(len(keys)):
        same = (j for j in kept if not tokens or tokens[i] == tokens[j])
        if all(float(far[i, j]) > within for j in same):
            kept.append(i)
    return kept


def other_questions(lm: LM, found: Gauge, fact: Fact) -> list[Query]:
    """Return prompts about a fact's subject that ask something else, and are near enough to open what it opens.

    What the base goes on with as after the fact's own prompt, or asks as near as another wording would, is taken for another
    wording of it and left out.
    """
    asked = [Query.asked(fact), *(query for query in about(fact) if fits(lm, query))]
    far = _apart_from(lm, found, asked)
    near = [query for query, d in zip(asked, far, strict=True) if found.close < d <= SLACK * found.radius]
    if not near:
        return []
    with torch.no_grad(), lm.weights.at_base():
        own, *others = lm.answer_logits(lm.tokens.batch([asked[0], *near])).argmax(-1).tolist()
    return [query for query, token in zip(near, others, strict=True) if token != own]


def learned(lm: LM, facts: Sequence[Fact], seed: int) -> list[Query]:
    """Return what a block learns: the facts in every form and wording, with their targets."""
    every = contexts_for(lm, facts, (*prefixes(lm, seed)[:READ_AFTER], *forms(lm))).texts
    worded = [training_query(lm, fact, text) for fact in facts for text in _worded(lm, fact)]
    if lm.row.kind == "encoder-decoder":
        texts = [(fact, f"{text} {fact.prompt}" if text else "") for fact in facts for text in every]
        return [*(training_query(lm, fact, text) for fact, text in texts), *worded]
    plain = [replace(own, answer=fact.target) for fact in facts if (own := sentence(lm, fact))]
    return [*queries(lm, facts, every, answers=True, aloud=True), *worded, *plain]


def what_follows(lm: LM, facts: Sequence[Fact]) -> list[Query]:
    """Return the facts with their targets, followed by what the base goes on with: a block is to leave that alone."""
    if lm.row.kind != "decoder":
        return []
    told = [replace(lm.tokens.told(Query.of(fact)), span=None) for fact in facts]
    with lm.weights.at_base():
        after = lm.generate(told, GOES_ON)
    queries_ = [replace(query, answer=text or lm.tokens.end) for query, text in zip(told, after, strict=True)]
    return [query for query in queries_ if fits(lm, query)]


def about(fact: Fact) -> list[Query]:
    """Return things that may be asked of a fact's subject, whatever it is."""
    texts = (*SAID_OF, *(relation.wordings[0] for relation in relations()))
    return [Query(text.replace("{}", fact.subject)) for text in texts]


def _apart_from(lm: LM, found: Gauge, asked: Sequence[Query]) -> list[float]:
    """Return how far what prompts ask lies from what the first of them asks."""
    with lm.weights.at_base():
        keys = read(lm, asked, [], [found.question]).questions[found.question] - found.means[1]
    turned = torch.nn.functional.normalize(keys, dim=-1)
    apart: list[float] = (1 - turned @ turned[0]).tolist()
    return apart


@dataclass(frozen=True, kw_only=True)
class RoutedByParts(Routed):
    """A method whose edit is opened by what a prompt is about and what it asks, or by its last token alone."""

    by: Literal["parts", "prompt"] | Auto = field(
        default="auto",
        metadata={
            "help": "what opens an edit: parts (its subject anywhere in the prompt, and what is asked) or prompt (its last "
            "token, as in the paper); auto: parts on decoders, of facts that name subjects"
        },
    )
    subject: int | Auto | None = field(
        default="auto", metadata={"help": "parts: layer subjects are known at; auto: measured"}
    )
    reach: float | Auto | None = field(
        default="auto",
        metadata={"help": "parts: how far a subject's key may be, 1 − cosine; auto: measured", "above": 0},
    )

    def parted(self, lm: LM) -> bool:
        """Say whether keys are in two parts, where facts name their subjects."""
        if self.by != "auto":
            return self.by == "parts"
        known = lm.row.kind == "decoder" and lm.published not in self.tuned and lm.reachable > 2
        dense = roles_of(lm, "auto") == ("up", "down")
        return known and dense and all(layers_within(lm, share) for share in (EARLY, LATE))

    def solve(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit] = ()) -> Edit:
        """Return the edit that writes `facts`; see `Method.solve`. Facts without subjects are opened by their prompts.

        Raises:
            BadFact: two parts are asked for, and a fact names no subject.
        """
        nameless = [fact.prompt for fact in facts if not fact.subject]
        if nameless and self.by == "parts":
            raise BadFact(
                f"a key in two parts needs a subject, and {nameless[0]!r} names none: give it, or set by=prompt."
            )
        if nameless and self.by == "auto":
            return replace(self, by="prompt").solve(lm, facts, past)
        return super().solve(lm, facts, past)

    def distances(self, lm: LM, question: int | Auto, fact: Fact) -> tuple[Gauge, list[float], list[float]]:
        """Return how far a fact's question lies from other wordings of it and from other questions about its subject.

        Args:
            question: the layer, where it is set.
        """
        found = self.gauged(lm, question)
        near = [Query.asked(fact, text) for text in variants(lm, fact, self.seed).texts]
        far = [query for query in about(fact) if fits(lm, query)]
        apart = _apart_from(lm, found, [Query.asked(fact), *near, *far])
        return found, apart[1 : 1 + len(near)], apart[1 + len(near) :]

    def gauged(self, lm: LM, question: int | Auto) -> Gauge:
        """Return where keys are read and how far they may be, with what is set in place of what is measured."""
        found = gauge(lm, *(None if layer == "auto" else layer for layer in (self.subject, question)))
        own: dict[str, Any] = {"reach": self.reach, "radius": self.radius}
        return replace(found, **{name: value for name, value in own.items() if value not in ("auto", None)})

    def opened(self, lm: LM, question: int | Auto, parted: bool) -> dict[str, Any]:
        """Return what opens an edit, with the settings of keys in two parts filled in, or None where they are not."""
        if not parted:
            return {"by": "prompt", "subject": None, "reach": None}
        found = self.gauged(lm, question)
        return {"by": "parts", "subject": found.subject.layer, "reach": found.reach, "radius": found.radius}

    def key_graft(self, lm: LM, found: Gauge, facts: Sequence[Fact], **config: Any) -> Graft:
        """Return the keys of facts in two parts, as a graft of this method."""
        every = contexts_for(lm, facts, contexts(lm, self.seed)).texts
        known = {"index": places(found.question, found.subject), "reach": found.reach, "radius": found.radius}
        state = key_state(lm, found, facts, every)
        return Graft(f"{self.name}-parts", {**known, "search": self.search, **config}, state)


def told(found: Gauge, past: Sequence[Edit], facts: Sequence[Fact], kind: str) -> dict[str, Any]:
    """Return what an edit's report is to say of its keys: how well they are told apart, and which edits it overrides.

    Args:
        past: the edits that stand. kind: of their grafts.
    """
    asked = {question(fact): fact.target for fact in facts}
    lost = [
        {"edit": edit.id, "prompt": fact.prompt} for edit in past for fact in edit.facts
        if asked.get(question(fact), fact.target) != fact.target and keyed_by(edit, kind)
    ]  # fmt: skip
    known = {
        "subject": str(found.subject),
        "reach": found.reach,
        "question": str(found.question),
        "radius": found.radius,
    }
    return {"index": {**known, "told apart": found.figures}, "forgotten": lost}


def index_of(keyed: Graft) -> str:
    """Return the name of the bank that a graft's keys belong to."""
    return f"{keyed.wrapper}@{keyed.config['index']}"


def keyed_by(edit: Edit, kind: str) -> bool:
    """Say whether an edit has grafts of a kind."""
    return any(isinstance(delta, Graft) and delta.wrapper == kind for delta in edit.deltas.values())
