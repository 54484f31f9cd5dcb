"""MEND: a trained network turns one fine-tuning gradient into the edit.

Paper: Mitchell et al., Fast Model Editing at Scale, https://arxiv.org/abs/2110.11309; its code,
github.com/eric-mitchell/mend.

    ∇W = Σ_t δ_t u_tᵀ                    the gradient of −log P(target | prompt), token by token: u goes in, δ comes back
    z = ([u, δ] − μ) / σ
    h = z + relu(s₁ ⊙ (U₁ V₁ z + b₁) + o₁),   [ũ, δ̃] = h + relu(s₂ ⊙ (U₂ V₂ h + b₂) + o₂)                     (Eq. 3)
    ΔW = −α Σ_t δ̃_t ũ_tᵀ                 for `up` and `down` of the last three blocks           (`solve.mend`)

The network is trained once for a model, by c_edit · NLL of the edit in other words + KL of texts it is not about
(`solve.mend_training`; benchmarks/models/mend.py does it), and is a file that the edit names by its SHA-256.

Differs from the paper: α is learned as its logarithm, so that it stays positive; V begins as Xavier has it and Adam's step is
1e-3, falling to a tenth, where the released code has unit normals and 1e-6, because ours is trained in minutes, not days;
gradients of several facts are summed, not averaged, so that each looks as one did in training; where a block has a gate beside
`up`, the gate is left alone; and an edit on top of others takes its gradient where these stand, on which nothing was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch

from errata.delta import Change, Dense, LowRank, Site
from errata.edit import Edit
from errata.errors import BadConfig, ranges
from errata.fact import Fact
from errata.methods.base import Auto, Method, Solution, filled, with_role
from errata.model.lm import LM
from errata.solve.descent.losses import row_losses
from errata.solve.keys import queries
from errata.solve.mend import Network, factors
from errata.stats import trained

KIND = "mend"  # what its files are called
BLOCKS = 3  # the last ones, in which the paper edits


@dataclass(frozen=True, kw_only=True)
class Mend(Method):
    """A low-rank change of the last `up` and `down` matrices, by a network trained for the model."""

    network: str = field(
        default="auto",
        metadata={
            "help": "trained for the model: a file, or the SHA-256 of one given before; auto: kept with its statistics"
        },
    )
    layers: tuple[int, ...] | Auto = field(
        default="auto", metadata={"help": "layers edited; auto: all that the network is for"}
    )

    name: ClassVar[str] = "mend"
    batched: ClassVar[bool] = True
    anywhere: ClassVar[bool] = True
    located: ClassVar[bool] = False

    def resolve(self, lm: LM) -> Self:
        """Return the method with the network's SHA-256 and the layers filled in.

        Raises:
            UnsupportedModel, UnknownSite: as every method. BadConfig: no network is there, or it is for other matrices.
            BadFile: the file holds none.
        """
        found = super().resolve(lm)
        found = replace(found, network=_digest(lm, found.network))
        network = _network(lm, found.network)
        if strange := sorted(set(filled(found.layers)) - set(network.layers)):
            raise BadConfig(
                f"the network is for the layers {ranges(network.layers)} and not for {ranges(strange)}: "
                "leave layers out, or train one for these."
            )
        return found

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return the layers of the network."""
        default_sites(lm)  # a model whose blocks have experts is refused as one
        return {"layers": _network(lm, _digest(lm, self.network)).layers}

    def sites(self) -> tuple[Site, ...]:
        """Return the sites written to, ascending."""
        return tuple(Site(layer, role) for layer in sorted(filled(self.layers)) for role in ("down", "up"))

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the change of a batch of facts."""
        network = _network(lm, self.network).to(torch.float64)
        batch = lm.routed(lm.tokens.batch(queries(lm, facts, [""], answers=True)).to(lm.device))
        deltas: dict[Site, Change] = {}
        for site, seen in factors(lm, self.sites(), batch).items():
            change = network.change(site, seen)
            deltas[site] = change if _smaller(change) else Dense(change.dense())
        with torch.no_grad(), lm.weights.trial([deltas]):
            loss = row_losses(batch, lm.answer_logits(batch)).tolist()
        return Solution(deltas, report={"loss": [round(one, 6) for one in loss], **_notes(lm, network)})


def default_sites(lm: LM) -> tuple[Site, ...]:
    """Return `up` and `down` of the last three blocks that have both, which is what the paper edits.

    Raises:
        UnsupportedModel: no block has them.
    """
    layers = with_role(lm, range(lm.depth), "up", "down")[-BLOCKS:]
    if not layers:
        for role in ("down", "up"):
            lm.module(Site(lm.depth - 1, role))
    return tuple(Site(layer, role) for layer in layers for role in ("down", "up"))


def _smaller(change: LowRank) -> bool:
    """Say whether factors are less to keep than the matrix: not of many facts at once."""
    out, inner = change.shape
    return change.left.shape[1] * (out + inner) < out * inner


def _digest(lm: LM, given: str) -> str:
    if given != "auto":
        return trained.digest_of(KIND, given)
    found = trained.kept(lm, KIND)
    if found is None:
        raise BadConfig(
            f"mend needs a network trained for {lm.name}, and none is kept with its statistics: train one, once, with "
            "python benchmarks/models/mend.py, or name its file with --set network=FILE."
        )
    return found


def _network(lm: LM, digest: str) -> Network:
    """Return a network that fits the model; raises BadFile, and BadConfig where its matrices have other sizes."""
    key = (KIND, digest)
    if key not in lm.memory:
        found = Network.from_bytes(trained.data_of(KIND, digest), f"the file {digest[:16]}…")
        ours = {s: tuple(lm.shape(s)) for s in found.sites if s.layer < lm.depth and lm.has(s)}
        if ours != {site: tuple(shape) for site, shape in found.shapes.items()}:
            raise BadConfig(
                f"the network was trained for {found.about.get('model', 'another model')}, whose matrices have other "
                f"sizes than those of {lm.name}: train one for it with python benchmarks/models/mend.py."
            )
        lm.memory[key] = found
    kept: Network = lm.memory[key]
    return kept


def _notes(lm: LM, network: Network) -> dict[str, list[str]]:
    if network.about.get("fingerprint", lm.fingerprint) == lm.fingerprint:
        return {}
    name = network.about.get("model", "another model")
    return {
        "notes": [f"the network was trained for {name} with other weights, or in another precision, than {lm.name}."]
    }
