"""Adam until the loss is small: the loop of every method that trains something beside the model.

loss, steps = descend([value], lambda: nll(value), Training(steps=100, lr=0.1, stop=0.01), "learning the value")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.errors import NotFinite

Loss = Callable[[], Tensor]  # computed anew from the leaves as they are


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Settings of a descent.

    Args:
        steps: most updates; with mini-batches, rounds through all of them. lr: Adam's step.
        stop: mean loss at which to stop.
        every, gamma: the step is multiplied by `gamma` after each `every` updates.
    """

    steps: int
    lr: float
    stop: float = 0.0
    every: int = 1_000_000
    gamma: float = 1.0


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """A mini-batch of a descent.

    Args:
        loss: what is looked at. share: of the mean over all parts.
        penalty: what is minimised beside it and not looked at.
    """

    loss: Loss
    share: float = 1.0
    penalty: Loss | None = None


def descend(
    leaves: Sequence[Tensor],
    parts: Loss | Sequence[MiniBatch],
    how: Training,
    what: str,
    hold: Callable[[Callable[[], None]], None] | None = None,
) -> tuple[float, int]:
    """Minimise by Adam (arXiv 1412.6980), in place, until the mean loss is small or the steps are used up.

    Args:
        leaves: what is trained; each requires grad. parts: the loss, or mini-batches, each with an update of its own.
        what: names the descent where it diverges. hold: takes an update, for who must change its gradient or its result.

    Returns:
        the last mean loss, which belongs to the leaves as they are left, and the updates (rounds) taken.

    Raises:
        NotFinite: the loss is not finite.
    """
    batches = [MiniBatch(parts)] if callable(parts) else list(parts)
    optimizer = torch.optim.Adam(leaves, lr=how.lr)
    for step in range(how.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = how.lr * how.gamma ** (step // how.every)
        mean = 0.0
        for part in batches:
            with torch.enable_grad():
                loss = part.loss()
                whole = loss if part.penalty is None else loss + part.penalty()
            if not bool(loss.isfinite()):
                raise NotFinite(f"{what} diverged; lower lr with --set lr=…")
            mean += loss.item() * part.share
            if step == how.steps or (len(batches) == 1 and mean <= how.stop):
                continue
            for leaf, gradient in zip(leaves, torch.autograd.grad(whole, leaves), strict=True):
                leaf.grad = gradient
            optimizer.step() if hold is None else hold(optimizer.step)
        if step == how.steps or mean <= how.stop:
            break
    return mean, step
