"""Context edits: text that stands before a prompt which asks about one of the facts, and nothing else.

A graft of kind "context" at "0.prompt" holds no tensors. Its config is all there is, JSON that a person can read:

    index      "0.block", which is not looked at; earlier versions of errata read it, and then say that they know no such kind
    items      subject, statement (prompt and target), asks (the prompt) and text of each fact, and odds
    frame      what the texts are put into, at {told}
    count      how many facts are put before one prompt at most; least: cosine below which a fact that names no subject is none
    odds       log odds of yes to no from which the model confirms that a fact answers a prompt; none: it is not asked

A fact is retrieved for a prompt that names its subject, or, if it has none, for one whose words are like its own
(`index.statements`); the nearest come first, and of one question the newest. The prompt is then written with their text
before it wherever a model is asked (`Tokens.put_before`): whatever reads a prompt, this is what it reads. Of texts that would
fill more than fifteen sixteenths of what the model reads, together with the prompt, the least alike are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from torch import Tensor

from errata.delta import Graft, Site
from errata.fact import occurrences
from errata.index.statements import Statements
from errata.model.fitting import fits
from errata.model.generation import context
from errata.model.grafts.standing import Bank, Grafted, GraftRows, Prompt
from errata.model.query import RENDERED, Query
from errata.model.trace import Modules

KIND: Final = "context"
PLACE: Final = Site(0, "prompt")
TOLD: Final = "{told}"
_CONFIRM: Final = 'Fact: {statement}.\nQuestion: "{asked}"\nDoes the fact answer the question, yes or no? Answer:'


@dataclass(frozen=True, slots=True)
class ContextItem:
    """One fact that can be put before prompts.

    Args:
        subject: whom or what it is about, "" where it names none. statement: what it says. asks: the prompt it answers.
        text: what is put before a prompt. odds: log odds of yes to no from which the model confirms it; None: it is not asked.
        frame: what the texts are put into. count: how many may stand before one prompt. least: cosine below which a fact
            without a subject is not about a prompt.
    """

    subject: str
    statement: str
    asks: str
    text: str
    odds: float | None
    frame: str
    count: int
    least: float


def items_of(graft: Graft) -> list[ContextItem]:
    """Return the facts of a context graft."""
    config: Mapping[str, Any] = graft.config
    shared: dict[str, Any] = {
        "frame": str(config["frame"]),
        "count": int(config["count"]),
        "least": float(config["least"]),
    }
    return [ContextItem(**item, **shared) for item in config["items"]]


def told_before(query: Query, items: Sequence[ContextItem]) -> Query:
    """Return a query with the texts of facts before its prompt, that of the first nearest to it."""
    return query.after(items[0].frame.replace(TOLD, " ".join(item.text for item in reversed(items))))


def leaves_room(lm: Any, query: Query) -> bool:
    """Return whether a prompt fills at most fifteen sixteenths of what the model reads, and its answer fits behind it."""
    most = context(lm)
    length = int(lm.tokens.batch([replace(query, answer="")]).inputs["input_ids"].shape[1])
    return length <= most - most // 16 and fits(lm, query)


def odds_of(lm: Any, item: ContextItem, asked: str) -> float | None:
    """Return the model's log odds of yes to no, asked whether a fact answers a prompt; None if that is too long to ask."""
    text = _CONFIRM.format(statement=item.statement, asked=asked)
    if not fits(lm, Query(text, "Yes")):
        return None
    yes, no = (float(logp.sum()) for logp in lm.logprobs([Query(text, "Yes"), Query(text, "No")]))
    return yes - no


class ContextBank(Bank):
    """All facts that are put before prompts, in the order of their edits."""

    kind: ClassVar[str] = KIND
    routes: ClassVar[bool] = False

    def __init__(self, index: Site, modules: Modules, before: Site | None = None) -> None:
        super().__init__(index, modules, before)
        self._items: list[ContextItem] = []
        self._newest: tuple[list[int], Statements] | None = None  # made when first asked: edits come one after another
        self._asleep = False

    @property
    def sites(self) -> tuple[Site, ...]:
        """None: no output is changed."""
        return ()

    def add(self, grafts: Grafted) -> None:
        """Take in the facts of one more edit."""
        self._items += [item for graft in grafts.values() for item in items_of(graft)]
        self._newest = None

    def find(self, x: Tensor, y: Tensor, prompt: Prompt, noticed: Any = None) -> Tensor:
        """Never asked: a prompt is read with its text, or without."""
        raise NotImplementedError

    def change(self, site: Site, rows: GraftRows) -> Tensor:
        """Never asked."""
        raise NotImplementedError

    def put_before(self, query: Query) -> Query:
        """Return a query with the text of the facts it asks about before its prompt."""
        if self._asleep or query.role == RENDERED:
            return query
        found = self.retrieved(query.prompt)
        while found:
            longer = told_before(query, found)
            with self._sleeping():
                if leaves_room(self.modules, longer):
                    return longer
            found = found[:-1]
        return query

    def retrieved(self, prompt: str) -> list[ContextItem]:
        """Return the facts a prompt asks about, the nearest first."""
        places, statements = self._standing()
        about = [place for place in places if self._asks(prompt, place, statements)]
        places = statements.nearest(prompt, about, count=len(about))
        if not places:
            return []
        first, *rest = (self._items[place] for place in places)
        with_it = [item for item in rest if item.count > 1]  # another stands alone, where it is the nearest
        near = [first, *with_it][: first.count]
        return [item for item in near if self._confirmed(item, prompt)]

    def _standing(self) -> tuple[list[int], Statements]:
        """Return the places of the newest fact of each question, and all facts' questions."""
        if self._newest is None:
            newest = {(item.subject, item.asks): place for place, item in enumerate(self._items)}
            self._newest = [*newest.values()], Statements([item.asks for item in self._items])
        return self._newest

    def _asks(self, prompt: str, place: int, statements: Statements) -> bool:
        item = self._items[place]
        if item.subject:
            return bool(occurrences(prompt, item.subject))
        return statements.cosine(prompt, place) >= item.least

    def _confirmed(self, item: ContextItem, prompt: str) -> bool:
        if item.odds is None:
            return True
        with self._sleeping():
            return (found := odds_of(self.modules, item, prompt)) is not None and found >= item.odds

    @contextmanager
    def _sleeping(self) -> Iterator[None]:
        self._asleep = True
        try:
            yield
        finally:
            self._asleep = False


def graft_of(items: Sequence[ContextItem]) -> Graft:
    """Return the graft that puts these facts of one edit before prompts."""
    own, shared = ("subject", "statement", "asks", "text", "odds"), ("frame", "count", "least")
    rows = [{name: getattr(item, name) for name in own} for item in items]
    return Graft(KIND, {"index": "0.block", "items": rows, **{name: getattr(items[0], name) for name in shared}}, {})
