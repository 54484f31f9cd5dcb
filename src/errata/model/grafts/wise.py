"""WISE side memory: an edited copy of one matrix; a prompt uses it when ‖(W' − W)x‖ exceeds a threshold."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from errata.delta import Graft, Site
from errata.errors import UnknownSite
from errata.model.grafts.standing import Bank, Grafted, GraftRows, Prompt
from errata.model.storage import device_of
from errata.model.trace import Modules, at

KEPT = 0.88  # of the least farness of an edit: what a prompt must exceed
DENSITY = 0.53  # of a shard's entries: what TIES keeps


class WiseBank(Bank):
    """W' beside W: shards of entries, each trained by some edits, merged.

    Attributes:
        shards: the change of each, by its number. change_of_matrix: W' − W. threshold: the farness that opens W'.
    """

    kind = "wise"

    def __init__(self, index: Site, modules: Modules, before: Site | None = None) -> None:
        super().__init__(index, modules, before)
        self._device, self._shape = device_of(modules.module(index)), matrix_shape(modules.module(index))
        self.shards: dict[int, Tensor] = {}
        self._keys: list[Tensor] = []
        self._merged: tuple[Tensor, float] | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        """The one matrix it stands beside."""
        return (self.index,)

    def add(self, grafts: Grafted) -> None:
        """Take in one edit's change of its shard, and the key of its prompt."""
        (graft,) = grafts.values()
        shape = tuple(graft.state["shape"].tolist())
        if shape != self._shape:
            raise UnknownSite(f"a wise edit is for a matrix of {list(shape)}, {self.index} is one of {self._shape}.")
        self.take(graft)

    def take(self, graft: Graft) -> None:
        """Add one edit's change, a known shape taken for granted."""
        values, places = (graft.state[name].to(self._device) for name in ("values", "places"))
        shard = int(str(graft.config["shard"]))
        known = self.shards.setdefault(shard, values.new_zeros(self._shape))
        known.view(-1).index_add_(0, places.long(), values)
        self._keys.append(graft.state["keys"].to(self._device))
        self._merged = None

    @property
    def change_of_matrix(self) -> Float[Tensor, "out in"]:
        """W' − W: the shards merged by their largest entries and the sign most of them have (TIES)."""
        return self._whole()[0]

    @property
    def threshold(self) -> float:
        """The farness that opens W', by the edits that stand: none of their own prompts stays below it."""
        return self._whole()[1]

    def _whole(self) -> tuple[Tensor, float]:
        if self._merged is None:
            shards = list(self.shards.values())
            change = shards[0] if len(shards) == 1 else merged(torch.stack(shards))
            self._merged = change, KEPT * float(farness(torch.cat(self._keys), change).min())
        return self._merged

    def find(self, x: Tensor, y: Tensor, prompt: Prompt, noticed: object = None) -> Tensor:
        """Return 0 for the rows whose last prompt token the two matrices are far apart on, −1 for the others."""
        change, threshold = self._whole()
        return torch.where(farness(at(x, prompt.ends), change) > threshold, 0, -1)

    def change(self, site: Site, rows: GraftRows) -> Tensor:
        """Return W' x."""
        return rows.y + times(self.change_of_matrix, rows.x).to(rows.y.dtype)


def farness(x: Float[Tensor, "b in"], change: Float[Tensor, "out in"]) -> Float[Tensor, " b"]:
    """Return ‖(W' − W) x‖ of each row."""
    found: Tensor = torch.linalg.vector_norm(times(change, x), dim=-1)
    return found


def times(change: Float[Tensor, "out in"], x: Float[Tensor, "*b in"]) -> Float[Tensor, "*b out"]:
    """Return (W' − W) x of each row."""
    return x.to(change.dtype) @ change.T


def merged(shards: Float[Tensor, "n out in"], density: float = DENSITY) -> Float[Tensor, "out in"]:
    """Merge changes: of each its largest entries, of these the ones with the sign of their sum, averaged.

    Source: TIES-merging, https://arxiv.org/abs/2306.01708. An entry a shard does not have counts neither way.
    """
    flat = shards.abs().flatten(1)
    own = (flat > 0).sum(1)  # a shard has a share of the entries; the density is of these
    ranks = (flat.shape[1] - (density * own).round().long()).clamp(0, flat.shape[1] - 1)
    least = flat.sort(1).values.gather(1, ranks[:, None])[..., None]
    kept = torch.where((shards.abs() >= least) & (shards != 0), shards, 0)
    kept = torch.where(kept.sign() == kept.sum(0).sign(), kept, 0)
    return kept.sum(0) / (kept != 0).sum(0).clamp(min=1)


def matrix_shape(module: nn.Module) -> tuple[int, int]:
    """Return (out, in) of a matrix module, as it says itself: GPT-2's Conv1D has `nf` and `nx`."""
    found = vars(module)
    return (found["nf"], found["nx"]) if "nf" in found else (found["out_features"], found["in_features"])
