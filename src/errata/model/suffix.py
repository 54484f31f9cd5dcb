"""KV-cached suffix of a batch: run only the positions from each row's lookup token on, keep keys and values of those before.

What stands before a token does not depend on it, so while something is learned at the lookup token only the positions from
there on change. Prompts put a context and most of the subject before that token: what is left is a third of the tokens or
less. Rows of very different length would be padded to the longest, so several short ones stand beside one another in one row
of the pass, each behind its own keys and values, and a mask keeps them apart. Not every architecture takes a mask of four
dimensions, explicit positions and a cache that begins at a later layer; so the cut batch is run once against the whole one,
and `suffix_of` gives None where the two disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from errata.model.lm import LM
from errata.model.tokens import Batch
from errata.model.trace import resume

_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError)
ROOM: Final = (
    64  # positions of a row in which several may stand: what they keep of one another's is masked, but multiplied
)


@dataclass(frozen=True, eq=False, slots=True)
class Tail:
    """Rows of a batch from their lookup token on, as they are run: n rows of w positions, behind h that are kept.

    Args:
        batch: masks are (n, 1, w, h + w) over what is kept and what is left; labels are in the order of the whole batch.
        hidden: (n, w, d), the input of the first layer that runs.
        kept: by layer, keys and values of what stands before, (n, heads, h, size) each.
        row, place: (n, w) which of the rows taken each position is of, and where in it. real: whether it is of any.
    """

    batch: Batch
    hidden: Float[Tensor, "n w d"]
    kept: Mapping[int, tuple[Tensor, Tensor]]
    row: Int[Tensor, "n w"]
    place: Int[Tensor, "n w"]
    real: Bool[Tensor, "n w"]

    def cache(self, lm: LM) -> Any:
        """Return a cache that begins with what is kept; see `reused_cache`."""
        cache = lm.cache()
        for layer, (keys, values) in self.kept.items():
            cache.update(keys, values, layer)
        return cache

    def marked(self, marks: Bool[Tensor, "b t"]) -> Bool[Tensor, "n w"]:
        """Return marks of the positions of the rows taken as marks of those that are run."""
        return marks[self.row, self.place] & self.real


@dataclass(frozen=True, eq=False, slots=True)
class Suffix:
    """A batch whose rows may be run from their lookup token on.

    Args:
        hidden: (b, t, d), the input of the first layer that runs.
        kept: by layer, keys and values up to the last lookup token, (b, heads, h, size) each.
        beside: whether rows may stand beside one another.
    """

    batch: Batch
    hidden: Float[Tensor, "b t d"]
    kept: Mapping[int, tuple[Tensor, Tensor]]
    beside: bool = True

    def take(self, rows: Int[Tensor, " s"]) -> Tail:
        """Return some rows."""
        batch = self.batch.take(rows)
        before, widths = batch.lookup, batch.inputs["attention_mask"].sum(1) - batch.lookup
        bins, first = _bins(widths.tolist(), ROOM if self.beside else 0)
        row, step, real = _laid(bins, widths.tolist(), first, rows.device)
        kept_row, kept_step, kept_real = _laid(bins, before.tolist(), _starts(bins, before.tolist()), rows.device)
        place = before[row] + step
        same = row[:, :, None] == torch.cat([kept_row, row], 1)[:, None]
        behind = torch.cat([kept_real[:, None].expand(-1, row.shape[1], -1), real[:, None] & _back(step)], -1)
        seen = same & behind & real[:, :, None]
        seen[:, :, kept_row.shape[1] :] |= torch.diag_embed(~real)  # what sees nothing at all is not a number to some
        hidden = self.hidden[rows[row], place]
        mask = hidden.new_zeros(seen.shape).masked_fill(~seen, torch.finfo(hidden.dtype).min)[:, None]
        ids = batch.inputs["input_ids"][row, place]
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": place}
        at, offset = (torch.tensor(x, device=rows.device) for x in (bins, first))
        cols = batch.cols - before[batch.rows] + offset[batch.rows]
        ends = torch.zeros(len(row), dtype=torch.long, device=rows.device)
        routes = {} if self.beside else batch.routes
        run = Batch(inputs, ends, at[batch.rows], cols, batch.labels, ends, routes)
        whose = rows[kept_row]
        kept = {
            layer: (_picked(k, whose, kept_step), _picked(v, whose, kept_step)) for layer, (k, v) in self.kept.items()
        }
        return Tail(run, hidden, kept, row, place, real)


def joined(made: Sequence[Suffix]) -> Suffix:
    """Return the rows of several batches, which no edit is opened in, as those of one; answers stay in their order."""
    batches, starts = [of.batch for of in made], [0]
    for batch in batches:
        starts.append(starts[-1] + len(batch))
    inputs = {name: _together([b.inputs[name] for b in batches]) for name in ("input_ids", "attention_mask")}
    rows = torch.cat([b.rows + start for b, start in zip(batches, starts, strict=False)])
    lookup, cols, labels = (torch.cat([getattr(b, name) for b in batches]) for name in ("lookup", "cols", "labels"))
    kept = {
        layer: (_together([of.kept[layer][0] for of in made], 2), _together([of.kept[layer][1] for of in made], 2))
        for layer in made[0].kept
    }
    whole = Batch(inputs, lookup, rows, cols, labels)
    return Suffix(whole, _together([of.hidden for of in made]), kept, beside=all(of.beside for of in made))


def _together(parts: Sequence[Tensor], axis: int = 1) -> Tensor:
    """Return what stands in rows, one after another, each filled up with zeros along `axis` to the longest."""
    most = max(part.shape[axis] for part in parts)
    behind = [0, 0] * (parts[0].ndim - 1 - axis)
    return torch.cat([torch.nn.functional.pad(part, [*behind, 0, most - part.shape[axis]]) for part in parts])


def _back(step: Int[Tensor, "n w"]) -> Bool[Tensor, "n w w"]:
    """Return which positions of one row are not behind which, by their steps from its lookup token."""
    return step[:, :, None] >= step[:, None]


def _picked(kept: Float[Tensor, "b heads t size"], row: Int[Tensor, "n h"], step: Int[Tensor, "n h"]) -> Tensor:
    return kept[row, :, step].transpose(1, 2).contiguous()


def _bins(widths: Sequence[int], room: int) -> tuple[list[int], list[int]]:
    """Return in which row each is run and at which position it begins: long ones first, each in the first row with room."""
    room = max(room, *widths)
    filled: list[int] = []
    bins, first = [0] * len(widths), [0] * len(widths)
    for place in sorted(range(len(widths)), key=lambda i: -widths[i]):
        found = next((i for i, used in enumerate(filled) if used + widths[place] <= room), len(filled))
        filled += [0] * (found == len(filled))
        bins[place], first[place] = found, filled[found]
        filled[found] += widths[place]
    return bins, first


def _starts(bins: Sequence[int], widths: Sequence[int]) -> list[int]:
    """Return where each begins when all of a bin stand one after another."""
    filled = [0] * (max(bins) + 1)
    found = []
    for which, width in zip(bins, widths, strict=True):
        found.append(filled[which])
        filled[which] += width
    return found


def _laid(
    bins: Sequence[int], widths: Sequence[int], first: Sequence[int], device: torch.device
) -> tuple[Int[Tensor, "n w"], Int[Tensor, "n w"], Bool[Tensor, "n w"]]:
    """Return of which row each position is, the how manieth of it, and whether it is of any."""
    size = max(begin + width for begin, width in zip(first, widths, strict=True))
    row, step = torch.zeros(max(bins) + 1, size, dtype=torch.long), torch.zeros(max(bins) + 1, size, dtype=torch.long)
    real = torch.zeros(row.shape, dtype=torch.bool)
    for i, (which, begin, width) in enumerate(zip(bins, first, widths, strict=True)):
        row[which, begin : begin + width] = i
        step[which, begin : begin + width] = torch.arange(width)
        real[which, begin : begin + width] = True
    return row.to(device), step.to(device), real.to(device)


def reused_cache(cache: Any) -> Any:
    """Return a cache that begins with what another holds: a forward pass adds to the one it is given, not to the other."""
    made = copy(cache)
    made.layers = [copy(layer) for layer in cache.layers]  # a layer replaces its tensors, it does not write to them
    return made


@torch.no_grad()
def suffix_of(
    lm: LM, batch: Batch, hidden: Float[Tensor, "b t d"], layer: int, whole: tuple[Float[Tensor, "a v"], Any]
) -> Suffix | None:
    """Return the tail of `batch` for passes that begin at `layer`, or None where the architecture does not allow it.

    Args:
        hidden: the input of `layer`.
        whole: the logits of a full pass, which the tail's are compared with, and the cache it filled.
    """
    if not lm.row.skips:
        return None
    expected, cache = whole
    try:
        h = int(batch.lookup.max())
        layers = {i: cache.layers[i] for i in range(layer, lm.depth)}
        kept = {i: (of.keys[:, :, :h].contiguous(), of.values[:, :, :h].contiguous()) for i, of in layers.items()}
        made = Suffix(batch, hidden, kept, beside=not batch.routes)  # what a prompt opens is open in its whole row
        ways = (made, replace(made, beside=False)) if made.beside else (made,)
        return next((way for way in ways if _agrees(lm, way, layer, expected)), None)
    except _REFUSALS:
        return None


def _agrees(lm: LM, made: Suffix, layer: int, expected: Float[Tensor, "a v"]) -> bool:
    tail = made.take(torch.arange(len(made.batch), device=made.hidden.device))
    with resume(lm, layer, tail.hidden):
        logits = lm.answer_logits(tail.batch, tail.cache(lm))
    exact = next(lm.model.parameters()).dtype in (torch.float32, torch.float64)
    return bool((logits - expected).abs().max() <= (1e-4 if exact else 3e-2) * expected.abs().max())
