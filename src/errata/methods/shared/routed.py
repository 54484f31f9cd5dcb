"""What methods share whose edits a prompt opens by its key: reading keys, and how far a key may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Graft, Site
from errata.edit import Edit
from errata.fact import Fact
from errata.index.clusters import AnswerTokens
from errata.index.search import Backend
from errata.methods.base import Auto, Method
from errata.model.fitting import clipped, fits
from errata.model.fold import fold
from errata.model.grafts.keyed import KINDS, Keyed, keyed_graft
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Batch
from errata.model.trace import Trace, at
from errata.solve.keys import ROWS, Contexts, contexts_for, prefixes, replies
from errata.stats.corpus import open_corpus

UNRELATED = 64  # texts the radius must not reach


@dataclass(frozen=True, kw_only=True)
class Routed(Method):
    """A method whose edit is opened by the key of a prompt."""

    radius: float | Auto = field(
        default="auto",
        metadata={"help": "how far a key may be; auto: by rephrasings and other texts", "above": 0},
    )
    search: Backend = field(
        default="size", metadata={"help": "how keys are searched: exact, faiss, or by their number"}
    )
    corpus: str = field(
        default="auto", metadata={"help": "text no edit is about, for the radius: prose, primer, a file"}
    )

    def keyed_at(self) -> tuple[Site, bool]:
        """Return the site keys are read at, and whether they are what goes into it."""
        raise NotImplementedError

    def calibrated(
        self, lm: LM, index: Site, facts: Sequence[Fact], entering: bool = False
    ) -> tuple[float, dict[str, Any]]:
        """Return the radius, and for ``radius="auto"`` the two distributions of distances it was chosen by."""
        if self.radius != "auto":
            return self.radius, {"radius": self.radius}
        with lm.weights.at_base():
            near = torch.cat([self._near(lm, index, fact, entering) for fact in facts])
            far = self._far(lm, index, facts, entering)
        documents = lm.row.kind == "classifier" and not any(own_words(fact) for fact in facts)
        radius = around(far) if documents or not len(near) else between(near, far)
        shown = {name: [round(float(d), 4) for d in found.sort().values[:: 1 + len(found) // 200]]
                 for name, found in (("near", near), ("far", far))}  # fmt: skip
        return radius, {"radius": radius, "distances": shown}

    def said(self, lm: LM, facts: Sequence[Fact]) -> dict[str, Any]:
        """Return what an edit's report is to say of wordings that were too long to be measured by."""
        left_out = sum(variants(lm, fact, self.seed).left_out for fact in facts) if self.radius == "auto" else 0
        return Contexts((), left_out).report(lm)

    def _near(self, lm: LM, index: Site, fact: Fact, entering: bool) -> Float[Tensor, " n"]:
        asked = [Query.asked(fact, text) for text in (fact.prompt, *variants(lm, fact, self.seed).texts)]
        keys = read_keys(lm, index, asked, entering)
        return torch.linalg.vector_norm(keys[1:] - keys[0], dim=1)

    def _far(self, lm: LM, index: Site, facts: Sequence[Fact], entering: bool) -> Float[Tensor, " n"]:
        words = max(2, sorted(len(fact.prompt.split()) for fact in facts)[len(facts) // 2])
        memory = ("unrelated keys", index, self.corpus, words, entering)
        if memory not in lm.memory:
            texts = islice(open_corpus(self.corpus).documents(lm), UNRELATED)
            asked = [Query(clipped(lm, " ".join(text.split()[:words]))) for text in texts]
            lm.memory[memory] = read_keys(lm, index, asked, entering)
        own = read_keys(lm, index, [Query.asked(fact) for fact in facts], entering)
        return torch.cdist(own, lm.memory[memory], compute_mode="donot_use_mm_for_euclid_dist").flatten()


def training_query(lm: LM, fact: Fact, prompt: str = "") -> Query:
    """Return what is learned: the answer and, where a model ends its answers itself (T5), their end; else it goes on and on.

    Args:
        prompt: another wording of the fact's own.
    """
    end = lm.tokenizer.eos_token or "" if lm.row.kind == "encoder-decoder" else ""
    asked = replace(Query.asked(fact, prompt or None), answer=f"{fact.target}{end}")
    return replies(lm, [asked], [fact], aloud=True)[0]


def without_bank(lm: LM, asked: Sequence[Query], name: str) -> Batch:
    """Return a batch in which what prompts open stands open, but nothing of one bank: an edit learns what is to stand there.

    Args:
        name: the bank's.
    """
    batch = lm.routed(lm.tokens.batch(asked).to(lm.device))
    if name not in batch.routes:
        return batch
    return replace(batch, routes={**batch.routes, name: torch.full_like(batch.routes[name], -1)})


def labels_in(lm: LM, batch: Batch) -> list[AnswerTokens]:
    """Return the answers of a batch as labels: their tokens, without the end that was learned with them."""
    found = [tuple(batch.labels[batch.rows == i].tolist()) for i in range(len(batch))]
    ends = lm.row.kind == "encoder-decoder" and lm.tokenizer.eos_token is not None
    return [label[:-1] for label in found] if ends else found


def between(near: Float[Tensor, " n"], far: Float[Tensor, " m"]) -> float:
    """Return a radius between two distributions of distances, never as far as nine tenths of the least of the second.

    The middle on a scale of ratios between what nine of ten rephrasings stay within and nine of ten other texts beyond.
    """
    inner, outer = float(torch.quantile(near.double(), 0.9)), float(torch.quantile(far.double(), 0.1))
    return float(f"{max(1e-6, min((inner * outer) ** 0.5, 0.9 * float(far.min()))):.6g}")


def around(far: Float[Tensor, " m"]) -> float:
    """Return a radius for a document of which no rephrasing is known: a quarter of the distance to the nearest other text.

    Parts of a document lie as far off as other documents, so that a ball which holds them reaches edits of other labels,
    and pushes them back until they are forgotten. What is left to allow for is a word or two.
    """
    return float(f"{max(1e-6, float(far.min()) / 4):.6g}")


def own_words(fact: Fact) -> list[str]:
    """Return a fact's rephrases; one that is also a probe is a question kept for the examination, and is not looked at."""
    kept = {probe.prompt for probe in fact.probes}
    return [text for text in fact.rephrases if text not in kept]


def variants(lm: LM, fact: Fact, seed: int) -> Contexts:
    """Return other wordings of a fact's prompt: its rephrases, or the prompt after sampled texts, or parts of a document.

    What would be longer, with the target, than what the model reads is left out.
    """
    if lm.row.kind == "classifier" and not own_words(fact):
        words = fact.prompt.split()
        cut = max(1, len(words) // 10)
        parts = tuple(" ".join(part) for part in (words[cut:], words[:-cut], words[cut:-cut]) if part)
        return Contexts(parts or (fact.prompt,))
    if own := own_words(fact):
        texts = tuple(text for text in own if fits(lm, training_query(lm, fact, text)))
        return Contexts(texts, len(own) - len(texts))
    found = contexts_for(lm, [fact], prefixes(lm, seed))
    return Contexts(tuple(f"{text} {fact.prompt}" for text in found.texts if text), found.left_out)


@torch.no_grad()
def read_keys(lm: LM, index: Site, asked: Sequence[Query], entering: bool = False) -> Float[Tensor, "n d"]:
    """Return a site's output (or its input, if `entering`) at the last token of each prompt, in float32."""
    parts = []
    for start in range(0, len(asked), ROWS):
        batch = lm.tokens.batch(asked[start : start + ROWS]).to(lm.device)
        assert batch.ends is not None
        with Trace(lm, inputs=[index], outputs=[index], stop=Site(index.layer, "block")) as trace:
            lm.forward(batch)
        parts.append(at((trace.inputs if entering else trace.outputs)[index], batch.ends).float())
    return torch.cat(parts)


Held: TypeAlias = tuple[Edit, Graft]  # an edit, and where its keys are


def preview(lm: LM, name: str, past: Sequence[Edit], graft: Graft) -> dict[str, Any]:
    """Return what an edit will do to the index: its events, the clusters there are then, and what is forgotten, by edit.

    Args:
        name: the bank's. past: the edits that stand. graft: the new edit's keys.
    """
    kind, _, where = name.partition("@")
    index = Site.parse(where)

    def entered(held: list[Held], edit: Edit) -> list[Held]:
        found = keyed_graft(edit.deltas, kind)
        if found and found[0] == index:
            held.append((edit, found[1]))
        return held

    held = fold(lm, ("keyed", name), past, list[Held], entered)
    standing = lm.weights.grafts.bank(name)
    if not isinstance(standing, Keyed) or standing.edits != len(held):
        made = KINDS[kind](index, lm)
        assert isinstance(made, Keyed)
        standing = made
        for _, keys in held:
            standing.take_keys(keys)
    with standing.trying(graft) as events:
        assert standing.clusters is not None
        lost = [_forgotten(held, standing, point) for event in events for point in event.forgotten]
        return {"events": [event.kind for event in events], "clusters": len(standing.clusters), "forgotten": lost}


def _forgotten(held: Sequence[Held], bank: Keyed, point: int) -> dict[str, str]:
    number = bank.opens[point]
    if number == len(held):
        return {"edit": "", "prompt": "a fact of this edit itself"}
    edit, _ = held[number]
    return {"edit": edit.id, "prompt": edit.facts[point - bank.opens.index(number)].prompt}
