"""ROME's closed form on the experts that a router opens for a fact, for methods that write one matrix.

With gates g_e, experts give Σ g_e W_e k_e: one product of W = [W_1 W_2 …] with a key K = [g_1 k_1; g_2 k_2; …] that is zero
where an expert is shut. ROME's update of that matrix, with a covariance for each expert and none between them, is

    ΔW_e = r (C_e⁻¹ K_e)ᵀ / Σ_j K_jᵀ C_j⁻¹ K_j,   C_e = E[g_e² k_e k_eᵀ],   r = v* − Σ_e W_e K_e

so an expert that is opened wider takes more of the change, and what it costs other texts is counted by how often they
open it. With one expert and a gate of 1 it is ROME's to the letter. The gates are the base's: a change of earlier layers may
open others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import LowRank, Site
from errata.errors import BadConfig
from errata.fact import Fact
from errata.methods.base import Solution
from errata.model.experts import EXPERT, expert_sites, opened_keys, routing_at
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve import keys
from errata.solve.values import optimise
from errata.stats.moments import SecondMoment
from errata.stats.store import Key, described, ensure, there
from errata.stats.store import keys as keys_of_statistics

if TYPE_CHECKING:
    from errata.methods.shared.one_matrix import OneMatrix

# A covariance of fewer tokens than it has rows says nothing of most directions: it is damped by a tenth of in / tokens.
FEW = 0.1


@dataclass(frozen=True, eq=False, slots=True)
class ExpertMoments:
    """C_e of experts of one layer, and how many tokens opened each."""

    means: Mapping[int, Float[Tensor, "in in"]]
    counts: Mapping[int, int]

    def solve(self, expert: int, key: Float[Tensor, " in"], damping: float) -> Float[Tensor, " in"]:
        """Return C_e⁻¹ k in float64; of an expert that no text opened, k by the mean size of the others' keys."""
        sizes = {e: float(mean.diagonal().mean()) for e, mean in self.means.items() if self.counts[e]}
        size = sizes.get(expert) or sum(sizes.values()) / max(1, len(sizes)) or 1.0
        share = max(damping, FEW * len(key) / (1 + self.counts[expert]))
        damped = self.means[expert] + share * size * torch.eye(len(key), dtype=torch.float64)
        found: Tensor = torch.cholesky_solve(key.double().cpu()[:, None], torch.linalg.cholesky(damped))[:, 0]
        return found


def wanted(how: OneMatrix, lm: LM, site: Site) -> dict[Site, Key]:
    """Return by what the covariances of all experts of a layer are known: one pass over a text reads them all."""
    check(how)
    return keys_of_statistics(lm, expert_sites(lm, site.layer), how.corpus, how.tokens)


def moments(how: OneMatrix, lm: LM, site: Site, opened: Iterable[int]) -> ExpertMoments:
    """Return the covariances of experts that are opened; of all of them, where no text opened one of these."""
    every = wanted(how, lm, site)
    if not all(key in lm.memory or there(key.name()) for key in every.values()):
        ensure(lm, every)
    sites = list(every)
    found = ensure(lm, {sites[expert]: every[sites[expert]] for expert in opened})
    if not all(total.count for total, _ in found.values()):
        found = ensure(lm, every)
    # The mean is over all tokens that were read, those that did not open the expert too.
    means = {sites.index(one): SecondMoment(total.total, ended.tokens).mean for one, (total, ended) in found.items()}
    return ExpertMoments(means, {sites.index(one): total.count for one, (total, _) in found.items()})


def check(how: OneMatrix) -> None:
    """Refuse what is not worked out for experts; raises BadConfig."""
    if how.constraint != "none" or how.restrain != "none" or how.anchor is not None:
        raise BadConfig("on experts neither constraint nor restrain nor anchor is worked out; leave them at none.")


def solve(how: OneMatrix, lm: LM, site: Site, facts: Sequence[Fact]) -> Solution:
    """Return the update of the experts that are opened at the fact's subject, in any of the contexts."""
    check(how)
    contexts = keys.contexts_for(lm, facts, keys.contexts(lm, how.seed))
    values = optimise(lm, facts, site, contexts.texts, how.goal())
    averaged, _ = _stacked(lm, site, keys.queries(lm, facts, contexts.texts, answers=False))
    bare, out = _stacked(lm, site, keys.queries(lm, facts, [""], answers=False))
    current = averaged if how.consistent_keys else bare
    written = out + _product(lm, site, current) - _product(lm, site, bare)  # biases cancel
    residual = values.target[0].double().cpu() - written
    known = moments(how, lm, site, sorted(averaged))
    directions = {expert: known.solve(expert, key, how.damping) for expert, key in sorted(averaged.items())}
    total = sum(float(current[expert] @ directions[expert]) for expert in directions if expert in current)
    deltas = {
        _one(site, expert): LowRank((residual / total)[:, None], direction[:, None])
        for expert, direction in directions.items()
    }
    share = {expert: float(current[expert] @ directions[expert]) / total for expert in directions if expert in current}
    said = {f"{EXPERT}{expert}": round(part, 3) for expert, part in share.items()}
    report = {**how.learned(values), **contexts.report(lm), "experts": said}
    read = {place: key for place, key in wanted(how, lm, site).items() if place in deltas}
    return Solution(deltas, {f"delta/{site}": values.delta}, contexts.texts, report, described(lm, read))


def _product(lm: LM, site: Site, stacked: Mapping[int, Tensor]) -> Float[Tensor, " out"]:
    """Return Σ W_e K_e."""
    parts = [lm.parameter(_one(site, expert)).double().cpu() @ key for expert, key in sorted(stacked.items())]
    return torch.stack(parts).sum(0)


def _one(site: Site, expert: int) -> Site:
    return Site(site.layer, f"{EXPERT}{expert}")


@torch.no_grad()
def _stacked(lm: LM, site: Site, asked: Sequence[Query]) -> tuple[dict[int, Tensor], Tensor]:
    """Return the mean over queries of each expert's g k at the lookup token, float64, and of what all give together."""
    experts, sums, outs = lm.experts[site.layer], dict[int, Tensor](), list[Tensor]()
    for query in asked:
        batch = lm.tokens.batch([query])
        routing = routing_at(lm, site, batch.inputs)
        place = int(batch.lookup[0])
        one = type(routing)(*(tensor[place : place + 1] for tensor in routing))
        outs.append(experts.module(*one)[0].double().cpu())
        for expert, (_, found) in opened_keys(experts, one).items():
            sums[expert] = sums.get(expert, 0) + found[0].double().cpu()
    return {expert: total / len(asked) for expert, total in sums.items()}, torch.stack(outs).mean(0)
