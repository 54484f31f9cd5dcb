"""MEND's hyper-network: what it makes of a fine-tuning gradient, factor by factor, and the file it is kept in.

network = Network.fresh(shapes, scales, rank=256)
seen = factors(lm, network.sites, batch)                # one forward and one backward pass: ∇W = Σ_t δ_t u_tᵀ
network.change(site, seen[site])                        # ΔW = −α Σ_t δ̃_t ũ_tᵀ

    z = ([u, δ] − μ) / σ
    h = z + relu(s₁ ⊙ (U₁ V₁ z + b₁) + o₁),   [ũ, δ̃] = h + relu(s₂ ⊙ (U₂ V₂ h + b₂) + o₂)     (arXiv 2110.11309, Eq. 3)

U, V and b are shared by all matrices of one shape; s, o, α, μ and σ are each matrix's own. `solve.mend_training` learns all but
μ and σ, which are of the training facts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from errata.delta import LowRank, Site
from errata.errors import BadFile, UnknownSite
from errata.model.lm import LM
from errata.model.tokens import Batch
from errata.solve.descent.losses import row_losses
from errata.solve.ultraedit import Spread, signals

FORMAT: Final = 1
SHARED: Final = ("u1", "v1", "b1", "u2", "v2", "b2")
OWN: Final = ("s1", "o1", "s2", "o2", "log_rate")
FIXED: Final = ("mean", "deviation")
Shape = tuple[int, int]


@dataclass(frozen=True, eq=False, slots=True)
class GradientFactors:
    """The gradient of a matrix, token by token: ``gradients.T @ inputs`` is ∇W of the summed losses of all rows.

    Args:
        rows: which row of the batch each token is of. inputs: u, what the matrix is given there. gradients: δ, the loss's
            gradient at what it puts out there.
    """

    rows: Int[Tensor, " n"]
    inputs: Float[Tensor, "n in"]
    gradients: Float[Tensor, "n out"]


def factors(lm: LM, sites: tuple[Site, ...], batch: Batch) -> dict[Site, GradientFactors]:
    """Return each site's gradient of Σ_rows (mean −log P of the row's answer) as factors, in float64 on the CPU.

    Tokens at which the gradient is zero, padding among them, are left out.

    Raises:
        NotFinite: the loss or a gradient is not.
    """
    run = lambda: row_losses(batch, lm.answer_logits(batch)).sum()  # noqa: E731
    _, seen = signals(lm, sites, run, lambda hidden: hidden.flatten(0, 1))
    found = {}
    for site, signal in seen.items():
        moved = (signal.gradients != 0).any(1)
        rows = torch.arange(len(batch)).repeat_interleave(len(signal.inputs) // len(batch))
        found[site] = GradientFactors(rows[moved], signal.inputs[moved], signal.gradients[moved])
    return found


@dataclass(frozen=True, eq=False, slots=True)
class Network:
    """A hyper-network for some matrices of one model.

    Args:
        shapes: (out, in) of each site. tensors: float, by name: "576x1536/u1" of a shape, "28.down/s1" of a site.
        about: what it was trained on and how, as JSON can say it; ``fingerprint`` is the model's.
    """

    shapes: Mapping[Site, Shape]
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fresh(
        cls, shapes: Mapping[Site, Shape], scales: Mapping[Site, Spread], rank: int, rate: float = 1e-4, seed: int = 0
    ) -> Network:
        """Return one that hands normalised factors on as they are: U, b and o are zero, s is one.

        Args:
            scales: of what is put in, [u, δ], at each site. rank: of U V; the paper's is 1920. rate: α to begin with.
        """
        rng, tensors = torch.Generator().manual_seed(seed), dict[str, Tensor]()
        for out, inner in sorted(set(shapes.values())):
            size, name = out + inner, _shared((out, inner))
            low = min(rank, size)
            bound = (6 / (low + size)) ** 0.5  # Xavier's
            for layer in "12":
                tensors[f"{name}/v{layer}"] = (2 * torch.rand(low, size, generator=rng) - 1) * bound
                tensors[f"{name}/u{layer}"] = torch.zeros(size, low)
                tensors[f"{name}/b{layer}"] = torch.zeros(size)
        for site, (out, inner) in shapes.items():
            for layer in "12":
                tensors[f"{site}/s{layer}"], tensors[f"{site}/o{layer}"] = (
                    torch.ones(out + inner),
                    torch.zeros(out + inner),
                )
            tensors[f"{site}/log_rate"] = torch.tensor(rate).log()
            tensors[f"{site}/mean"], tensors[f"{site}/deviation"] = _normal(scales[site])
        return cls(dict(shapes), tensors)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Return the matrices it is for, ascending."""
        return tuple(sorted(self.shapes))

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the layers these are in, ascending."""
        return tuple(sorted({site.layer for site in self.shapes}))

    def learned(self) -> dict[str, Tensor]:
        """Return the tensors that training changes."""
        return {name: t for name, t in self.tensors.items() if name.rpartition("/")[2] not in FIXED}

    def holding(self, tensors: Mapping[str, Tensor], **about: Any) -> Network:
        """Return the same with some tensors replaced, and more said about it."""
        return replace(self, tensors={**self.tensors, **tensors}, about={**self.about, **about})

    def to(self, dtype: torch.dtype) -> Network:
        """Return it in another precision."""
        return replace(self, tensors={name: t.to(dtype) for name, t in self.tensors.items()})

    def rate(self, site: Site) -> Tensor:
        """Return α of a site."""
        return self.tensors[f"{site}/log_rate"].exp()

    def pseudo(
        self, site: Site, inputs: Float[Tensor, "n in"], gradients: Float[Tensor, "n out"]
    ) -> tuple[Float[Tensor, "n in"], Float[Tensor, "n out"]]:
        """Return ũ and δ̃ of some tokens."""
        own = {name: self.tensors[f"{site}/{name}"] for name in (*OWN, *FIXED)}
        shared = {name: self.tensors[f"{_shared(self.shapes[site])}/{name}"] for name in SHARED}
        x = torch.cat([inputs, gradients], 1).to(own["mean"].dtype)
        x = (x - own["mean"]) / own["deviation"]
        for layer in "12":
            inner = x @ shared[f"v{layer}"].T @ shared[f"u{layer}"].T + shared[f"b{layer}"]
            # clamp, whose derivative at zero is one: relu's is none, and with U and o at zero nothing would ever be learned.
            x = x + (own[f"s{layer}"] * inner + own[f"o{layer}"]).clamp(min=0)
        return x[:, : inputs.shape[1]], x[:, inputs.shape[1] :]

    def change(self, site: Site, seen: GradientFactors) -> LowRank:
        """Return ΔW, whose rank is the number of tokens.

        Raises:
            UnknownSite: it is for other matrices.
        """
        if site not in self.shapes:
            raise UnknownSite(f"the network changes {', '.join(map(str, self.sites))}, not {site}.")
        inputs, gradients = self.pseudo(site, seen.inputs, seen.gradients)
        return LowRank((-self.rate(site) * gradients).T, inputs.T)

    def to_bytes(self) -> bytes:
        """Return it as a safetensors file, the same for the same network."""
        head = {
            "format": FORMAT,
            "sites": {str(site): list(self.shapes[site]) for site in self.sites},
            "about": dict(self.about),
        }
        tensors = {name: self.tensors[name].detach().contiguous() for name in sorted(self.tensors)}
        return bytes(save(tensors, {"mend": json.dumps(head, sort_keys=True)}))

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Network:
        """Return what a file holds.

        Args:
            name: the file's, for messages.

        Raises:
            BadFile: it holds no network, or one that is not whole.
        """
        try:
            length = int.from_bytes(data[:8], "little")
            head = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["mend"])
            shapes = {Site.parse(site): (int(out), int(inner)) for site, (out, inner) in head["sites"].items()}
            found = cls(shapes, load(data), dict(head["about"]))
            version = int(head["format"])
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, UnknownSite) as error:
            raise BadFile(f"{name} is no network of MEND: train one with benchmarks/models/mend.py.") from error
        if version != FORMAT:
            raise BadFile(f"{name} is a network of format {version}; this errata reads format {FORMAT}.")
        found._check(name)
        return found

    def _check(self, name: str) -> None:
        """Raise BadFile unless every tensor is there, has its size and is finite."""
        sizes: dict[str, tuple[int, ...]] = {}
        for site, (out, inner) in self.shapes.items():
            size, shape = out + inner, _shared((out, inner))
            rank = len(self.tensors.get(f"{shape}/v1", ()))
            sizes |= {f"{shape}/{part}": (size,) for part in ("b1", "b2")}
            sizes |= {f"{shape}/{part}": (size, rank) for part in ("u1", "u2")}
            sizes |= {f"{shape}/{part}": (rank, size) for part in ("v1", "v2")}
            sizes |= {f"{site}/{part}": (size,) for part in (*OWN, *FIXED)} | {f"{site}/log_rate": ()}
        there = {key: tuple(t.shape) for key, t in self.tensors.items() if t.is_floating_point()}
        if not sizes or there != sizes or not all(bool(t.isfinite().all()) for t in self.tensors.values()):
            raise BadFile(f"{name} is a network of MEND that is not whole: train it again.")


def _normal(scale: Spread) -> tuple[Tensor, Tensor]:
    """Return μ and σ of each coordinate in float32; σ is 1 where a coordinate does not move but for rounding."""
    count, total, squares = scale.sums
    mean = total / count
    variance = squares / count - mean.square()
    moves = (variance > 1e-12 * mean.square()) & (variance > 1e-60)
    return mean.float(), torch.where(moves, variance, 1.0).sqrt().float()


def _shared(shape: Shape) -> str:
    return f"{shape[0]}x{shape[1]}"
