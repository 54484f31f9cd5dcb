"""Statistics computed once: keyed by everything they depend on, resumable, complete only when their manifest is there.

A statistic's name is the hash of a frozen `Key`; the key is also written inside and compared when loading. A pass that
is interrupted leaves a partial sum behind and goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from errata.delta import Site
from errata.errors import UnknownSite
from errata.model.lm import LM
from errata.stats import gradients as _gradients
from errata.stats.corpus import Corpus, open_corpus
from errata.stats.gradients import GradientSum
from errata.stats.moments import SecondMoment, of_batch

FORMAT = 1
CONTEXT = 256  # tokens a document is cut at
SAVE_EVERY = 50  # batches between partial sums
GRADIENT_TOKENS = 20_000  # a gradient's leading directions settle sooner than a covariance's smallest
Progress = Callable[[int, int], None]
Sum = SecondMoment | GradientSum


@dataclass(frozen=True, slots=True)
class Key:
    """Everything a statistic depends on."""

    fingerprint: str
    site: str
    corpus: str
    revision: str
    tokens: int
    context: int
    dtype: str
    format: int = FORMAT
    kind: str = "moment"

    def name(self) -> str:
        """File name without suffix."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of statistic: its name in the key, the sum it is kept as, and what a batch adds to it."""

    name: str
    made: Callable[[Tensor, int], Sum]
    of_batch: Callable[..., Mapping[Site, Any]]
    square: bool  # (in, in), or as the matrix is


def directory() -> Path:
    """Where statistics are kept: $ERRATA_CACHE, or errata below the user's cache directory."""
    root = os.environ.get("ERRATA_CACHE")
    return Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "errata"


def sample_size(lm: LM) -> int:
    """Tokens to estimate a covariance from: 64 a dimension, at least 20,000 and at most a million."""
    return max(20_000, min(64 * lm.inner, 1_000_000))


def keys(
    lm: LM, sites: Sequence[Site], corpus: str = "primer", tokens: int = 0, kind: str = "moment"
) -> dict[Site, Key]:
    """Return what the statistic of each site is known by; raises BadFile if the corpus cannot be read."""
    source, dtype = open_corpus(corpus), str(next(lm.model.parameters()).dtype)
    common = (source.name, source.revision, tokens or sample_size(lm), _context(lm), dtype, FORMAT, kind)
    return {site: Key(lm.fingerprint, str(site), *common) for site in sites}


def _context(lm: LM) -> int:
    """Tokens a document is cut at: `CONTEXT`, or as many as the model has positions for."""
    return min(CONTEXT, getattr(lm.model.config.get_text_config(), "max_position_embeddings", None) or CONTEXT)


def second_moments(
    lm: LM, sites: Sequence[Site], corpus: str = "primer", tokens: int = 0, progress: Progress | None = None
) -> dict[Site, Float[Tensor, "in in"]]:
    """Return C of each site for the base model, from memory, from disk, or computed in one pass over the corpus.

    Args:
        corpus: ``"primer"`` or a text file.
        tokens: how many to read; 0 takes `sample_size`.
        progress: called with (tokens read, tokens wanted).

    Raises:
        BadFile: the corpus cannot be read. StatsMissing: it has no text. UnknownSite: no text passes through a site.
    """
    kind = _Kind("moment", SecondMoment, of_batch, square=True)
    return {site: m.mean for site, m in _known(lm, sites, kind, corpus, tokens or sample_size(lm), progress).items()}


def gradients(
    lm: LM, sites: Sequence[Site], corpus: str = "primer", tokens: int = 0, progress: Progress | None = None
) -> dict[Site, Float[Tensor, "out in"]]:
    """Return the base model's mean gradient of the language-modelling loss at each site; as `second_moments`."""
    kind = _Kind("gradient", GradientSum, _gradients.of_batch, square=False)
    return {site: g.mean for site, g in _known(lm, sites, kind, corpus, tokens or GRADIENT_TOKENS, progress).items()}


def _known(
    lm: LM, sites: Sequence[Site], kind: _Kind, corpus: str, tokens: int, progress: Progress | None
) -> dict[Site, Any]:
    for site in sites:
        if not 0 <= site.layer < lm.reachable:
            raise UnknownSite(f"text is read by layers 0 to {lm.reachable - 1} of {lm.name}; there is no {site}.")
    named = keys(lm, sites, corpus, tokens, kind.name)
    known = {site: lm.memory.get(key) or _read(key, kind) for site, key in named.items()}
    if missing := {site: named[site] for site, found in known.items() if found is None}:
        with lm.weights.at_base():
            known.update(_collect(lm, missing, kind, open_corpus(corpus), progress))
    for site, found in known.items():
        lm.memory[named[site]] = found
    return known


def _collect(
    lm: LM, keys: Mapping[Site, Key], kind: _Kind, source: Corpus, progress: Progress | None
) -> dict[Site, Any]:
    sites, tokens, context = list(keys), next(iter(keys.values())).tokens, next(iter(keys.values())).context
    name = hashlib.sha256("".join(key.name() for key in keys.values()).encode()).hexdigest()[:32]
    partial = directory() / f"{name}.partial.safetensors"
    sums, done = _resume(partial, sites, kind)
    for number, (ids, real) in enumerate(source.batches(lm, tokens, context=context)):
        if number < done:
            continue
        found = kind.of_batch(lm, sites, ids, real)
        sums = {site: sums[site] + found[site] if site in sums else found[site] for site in sites}
        if progress is not None:
            progress(min(sums[sites[0]].count, tokens), tokens)
        if (number + 1) % SAVE_EVERY == 0:
            _write(
                partial,
                {str(s): m.total for s, m in sums.items()},
                {"done": str(number + 1), "count": str(sums[sites[0]].count)},
            )
    for site, key in keys.items():
        if site not in sums:
            out, in_ = lm.weights[site].shape
            sums[site] = kind.made(torch.zeros(in_ if kind.square else out, in_, dtype=torch.float64), 0)
        _save(key, sums[site])
    partial.unlink(missing_ok=True)
    return sums


def _resume(partial: Path, sites: Sequence[Site], kind: _Kind) -> tuple[dict[Site, Any], int]:
    found = _load(partial)
    if found is None:
        return {}, 0
    tensors, meta = found
    return {s: kind.made(tensors[str(s)], int(meta["count"])) for s in sites}, int(meta["done"])


def _save(key: Key, moment: Sum) -> None:
    path = directory() / f"{key.name()}.safetensors"
    meta = {"key": json.dumps(asdict(key), sort_keys=True), "count": str(moment.count)}
    _write(path, {"total": moment.total}, meta)
    manifest = {**asdict(key), "count": moment.count, "bytes": path.stat().st_size, "sha256": _hash(path)}
    _replace(path.with_suffix(".json"), json.dumps(manifest, indent=1).encode())  # last: its presence means completion


def _read(key: Key, kind: _Kind) -> Sum | None:
    """Return what is stored under the key, or None where it is absent, torn, or of another key."""
    path = directory() / f"{key.name()}.safetensors"
    try:
        manifest = json.loads(path.with_suffix(".json").read_bytes())
        if {name: manifest[name] for name in asdict(key)} != asdict(key) or manifest["sha256"] != _hash(path):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    found = _load(path)
    return None if found is None else kind.made(found[0]["total"], int(found[1]["count"]))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Return tensors and metadata, or None where the file is absent or torn: it will be computed again."""
    try:
        data = path.read_bytes()
        meta = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        return load_file(path), dict(meta)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, tensors: dict[str, Tensor], meta: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, temporary, meta)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)
