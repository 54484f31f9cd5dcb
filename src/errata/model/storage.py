"""How a matrix is kept: as plain numbers, packed in a few bits (bitsandbytes), or elsewhere until its module runs (accelerate).

Plain numbers can be written where they are. The others can only be read, multiplied out or fetched, one matrix at a time; what
is changed of them stands beside (`model.additions`). Neither package is imported here unless a model is kept that way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

import torch
from torch import Tensor, nn

from errata.errors import UnsupportedModel

# What bitsandbytes calls a packed parameter, and by what share of its largest entry the product with it may be off: 8-bit
# matrices are multiplied with inputs that are rounded to 8 bits as well (LLM.int8(), https://arxiv.org/abs/2208.07339).
_PACKED: Final = {"Params4bit": 0.0, "Int8Params": 0.1}


def weight_of(module: nn.Module) -> Any:
    """Return a module's own weight as it lies there, whatever it is; None of a module that has none."""
    return getattr(module, "weight", None)


def packed(module: nn.Module) -> bool:
    """Return whether a module's matrix is packed; it is then (out, in), whatever the architecture does with plain ones."""
    return type(weight_of(module)).__name__ in _PACKED


def offloaded(module: nn.Module) -> bool:
    """Return whether a module's matrix is elsewhere, and comes only while the module runs."""
    weight = weight_of(module)
    return isinstance(weight, Tensor) and weight.device.type == "meta" and _aligning(module) is not None


def writable(module: nn.Module) -> bool:
    """Return whether numbers can be written into a module's matrix."""
    return not packed(module) and not offloaded(module)


def roundness(module: nn.Module) -> float:
    """Return by what share of its largest entry a product with the matrix may be off, because inputs are rounded."""
    return _PACKED.get(type(weight_of(module)).__name__, 0.0)


def matrix_of(module: nn.Module) -> Any:
    """Return the weight of a module as numbers: itself if it is plain, else multiplied out or fetched, to be read only."""
    weight = weight_of(module)
    if packed(module):
        return _multiplied_out(module)
    return _fetched(module, "weight") if offloaded(module) else weight


def bias_of(module: nn.Module) -> Tensor | None:
    """Return what a matrix module adds to its product, None if nothing."""
    bias = getattr(module, "bias", None)
    elsewhere = isinstance(bias, Tensor) and bias.device.type == "meta" and _aligning(module) is not None
    return _fetched(module, "bias") if elsewhere else bias


def _multiplied_out(module: nn.Module) -> Tensor:
    weight: Any = module.weight
    library: Any = import_module("bitsandbytes.functional")
    if type(weight).__name__ == "Params4bit":
        made = library.dequantize_4bit(weight.data, weight.quant_state)
    else:
        state: Any = module.state  # has the scales from the first pass on
        made = library.int8_vectorwise_dequant(weight.data, state.SCB if weight.SCB is None else weight.SCB)
    assert isinstance(made, Tensor)
    return made


def numbers_in(model: nn.Module) -> int:
    """Return how many numbers a model's parameters stand for: several lie in one byte where they are packed."""
    few = sum(m.out_features * m.in_features - m.weight.numel() for m in model.modules() if packed(m))  # type: ignore
    return sum(parameter.numel() for parameter in model.parameters()) + int(few)


def shape_of(module: nn.Module) -> tuple[int, int] | None:
    """Return (out, in) of a packed matrix, without multiplying it out; None of another."""
    return (int(module.out_features), int(module.in_features)) if packed(module) else None  # type: ignore[arg-type]


def device_of(module: nn.Module) -> torch.device:
    """Return where a module computes: where its weight is, or will be while it runs."""
    weight = weight_of(module)
    hook = _aligning(module) if weight.device.type == "meta" else None
    found: torch.device = weight.device if hook is None else torch.device(hook.execution_device)
    return found


def _aligning(module: nn.Module) -> Any:
    """Return accelerate's hook that fetches a module's weights, or None."""
    hook = getattr(module, "_hf_hook", None)
    return next((h for h in getattr(hook, "hooks", [hook]) if getattr(h, "weights_map", None) is not None), None)


def _fetched(module: nn.Module, name: str) -> Tensor:
    hook = _aligning(module)
    found: Tensor = hook.weights_map[name]
    return found.to(hook.execution_device)


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what a model's state consists of by name, in order of the names; what is elsewhere is fetched, one at a time."""
    modules = dict(model.named_modules())
    for name, tensor in sorted(model.state_dict().items()):
        owner, _, last = name.rpartition(".")
        there = tensor.device.type != "meta" or _aligning(modules[owner]) is None
        yield name, tensor if there else _fetched(modules[owner], last)


def prepare(model: nn.Module) -> str:
    """Make packed matrices ready to be read and differentiated; return what they are packed as, "" where none is.

    Raises:
        UnsupportedModel: some are offloaded, or have been rearranged by a pass that came before.
    """
    found = [(name, module) for name, module in model.named_modules() if packed(module)]
    for name, module in found:
        weight: Any = module.weight
        if weight.device.type == "meta":
            raise UnsupportedModel(
                f"{name} is packed and offloaded, and cannot be read there; give a device map that keeps it on a device."
            )
        # On processors with AVX512-BF16 the first pass would store the matrix anew, with its scales rounded, in an order that
        # nothing multiplies out rightly, and multiply by a kernel without gradients.
        if getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False):
            raise UnsupportedModel(
                "its packed weights were rearranged by a pass on this processor, which cannot be undone; hand it over before "
                "its first pass, or give its name to load it anew."
            )
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if found:
        hush()
    return packing_of(found[0][1]) if found else ""


def packing_of(module: nn.Module) -> str:
    """Return what a packed matrix is packed as: nf4, fp4 or int8."""
    state = getattr(module.weight, "quant_state", None)
    return "int8" if state is None else str(state.quant_type)


def hush() -> None:
    """Keep bitsandbytes from saying at every product that inputs are rounded to half precision, and what it could not load."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def check_savable(name: str, model: nn.Module, edited: int) -> None:
    """Raise UnsupportedModel where a checkpoint would not hold what stands, or cannot be made.

    Args:
        edited: how many matrices have edits beside them.
    """
    if edited:
        raise UnsupportedModel(
            f"{edited} edited matrices of {name} cannot be written, their edits stand beside them and no checkpoint holds "
            "them: `errata export DIRECTORY --as adapter` writes them as an adapter for this model."
        )
    if any(offloaded(module) for module in model.modules()):
        raise UnsupportedModel(f"weights of {name} are not in memory; load it with --device cpu to save it.")
