"""Continuous batching: rows of different lengths are gone on with together, and join and leave between steps.

    running = Running(lm)
    logits = running.join([ids, ids])       # prompts of one length are read without padding; of like ones, if `pads`
    logits = running.step(tokens)           # then all rows read their next token in one pass
    running.keep([0, 2])                    # rows that have ended leave

Rows that read on together are padded on the left, so that their last columns stand together; positions are counted from
each row's first token. What grafts were found to open for a prompt goes with its row.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from errata.errors import UnsupportedModel
from errata.model.lm import LM
from errata.model.trace import answers_only


def check_speaks(lm: LM) -> None:
    """Raise UnsupportedModel for a model that generates no text."""
    if lm.row.kind in ("encoder", "classifier"):
        raise UnsupportedModel(f"{lm.name} is an encoder and cannot generate text; ask it for probabilities instead.")


class Running:
    """A batch that is being continued, on the model as it stands; who changes that in between puts it back before a step.

    Attributes:
        joins: whether rows may still come in; an encoder-decoder's may not once there are some.

    Raises:
        UnsupportedModel: the model is an encoder, or classifies.
    """

    def __init__(self, lm: LM) -> None:
        check_speaks(lm)
        self._lm, self._size = lm, 0
        self._mask: Tensor = torch.zeros(0, 0, dtype=torch.long)
        self._cache: Any = None
        self._encoded: Tensor | None = None
        self._routes: dict[str, Tensor] = {}
        known = lm.memory.get("takes positions")
        self._counts: bool = _takes_positions(lm) if known is None else known

    def __len__(self) -> int:
        return self._size

    @property
    def joins(self) -> bool:
        """Whether rows may come in."""
        return self._size == 0 or self._lm.row.kind == "decoder"

    @property
    def pads(self) -> bool:
        """Whether prompts of several lengths may be read in one pass; what grafts open for a prompt is looked for unpadded."""
        return self._counts and self._lm.row.cache == "plain" and not self._lm.weights.grafts.standing

    @torch.no_grad()
    def join(self, starts: Sequence[Sequence[int]]) -> Float[Tensor, "b v"]:
        """Read prompts, put them behind the rows there are, and return the logits of what follows them.

        Args:
            starts: their tokens; all of one length, unless `pads`.
        """
        width = max(map(len, starts))
        assert self.joins
        assert self.pads or all(len(start) == width for start in starts)
        ids, mask = (
            torch.tensor([[*([0] * (width - len(start))), *row(start)] for start in starts], device=self._lm.device)
            for row in (list, lambda start: [1] * len(start))
        )
        if self._lm.row.kind == "encoder-decoder":
            self._encoded = self._lm.model.get_encoder()(input_ids=ids, attention_mask=mask)[0]
            self._cache, self._mask = None, mask
            first = torch.full_like(ids[:, :1], self._lm.tokens.start)
            logits = self._read(first, mask, None)
            self._routes, self._size = self._lm.weights.grafts.routes(), len(starts)
            return logits
        cache = self._lm.cache()
        logits = self._read(ids, mask, cache)
        self._merge(cache, mask, self._lm.weights.grafts.routes())
        return logits

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " b"]) -> Float[Tensor, "b v"]:
        """Let each row read its next token and return the logits of what follows."""
        self._lm.weights.grafts.resume(self._routes)
        ids = tokens[:, None].to(self._mask.device)
        if self._encoded is None:
            self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=1)
        return self._read(ids, self._mask, self._cache)

    def keep(self, rows: Sequence[int]) -> None:
        """Let only these rows go on, in this order."""
        index = torch.tensor(rows, dtype=torch.long)
        self._size = len(rows)
        self._mask = self._mask[index]
        self._routes = {name: route[index.to(route.device)] for name, route in self._routes.items()}
        if self._encoded is not None:
            self._encoded = self._encoded[index]
        if not rows:
            self._cache = self._encoded = None
            self._mask = self._mask.new_zeros(0, 0)
            return
        self._cache.batch_select_indices(index)
        if self._encoded is None:
            self._crop(int(self._mask.argmax(1).min()))

    def _read(self, ids: Int[Tensor, "b t"], mask: Int[Tensor, "b s"], cache: Any) -> Float[Tensor, "b v"]:
        model = self._lm.model
        given: dict[str, Any] = {"attention_mask": mask, "past_key_values": cache, "use_cache": True}
        last = torch.arange(len(ids), device=ids.device), torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)
        if self._encoded is not None:
            given |= {"encoder_outputs": (self._encoded,), "decoder_input_ids": ids}
        else:
            given["input_ids"] = ids
            if self._counts and (ids.shape[1] < mask.shape[1] or not bool(mask.all())):
                given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with answers_only(self._lm, *last):
            out = model(**given)
        if self._encoded is not None:
            self._cache = out.past_key_values
        found: Tensor = out.logits[0]
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def _merge(self, cache: Any, mask: Tensor, routes: dict[str, Tensor]) -> None:
        """Put rows behind those there are, both filled up on the left to one length."""
        if not self._size:
            self._cache, self._mask, self._routes, self._size = cache, mask, routes, len(mask)
            return
        width = max(self._mask.shape[1], mask.shape[1])
        for layer, new in zip(self._cache.layers, cache.layers, strict=True):
            layer.keys = torch.cat([_filled(layer.keys, width), _filled(new.keys, width)])
            layer.values = torch.cat([_filled(layer.values, width), _filled(new.values, width)])
        self._mask = torch.cat([_filled(m[..., None], width)[..., 0] for m in (self._mask, mask)])
        self._routes = {name: torch.cat([route, routes[name]]) for name, route in self._routes.items()}
        self._size += len(mask)

    def _crop(self, columns: int) -> None:
        """Leave out columns on the left that are padding in every row."""
        if columns:
            self._mask = self._mask[:, columns:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[..., columns:, :], layer.values[..., columns:, :]


def _filled(values: Tensor, width: int) -> Tensor:
    """Return what has its columns in the last dimension but one, with zeros before them up to `width`."""
    return F.pad(values, (0, 0, width - values.shape[-2], 0))


def _takes_positions(lm: LM) -> bool:
    """Return whether a model is told its positions; others count them from the mask. It takes a while to find out."""
    lm.memory["takes positions"] = found = "position_ids" in inspect.signature(lm.model.forward).parameters
    return found
