"""For llama.cpp: what its files call a matrix, and the sum of the edits as a LoRA adapter in GGUF.

    gguf_lora(lm, edits, "out")               # out/adapter.gguf, for llama-server --lora

A matrix lies in such a file as it is here, (out, in), also where transformers stores it the other way round, and of those that
an edit can change (down, up, the attention's output) llama.cpp permutes none: it does so with queries and keys, which are no
sites. Where the whole model is wanted, with the edits in it, see `errata.export.onto`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from errata.delta import Site
from errata.edit import Edit
from errata.errors import BadModel, NotWritten, UnsupportedModel
from errata.export.adapter import base_name, stack
from errata.export.files import ExportedMatrix, module_path, new_directory, write_log
from errata.export.readback import check_product, check_same
from errata.model.gguf import ENDING
from errata.model.lm import LM

FILE: Final = "adapter.gguf"
# Where llama.cpp's name is not transformers' without underscores. Everything else of the names is gguf's own.
_CALLED: Final[Mapping[str, str]] = {"mistral": "llama", "phi": "phi2", "gemma3_text": "gemma3"}
_PREFIXES: Final = ("language_model.", "bert.")  # which llama.cpp's converter takes off


def library() -> Any:
    """Return the module gguf; raises BadModel where it is not installed."""
    if find_spec("gguf") is None:
        raise BadModel("GGUF is written with the package gguf, which is not installed: pip install 'errata-lm[gguf]'.")
    return import_module("gguf")


def opened(path: Path) -> Any:
    """Return gguf's reader of a file, which maps it and copies nothing; raises BadModel if it is none that can be read."""
    try:
        reader = library().GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError) as error:
        why = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise BadModel(f"{str(path)!r} cannot be read as a GGUF file ({why}); get a whole copy.") from error
    if reader.byte_order != "I":
        raise BadModel(f"{str(path)!r} has the byte order of another kind of machine; convert it first.")
    return reader


def said_in(reader: Any, key: str) -> str:
    """Return a text of a file's metadata, or nothing."""
    field = reader.get_field(key)
    return str(field.contents()) if field is not None else ""


def architecture(lm: LM) -> str:
    """Return what llama.cpp calls the model's architecture: what its own file says, or gguf's name for its `model_type`.

    Raises:
        UnsupportedModel: there is no such name, or nothing that llama.cpp could say with it.
    """
    if lm.row.kind not in ("decoder", "encoder-decoder"):
        raise UnsupportedModel(f"{lm.name} is an {lm.row.kind}; llama.cpp has no answers of such, export a checkpoint.")
    if base_name(lm).lower().endswith(ENDING) and os.path.isfile(base_name(lm)):
        return said_in(opened(Path(base_name(lm))), "general.architecture")
    kind = str(lm.model.config.model_type)
    name, known = _CALLED.get(kind, kind.replace("_", "")), set(library().MODEL_ARCH_NAMES.values())
    if name not in known:
        raise UnsupportedModel(f"gguf knows no name for the architecture {kind}; export an adapter or a checkpoint.")
    return name


def names(lm: LM, sites: Iterable[Site], arch: str) -> dict[Site, str]:
    """Return what GGUF files of an architecture call the matrices at these sites, by gguf's map of names.

    Raises:
        UnsupportedModel: the map has no name for the architecture or for one of them.
    """
    gguf = library()
    kinds = [kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch]
    known = gguf.get_tensor_name_map(kinds[0], lm.depth) if kinds else {}
    found = {}
    for site in sites:
        module = module_path(lm, site)
        called = next((known[path] for path in _spellings(module) if path in known), None)
        if called is None:
            raise UnsupportedModel(
                f"gguf has no name for {module} of the architecture {arch!r}; export an adapter or a checkpoint."
            )
        found[site] = f"{called}.weight"
    return found


def _spellings(module: str) -> Iterator[str]:
    yield module
    yield from (module.replace(prefix, "", 1) for prefix in _PREFIXES if prefix in module)


def gguf_lora(
    lm: LM, edits: Sequence[Edit], directory: str | os.PathLike[str], rank: int | None = None
) -> list[ExportedMatrix]:
    """Write the sum of the edits as a LoRA adapter that llama.cpp loads, ``adapter.gguf``.

    llama.cpp adds ``alpha / r · B A``, with one alpha for the file and r of the matrix: all matrices have one rank, filled up
    with zeros, and alpha is that rank. Factors are float32.

    Args:
        rank: as in `errata.export.adapter.adapter`.

    Raises:
        InputError: the directory exists and is not empty, nothing stands, or an edit is carried by a wrapper.
        UnsupportedModel: GGUF has no name for the architecture or a matrix. BadModel: the package gguf is missing.
        NotWritten: the file does not read back as the sum of the edits.
    """
    stacked, arch = stack(lm, edits, rank), architecture(lm)
    called = names(lm, [matrix.site for matrix in stacked], arch)
    tensors: dict[str, Tensor] = {}
    for matrix in stacked:
        name = called[matrix.site]
        tensors |= {f"{name}.lora_a": matrix.a, f"{name}.lora_b": matrix.b}
    with new_directory(directory) as made:
        file = made / FILE
        _write(file, arch, stacked[0].a.shape[0], tensors)
        found = _read(file, arch, stacked[0].a.shape[0])
        check_same(found, tensors, file)
        for matrix in stacked:
            a, b = (found[f"{called[matrix.site]}.lora_{factor}"] for factor in "ab")
            check_product(matrix.change, b, a.T, matrix.part.error)
        write_log(made, lm, edits)
    return [replace(matrix.part, module=called[matrix.site]) for matrix in stacked]


def _write(file: Path, arch: str, alpha: int, tensors: Mapping[str, Tensor]) -> None:
    made = library().GGUFWriter(file, arch)
    made.add_type("adapter")
    made.add_string("adapter.type", "lora")
    made.add_float32("adapter.lora.alpha", float(alpha))
    for name, tensor in tensors.items():
        made.add_tensor(name, tensor.detach().cpu().numpy())
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()


def _read(file: Path, arch: str, alpha: int) -> dict[str, Tensor]:
    """Return the tensors of an adapter file that says of itself what it should; raises NotWritten otherwise."""
    try:
        reader = opened(file)
    except BadModel as error:
        raise NotWritten(f"{file.name} was written and cannot be read ({error}); export it elsewhere.") from error
    about = {"general.type": "adapter", "general.architecture": arch, "adapter.type": "lora"}
    scale = reader.get_field("adapter.lora.alpha")
    if any(said_in(reader, key) != value for key, value in about.items()) or scale.contents() != float(alpha):
        raise NotWritten(f"{file.name} does not read back as the adapter of a {arch} model; export it elsewhere.")
    return {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in reader.tensors}
