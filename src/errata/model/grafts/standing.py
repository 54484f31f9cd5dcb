"""What stands on a model besides its matrices: grafts, and what each prompt was found to open.

A `Bank` is what the grafts of one kind with one index site amount to, in the order of their edits. While it stands, every
pass over prompts asks it once, at the index site and for each row by itself, what the prompt's last token opens; the answer
(the route) is kept for the whole answer: teacher-forced, generated token by token, or by several beams. A bank may look at
all tokens of the prompt at an earlier site as well. A prompt that opens nothing is not computed with at all, so its logits
are the model's own to the bit.

How a pass is known:

    LM.forward(batch)            a pass of its own; where prompts end, and routes found earlier, come with the batch
    anything else, first pass    a prompt ends at its last token that is no padding
    anything else, with a cache  the answer goes on; so does the decoder of an encoder-decoder, whose prompt was encoded

Nothing of this is global: the routes belong to the grafts, and these to one model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from operator import is_
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from errata.delta import Change, Graft, Site, Unread
from errata.errors import UnsupportedModel
from errata.model.query import Query
from errata.model.tokens import Batch, last_real
from errata.model.trace import Modules, Trace, grafted

Grafted: TypeAlias = Mapping[Site, Graft]  # the grafts of one edit that make up one bank
Input: TypeAlias = Float[Tensor, "b t in"]
Output: TypeAlias = Float[Tensor, "b t out"]
Route: TypeAlias = Int[Tensor, " b"]


class Bank(ABC):
    """What the grafts of one kind with one index site amount to, in the order of their edits.

    Args:
        index: where it is decided what opens; a matrix's role, so that it is not passed through when a pass begins later.
        modules: where the sites are.
        before: where the prompt's tokens are looked at already, if anywhere.
    """

    kind: ClassVar[str]
    routes: ClassVar[bool] = True  # whether it is asked inside a pass; one that is not changes what a prompt reads as

    def __init__(self, index: Site, modules: Modules, before: Site | None = None) -> None:
        self.index, self.modules, self.before = index, modules, before

    @property
    def name(self) -> str:
        """What a batch calls its routes."""
        return f"{self.kind}@{places(self.index, self.before)}"

    @property
    @abstractmethod
    def sites(self) -> tuple[Site, ...]:
        """Sites whose output it may change."""

    @abstractmethod
    def add(self, grafts: Grafted) -> None:
        """Take in the grafts of one more edit."""

    def notice(self, x: Input, prompt: Prompt) -> Any:
        """Return what `find` is to know of the input of the site `before`."""
        raise NotImplementedError

    def put_before(self, query: Query) -> Query:
        """Return a query as it is to be read, of a bank that is not asked inside a pass."""
        raise NotImplementedError

    @abstractmethod
    def find(self, x: Input, y: Output, prompt: Prompt, noticed: Any = None) -> Route:
        """Return what each row opens, −1 for nothing, from the index site's input and output, and what was noticed before."""

    @abstractmethod
    def change(self, site: Site, rows: GraftRows) -> Output:
        """Return what the rows that open something put out at `site`, in place of `rows.y`."""


def places(index: Site, before: Site | None = None) -> str:
    """Return how a graft writes down where its keys are read: "9.up", or "2.up+9.up"."""
    return str(index) if before is None else f"{before}+{index}"


def placed(text: str) -> tuple[Site, Site | None]:
    """Return the index site and the one before it, if any, of what `places` wrote.

    Raises:
        UnknownSite: it is something else.
    """
    before, plus, index = text.rpartition("+")
    return Site.parse(index), Site.parse(before) if plus else None


@dataclass(frozen=True, eq=False, slots=True)
class Prompt:
    """Where the prompts of a pass stand: their last tokens, all of them, and which these are, where the pass was told."""

    ends: Int[Tensor, " b"]
    mask: Int[Tensor, "b t"] | None = None
    ids: Int[Tensor, "b t"] | None = None

    def tokens(self, length: int) -> Bool[Tensor, "b t"]:
        """Return which of the pass's positions are tokens of the prompt."""
        before = torch.arange(length, device=self.ends.device)[None] <= self.ends[:, None]
        return before if self.mask is None else before & self.mask.bool()

    def to(self, device: torch.device) -> Prompt:
        """Return it on a device."""
        return Prompt(self.ends.to(device), *(None if t is None else t.to(device) for t in (self.mask, self.ids)))


