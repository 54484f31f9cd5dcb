"""What the stream receives of a vector that a matrix puts out: the vector, a multiple of it, or what a norm makes of it.

In most models the output of `down` is added to the stream as it is. Granite and MiniCPM multiply it first, so a vector that is
to be added has to be written larger. Gemma-2, OLMo-2 and GLM-4 norm it: only its direction counts there, its length is nothing.
OPT-350M norms the sum: neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from errata.delta import Site
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.roles import tolerance
from errata.model.trace import Trace

_TEXT = "The capital of France is Paris, and"


@dataclass(frozen=True, slots=True)
class Received:
    """What becomes of what a matrix puts out.

    Args:
        multiple: what it is multiplied by before it is added to the stream; None where it is not just added.
        normed: only its direction counts.
    """

    multiple: float | None
    normed: bool = False


def received(lm: LM, site: Site) -> Received:
    """Return what the stream receives of what a site puts out; looked at in three passes up to its block, once a model.

    A dense matrix of which the row says that its output is added to the stream is not looked at.
    """
    if not lm.row.post_norm:
        return Received(1.0)
    if ("received", site) not in lm.memory:
        lm.memory["received", site] = _looked_at(lm, site)
    found: Received = lm.memory["received", site]
    return found


@torch.no_grad()
def _looked_at(lm: LM, site: Site) -> Received:
    batch, block = lm.tokens.batch([Query(_TEXT)]), Site(site.layer, "block")
    with Trace(lm, outputs=[site, block], stop=block) as plain:
        lm.forward(batch)
    own, stream = plain.outputs[site], plain.outputs[block].double()
    other = own.flip(1) * (stream.norm() / own.double().norm()).to(
        own
    )  # as large as the stream: a small one is rounded away

    def given(output: Tensor) -> Tensor:
        with Trace(lm, outputs=[block], replace={site: lambda _: output}, stop=block) as trace:
            lm.forward(batch)
        return trace.outputs[block].double() - stream

    once, room = given(own + other).flatten(), tolerance(own) * float(stream.abs().max())
    shift = other.double().flatten()
    multiple = float(once @ shift / (shift @ shift))
    if float((once - multiple * shift).abs().max()) <= room * max(1.0, abs(multiple)):
        return Received(multiple)
    return Received(None, float(given(2 * own).abs().max()) <= room)
