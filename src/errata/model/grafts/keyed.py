"""The kinds of grafts: what stands beside the matrices, and how it changes what they put out.

    melo    blocks of low rank beside some matrices; the nearest key's block       y + s · B[b](A[b] x)
    grace   keys and values at one matrix; the nearest key's value                 v, from the prompt's last token on
    wise    a second matrix, of all edits together, for prompts it is far off on   W' x   (`grafts.wise`)
    context text before the prompts that ask about a fact                          y, of another text   (`grafts.context`)

Keys of the first two are the prompt's last token's, as in their papers, or in two parts: what it is about, at whichever of its
tokens that stands, and what it asks, at its last (kinds "melo-parts" and "grace-parts"; `index.parts`). A graft's tensors
are what its edit learned; everything else here is made from them, in the order of the edits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Change, Graft, Site
from errata.errors import UnknownSite
from errata.index.clusters import AnswerTokens, ClusterEvent, Clusters
from errata.index.parts import Entries, Hits, Parts
from errata.model.grafts.context import ContextBank
from errata.model.grafts.standing import Bank, Grafted, GraftRows, Prompt, places
from errata.model.grafts.wise import WiseBank, matrix_shape
from errata.model.storage import device_of
from errata.model.trace import Modules, at


def labels_of(graft: Graft) -> list[AnswerTokens]:
    """Return the label of each key of a graft: the whole sequence of token ids, stored with −1 behind its end."""
    return [tuple(token for token in row if token >= 0) for row in graft.state["labels"].tolist()]


def label_tensor(labels: Sequence[AnswerTokens]) -> Tensor:
    """Return labels as a graft stores them (m, longest)."""
    width = max(map(len, labels))
    return torch.tensor([[*label, *[-1] * (width - len(label))] for label in labels], dtype=torch.long)


def keyed_graft(deltas: Mapping[Site, Change], kind: str) -> tuple[Site, Graft] | None:
    """Return the graft of an edit that holds its keys, and the site they are read at; None if it is of another kind."""
    held = ((s, d) for s, d in deltas.items() if isinstance(d, Graft) and d.wrapper == kind and "keys" in d.state)
    return next(held, None)


def add_keys(clusters: Clusters, graft: Graft) -> list[ClusterEvent]:
    """Take in the keys of one edit and return what came of each."""
    radius, keys = float(str(graft.config["radius"])), graft.state["keys"].float()
    return [clusters.add(key, label, radius) for key, label in zip(keys, labels_of(graft), strict=True)]


class Keyed(Bank):
    """A bank that is asked by a vector at the prompt's last token, through clusters of the edits' keys.

    Attributes:
        clusters: rebuilt from the edits. opens: for each point of them, what it opens. edits: how many were taken in.
        events: what came of each key.
    """

    moving = True
    entering = False  # whether the key is what goes into the site

    def __init__(self, index: Site, modules: Modules, before: Site | None = None) -> None:
        super().__init__(index, modules, before)
        self.clusters: Clusters | None = None
        self.opens: list[int] = []
        self.edits = 0
        self.events: list[ClusterEvent] = []
        self._opens: Tensor | None = None

    def take_keys(self, graft: Graft) -> list[ClusterEvent]:
        """Take in one edit's keys and return what came of each."""
        keys = graft.state["keys"]
        if self.clusters is None:
            device = device_of(self.modules.module(self.index))
            search: Any = graft.config.get("search", "size")
            self.clusters = Clusters(keys.shape[1], device, backend=search, moving=self.moving)
        if keys.shape[1] != self.clusters.centres.shape[1]:
            wanted = self.clusters.centres.shape[1]
            raise UnknownSite(f"a {self.kind} edit has keys of {keys.shape[1]} numbers at {self.index}, not {wanted}.")
        new = add_keys(self.clusters, graft)
        self.events += new
        self.opens += [self.edits] * len(new)
        self.edits += 1
        self._opens = None
        return new

    def find(self, x: Tensor, y: Tensor, prompt: Prompt, noticed: Any = None) -> Tensor:
        """Return what each row opens."""
        return self.open(at(x if self.entering else y, prompt.ends))

    def open(self, keys: Float[Tensor, "b d"]) -> Tensor:
        """Return what each key opens, −1 for nothing."""
        if self.clusters is None:
            return torch.full((len(keys),), -1, device=keys.device)
        if self._opens is None:
            self._opens = torch.tensor(self.opens, device=keys.device)
        points = self.clusters.find(keys.detach().float())
        return torch.where(points >= 0, self._opens[points.clamp(min=0)], -1)

    @contextmanager
    def trying(self, graft: Graft) -> Iterator[list[ClusterEvent]]:
        """Take in the keys of one more edit inside, and take them back on the way out; nothing is to be opened there."""
        points, opens, edits, events = len(self.opens), self._opens, self.edits, len(self.events)
        with ExitStack() as stack:
            if self.clusters is not None:
                stack.enter_context(self.clusters.trying())
            try:
                yield self.take_keys(graft)
            finally:
                del self.opens[points:], self.events[events:]
                self._opens, self.edits = opens, edits


