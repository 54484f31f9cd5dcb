"""The files of a checkpoint: what a model does not show of them, and whether they are what was to be written.

Nothing here imports transformers: a tensor is looked at where it lies, one at a time, so that a check costs no second model.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from errata.errors import BadModel, NotWritten

# How weights can be packed, and what brings them back. FP8 in blocks is multiplied out by transformers on any machine;
# bitsandbytes stays as it is, and edits stand beside it. The others need kernels or packages of their own, and not all of them
# can be undone.
FP8: Final = "fp8"
BITSANDBYTES: Final = "bitsandbytes"
# What lies beside the weights and is no business of errata's, but of whoever loads what is saved.
SIDE_FILES: Final = (
    "generation_config.json", "preprocessor_config.json", "processor_config.json", "image_processor_config.json",
    "video_preprocessor_config.json", "chat_template.jinja", "chat_template.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
    "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
_SCALES: Final = (
    "_scale_inv", ".weight_scale", ".input_scale", ".qweight", ".qzeros", ".scales", ".g_idx", ".weight_packed", ".absmax",
    ".SCB", ".quant_map",
)  # fmt: skip
ADAPTER: Final = "adapter_config.json"


def packing(config: Any) -> dict[str, Any]:
    """Return what a configuration says of the quantisation of its weights, empty if it says nothing.

    Raises:
        BadModel: of a kind that cannot be edited.
    """
    of_text = config.get_text_config()
    said = getattr(config, "quantization_config", None) or getattr(of_text, "quantization_config", None) or {}
    said = dict(said if isinstance(said, Mapping) else said.to_dict())
    if said and not (method_of(said) == FP8 or method_of(said).endswith(BITSANDBYTES)):
        raise BadModel(
            f"its weights are quantised ({method_of(said)}), and nothing here multiplies them out; give the model it was made "
            "from, which its card names, a GGUF file of it, or that model with --dtype nf4."
        )
    return said


def method_of(said: Mapping[str, Any]) -> str:
    """Return the name of a quantisation as its users know it, such as "4-bit bitsandbytes"."""
    bits = next((f"{n}-bit " for n in (4, 8) if said.get(f"load_in_{n}bit") or said.get(f"_load_in_{n}bit")), "")
    name = said.get("quant_method") or (BITSANDBYTES if bits else "of an unnamed kind")
    return f"{bits}{getattr(name, 'value', name)}"


def check_blocks(folder: Path, said: Mapping[str, Any]) -> None:
    """Refuse FP8 weights whose last block is a part of one.

    transformers takes the size of a block from the number of scales, and so divides such a matrix in other places than it was.
    """
    block = said.get("weight_block_size") or (128, 128)
    shapes = {name: shape for file in sorted(folder.glob("*.safetensors")) for name, shape in _shapes(file)}
    for name, scales in shapes.items():
        shape = shapes.get(name.removesuffix("_scale_inv")) if name.endswith(".weight_scale_inv") else None
        pairs = zip(shape or (), scales, block, strict=False)
        if any(size % whole and parts > 1 for size, parts, whole in pairs):
            raise BadModel(
                f"{name.removesuffix('_scale_inv')} is {' × '.join(map(str, shape or ()))}, which blocks of "
                f"{' × '.join(map(str, block))} do not divide evenly; give the model it was made from."
            )


def _shapes(file: Path) -> Iterator[tuple[str, list[int]]]:
    with safe_open(file, "pt") as opened:
        for name in sorted(opened.keys()):
            yield name, opened.get_slice(name).get_shape()


def check_scales(names: Collection[str]) -> None:
    """Refuse a checkpoint whose left-over tensors are what multiplies quantised weights out, though its settings name none.

    Raises:
        BadModel: there is such a tensor; it is named.
    """
    if scales := sorted(name for name in names if name.endswith(_SCALES)):
        raise BadModel(
            f"it holds {scales[0]} as quantised weights have it, but its config.json says of no quantisation; give the model "
            "it was made from."
        )


def unused(names: Collection[str]) -> tuple[str, ...]:
    """Return the note that says which tensors of a checkpoint the model's class has no place for, if there are any."""
    if not names:
        return ()
    some = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
    if len(names) == 1:
        return (
            f"1 tensor of the checkpoint ({some}) belongs to no part of this model: it is not used, and not saved.",
        )
    return (
        f"{len(names)} tensors of the checkpoint ({some}) belong to no part of this model: they are not used, and not saved.",
    )


def copy_side_files(source: str, directory: Path) -> None:
    """Copy what lay beside the weights of a model that came from a directory, unless it has been written anew."""
    folder = Path(source) if source else None
    if folder is None or not folder.is_dir() or folder.resolve() == directory.resolve():
        return
    for pattern in SIDE_FILES:
        for file in folder.glob(pattern):
            if file.is_file() and not (directory / file.name).exists():
                shutil.copyfile(file, directory / file.name)


def check_written(directory: Path, wanted: Mapping[str, Tensor], left_out: Collection[str] = ()) -> None:
    """Read the weights in a directory back, a tensor at a time, and compare them with `wanted` to the bit.

    Args:
        left_out: names that are not written. A tensor that shares its numbers with one that is written need not be.

    Raises:
        NotWritten: one is missing, is there without being wanted, or differs.
    """
    found: set[str] = set()
    try:
        for file in sorted(directory.glob("*.safetensors")):
            found |= _compared(file, wanted)
    except (OSError, SafetensorError) as error:
        raise NotWritten(f"what was written to {directory} cannot be read ({error}); save it elsewhere.") from error
    stored = {_place(wanted[name]) for name in found}
    if lacking := sorted(n for n, t in wanted.items() if n not in {*found, *left_out} and _place(t) not in stored):
        raise NotWritten(f"{len(lacking)} tensors were not written, such as {lacking[0]}; save it elsewhere.")


def _compared(file: Path, wanted: Mapping[str, Tensor]) -> set[str]:
    with safe_open(file, "pt") as opened:
        names = set(opened.keys())
        if extra := sorted(names - wanted.keys()):
            raise NotWritten(f"{file.name} holds {extra[0]}, which this model has not; save it elsewhere.")
        for name in names:
            read, meant = opened.get_tensor(name), wanted[name].detach()
            if read.dtype != meant.dtype or read.shape != meant.shape or not _same(read, meant.cpu().contiguous()):
                raise NotWritten(f"{name} reads back otherwise than it stands; save it elsewhere, on another disk.")
    return names


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))  # NaN is NaN here


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape)
