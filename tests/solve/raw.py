"""A model looked at with nothing of ours: one text at a time, no padding, hooks and token counting written out here.

What `errata.solve` computes in batches from cached states is compared with this.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from errata.fact import Fact

PATHS = {
    "falcon": ("transformer.h", "mlp.dense_4h_to_h"),
    "gemma2": ("model.layers", "mlp.down_proj"),
    "gpt2": ("transformer.h", "mlp.c_proj"),
    "gptj": ("transformer.h", "mlp.fc_out"),
    "llama": ("model.layers", "mlp.down_proj"),
    "opt": ("model.decoder.layers", "fc2"),
    "t5": ("encoder.block", "layer.1.DenseReluDense.wo"),
}


@dataclass(frozen=True)
class Seen:
    """Vectors at the subject's last token."""

    key: Tensor
    down: Tensor
    block: Tensor


class Raw:
    """A copy of a transformers model."""

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        self.name, self.model, self.tokenizer = name, copy.deepcopy(model), tokenizer

    def block(self, layer: int) -> nn.Module:
        return self.model.get_submodule(PATHS[self.name][0])[layer]

    def down(self, layer: int) -> nn.Module:
        return self.block(layer).get_submodule(PATHS[self.name][1])

    def matrix(self, layer: int) -> Tensor:
        weight = self.down(layer).weight.detach()
        return weight.T if self.name == "gpt2" else weight

    def bias(self, layer: int) -> Tensor | float:
        bias = getattr(self.down(layer), "bias", None)
        return 0.0 if bias is None else bias.detach()

    def position(self, text: str, end: int) -> int:
        """Return the last token that touches character `end - 1`."""
        offsets = self.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        return max(i for i, (first, stop) in enumerate(offsets) if first < end <= stop)

    def inputs(self, prompt: str, answer: str) -> tuple[dict[str, Tensor], list[int], list[int]]:
        """Return (model inputs, positions that predict the answer or what comes next, the answer's tokens)."""
        if self.name == "t5":
            ids, labels = self.tokenizer(prompt)["input_ids"], self.tokenizer(answer)["input_ids"][:-1]
            given = {"input_ids": torch.tensor([ids]), "decoder_input_ids": torch.tensor([[0, *labels[:-1]]])}
            return given, list(range(len(labels))) or [0], labels
        start = len(self.tokenizer(prompt)["input_ids"])
        ids = self.tokenizer(f"{prompt} {answer}" if answer else prompt)["input_ids"]
        return {"input_ids": torch.tensor([ids])}, list(range(start - 1, max(start, len(ids) - 1))), ids[start:]

    def logits(self, prompt: str, answer: str = "") -> tuple[Tensor, list[int]]:
        """Return (logits that predict the answer, its tokens), by a full forward pass."""
        given, places, labels = self.inputs(prompt, answer)
        return self.model(**given).logits[0, places], labels

    def see(self, layer: int, prompt: str, end: int, stream: int | None = None) -> Seen:
        """Return what goes into and out of the matrix of `layer`, and out of block `stream`, at the subject."""
        seen: dict[str, Tensor] = {}
        at = self.position(prompt, end)

        def before(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            # Falcon adds to its output in place, and OPT flattens: copy, and count the batch of one away.
            seen["key"], seen["down"] = (t.detach().clone().reshape(-1, t.shape[-1])[at] for t in (args[0], output))

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            seen["block"] = (output[0] if isinstance(output, tuple) else output).detach().clone()[0, at]

        with (
            hooked((self.down(layer), before), (self.block(layer if stream is None else stream), after)),
            torch.no_grad(),
        ):
            self.model(**self.inputs(prompt, "")[0])
        return Seen(**seen)

    @contextmanager
    def adding(self, layer: int, role: str, prompt: str, end: int, delta: Tensor) -> Iterator[None]:
        """Add `delta` at the subject's last token to what the matrix, or the block, of `layer` puts out."""
        at = self.position(prompt, end)

        def add(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            shift = torch.zeros_like(hidden.reshape(-1, hidden.shape[-1]))
            shift[at] = 1.0
            moved = hidden + (shift * delta).reshape(hidden.shape)
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        with hooked((self.down(layer) if role == "down" else self.block(layer), add)):
            yield


@contextmanager
def hooked(*pairs: tuple[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, hook in pairs:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def written(fact: Fact, context: str) -> tuple[str, int]:
    """Return (prompt after the context, where its subject ends)."""
    before = f"{context} " if context else ""
    return before + fact.prompt, len(before) + fact.span[1]
