"""An edit: deltas by site and where they came from, as one immutable value and one safetensors file.

The id is a hash of everything that determines the edit, so the same facts, method, settings, seed and base give the
same id anywhere; who wrote it, why, when and on whose behalf are recorded beside it and do not enter the hash. Of a fact
that is true of its caller's name, source, reason and probes, too: the model never learns from them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from errata import display
from errata.content import EDIT, FORMAT, as_path, known_by, read_file
from errata.delta import Change, Graft, Site, build
from errata.errors import CorruptEdit, InputError, NewerBook
from errata.fact import Fact

Found = TypeVar("Found")
# What reading a file that is something else, or damaged, may raise.
_UNREADABLE = (SafetensorError, InputError, LookupError, ValueError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, eq=False, slots=True)
class Report(Mapping[str, Any]):
    """What happened while an edit was computed: as it is recorded, and by name what every method's report may have.

    Args:
        entries: JSON-able; a method's own figures (``loss``, ``steps``, …) lie among them.
    """

    entries: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return dict(self.entries)

    def plus(self, **more: Any) -> Report:
        """Return it with these entries, in place of those of the same name."""
        return Report({**self.entries, **more})

    def _of(self, name: str, nothing: Found) -> Found:
        found: Found = self.entries.get(name, nothing)
        return found

    @property
    def norm_ratio(self) -> Mapping[str, float]:
        """‖ΔW‖ / ‖W‖ of the base, by site."""
        return self._of("norm_ratio", dict[str, float]())

    @property
    def facts(self) -> Sequence[Mapping[str, Any]]:
        """Of each fact: prompt, subject, target, what the model said before and after, and whether that is the target."""
        return self._of("facts", list[Mapping[str, Any]]())

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds spent on statistics, solving and applying."""
        return self._of("seconds", dict[str, float]())

    @property
    def converged(self) -> Sequence[bool]:
        """Whether the loss of each thing that was trained reached its stop value."""
        return self._of("converged", list[bool]())

    @property
    def forgotten(self) -> Sequence[Mapping[str, str]]:
        """Facts of earlier edits that this one's keys push out of an index: {"edit", "prompt"}."""
        return self._of("forgotten", list[Mapping[str, str]]())

    @property
    def lost(self) -> Sequence[Mapping[str, str]]:
        """Facts of earlier edits that were said before the write and are not any more: {"edit", "prompt", "target"}."""
        return self._of("lost", list[Mapping[str, str]]())

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know although nothing went wrong."""
        return self._of("notes", list[str]())

    @property
    def gates(self) -> Sequence[Mapping[str, Any]]:
        """What was measured at each gate."""
        return self._of("gates", list[Mapping[str, Any]]())

    @property
    def cases(self) -> Sequence[str]:
        """Ids of the benchmark cases it was written for."""
        return self._of("cases", list[str]())


@dataclass(frozen=True, eq=False, kw_only=True)
class Edit:
    """One correction of a model.

    Args:
        method: name of the method that computed it.
        config: every setting of the method, defaults resolved, JSON-able.
        facts: what it writes.
        base: fingerprint of the base model.
        parents: ids of the last edits that stood when it was computed, oldest first.
        ground: hash of all ids that stood then, in order; empty for the bare base.
        seed: what its random numbers were drawn from.
        prefixes: context prefixes it was computed with.
        deltas: the change at each site.
        carry: tensors later edits by the same method need (keys, δ, …), by name.
        report: what happened while it was computed (losses, norms, notes); JSON-able.
        author, reason, source: who writes it, why, and from where it is known.
        tags: words to find it by. tenant: on whose behalf it is written.
        valid_from, valid_until: the days, ISO 8601, between which it is true; empty where that has no end.
        format: of the file it was read from.
    """

    method: str
    config: Mapping[str, object]
    facts: tuple[Fact, ...]
    base: str
    deltas: Mapping[Site, Change]
    parents: tuple[str, ...] = ()
    ground: str = ""
    seed: int = 0
    prefixes: tuple[str, ...] = ()
    carry: Mapping[str, Tensor] = field(default_factory=dict)
    report: Report = field(default_factory=Report)
    versions: Mapping[str, str] = field(default_factory=dict)
    author: str = ""
    reason: str = ""
    source: str = ""
    created_at: str = ""
    tags: tuple[str, ...] = ()
    tenant: str = ""
    valid_from: str = ""
    valid_until: str = ""
    format: int = FORMAT

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the content."""
        pieces = ((n, str(t.dtype), tuple(t.shape), _raw(t)) for n, t in self._tensors())
        return known_by(self._fields(), pieces)

    def with_deltas(self, deltas: Mapping[Site, Change]) -> Edit:
        """Return the same edit, by its id too, with deltas that were derived anew from the edits that stand below it."""
        derived = replace(self, deltas=dict(deltas))
        derived.__dict__.update(id=self.id, _as_written=self.as_written)
        return derived

    @property
    def as_written(self) -> Edit:
        """The edit with the deltas it was written with, where these were derived anew (`with_deltas`)."""
        found: Edit = self.__dict__.get("_as_written", self)
        return found

    def __repr__(self) -> str:
        return display.line_of(self, ", ".join(self.sites[:4]), display.said_of(self.report.facts))

    def _repr_html_(self) -> str:
        return display.html_of(self, self.report.facts, ", ".join(self.sites))

    @property
    def sites(self) -> list[str]:
        """The sites it changes, such as ``["5.down"]``."""
        return [str(site) for site in self.deltas]

    @property
    def matrices(self) -> list[Site]:
        """The sites whose matrix it changes: all but those of grafts."""
        return [site for site, delta in self.deltas.items() if not isinstance(delta, Graft)]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(t.numel() * t.element_size() for _, t in self._tensors())

    def _fields(self) -> dict[str, object]:
        grafts = {
            str(s): {"wrapper": d.wrapper, "config": dict(d.config)}
            for s, d in self.deltas.items()
            if isinstance(d, Graft)
        }
        return {
            "format": self.format, "method": self.method, "config": dict(self.config), "base": self.base,
            "facts": [fact.to_dict() for fact in self.facts], "parents": list(self.parents), "ground": self.ground,
            "seed": self.seed, "prefixes": list(self.prefixes), "sites": self.sites,
            "kinds": [d.kind for d in self.deltas.values()], "grafts": grafts, "report": self.report.to_dict(),
            "versions": dict(self.versions), "author": self.author, "reason": self.reason, "source": self.source,
            "created_at": self.created_at,
        } | ({} if self.format == 1 else {
            "tags": list(self.tags), "tenant": self.tenant,
            "valid_from": self.valid_from, "valid_until": self.valid_until,
        })  # fmt: skip

    def meta(self) -> dict[str, object]:
        """Return everything but the tensors as JSON-able values: what the book keeps in its table."""
        return {"id": self.id, **self._fields()}

    def as_recorded(self, meta: Mapping[str, object]) -> Edit:
        """Return this edit with what a book says of it, the same tensors under the same id: its first file again."""
        again = self._from_parts(dict(meta), dict(self._tensors()))
        return again if again.id == self.id else self

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for site, delta in self.deltas.items():
            for name, tensor in delta.tensors().items():
                yield f"delta/{site}/{name}", tensor
        for name, tensor in self.carry.items():
            yield f"carry/{name}", tensor

    def to_bytes(self) -> bytes:
        """Return the edit as one safetensors file; equal edits give equal bytes."""
        tensors = {name: t.contiguous().clone() for name, t in self._tensors()}
        return save(tensors, {"errata": json.dumps(self.meta(), sort_keys=True, ensure_ascii=False)})

    @classmethod
    def from_bytes(cls, data: bytes, origin: str = "the edit", id: str | None = None) -> Edit:
        """Read what `to_bytes` gave.

        Args:
            id: its id, where the hash of the whole file vouches for it: the content is then not hashed again.

        Raises:
            CorruptEdit: not such a file, or its content does not hash to the id it states.
            NewerBook: written by a version that knows more.
        """
        try:
            length = int.from_bytes(data[:8], "little")
            meta = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["errata"])
            stated, newer = meta["id"], meta["format"] > FORMAT
            edit = None if newer else cls._from_parts(meta, load(data))
            if edit is not None and id == stated:
                edit.__dict__["id"] = stated
            found = edit.id if edit else stated
        except _UNREADABLE as error:
            why = f"is not an edit errata wrote ({type(error).__name__}); restore it from a copy, or drop it."
            raise CorruptEdit(f"{origin} {why}") from error
        if edit is None:
            raise NewerBook(
                f"{origin} was written by a newer errata (format {meta['format']}); update errata to read it."
            )
        if found != stated:
            raise CorruptEdit(
                f"{origin} has been altered: its content hashes to {found}, it says {stated}; restore it, or drop it."
            )
        return edit

    @classmethod
    def _from_parts(cls, meta: dict[str, object], tensors: dict[str, Tensor]) -> Edit:
        by_site: dict[str, dict[str, Tensor]] = {site: {} for site in meta["sites"]}  # type: ignore[attr-defined]
        for key, tensor in tensors.items():
            part, _, rest = key.partition("/")
            if part == "delta":
                site, _, name = rest.rpartition("/")
                by_site[site][name] = tensor
        grafts: dict[str, dict[str, object]] = meta["grafts"]  # type: ignore[assignment]
        deltas = {
            Site.parse(site): build(kind, by_site[site], grafts.get(site, {}))
            for site, kind in zip(meta["sites"], meta["kinds"], strict=True)  # type: ignore[call-overload]
        }
        plain = "method config base ground seed versions author reason source created_at format".split()
        later = {name: meta[name] for name in ("tenant", "valid_from", "valid_until") if name in meta}
        return cls(
            **{name: meta[name] for name in plain},  # type: ignore[arg-type]
            **later,  # type: ignore[arg-type]
            tags=tuple(meta.get("tags", ())),  # type: ignore[arg-type]
            report=Report(meta["report"]),  # type: ignore[arg-type]
            facts=tuple(Fact.from_dict(f) for f in meta["facts"]),  # type: ignore[attr-defined]
            parents=tuple(meta["parents"]),  # type: ignore[arg-type]
            prefixes=tuple(meta["prefixes"]),  # type: ignore[arg-type]
            deltas=deltas,
            carry={key.removeprefix("carry/"): t for key, t in tensors.items() if key.startswith("carry/")},
        )

    def save(self, path: str | Path) -> None:
        """Write the edit to one safetensors file; raises InputError where it cannot be written."""
        try:
            as_path(path, "the edit's file").write_bytes(self.to_bytes())
        except OSError as error:
            raise InputError(f"cannot write {path} ({error.strerror}): name another file.") from error

    @classmethod
    def load(cls, path: str | Path) -> Edit:
        """Read an edit file.

        Raises:
            CorruptEdit: the file cannot be read, is not an edit, or has been altered.
        """
        try:
            data = read_file(path, EDIT)
        except (OSError, ValueError, TypeError) as error:
            raise CorruptEdit(f"{path} cannot be read ({type(error).__name__}); restore it from a copy.") from error
        return cls.from_bytes(data, str(path))