class Blocks(Keyed):
    """MELO's: one stacked bank of low-rank blocks, block b of edit b at every site."""

    kind = "melo"

    def __init__(self, index: Site, modules: Modules, before: Site | None = None) -> None:
        super().__init__(index, modules, before)
        self._a: dict[Site, Tensor] = {}  # (blocks, p, in)
        self._b: dict[Site, Tensor] = {}  # (blocks, out, p), the scale in it

    @property
    def sites(self) -> tuple[Site, ...]:
        """Sites that have blocks."""
        return tuple(self._a)

    def add(self, grafts: Grafted) -> None:
        """Take in one edit's block and keys; banks grow as blocks come."""
        number = self.edits
        for site, graft in grafts.items():
            if site != self.index:
                self._add_block(number, site, graft)
        self.take_keys(grafts[self.index])

    def _add_block(self, number: int, site: Site, graft: Graft) -> None:
        device = device_of(self.modules.module(site))
        a, b = (graft.state[name].to(device) for name in ("a", "b"))
        out, width = matrix_shape(self.modules.module(site))
        if a.shape[1] != width or b.shape[0] != out:
            raise UnknownSite(f"a block at {site} is {b.shape[0]} × {a.shape[1]}, the model's matrix {out} × {width}.")
        scaled = b * float(str(graft.config["scale"]))
        if site not in self._a:
            self._a[site], self._b[site] = a.new_zeros(0, *a.shape), b.new_zeros(0, *b.shape)
        self._a[site] = _put(self._a[site], number, a, 0)
        self._b[site] = _put(self._b[site], number, scaled, 1)

    def change(self, site: Site, rows: GraftRows) -> Tensor:
        """Return y + B[b](A[b] x) of every row with its own block."""
        a, b = self._a[site], self._b[site]
        known = rows.route.clamp(max=len(a) - 1)  # a later edit may have no block at this site
        low = torch.bmm(rows.x.to(a.dtype), a[known].transpose(1, 2))  # (s, t, p)
        more = torch.bmm(low, b[known].transpose(1, 2)) * (rows.route < len(a))[:, None, None]
        return rows.y + more.to(rows.y.dtype)


def _put(stack: Tensor, number: int, block: Tensor, rank: int) -> Tensor:
    """Return the stack with a block at its place; it grows to twice its size, and to a larger rank by zeros."""
    shape = [max(a, b) for a, b in zip(stack.shape[1:], block.shape, strict=True)]
    length = len(stack) if number < len(stack) else max(8, 2 * len(stack), number + 1)
    if length > len(stack) or list(stack.shape[1:]) != shape:
        larger = stack.new_zeros(length, *shape)
        larger[: len(stack), : stack.shape[1], : stack.shape[2]] = stack
        stack = larger
    stack[number, : block.shape[0], : block.shape[1]] = block
    return stack


