"""A network of MEND for a tiny model, drawn and not trained: what it makes of a gradient descends all the same.

With μ = 0, σ the root mean square and U nearly zero, ũ and δ̃ are u and δ in units of their own, so that −α Σ δ̃ ũᵀ is a
preconditioned step against the gradient: its slope is −⟨G, D G D'⟩ ≤ 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from errata.delta import Site
from errata.fact import Fact
from errata.methods.mend import KIND, default_sites
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve.mend import Network, factors
from errata.solve.ultraedit import Spread
from errata.stats import trained

SIZE = 0.02  # ‖ΔW‖/‖W‖ of one fact, about


def drawn(lm: LM, facts: Sequence[Fact], seed: int = 0, noise: float = 1e-3) -> Network:
    """Return a network with random parameters, of the scale of some facts."""
    sites = default_sites(lm)
    seen = factors(lm, sites, lm.tokens.batch([Query.of(fact) for fact in facts]).to(lm.device))
    scales = {site: around_zero(torch.cat([one.inputs, one.gradients], 1)) for site, one in seen.items()}
    made = Network.fresh({site: lm.shape(site) for site in sites}, scales, rank=4, seed=seed)
    rng, more = torch.Generator().manual_seed(seed), dict[str, torch.Tensor]()
    for name, tensor in made.learned().items():
        if name.endswith("/log_rate"):
            site = Site.parse(name.removesuffix("/log_rate"))
            norm = float(lm.weights.base(site).detach().double().norm())
            change = made.change(site, seen[site]).norm() / len(facts)
            more[name] = tensor + torch.tensor(SIZE * norm / change).log().float()
        else:
            more[name] = tensor + noise * torch.randn(tensor.shape, generator=rng)
    return made.holding(more, model=lm.name, fingerprint=lm.fingerprint)


def around_zero(rows: torch.Tensor) -> Spread:
    """Return the scale of rows and of their negatives, whose mean is zero."""
    return Spread.of(rows) + Spread.of(-rows)


def give(lm: LM, facts: Sequence[Fact]) -> LM:
    """Keep a drawn network as the model's, where it has none, and return the model."""
    if trained.kept(lm, KIND) is None:
        trained.keep(lm, KIND, drawn(lm, facts).to_bytes())
    return lm