@dataclass(frozen=True, eq=False, slots=True)
class GraftRows:
    """The rows of a pass that open something, at one site.

    Args:
        x, y: the site's input and output, (s, t, in) and (s, t, out). route: (s,) what they open.
        ends: (s,) the prompt's last token, counted from the pass's first; 0 where the prompt lies behind.
    """

    x: Input
    y: Output
    route: Int[Tensor, " s"]
    ends: Int[Tensor, " s"]

    def after(self) -> Tensor:
        """Return (s, t) which positions are the prompt's last token or follow it."""
        place = torch.arange(self.y.shape[1], device=self.y.device)
        return place[None] >= self.ends[:, None]


def _same(one: Mapping[Site, Change], other: Mapping[Site, Change]) -> bool:
    """Say whether two edits have the very same objects as deltas: then what was made of them can stay."""
    return one is other or (one.keys() == other.keys() and all(delta is other[site] for site, delta in one.items()))


def _grafts_in(edits: Sequence[Mapping[Site, Change]]) -> tuple[Mapping[Site, Change], ...]:
    """Return the edits that have grafts."""
    read = (edit for edit in edits if not isinstance(edit, Unread))
    return tuple(edit for edit in read if any(isinstance(delta, Graft) for delta in edit.values()))


class Grafts:
    """The grafts that stand on one model.

    Args:
        owner: the model. kinds: the banks there are, by the name that is written in a graft.
    """

    def __init__(self, owner: Any, kinds: Mapping[str, type[Bank]]) -> None:
        self._owner, self._kinds = owner, kinds
        self._seen: tuple[Mapping[Site, Change], ...] = ()  # all edits that stand
        self._standing: tuple[Mapping[Site, Change], ...] = ()  # those with grafts
        self._banks: dict[str, Bank] = {}
        self._hooks = ExitStack()
        self._routes: dict[str, Tensor] = {}
        self._noticed: dict[str, Any] = {}
        self._prompt: Prompt | None = None
        self._given: Batch | None = None

    @property
    def standing(self) -> tuple[Mapping[Site, Change], ...]:
        """The deltas of the edits that stand and have grafts, in order."""
        return self._standing

    def bank(self, name: str) -> Bank | None:
        """Return the bank of that name, if one stands."""
        return self._banks.get(name)

    # ---------------------------------------------------------------- standing

    def stand(self, edits: Sequence[Mapping[Site, Change]]) -> None:
        """Let exactly the grafts of `edits` stand, in order.

        Raises:
            UnknownSite: a graft names a site this model does not have, or was made for another width.
            UnsupportedModel: a graft of a kind nobody knows.
        """
        known, seen = self._standing, len(self._seen)
        begun = seen <= len(edits) and all(map(is_, self._seen, edits))  # only the rest need be looked at
        wanted = (*known, *_grafts_in(edits[seen:])) if begun else _grafts_in(edits)
        goes_on = begun or (len(wanted) >= len(known) and all(map(_same, wanted, known)))
        if goes_on and len(wanted) == len(known):
            self._seen = tuple(edits)
            return
        banks = self._banks if goes_on else {}
        self.clear()
        for edit in wanted[len(known) :] if goes_on else wanted:
            self._take_in(banks, edit)
        self._seen, self._standing, self._banks = tuple(edits), wanted, banks
        self._attach()

    def clear(self) -> None:
        """Let nothing stand."""
        self._hooks.close()
        self._owner.tokens.put_before = None
        self._seen, self._standing, self._banks, self._routes = (), (), {}, {}

    def _take_in(self, banks: dict[str, Bank], edit: Mapping[Site, Change]) -> None:
        parts: dict[tuple[str, str], dict[Site, Graft]] = {}
        for site, graft in edit.items():
            if isinstance(graft, Graft):
                parts.setdefault((graft.wrapper, str(graft.config["index"])), {})[site] = graft
        for (kind, where), grafts in parts.items():
            if kind not in self._kinds:
                known = ", ".join(sorted(self._kinds))
                raise UnsupportedModel(f"no graft of kind {kind!r} is known here, only {known}; update errata.")
            name = f"{kind}@{where}"
            if name not in banks:
                index, before = placed(where)
                for site in (index, before) if before else (index,):
                    self._owner.module(site)
                banks[name] = self._kinds[kind](index, self._owner, before)
            banks[name].add(grafts)

    def _routing(self) -> list[Bank]:
        return [bank for bank in self._banks.values() if bank.routes]

    def _attach(self) -> None:
        sites: dict[Site, list[Bank]] = {}
        self._owner.tokens.put_before = next((b.put_before for b in self._banks.values() if not b.routes), None)
        for bank in self._routing():
            before = () if bank.before is None else (bank.before,)
            for site in dict.fromkeys((*before, bank.index, *bank.sites)):
                sites.setdefault(site, []).append(bank)
        if sites:
            model = self._owner.model
            opening = model.get_encoder() if model.config.is_encoder_decoder else model
            at = {site: partial(self._at, site, tuple(banks)) for site, banks in sites.items()}
            self._hooks = grafted(self._owner, opening, self._opened, at)

    @contextmanager
    def instead(self, edits: Sequence[Mapping[Site, Change]]) -> Iterator[None]:
        """Let other edits' grafts stand inside, and what stood before afterwards."""
        wanted = _grafts_in(edits)
        if len(wanted) == len(self._standing) and all(map(_same, wanted, self._standing)):
            yield
            return
        seen, standing, banks = self._seen, self._standing, self._banks
        self.clear()
        try:
            self.stand(edits)
            yield
        finally:
            self.clear()
            self._seen, self._standing, self._banks = seen, standing, banks
            self._attach()

    # ---------------------------------------------------------------- running

    @contextmanager
    def reading(self, batch: Batch) -> Iterator[None]:
        """Run one pass that knows where its prompts end and, if the batch says so, what they open."""
        self._given = batch
        try:
            yield
        finally:
            self._given = None

    def routed(self, batch: Batch, run: Callable[[Batch], object]) -> Batch:
        """Return the batch with what its prompts open, found in a pass that ends with the last index site's block."""
        if not self._routing():
            return batch
        deepest = max(bank.index.layer for bank in self._routing())
        with torch.no_grad(), Trace(self._owner, stop=Site(deepest, "block")):
            run(replace(batch, routes={}))
        return replace(batch, routes=dict(self._routes))

    def keep(self, rows: Int[Tensor, " s"]) -> None:
        """Let only some rows of the answers that are being generated go on."""
        self._routes = {name: route[rows.to(route.device)] for name, route in self._routes.items()}
        self._prompt = None

    def routes(self) -> dict[str, Tensor]:
        """Return what the rows of the last pass were found to open, to go on with them later."""
        return dict(self._routes)

    def resume(self, routes: Mapping[str, Tensor]) -> None:
        """Go on with rows whose prompts were read in an earlier pass."""
        self._routes, self._prompt = dict(routes), None

    def _opened(self, given: Mapping[str, Any]) -> int:
        """Begin a pass: over prompts, or over what follows them."""
        ids = given.get("input_ids")
        ids = given["inputs_embeds"] if ids is None else ids
        cache = given.get("past_key_values")
        self._noticed = {}
        if self._given is not None:
            assert self._given.ends is not None
            real = self._given.inputs["attention_mask"]
            self._routes = dict(self._given.routes)
            self._prompt = Prompt(self._given.ends, real if real.ndim == 2 else None, given.get("input_ids"))
        elif cache is not None and cache.get_seq_length() > 0:
            self._prompt = None  # the answer goes on
        else:
            mask = given.get("attention_mask")
            mask = ids.new_ones(ids.shape[:2]).long() if mask is None else mask
            self._routes, self._prompt = {}, Prompt(last_real(mask), mask, given.get("input_ids"))
        return int(ids.shape[0])

    def _at(self, site: Site, banks: Sequence[Bank], x: Input, y: Output) -> Output:
        for bank in banks:
            if self._prompt is not None and bank.name not in self._routes:
                if site == bank.before:
                    self._noticed[bank.name] = bank.notice(x, self._prompt.to(x.device))
                if site == bank.index and (bank.before is None or bank.name in self._noticed):
                    noticed = self._noticed.get(bank.name)
                    self._routes[bank.name] = bank.find(x, y, self._prompt.to(y.device), noticed)
            if site in bank.sites:
                y = self._changed(site, bank, x, y)
        return y

    def _changed(self, site: Site, bank: Bank, x: Input, y: Output) -> Output:
        if bank.name not in self._routes:
            raise UnsupportedModel(
                f"a pass began behind {bank.index}, where {bank.kind} edits read their keys; route the batch first."
            )
        route = self._routes[bank.name].to(y.device)
        behind = self._prompt is None or self._past(site)
        ends = torch.zeros_like(route) if behind or self._prompt is None else self._prompt.ends.to(y.device)
        if len(route) != len(y):  # beams: each prompt's rows stand together
            route, ends = (t.repeat_interleave(len(y) // len(t)) for t in (route, ends))
        rows = (route >= 0).nonzero()[:, 0]
        if not len(rows):
            return y
        if len(rows) == len(y):
            return bank.change(site, GraftRows(x, y, route, ends))
        made = bank.change(site, GraftRows(x[rows], y[rows], route[rows], ends[rows]))
        return y.index_put((rows,), made)

    def _past(self, site: Site) -> bool:
        """Say whether a site lies behind all prompts: in the decoder of an encoder-decoder."""
        return bool(self._owner.model.config.is_encoder_decoder) and site.layer >= self._owner.reachable