def _raw(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().flatten().clone().view(torch.uint8).numpy().data)


def ground(ids: Sequence[str]) -> str:
    """Return a hash of the ids that stood, in order: the state an edit was computed on."""
    return hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16] if ids else ""


def by_site(edits: Iterable[Edit]) -> Mapping[Site, list[Change]]:
    """Return the changes of all edits at each site, in their order."""
    found: dict[Site, list[Change]] = {}
    for edit in edits:
        for site, delta in edit.deltas.items():
            found.setdefault(site, []).append(delta)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """The circumstances of an edit; no part of what it is known by.

    Args:
        author, reason, source: who writes it, why, and from where it is known.
        tags: words to find it by; a text with commas will do.
        tenant: on whose behalf it is written.
        valid_from, valid_until: first and last day it is true, as YYYY-MM-DD; empty where that has no end. Weights do not look
            at the calendar: an edit whose days have passed stands until it is dropped, and `errata check` says so.

    Raises:
        InputError: what is no text; a day that is none, or the last before the first; an empty tag, or one with a line break.
    """

    author: str = ""
    reason: str = ""
    source: str = ""
    tags: Sequence[str] = ()
    tenant: str = ""
    valid_from: str = ""
    valid_until: str = ""

    def __post_init__(self) -> None:
        _check_texts(asdict(self))
        words = self.tags.split(",") if isinstance(self.tags, str) else self.tags
        tags = tuple(dict.fromkeys(word.strip() for word in words))
        if not all(tags) or any(len(tag.splitlines()) > 1 for tag in tags):
            raise InputError("a tag of an edit is a word or a few on one line: leave empty ones out.")
        object.__setattr__(self, "tags", tags)
        for name in ("valid_from", "valid_until"):
            object.__setattr__(self, name, _day(name, getattr(self, name)))
        if self.valid_from and self.valid_until and self.valid_until < self.valid_from:
            raise InputError(f"the last day {self.valid_until} is before the first, {self.valid_from}.")

    def to_dict(self) -> dict[str, Any]:
        """Return what is not empty, by name."""
        return {name: value for name, value in asdict(self).items() if value}


def split(options: Mapping[str, Any]) -> tuple[Label, dict[str, Any]]:
    """Return the label that is among some options, and the rest of them."""
    known = {f.name for f in fields(Label)}
    label = {name: value for name, value in options.items() if name in known and value not in ("", (), None)}
    _check_texts(label)
    return Label(**label), {name: value for name, value in options.items() if name not in known}


def _check_texts(label: Mapping[str, Any]) -> None:
    for name, value in label.items():
        several = name == "tags" and isinstance(value, list | tuple)
        if not all(isinstance(one, str) for one in (value if several else [value])):
            raise InputError(f"an edit takes text for its {name}, not {value!r}.")


def _day(name: str, text: str) -> str:
    try:
        return text and date.fromisoformat(text).isoformat()
    except (ValueError, TypeError) as error:
        raise InputError(f"{name.replace('_', '-')} takes a day as YYYY-MM-DD, not {text!r}.") from error
