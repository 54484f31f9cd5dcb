"""The sum of the edits alone, by parameter name, in one safetensors file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from safetensors.torch import save_file
from torch import Tensor

from errata.delta import LowRank
from errata.edit import Edit
from errata.export.files import ExportedMatrix, module_path, new_directory, sums_of, write_log
from errata.export.readback import check_product, read
from errata.model.lm import LM


def delta(lm: LM, edits: Sequence[Edit], directory: str | os.PathLike[str]) -> list[ExportedMatrix]:
    """Write the sum of the edits alone, as ``delta.safetensors``.

    A matrix is (out, in) here, whichever way the model stores it (the file's metadata says ``transposed``): add
    ``left @ right.T``, or ``dense``, to the parameter of that name in float32, and cast.

    Raises:
        InputError: the directory exists and is not empty, or an edit is carried by a wrapper.
        NotWritten: what was written does not read back as the sum of the edits.
    """
    tensors: dict[str, Tensor] = {}
    parts, sums = [], sums_of(lm, edits)
    for site, change in sums.items():
        module = module_path(lm, site)
        kept = change.tensors() if isinstance(change, LowRank) else {"dense": change.dense()}
        tensors |= {f"{module}.weight.{name}": tensor.float().contiguous() for name, tensor in kept.items()}
        rank = kept["left"].shape[1] if "left" in kept else 0
        parts.append(ExportedMatrix(str(site), module, rank, min(change.shape), 0.0))
    with new_directory(directory) as made:
        about = {"base": lm.fingerprint, "transposed": str(lm.row.transposed).lower()}
        file = made / "delta.safetensors"
        save_file(tensors, file, about)
        found = read(file, tensors)
        for change, part in zip(sums.values(), parts, strict=True):
            if isinstance(change, LowRank):
                name = f"{part.module}.weight"
                check_product(change, found[f"{name}.left"], found[f"{name}.right"])
        write_log(made, lm, edits)
    return parts