class Codebook(Keyed):
    """GRACE's: one value a key, put out in place of what the matrix does."""

    kind = "grace"
    moving, entering = False, True

    def __init__(self, index: Site, modules: Modules, before: Site | None = None) -> None:
        super().__init__(index, modules, before)
        self._values: list[Tensor] = []
        self._site = index
        self._everywhere = False  # a classifier reads its first token: the value stands at all of them

    @property
    def sites(self) -> tuple[Site, ...]:
        """The one site it sits at; keys that are no parts are its input."""
        return (self._site,)

    def add(self, grafts: Grafted) -> None:
        """Take in one edit's key and value."""
        ((self._site, graft),) = ((site, graft) for site, graft in grafts.items() if "value" in graft.state)
        module = self.modules.module(self._site)
        value = graft.state["value"].to(device_of(module))
        if len(value) != matrix_shape(module)[0]:
            raise UnknownSite(
                f"a grace edit has a value of {len(value)} numbers at {self._site}, which puts out others."
            )
        self._everywhere = bool(graft.config.get("everywhere", False))
        self.take_keys(grafts[self.index])
        self._values.append(value)

    def change(self, site: Site, rows: GraftRows) -> Tensor:
        """Return the value from the prompt's last token on."""
        values = torch.stack([self._values[i] for i in rows.route.tolist()]).to(rows.y.dtype)
        after = torch.ones_like(rows.after()) if self._everywhere else rows.after()
        return torch.where(after[..., None], values[:, None], rows.y)


class ByParts(Keyed):
    """A bank that is asked by what a prompt is about and what it asks, through an index of keys in two parts."""

    def __init__(self, index: Site, modules: Modules, before: Site | None = None) -> None:
        super().__init__(index, modules, before)
        self.parts: Parts | None = None
        self._means: tuple[Tensor, Tensor] | None = None

    def take_keys(self, graft: Graft) -> list[ClusterEvent]:
        """Take in one edit's keys."""
        new, means = entries_of(graft), (graft.state["subject_mean"].float(), graft.state["mean"].float())
        if self.parts is None:
            assert self.before is not None
            near, far = (device_of(self.modules.module(site)) for site in (self.before, self.index))
            self._means = means[0].to(near), means[1].to(far)
            self.parts = Parts((len(means[0]), len(means[1])), far)
        assert self._means is not None
        wanted = self.parts.widths
        if (new.subjects.shape[1], new.questions.shape[1]) != wanted:
            raise UnknownSite(
                f"a {self.kind} edit has keys of {new.subjects.shape[1]} and {new.questions.shape[1]} numbers at "
                f"{places(self.index, self.before)}, not {wanted[0]} and {wanted[1]}."
            )
        self.parts.add(new)
        self.opens += [self.edits] * len(new)
        self.edits += 1
        self._opens = None
        return []

    def notice(self, x: Tensor, prompt: Prompt) -> Hits | None:
        """Return which subjects the rows name."""
        if self.parts is None or self._means is None:
            return None
        return self.parts.named(_turned(x, self._means[0]), prompt.ids, prompt.tokens(x.shape[1]))

    def find(self, x: Tensor, y: Tensor, prompt: Prompt, noticed: Any = None) -> Tensor:
        """Return what each row opens."""
        if self.parts is None or self._means is None or noticed is None:
            return torch.full((len(x),), -1, device=x.device)
        found = self.parts.agree(noticed, _turned(at(x, prompt.ends), self._means[1]))
        opens = torch.tensor(self.opens, device=found.device)
        return torch.where(found >= 0, opens[found.clamp(min=0)], -1)


def _turned(keys: Float[Tensor, "*b d"], mean: Float[Tensor, " d"]) -> Float[Tensor, "*b d"]:
    """Return in which direction keys lie from the mean."""
    return torch.nn.functional.normalize(keys.detach().float() - mean, dim=-1)


def entries_of(graft: Graft) -> Entries:
    """Return the keys of a graft that has them in two parts."""
    state, (about, asked) = graft.state, (float(str(graft.config[name])) for name in ("reach", "radius"))
    mean, questions = state["subject_mean"].float(), state["mean"].float()
    return Entries(
        _turned(state["subjects"], mean), state["tokens"], state["about"],
        _turned(state["keys"], questions), state["asks"], (about, asked),
    )  # fmt: skip


class BlocksByParts(ByParts, Blocks):
    """MELO's blocks, opened by keys in two parts."""

    kind = "melo-parts"


class CodebookByParts(ByParts, Codebook):
    """GRACE's values, opened by keys in two parts."""

    kind = "grace-parts"


_ALL: tuple[type[Bank], ...] = (Blocks, Codebook, BlocksByParts, CodebookByParts, WiseBank, ContextBank)
KINDS: Mapping[str, type[Bank]] = {kind.kind: kind for kind in _ALL}
