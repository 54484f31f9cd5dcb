"""MELO: small low-rank blocks beside some matrices, each switched on by an index of keys.

Paper: Yu et al., MELO: Enhancing Model Editing with Neuron-Indexed Dynamic LoRA, https://arxiv.org/abs/2312.11795.

    key   = output of the index site at the prompt's last token
    block = that of the nearest point of all clusters whose ball holds the key; none: no block
    y     = W x + s · B[block] (A[block] x),   s = alpha / p, at every position of the prompt and its answer
    A, B  = argmin mean NLL(target), Adam, the step multiplied by gamma after every so many

An edit carries its block and its keys; the clusters (`index.clusters`) are made from the edits that stand, in order, so that
dropping one leaves what there would be without it. A prompt is routed once, whatever is generated after it.

Differs from the paper: on decoders, for facts that name subjects, a key has two parts (``by="parts"``; `index.parts`), its
subject wherever it stands and what is asked, and a block is learned in several forms (after sampled texts, as a chat turn),
held by a KL divergence to what the base says of the subject otherwise and after the target. The paper's key is
``by="prompt"``: the radius is calibrated on the model (``radius="auto"``) where nobody tuned it, between the distances
of a prompt to its rephrasings and to unrelated text (of a classifier's document without rephrasings, a quarter of the way to
the nearest text), and the step is a quarter of the root mean square of the weights (0.01 on BERT, the paper's); training ends
early when the loss is below `stop`; labels are compared as sequences; a conflict pushes back every cluster it reaches and is
not undone by a later expansion; there are as many blocks as edits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeAlias

from torch import Tensor

from errata.delta import Graft, Site
from errata.edit import Edit
from errata.errors import BadConfig, UnsupportedModel
from errata.fact import Fact
from errata.methods.base import Auto, Role, Solution, filled, layer_at, roles_of, step_for, with_role
from errata.methods.shared.parts import (
    RoutedByParts,
    index_of,
    learned,
    left_out,
    other_questions,
    told,
    what_follows,
)
from errata.methods.shared.routed import labels_in, preview, read_keys, training_query, without_bank
from errata.model.grafts.keyed import label_tensor
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Batch
from errata.solve.descent.blocks import begin, fit
from errata.solve.descent.loop import Training
from errata.solve.keys import by_length

Block: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Melo(RoutedByParts):
    """One low-rank block for a batch of facts, and their keys."""

    index: int | Auto = field(default="auto", metadata={"help": "layer keys are read at, before all of `layers`"})
    key: Role | Auto = field(default="auto", metadata={"help": "matrix whose output at the index layer is the key"})
    layers: tuple[int, ...] | Auto = field(default="auto", metadata={"help": "layers with blocks"})
    roles: tuple[Role, ...] | Auto = field(
        default="auto", metadata={"help": "matrices with blocks; auto: up,down, or attention beside experts"}
    )
    rank: int = field(default=2, metadata={"help": "p: the rank of a block", "least": 1})
    alpha: float | None = field(default=None, metadata={"help": "s = alpha / p; none: s = 1", "above": 0})
    steps: int = field(default=50, metadata={"help": "most updates", "least": 1})
    lr: float | Auto = field(default="auto", metadata={"help": "Adam's first step; auto: RMS of W / 4", "above": 0})
    every: int = field(default=20, metadata={"help": "updates after which the step is multiplied", "least": 1})
    gamma: float = field(default=0.5, metadata={"help": "by how much", "above": 0})
    stop: float | Auto = field(
        default="auto",
        metadata={"help": "loss at which to stop; auto: 0.05, of keys that are the prompt's 0.01", "least": 0},
    )

    name: ClassVar[str] = "melo"
    located: ClassVar[bool] = False
    batched: ClassVar[bool] = True
    anywhere: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = ("decoder", "encoder-decoder", "classifier")
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2-xl": {"index": 35, "key": "up", "layers": (36, 37), "radius": 0.5, "lr": 1e-3},
    }

    def resolve(self, lm: LM) -> Self:
        """Return the method with its index and layers named.

        Raises:
            BadConfig: the index does not come before the blocks. UnsupportedModel: the model has too few layers.
        """
        found = super().resolve(lm)
        lm.module(found.at())
        if filled(found.index) >= min(site.layer for site in found.sites()):
            raise BadConfig(f"index = {found.index} makes no sense with layers = {found.layers}; keys are read before.")
        return found

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return the layer that tells questions apart, or two thirds of the depth, and blocks in the two layers behind."""
        if lm.reachable < 2:
            raise UnsupportedModel(f"{self.name} needs a layer for keys before one for blocks; {lm.name} has only one.")
        parted = self.parted(lm)
        roles = roles_of(lm, self.roles)
        key = "attention" if roles == ("attention",) else "down" if lm.row.kind == "classifier" else "up"
        blocks = with_role(lm, range(1, lm.reachable), *roles) or (lm.reachable - 1,)
        if self.index != "auto":
            index = self.index
        elif parted and self.layers == "auto":
            index = self.gauged(lm, "auto").question.layer
        else:
            latest = (min(self.layers) if self.layers != "auto" else max(blocks)) - 1
            wanted = min(layer_at(lm, 0.66, key), latest)
            index = max((0, *with_role(lm, range(wanted + 1), key)))
        behind = [layer for layer in blocks if layer > index][:2]
        second = with_role(lm, (lm.depth - lm.reachable + layer for layer in behind), *roles)
        layers = [*behind, *(second if lm.row.kind == "encoder-decoder" else ())]
        layers = sorted({layer for layer in layers if layer > index}) or [lm.depth - 1]
        first = Site(layers[0] if self.layers == "auto" else min(index + 1, lm.depth - 1), roles[-1])
        found = {"index": index, "key": key, "layers": tuple(layers), "roles": roles}
        found |= {**self.opened(lm, index, parted), "stop": 0.05 if parted else 0.01}
        return found | ({"lr": step_for(lm.weights.base(first), 4)} if lm.has(first) else {})

    def at(self) -> Site:
        """Return the site keys are read at."""
        return Site(filled(self.index), self.key)

    def keyed_at(self) -> tuple[Site, bool]:
        """Return that site, whose output is the key."""
        return self.at(), False

    def sites(self) -> tuple[Site, ...]:
        """Return the sites with blocks."""
        return tuple(Site(layer, role) for layer in sorted(filled(self.layers)) for role in filled(self.roles))

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the block and keys of a batch of facts."""
        if self.by == "parts" and all(fact.subject for fact in facts):
            return self._by_parts(lm, facts, past)
        index, name = self.at(), f"melo@{self.at()}"
        radius, distances = self.calibrated(lm, index, facts)
        batch = without_bank(lm, [training_query(lm, fact) for fact in facts], name)
        blocks, loss, steps = self._trained(lm, [batch])
        keys = read_keys(lm, index, [Query.asked(fact) for fact in facts])
        place: dict[str, object] = {"index": str(index)}
        known = {**place, "radius": radius, "search": self.search}
        keyed = Graft("melo", known, {"keys": keys, "labels": label_tensor(labels_in(lm, batch))})
        grafts = {site: Graft("melo", {**place, "scale": self.scale}, block) for site, block in blocks.items()}
        report = {"loss": [loss], "steps": [steps], "converged": [loss < 0.05], "index": distances}
        return Solution(
            {index: keyed, **grafts}, report={**report, **self.said(lm, facts), **preview(lm, name, past, keyed)}
        )

    @property
    def scale(self) -> float:
        """s = alpha / p; 1 without alpha."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def _trained(
        self, lm: LM, batches: Sequence[Batch], kept: Sequence[Batch] = ()
    ) -> tuple[dict[Site, Block], float, int]:
        how = Training(steps=self.steps, lr=filled(self.lr), stop=filled(self.stop), every=self.every, gamma=self.gamma)
        blocks, loss, steps = fit(lm, batches, begin(lm, self.sites(), self.rank, self.seed), self.scale, how, kept)
        return {site: {"a": a, "b": b} for site, (a, b) in blocks.items()}, loss, steps

    def _by_parts(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return a block that is learned in every form of the facts, and leaves other questions and what follows alone."""
        found = self.gauged(lm, filled(self.index))
        keyed = self.key_graft(lm, found, facts)
        name = index_of(keyed)
        kept = [query for fact in facts for query in other_questions(lm, found, fact)] + what_follows(lm, facts)
        batches, held = (
            [without_bank(lm, part, name) for part in by_length(lm, asked)]
            for asked in (learned(lm, facts, self.seed), kept)
        )
        blocks, loss, steps = self._trained(lm, batches, held)
        place = {"index": keyed.config["index"], "scale": self.scale}
        grafts = {site: Graft(keyed.wrapper, place, block) for site, block in blocks.items()}
        report = {"loss": [loss], "steps": [steps], "converged": [loss < 0.05]}
        texts = left_out(lm, facts, self.seed).report(lm)
        return Solution(
            {found.question: keyed, **grafts}, report={**report, **told(found, past, facts, keyed.wrapper), **texts}
        )
