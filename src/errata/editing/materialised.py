"""The sum of the edits that stand, kept so that opening a book of very many edits need not read and add them again.

A kept sum is a cache of this user on this machine: it lies beside the statistics, never in the book, and no book, bundle or
merge carries it. The log stays the only truth. A sum is used for exactly the edits it was made of, by their ids and the hashes
of their files, in their order, and only where adding them again would give the same bits: the same model, device, number type,
threads and torch. Anything else about it (absent, torn, of another book) means that the edits are read and added as ever; so
does `ERRATA_REPLAY=1`. `differences` compares with that.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from errata.book.book import Book, Record
from errata.collector import growing
from errata.delta import Change, Site, Unread
from errata.edit import Edit, Report
from errata.editing import standing
from errata.methods.base import BELOW
from errata.model.lm import LM
from errata.model.weights import CHUNK, processor
from errata.stats.store import directory

FORMAT: Final = 1
EVERY: Final = 1_000  # edits that are read and added before their sum is kept
REPLAY: Final = "ERRATA_REPLAY"


class HasSum(Protocol):
    """An `errata.editing.editor.Editor`, as far as it is compared here."""

    lm: LM
    book: Book

    @property
    def standing(self) -> list[Edit]:
        """The edits that stand."""


def resume(lm: LM, book: Book, records: Sequence[Record]) -> list[Edit]:
    """Return the first of the edits that stand whose sum was kept, to be read when first looked at; [] if there is none.

    The model's weights then go on from that sum, once they are told to let these and the edits after them stand.
    """
    if os.environ.get(REPLAY) or lm.weights.stood or len(records) < EVERY:
        return []
    with growing():
        found = _read(_place(lm, book), lm, book, records)
        if found is None:
            return []
        count, sums = found
        edits = [_unread(book, record) for record in records[:count]]
    lm.weights.resume([edit.deltas for edit in edits], sums)
    return edits


def keep(lm: LM, book: Book, records: Sequence[Record], edits: Sequence[Edit], kept: int) -> int:
    """Keep the sum of the edits that stand in the model, if many were added since; return of how many the kept sum is now.

    Args:
        records: of all that stand in the book. edits: as they stand in the model.
        kept: what this function, or the length of what `resume` gave, said last.
    """
    kept = min(kept, len(edits))
    if len(edits) - kept < EVERY or len(edits) < len(records) or any(BELOW in edit.carry for edit in edits[kept:]):
        return kept  # few, or some are not as they were stored: left out, or derived anew from those below them
    if any("graft" in record.meta.get("kinds", ()) for record in islice(records, kept, None)):
        return kept  # these stand beside the matrices
    if lm.weights.additions.sites:
        return kept  # so do all of a matrix that cannot be written
    with suppress(OSError, SafetensorError):  # it is a cache: without room for it the next opening takes longer
        _write(_place(lm, book), lm, records, lm.weights.sums())
    return len(edits)


def differences(editor: HasSum) -> list[Site]:
    """Return the matrices that adding every edit again, from its file, gives otherwise than they stand; [] is as it must be.

    Raises:
        CorruptEdit: a file is missing or altered.
    """
    weights, now = editor.lm.weights, editor.standing
    stood = {site: weights[site].detach().clone() for site in weights.touched()}
    before = weights.stood
    again = standing.load(editor.book, [editor.book.get(edit.id) for edit in now])
    try:
        weights.stand([])
        weights.stand([edit.deltas for edit in again])
        return [site for site, matrix in stood.items() if not torch.equal(matrix, weights[site])]
    finally:
        weights.stand(before)


def forget(lm: LM, book: Book) -> None:
    """Throw the kept sum of a book away."""
    _place(lm, book).unlink(missing_ok=True)


# ---------------------------------------------------------------- edits that are read later


class _File:
    """An edit's file, read once, when it is first wanted."""

    def __init__(self, book: Book, record: Record) -> None:
        self._book, self._record = book, record

    @cached_property
    def edit(self) -> Edit:
        """The whole edit; raises CorruptEdit if its file is missing or altered."""
        return Edit.from_bytes(self._book.read(self._record), f"edit {self._record.id}", self._record.id)

    def deltas(self) -> Mapping[Site, Change]:
        """Return its changes."""
        return self.edit.deltas


