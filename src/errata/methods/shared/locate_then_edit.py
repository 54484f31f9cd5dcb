"""What locate-then-edit methods share: settings of v*, and the factored covariance of a site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from errata.delta import Site
from errata.edit import Edit
from errata.fact import Fact
from errata.methods.base import Auto, filled, layer_at
from errata.methods.shared.delta_edit import FIRST, HELD, NOISE, UsualNoise, directions, stirred
from errata.methods.shared.orthogonal import OrthogonalRoom, OrthogonalSettings, history_of
from errata.methods.shared.regularised import Regularised
from errata.model.lm import LM
from errata.solve.keys import gather, queries
from errata.solve.least_squares import Ridge
from errata.solve.subspace import FreeSpace
from errata.solve.values import Values, ValueTraining
from errata.stats.remembered_layer import remembered
from errata.stats.store import Key, described, keys, take

_OURS = {"margin": None, "follows": False, "names": 0.0, "shrink": 0.0, "anchor": None}  # what the papers do not have
_LLAMA2 = {"steps": 25, "lr": 0.5, "decay": 1e-3, "clamp": 4.0, **_OURS}
_LLAMA3 = {"steps": 25, "lr": 0.1, "decay": 0.5, "clamp": 0.75, **_OURS}
# Settings of v* on published models; each method adds where it writes.
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "gpt2-xl": {"steps": 20, "lr": 0.5, "decay": 0.5, "clamp": 0.75, **_OURS},
    "gpt-j-6b": {"steps": 25, "lr": 0.5, "decay": 0.5, "clamp": 0.75, **_OURS},
    "llama-2-7b": _LLAMA2,
    "mistral-7b": _LLAMA2,
    "llama-3-8b": _LLAMA3,
    "qwen2.5-7b": _LLAMA3,
}


@dataclass(frozen=True, kw_only=True)
class LocateThenEdit(Regularised):
    """A method that learns v* at the subject's last token and writes it with a closed form under a covariance."""

    steps: int | Auto = field(default="auto", metadata={"help": "steps of v*", "least": 1})
    lr: float | Auto = field(
        default="auto", metadata={"help": "step size of v*; auto: a fraction of the size of z0", "above": 0}
    )
    kl: float = field(
        default=0.0625, metadata={"help": "weight of the KL to the base on the subject's essence", "least": 0}
    )
    decay: float | Auto = field(default="auto", metadata={"help": "weight of ‖δ‖/‖z0‖²", "least": 0})
    clamp: float | Auto = field(default="auto", metadata={"help": "largest ‖δ‖ as a multiple of ‖z0‖", "above": 0})
    stop: float = field(default=0.05, metadata={"help": "loss at which v* is good enough", "least": 0})
    # margin, follows and decay: chosen on the CounterFact reference of GPT-2's kind (40 records: neighbours .67 → .84 with
    # memit, .80 → .91 with rome at margins of 5 and 8, in half the steps), confirmed on the primer (150 facts, which choose
    # nothing here): neighbours .977 → .993, one hop on 1.00 → .90. On SmolLM2 (10 records) no difference is certain: LOG.md,
    # 2026-11-27.
    margin: float | Auto | None = field(
        default="auto", metadata={"help": "or how many nats the answer leads by in every context", "least": 0}
    )
    follows: bool | Auto = field(default="auto", metadata={"help": "learn that the text goes on as the base would"})
    # names: that it helps, on SmolLM2 with memit (16 facts) and rome (12 others); how much, by the demo: LOG.md, 2026-11-28.
    names: float | Auto = field(
        default="auto", metadata={"help": "weight of the KL to the base where a reply names the subject", "least": 0}
    )
    # shrink: chosen on SmolLM2 (memit, 100 CounterFact records), confirmed on the primer, the CounterFact reference of GPT-2's
    # kind (memit, ledger, rome in a row) and 75 other records of SmolLM2: LOG.md, 2026-11-28.
    shrink: float | Auto = field(
        default="auto", metadata={"help": "weight of ‖δ‖ as a share of the stream it is added to", "least": 0}
    )
    constraint: Literal["none", "o-edit", "o-edit+", "deltaedit"] = field(  # type: ignore[assignment]  # one more
        default="none",
        metadata={
            "help": "keep updates off earlier ones: by a penalty, by projection too, or where those stir the key"
        },
    )
    strays: float = field(
        default=3.0, metadata={"help": "deltaedit: deviations from the usual noise at which δ is held", "above": 0}
    )
    floor: float = field(
        default=0.1, metadata={"help": "deltaedit: least squared singular value of a direction", "least": 0}
    )
    damping: float = field(default=1e-3, metadata={"help": "share of C's mean diagonal added to it; 0: the papers' C"})

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return settings of v* for a model nobody tuned: the original's clamp, and steps that end when the answer leads."""
        ours = {"steps": 25, "decay": 1e-3, "clamp": 4.0, "margin": 6.0, "follows": True, "names": 0.1, "shrink": 1.5}
        return {**super().automatic(lm), **ours}

    def goal(self) -> ValueTraining:
        """Return the settings of v* of a resolved method."""
        steps, decay, clamp = filled(self.steps), filled(self.decay), filled(self.clamp)
        how = ValueTraining(steps=steps, lr=self.lr, kl=self.kl, decay=decay, clamp=clamp, stop=self.stop)
        ours = {name: filled(getattr(self, name)) for name in ("margin", "follows", "names", "shrink")}
        return replace(how, **ours)

    def wanted(self, lm: LM) -> list[Mapping[Site, Key]]:
        """Return by what the covariance of every site written to is known, and what a constraint asks for."""
        return [*super().wanted(lm), keys(lm, self.sites(), self.corpus, self.tokens)]

    def hold_for(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> OrthogonalRoom:
        """Return what v* of facts on top of `past` is held to; on a resolved method. Raises what `hold` raises."""
        if self.constraint != "deltaedit":
            return self.hold(lm, past)
        how = OrthogonalSettings(True, "learned", (0.0, 0.0), self.similarity)
        site = self.sites()[-1]
        span = history_of(lm, site, past)
        if not len(span.values):
            return OrthogonalRoom(how, lm, {})
        found, _ = gather(lm, queries(lm, facts, [""], answers=False), inputs=[site])
        noise = stirred(span, found[site])
        size = float(noise.norm(dim=1).mean())
        held = len(past) >= FIRST and UsualNoise.of(past).strays(size, self.strays)
        taken = directions(span, noise, self.floor) if held else None
        rooms = {} if taken is None else {site: FreeSpace(taken, taken[:, :0])}
        return OrthogonalRoom(how, lm, rooms, {NOISE: size, HELD: held})

    def statistics(self, lm: LM) -> dict[str, dict[str, Any]]:
        """Return the name of the covariance of every site written to, how many tokens it is of and why no more."""
        return described(lm, keys(lm, self.sites(), self.corpus, self.tokens))

    def ridge(self, lm: LM, site: Site, weight: float = 1.0) -> Ridge:
        """Return λC of a site, damped, factored once while the model lives.

        Neurons that hardly ever fire leave C with eigenvalues many orders below its mean; C⁻¹ then writes along them for
        next to nothing, and the update grows to a multiple of the matrix without doing anything. A thousandth of the mean
        diagonal ends that and changes no answer (LOG.md, 2026-11-20).
        """
        return factored(lm, site, (self.corpus, self.tokens), self.damping, weight)

    def learned(self, values: Values) -> dict[str, Any]:
        """Report how the optimisation of each fact ended."""
        losses = [round(x, 6) for x in values.loss.tolist()]
        return {"loss": losses, "steps": values.steps.tolist(), "converged": values.done.tolist()}


def home(lm: LM, share: float) -> int:
    """Return the layer facts were traced to on this very model (`errata locate --remember`), else `layer_at`."""
    known = remembered(lm)
    return layer_at(lm, share) if known is None else known


def factored(lm: LM, site: Site, text: tuple[str, int], damping: float, weight: float) -> Ridge:
    """Return λC of a site on a text, and so many tokens of it, damped; factored once while the model lives."""
    key = ("ridge", site, *text, damping, weight)
    if key not in lm.memory:
        lm.memory[key] = Ridge(take(lm, site, *text), weight, damping)
    found: Ridge = lm.memory[key]
    return found
