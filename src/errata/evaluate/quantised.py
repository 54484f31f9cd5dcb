"""Matrices rounded as llama.cpp's Q8_0 and Q4_0 store them: what of an edit is left in 8 or 4 bits.

    with quantised(lm, edit.matrices, "q4"):
        ...                                           # the model speaks with these matrices in 4 bits

A block is 32 numbers of a row that share one scale, a half-precision float:

    Q8_0   d = max|x| / 127    q = round(x / d)                         x ≈ q d
    Q4_0   d = m / −8          q = min(15, ⌊x / d + 8.5⌋)               x ≈ (q − 8) d,   m the x of largest |x|

Source: https://github.com/ggml-org/llama.cpp; x is divided by d as it was before d is rounded, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Site
from errata.model.lm import LM

BLOCK: Final = 32


@contextmanager
def quantised(lm: LM, sites: Iterable[Site], form: str) -> Iterator[None]:
    """Show the model inside with its matrices at these sites rounded as `form` of `FORMS` has them, as it was afterwards."""
    with lm.weights.shown({site: FORMS[form](lm.weights[site].detach()) for site in sites}):
        yield


def q8_0(matrix: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """Return a matrix as it reads back from Q8_0; the last block of a row may be short."""
    blocks = _blocks(matrix)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    scaled = blocks * _inverse(scale)
    rounded = torch.trunc(scaled + torch.copysign(torch.full_like(scaled, 0.5), scaled))  # halves away from zero
    return _joined(rounded * scale.half().float(), matrix)


def q4_0(matrix: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
    """Return a matrix as it reads back from Q4_0; the last block of a row may be short."""
    blocks = _blocks(matrix)
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = largest / -8
    rounded = torch.trunc(blocks * _inverse(scale) + 8.5).clamp(0, 15)
    return _joined((rounded - 8) * scale.half().float(), matrix)


FORMS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {"q8": q8_0, "q4": q4_0}


def _blocks(matrix: Tensor) -> Float[Tensor, "out b 32"]:
    short = -matrix.shape[1] % BLOCK
    padded = torch.nn.functional.pad(matrix.float(), (0, short))
    return padded.reshape(len(matrix), -1, BLOCK)


def _joined(blocks: Tensor, like: Tensor) -> Tensor:
    whole: Tensor = blocks.flatten(1)
    return whole[:, : like.shape[1]].to(like.dtype)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)
