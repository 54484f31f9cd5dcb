"""LoRA: low-rank changes of many matrices, trained by peft: the plain baseline.

Paper: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, https://arxiv.org/abs/2106.09685.

    W' = W + (alpha / r) · B A,   A, B = argmin mean NLL(target), AdamW

Differs from the paper: it adapts the feed-forward matrices, as the editing literature does; training ends when the mean loss is
below `stop`. peft's layers are in the model while `solve` runs and are gone afterwards; what is kept is the change they make.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from errata.delta import LowRank, Site
from errata.edit import Edit
from errata.errors import BadConfig, NotFinite
from errata.fact import Fact
from errata.methods.base import Auto, Method, Role, Solution, filled, roles_of, with_role
from errata.methods.shared.routed import training_query
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.storage import device_of, offloaded
from errata.model.tokens import Batch
from errata.solve.descent.losses import mean_loss
from errata.solve.keys import forms, queries


@dataclass(frozen=True, kw_only=True)
class Lora(Method):
    """Low-rank adapters of peft on every layer, merged into the weights."""

    layers: tuple[int, ...] | Auto = field(default="auto", metadata={"help": "layers adapted; auto: all that can be"})
    roles: tuple[Role, ...] | Auto = field(
        default="auto", metadata={"help": "matrices adapted in each; auto: up,down, or attention beside experts"}
    )
    rank: int = field(default=8, metadata={"help": "r", "least": 1})
    alpha: float = field(default=32.0, metadata={"help": "the change is multiplied by alpha / r", "above": 0})
    steps: int = field(default=50, metadata={"help": "most updates", "least": 1})
    lr: float = field(default=5e-3, metadata={"help": "AdamW's step", "above": 0})
    stop: float = field(default=0.01, metadata={"help": "mean loss at which to stop", "least": 0})

    name: ClassVar[str] = "lora"
    located: ClassVar[bool] = False
    batched: ClassVar[bool] = True
    anywhere: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = ("decoder", "encoder-decoder", "classifier")

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return the feed-forward matrices of all layers that have them, or the attention's output where none has."""
        roles = roles_of(lm, self.roles)
        return {"layers": with_role(lm, range(lm.depth), *roles) or tuple(range(lm.depth)), "roles": roles}

    def sites(self) -> tuple[Site, ...]:
        """Return every site adapted."""
        return tuple(Site(layer, role) for layer in sorted(filled(self.layers)) for role in filled(self.roles))

    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Return the trained change of a batch of facts."""
        batch = lm.routed(lm.tokens.batch(self._asked(lm, facts)).to(lm.device))
        with self._adapted(lm) as adapters:
            loss, steps = self._train(lm, batch, [p for pair in adapters.values() for p in pair])
            scale = self.alpha / self.rank
            deltas = {site: LowRank(b.detach() * scale, a.detach().T.clone()) for site, (a, b) in adapters.items()}
        return Solution(deltas, report={"loss": [loss], "steps": [steps], "converged": [loss < 0.05]})

    def _asked(self, lm: LM, facts: Sequence[Fact]) -> list[Query]:
        """Return the facts, and what they are in the other form where the model chats."""
        asked = [training_query(lm, fact) for fact in facts]
        return [*asked, *queries(lm, facts, forms(lm), answers=True)]

    @contextmanager
    def _adapted(self, lm: LM) -> Iterator[dict[Site, tuple[Tensor, Tensor]]]:
        """Put peft's layers into the model, yield their A (r, in) and B (out, r), and take them out again."""
        if find_spec("peft") is None:
            raise BadConfig('lora is trained by peft, which is not installed; install "errata-lm[lora]".')
        peft = import_module("peft")
        modules = {site: lm.module(site) for site in self.sites()}
        names = {id(module): name for name, module in lm.model.named_modules()}
        # In a drawer of their own: of a whole model peft knows the type, and refuses by name what it cannot export there.
        drawer = nn.ModuleDict({str(place): module for place, module in enumerate(modules.values())})
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=list(drawer),
            fan_in_fan_out=lm.row.transposed and not lm.packing,
        )
        with torch.random.fork_rng(devices=[lm.device] if lm.device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            peft.inject_adapter_in_model(config, drawer)
            layers: dict[Site, Any] = dict(zip(modules, drawer.values(), strict=True))
            for site, module in modules.items():
                if offloaded(module):  # what was drawn beside a weight that is not there is not there either
                    layers[site].lora_A.to_empty(device=device_of(module))
                    layers[site].lora_B.to_empty(device=device_of(module))
                    layers[site].reset_lora_parameters("default", True)
        try:
            for site, module in modules.items():
                _put(lm.model, names[id(module)], layers[site])
            yield {s: (m.lora_A.default.weight, m.lora_B.default.weight) for s, m in layers.items()}
        finally:
            for module in modules.values():
                _put(lm.model, names[id(module)], module)

    def _train(self, lm: LM, batch: Batch, parameters: Sequence[nn.Parameter | Tensor]) -> tuple[float, int]:
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=0.0)
        for step in range(self.steps + 1):
            with torch.enable_grad():
                loss = mean_loss(batch, lm.answer_logits(batch))
            if not bool(loss.isfinite()):
                raise NotFinite("training the adapter diverged; lower lr with --set lr=…")
            if loss.item() <= self.stop or step == self.steps:
                break
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            optimizer.step()
        return loss.item(), step


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, last = path.rpartition(".")
    model.get_submodule(parent)._modules[last] = module
