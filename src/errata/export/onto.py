"""A whole GGUF file with the edits in it: a copy in which the edited matrices are other, and everything else the same bytes.

    gguf_onto(lm, edits, "out", Onto("model.gguf"))         # out/model.gguf, out/Modelfile

An edited matrix is multiplied out of the file's own blocks, the change is added in float32, and what comes of it is written as
F16 (F32 stays F32), or as Q8_0 on request. Metadata, names and order stay, so that whatever reads the one file reads the other.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Dense, LowRank, Site
from errata.edit import Edit
from errata.errors import BadConfig, BadModel, BookOfAnotherModel, InputError, NotWritten, UnsupportedModel
from errata.export.adapter import base_name
from errata.export.files import ExportedMatrix, new_directory, sums_of, write_log
from errata.export.gguf import library, names, opened, said_in
from errata.model.lm import LM

FILE: Final = "model.gguf"
STORES: Final = ("f16", "q8_0")
FAR: Final = (
    0.5  # ‖W_file − W_base‖ / ‖W_base‖ above which a file is no quantisation of the base: √2 of strangers, 0.1 of Q4
)
_PART: Final = 1 << 24  # bytes that are copied or compared at a time
_MODELFILE: Final = (
    "# errata: {base} with edits of its book in the weights. ollama create NAME -f Modelfile\nFROM ./{file}\n"
)


@dataclass(frozen=True, slots=True)
class Onto:
    """The file that is copied, and how.

    Args:
        path: a GGUF file, of the book's base. store: one of `STORES`, what an edited matrix becomes.
        any_quantisation: let it be another quantisation of the base: its edited matrices need only be near the base's.
    """

    path: str | os.PathLike[str]
    store: str = "f16"
    any_quantisation: bool = False


@dataclass(frozen=True, slots=True)
class _Patch:
    """A tensor that is written otherwise: its type's number and its bytes; and what is said of it."""

    kind: Any
    data: np.ndarray[Any, Any]
    part: ExportedMatrix


def gguf_onto(lm: LM, edits: Sequence[Edit], directory: str | os.PathLike[str], onto: Onto) -> list[ExportedMatrix]:
    """Write a copy of a GGUF file in which the edited matrices, and nothing else, are other, and a Modelfile for Ollama.

    Returns:
        a row a matrix; its error is ‖written − (file's own + Δ)‖ / ‖Δ‖.

    Raises:
        InputError: the directory exists and is not empty, nothing stands, or an edit is carried by a wrapper.
        BookOfAnotherModel: the file is not the book's base. UnsupportedModel: GGUF has no name for an edited matrix.
        BadModel: the file cannot be read, or gguf is missing. NotWritten: the copy does not read back.
    """
    if onto.store not in STORES:
        raise BadConfig(f"no such type {onto.store!r} to store matrices in; use one of {', '.join(STORES)}.")
    sums = sums_of(lm, edits)
    if not sums:
        raise InputError("no edit stands: the file would be the one there is.")
    path = Path(os.path.expanduser(onto.path)).absolute()
    reader = opened(path)
    called = names(lm, sums, said_in(reader, "general.architecture"))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    _check_shapes(lm, path, called, tensors)
    if not onto.any_quantisation:
        _check_base(lm, path)
    patches = {name: _patched(lm, site, tensors[name], sums[site], onto) for site, name in called.items()}
    with new_directory(directory) as made:
        _write(made / FILE, path, reader, patches)
        _check(made / FILE, reader, patches)
        about = _MODELFILE.format(base=" ".join(lm.name.split()), file=FILE)
        (made / "Modelfile").write_text(about, encoding="utf-8")
        write_log(made, lm, edits)
    return [patch.part for patch in patches.values()]


def _check_shapes(lm: LM, path: Path, called: Mapping[Site, str], tensors: Mapping[str, Any]) -> None:
    """Refuse a file that has no such tensors, or of other shapes."""
    for site, name in called.items():
        shape = lm.shape(site)
        has = tuple(int(n) for n in tensors[name].shape[::-1]) if name in tensors else ()
        if has != shape:
            there = f"{name} as {' × '.join(map(str, has))}" if has else f"no {name}"
            raise BookOfAnotherModel(
                f"{str(path)!r} has {there}, and the book's base {' × '.join(map(str, shape))}: give a file of that model."
            )


def _check_base(lm: LM, path: Path) -> None:
    """Refuse a file whose weights are not the book's base; one that was not loaded from it is loaded, and let go of."""
    from errata.model.loading import load

    own = base_name(lm)
    if os.path.isfile(own) and os.path.samefile(own, path):
        return
    dtype = lm.identity.dtype.removeprefix("torch.")
    if load(str(path), dtype=dtype, separator="none").identity.weights != lm.identity.weights:
        raise BookOfAnotherModel(
            f"the weights in {str(path)!r} are not those of the book's base; give the file the book was made on, or, for "
            "another quantisation of the same model, --any-quantisation."
        )


