"""What others can use: a checkpoint, the change alone, or a LoRA adapter. Each directory appears whole or not at all.

    adapter(lm, edits, "out")                 # for peft and vLLM: W x + B (A x), exact where nothing is cut
    delta(lm, edits, "out")                   # factors or matrices by parameter name, in one safetensors file
    checkpoint(lm, edits, "out")              # the whole model, weights = cast(base + Σ deltas)

An adapter stacks the factors of all edits at a matrix, so its rank is the sum of theirs, and no more than the matrix's own.
With a rank given, the largest singular values are kept and the error is stated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from errata.delta import Dense, Graft, LowRank, Site
from errata.edit import Edit
from errata.errors import InputError, UnknownEdit
from errata.export.files import ExportedMatrix, module_path, new_directory, sums_of, write_log
from errata.export.readback import check_product, read
from errata.model.lm import LM

TASKS: Final = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM", "encoder": None, "classifier": "SEQ_CLS"}


def adapter(
    lm: LM, edits: Sequence[Edit], directory: str | os.PathLike[str], rank: int | None = None, name: str = ""
) -> list[ExportedMatrix]:
    """Write the sum of the edits as a LoRA adapter in peft's format.

    All matrices get one rank, filled up with zeros, because engines that load adapters expect one.

    Args:
        rank: most columns a matrix may have; None keeps all, and nothing is lost.
        name: what the adapter calls its base model; unless given, where the model was loaded from (`base_name`).

    Raises:
        InputError: the directory exists and is not empty, nothing stands, or an edit is carried by a wrapper.
        NotWritten: the factors do not read back as the sum of the edits.
    """
    stacked = stack(lm, edits, rank)
    tensors: dict[str, Tensor] = {}
    for matrix in stacked:
        key = f"base_model.model.{matrix.part.module}"
        tensors |= {f"{key}.lora_A.weight": matrix.a, f"{key}.lora_B.weight": matrix.b}
    parts, r = [matrix.part for matrix in stacked], stacked[0].a.shape[0]
    with new_directory(directory) as made:
        file = made / "adapter_model.safetensors"
        save_file(tensors, file, {"format": "pt"})
        found = read(file, tensors)
        for matrix in stacked:
            a, b = (found[f"base_model.model.{matrix.part.module}.lora_{factor}.weight"] for factor in "AB")
            check_product(matrix.change, b, a.T, matrix.part.error)
        settings = _settings(lm, [part.module for part in parts], r, name or base_name(lm))
        (made / "adapter_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
        write_log(made, lm, edits)
    return parts


class Stacked(NamedTuple):
    """The sum of the edits at one matrix, and the factors it is exported as: ``b @ a``, of one rank for all matrices."""

    site: Site
    change: LowRank | Dense
    a: Float[Tensor, "r in"]
    b: Float[Tensor, "out r"]
    part: ExportedMatrix


def stack(lm: LM, edits: Sequence[Edit], rank: int | None) -> list[Stacked]:
    """Return the factors of every edited matrix in float32, filled up with zeros to the largest rank.

    Raises:
        InputError: nothing stands, or an edit is carried by a wrapper.
    """
    sums = sums_of(lm, edits)
    if not sums:
        raise InputError("no edit stands: there is nothing to make an adapter of.")
    factors = {site: _factors(change, rank) for site, change in sums.items()}
    r, found = max(left.shape[1] for left, *_ in factors.values()), []
    for site, (left, right, error) in factors.items():
        change = sums[site]
        full = min(*change.shape, change.left.shape[1]) if isinstance(change, LowRank) else min(change.shape)
        part = ExportedMatrix(str(site), module_path(lm, site), left.shape[1], full, error)
        a, b = _filled(right, r).T.float().contiguous(), _filled(left, r).float().contiguous()
        found.append(Stacked(site, change, a, b, part))
    return found


def base_name(lm: LM) -> str:
    """Return where a model was loaded from, as anyone anywhere finds it: an absolute path, or a hub id."""
    found = str(getattr(lm.model.config, "_name_or_path", "")) or os.path.expanduser(lm.name)
    return os.path.abspath(found) if os.path.exists(found) else lm.name


def opened(edits: Sequence[Edit], name: str) -> Edit:
    """Return the edit whose id begins with `name`, its MELO block as a change of matrices, as if every prompt opened it.

    An engine that loads adapters by the request can serve it so, with the routing done in front of it.

    Raises:
        UnknownEdit: no such edit stands, or several. InputError: it has no block.
    """
    found = [edit for edit in edits if name and edit.id.startswith(name)]
    if len(found) != 1:
        raise UnknownEdit(f"{len(found)} standing edits have an id that begins with {name!r}; see errata log.")
    blocks = {site: d for site, d in found[0].deltas.items() if isinstance(d, Graft) and {"a", "b"} <= d.state.keys()}
    if not blocks:
        raise InputError(f"edit {found[0].id} ({found[0].method}) has no block; export it without --block.")
    deltas = {s: LowRank(d.state["b"] * float(str(d.config["scale"])), d.state["a"].T) for s, d in blocks.items()}
    return replace(found[0], deltas=deltas)


def _settings(lm: LM, modules: Sequence[str], rank: int, name: str) -> dict[str, Any]:
    return {
        "peft_type": "LORA", "task_type": TASKS[lm.row.kind], "base_model_name_or_path": name, "inference_mode": True,
        "r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "bias": "none",
        "fan_in_fan_out": lm.row.transposed and not lm.packing, "target_modules": sorted(modules), "modules_to_save": None,
        "use_rslora": False, "use_dora": False,
    }  # fmt: skip


def _factors(change: LowRank | Dense, most: int | None) -> tuple[Float[Tensor, "out r"], Float[Tensor, "in r"], float]:
    """Return left and right with ``left @ right.T`` the change, or the nearest to it of rank `most`, and the error."""
    if isinstance(change, LowRank) and change.left.shape[1] <= min(*change.shape, most or min(change.shape)):
        return change.left, change.right, 0.0
    if isinstance(change, LowRank):  # QR first: the singular values of a product of thin matrices
        (q_left, r_left), (q_right, r_right) = (torch.linalg.qr(part.double()) for part in (change.left, change.right))
        u, s, vh = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
        u, vh = q_left @ u, vh @ q_right.T
    else:
        u, s, vh = torch.linalg.svd(change.dense().double(), full_matrices=False)
    kept = min(most or len(s), int((s > 0).sum()) or 1)
    whole = float(s.norm()) or 1.0
    root = s[:kept].sqrt()
    return u[:, :kept] * root, vh[:kept].T * root, float(s[kept:].norm()) / whole


def _filled(matrix: Float[Tensor, "d r"], rank: int) -> Float[Tensor, "d rank"]:
    return torch.nn.functional.pad(matrix, (0, rank - matrix.shape[1]))