class _Carry(Mapping[str, Tensor]):
    """What an edit carries, read when it is first wanted; it is known not to carry `BELOW`."""

    def __init__(self, file: _File) -> None:
        self._file = file

    def __getitem__(self, name: str) -> Tensor:
        return self._file.edit.carry[name]

    def __contains__(self, name: object) -> bool:
        return name != BELOW and name in self._file.edit.carry

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.edit.carry)

    def __len__(self) -> int:
        return len(self._file.edit.carry)


def _unread(book: Book, record: Record) -> Edit:
    meta: Mapping[str, Any] = record.meta
    file = _File(book, record)
    plain = "method config base ground seed versions author reason source created_at format".split()
    later = {name: meta[name] for name in ("tenant", "valid_from", "valid_until") if name in meta}
    edit = Edit(
        **{name: meta[name] for name in plain}, **later, tags=record.tags, report=Report(meta["report"]), facts=record.facts,
        parents=tuple(meta["parents"]), prefixes=tuple(meta["prefixes"]), deltas={},
    )  # fmt: skip
    sites = [Site.parse(site) for site in meta["sites"]]
    # Put in afterwards, so that whoever checks arguments does not look into them.
    edit.__dict__.update(id=record.id, deltas=Unread(sites, file.deltas), carry=_Carry(file))
    return edit


# ---------------------------------------------------------------- the file of a kept sum


def _place(lm: LM, book: Book) -> Path:
    """Return where the sum of this book in this model, added in this way, is kept."""
    name = hashlib.sha256(json.dumps([_way(lm), book.meta(), str(book.path)], sort_keys=True).encode()).hexdigest()
    return directory() / "sums" / f"{name[:32]}.safetensors"


def _way(lm: LM) -> dict[str, Any]:
    """Return everything on which the bits of a sum depend but the edits and their order."""
    return {
        "format": FORMAT, "base": lm.fingerprint, "device": lm.device.type, "kind": processor(lm.device), "chunk": CHUNK,
        "torch": torch.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip


def _edits(records: Sequence[Record], count: int) -> str:
    """Return a hash of the first edits, in their order: what the sum is of."""
    found = hashlib.sha256()
    for record in islice(records, count):
        found.update(f"{record.id} {record.sha256}\n".encode())
    return found.hexdigest()


def _write(place: Path, lm: LM, records: Sequence[Record], sums: Mapping[Site, tuple[int, Tensor]]) -> None:
    tensors = {str(site): total.contiguous() for site, (_, total) in sums.items()}
    said = {"way": _way(lm), "edits": len(records), "of": _edits(records, len(records))}
    said |= {"counts": {str(site): count for site, (count, _) in sums.items()}, "sha256": _digest(tensors)}
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        part.write_bytes(save(tensors, {"sum": json.dumps(said, sort_keys=True)}))
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)


def _read(
    place: Path, lm: LM, book: Book, records: Sequence[Record]
) -> tuple[int, dict[Site, tuple[int, Tensor]]] | None:
    """Return of how many edits a kept sum is, and the sums by site; None where it cannot be used for these edits."""
    try:
        data = place.read_bytes()
        said = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["sum"])
        count, tensors = int(said["edits"]), load(data)
        sums = {Site.parse(site): (int(said["counts"][site]), total) for site, total in tensors.items()}
        usable = said["way"] == _way(lm) and count <= len(records) and _edits(records, count) == said["of"]
        usable = usable and said["sha256"] == _digest(tensors) and _there(book, records[:count])
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return (count, sums) if usable else None


def _digest(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _there(book: Book, records: Sequence[Record]) -> bool:
    """Return whether the files of edits are there, as long as they were: one that is lost or cut still shuts the book."""
    with os.scandir(book.path / "edits") as found:
        sizes = {entry.name.partition(".")[0]: entry.stat(follow_symlinks=False).st_size for entry in found}
    return all(sizes.get(record.sha256) == record.bytes for record in records)