def _patched(lm: LM, site: Site, tensor: Any, change: LowRank | Dense, onto: Onto) -> _Patch:
    """Return a file's matrix with a change added, in the bytes it is stored as."""
    gguf = library()
    try:
        own = torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
    except NotImplementedError as error:
        raise UnsupportedModel(
            f"gguf cannot multiply out {tensor.tensor_type.name}, in which {tensor.name} is stored; give another file."
        ) from error
    if onto.any_quantisation:
        _check_near(lm, site, own, str(onto.path))
    wanted = own.clone()
    change.add_to(wanted)
    size = float((wanted - own).double().norm()) or 1.0
    kind = _kind(tensor, onto.store)
    data = gguf.quantize(wanted.numpy(), kind)
    off = float((torch.from_numpy(gguf.dequantize(data, kind).astype(np.float32)) - wanted).double().norm())
    if not np.isfinite(off):
        raise NotWritten(f"{tensor.name} has numbers that {kind.name} cannot hold; give a file in F32 to --onto.")
    return _Patch(kind, data, ExportedMatrix(str(site), tensor.name, 0, min(change.shape), off / size))


def _kind(tensor: Any, store: str) -> Any:
    kinds = library().GGMLQuantizationType
    if store == "q8_0":
        if int(tensor.shape[0]) % 32:
            raise BadConfig(f"Q8_0 has blocks of 32, and {tensor.name} rows of {int(tensor.shape[0])}; use f16.")
        return kinds.Q8_0
    return kinds.F32 if tensor.tensor_type == kinds.F32 else kinds.F16


def _check_near(lm: LM, site: Site, own: Float[Tensor, "out in"], path: str) -> None:
    base = lm.weights.base(site).detach().cpu().float()
    far = float((own - base).norm() / base.norm())
    if not far <= FAR:
        raise BookOfAnotherModel(
            f"{site} in {path!r} is {far:.0%} away from the book's base, farther than a quantisation: give a file of it."
        )


# ------------------------------------------------------------------ bytes


def _write(file: Path, source: Path, reader: Any, patches: Mapping[str, _Patch]) -> None:
    """Write head, names and numbers anew: metadata as it is, types and places as they become, a piece at a time."""
    align, infos = int(reader.alignment), reader.tensors[0].field.offset
    ordered = sorted(reader.tensors, key=lambda tensor: tensor.data_offset)
    sizes = [_size(tensor, patches) for tensor in ordered]
    places, at = dict[str, int](), 0
    for tensor, size in zip(ordered, sizes, strict=True):
        places[tensor.name] = at
        at += size + -size % align
    with source.open("rb") as old, file.open("wb") as new:
        for part in _pieces(old, 0, infos):
            new.write(part)
        for tensor in reader.tensors:
            length, name, count, dims, kind, _ = tensor.field.parts
            kind = patches[tensor.name].kind.value if tensor.name in patches else int(kind[0])
            new.write(b"".join(part.tobytes() for part in (length, name, count, dims)))
            new.write(struct.pack("<IQ", kind, places[tensor.name]))
        new.write(b"\0" * (-new.tell() % align))
        for tensor, size in zip(ordered, sizes, strict=True):
            patch = patches.get(tensor.name)
            pieces = [patch.data.tobytes()] if patch else _pieces(old, tensor.data_offset, tensor.n_bytes)
            for piece in pieces:
                new.write(piece)
            new.write(b"\0" * (-size % align))


def _size(tensor: Any, patches: Mapping[str, _Patch]) -> int:
    return int(patches[tensor.name].data.nbytes if tensor.name in patches else tensor.n_bytes)


def _pieces(file: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    file.seek(start)
    for at in range(0, int(size), _PART):
        yield file.read(min(_PART, int(size) - at))


def _check(file: Path, reader: Any, patches: Mapping[str, _Patch]) -> None:
    """Read the copy: the same bytes before the tensors, and in every tensor its own or those of its patch.

    Raises:
        NotWritten: something is other.
    """
    try:
        found = opened(file)
    except BadModel as error:
        raise NotWritten(f"{file.name} was written and cannot be read ({error}); export it elsewhere.") from error
    begins = reader.tensors[0].field.offset
    same = [found.tensors[0].field.offset == begins and _same(found.data[:begins], reader.data[:begins])]
    for tensor, old in zip(found.tensors, reader.tensors, strict=True):
        patch = patches.get(old.name)
        meant = patch.data if patch else old.data
        kind = patch.kind if patch else old.tensor_type
        named = (tensor.name, tensor.tensor_type, tuple(tensor.shape)) == (old.name, kind, tuple(old.shape))
        same.append(named and _same(tensor.data, meant))
    if not all(same):
        raise NotWritten(f"{file.name} reads back otherwise than it was written; export it elsewhere.")


def _same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Return whether two arrays are the same bytes, looking at some of them at a time."""
    first, second = (np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in (a, b))
    return first.size == second.size and all(
        np.array_equal(first[at : at + _PART], second[at : at + _PART]) for at in range(0, first.size, _PART)
    )
