"""Statistics computed once: keyed by everything they depend on, resumable, complete only when their manifest is there.

A statistic's name is the hash of a frozen `Key`; the key is also written inside and compared when loading. A pass that
is interrupted leaves a partial sum behind and goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from errata.delta import Site
from errata.errors import UnknownSite
from errata.model.experts import is_expert
from errata.model.lm import LM
from errata.stats.accumulate import Ended, GradientReading, MomentReading, Reading, Resume
from errata.stats.corpus import Corpus, open_corpus
from errata.stats.gradients import GradientSum
from errata.stats.moments import SecondMoment
from errata.stats.stopping import RULE
from errata.stats.streamed import PREFIX
from errata.stats.sums import Sum

FORMAT = 2
CONTEXT = 256  # tokens a document is cut at
SAVE_EVERY = 50  # batches that are read between partial sums, at least
GRADIENT_TOKENS = 20_000  # a gradient's leading directions settle sooner than a covariance's smallest
PART = "part "  # what the rule of one of several parts of a text begins with: "part 2/4"
Progress = Callable[[int, int], None]
Known = tuple[Sum, Ended]
_MADE: Mapping[str, Callable[[Tensor, int], Sum]] = {"moment": SecondMoment, "gradient": GradientSum}


@dataclass(frozen=True, slots=True)
class Key:
    """Everything a statistic depends on; `tokens` at most, where there is a `rule` that may end it before."""

    fingerprint: str
    site: str
    corpus: str
    revision: str
    tokens: int
    context: int
    dtype: str
    format: int = FORMAT
    kind: str = "moment"
    rule: str = ""
    opening: str = ""  # the document separator that texts open with

    def name(self) -> str:
        """File name without suffix."""
        known = {name: value for name, value in asdict(self).items() if name != "opening" or value}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def label(self) -> str:
        """What to call it in a table: its site, and of a gradient that it is one."""
        return self.site if self.kind == "moment" else f"{self.site} {self.kind}"

    @property
    def part(self) -> tuple[int, int]:
        """Which of how many parts of the text it is of, from 0."""
        number, _, of = self.rule.removeprefix(PART).partition("/") if self.rule.startswith(PART) else ("1", "", "1")
        return int(number) - 1, int(of)


def directory() -> Path:
    """Where statistics are kept: $ERRATA_CACHE, or errata in the place that the system has for caches."""
    root = os.environ.get("ERRATA_CACHE")
    if root:
        return Path(root)
    if sys.platform not in ("win32", "darwin"):
        return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "errata"
    import platformdirs  # installed where the place is not the one above

    return platformdirs.user_cache_path("errata", appauthor=False)


def files(name: str) -> tuple[Path, Path]:
    """Return where a statistic of that name is kept: its tensors, and what says that they are whole."""
    return directory() / f"{name}.safetensors", directory() / f"{name}.json"


def there(name: str) -> bool:
    """Say whether a statistic of that name is kept, as far as it shows without reading it."""
    return all(path.exists() for path in files(name))


def sample_size(lm: LM, inner: int = 0) -> int:
    """Most tokens to estimate a covariance from if nobody says how many: 64 a dimension, from 20,000 to a million."""
    return max(20_000, min(64 * (inner or lm.inner), 1_000_000))


def keys(
    lm: LM, sites: Sequence[Site], corpus: str = "primer", tokens: int = 0, kind: str = "moment"
) -> dict[Site, Key]:
    """Return what the statistic of each site is known by.

    Args:
        tokens: how many to read; 0: of a moment until it has settled, of a gradient `GRADIENT_TOKENS`.

    Raises:
        BadFile: the corpus cannot be read. UnknownSite: no text passes through a site.
    """
    for site in sites:
        if not 0 <= site.layer < lm.reachable:
            raise UnknownSite(f"text is read by layers 0 to {lm.reachable - 1} of {lm.name}; there is no {site}.")
    source, dtype = _source(lm, corpus), str(next(lm.model.parameters()).dtype)
    inner = max([0, *(lm.shape(site)[1] for site in sites if is_expert(site))])
    most = tokens or (sample_size(lm, inner) if kind == "moment" else GRADIENT_TOKENS)
    rule = "" if tokens or kind != "moment" else RULE
    opening = "" if lm.tokens.separator is None else lm.tokens.word(lm.tokens.separator)
    common = (source.name, source.revision, most, _context(lm), dtype, FORMAT, kind, rule, opening)
    return {site: Key(lm.fingerprint, str(site), *common) for site in sites}


def _source(lm: LM, corpus: str) -> Corpus:
    """Return a corpus; of a data set what it was when this model first asked, since that may ask a network."""
    if not corpus.startswith(PREFIX):
        return open_corpus(corpus)
    if ("corpus", corpus) not in lm.memory:
        lm.memory["corpus", corpus] = open_corpus(corpus)
    found: Corpus = lm.memory["corpus", corpus]
    return found


def _context(lm: LM) -> int:
    """Tokens a document is cut at: `CONTEXT`, or as many as the model has positions for."""
    return min(CONTEXT, getattr(lm.model.config.get_text_config(), "max_position_embeddings", None) or CONTEXT)


def second_moments(
    lm: LM, sites: Sequence[Site], corpus: str = "primer", tokens: int = 0, progress: Progress | None = None
) -> dict[Site, Float[Tensor, "in in"]]:
    """Return C of each site for the base model, from memory, from disk, or computed in one pass over the corpus.

    Args:
        corpus: ``"primer"`` or a text file.
        tokens: how many to read; 0: until C has settled (`stats.stopping`), `sample_size` at most.
        progress: called with (tokens read, tokens wanted).

    Raises:
        BadFile: the corpus cannot be read. StatsMissing: it has no text. UnknownSite: no text passes through a site.
    """
    found = ensure(lm, keys(lm, sites, corpus, tokens), progress)
    return {site: moment.mean for site, (moment, _) in found.items()}


def gradients(
    lm: LM, sites: Sequence[Site], corpus: str = "primer", tokens: int = 0, progress: Progress | None = None
) -> dict[Site, Float[Tensor, "out in"]]:
    """Return the base model's mean gradient of the language-modelling loss at each site; as `second_moments`."""
    found = ensure(lm, keys(lm, sites, corpus, tokens, "gradient"), progress)
    return {site: gradient.mean for site, (gradient, _) in found.items()}


def take(lm: LM, site: Site, corpus: str = "primer", tokens: int = 0) -> Float[Tensor, "in in"]:
    """Return C of a site as `second_moments` does, and keep it on disk only: what is made of it takes its place."""
    named = keys(lm, [site], corpus, tokens)
    ((moment, how),) = ensure(lm, named).values()
    del lm.memory[named[site]]
    lm.memory["ended", named[site]] = how
    return moment.mean


def described(lm: LM, named: Mapping[Site, Key]) -> dict[str, dict[str, Any]]:
    """Return, for the statistic of each site, its name and, once it was given to this model, how it `Ended`."""
    found = {}
    for site, key in named.items():
        how: Ended | None = lm.memory[key][1] if key in lm.memory else lm.memory.get(("ended", key))
        found[key.label] = {"name": key.name(), **({} if how is None else asdict(how))}
        if key.kind == "gradient" and how is not None and how.by != "part":
            del found[key.label]["by"]  # it is of tokens that are predicted, fewer than are read: nobody counted those
        if is_expert(site) and key in lm.memory:
            found[key.label]["opened"] = lm.memory[key][0].count
    return found


def ensure(lm: LM, named: Mapping[Site, Key], progress: Progress | None = None) -> dict[Site, Known]:
    """Return the statistic of each site, from memory, from disk, or computed in one pass over the corpus for all of them.

    Args:
        named: what `keys` gave, of one kind. progress: as in `second_moments`, which says what is raised.
    """
    known: dict[Site, Known | None] = {
        site: lm.memory.get(key) or read(key) or (None if is_expert(site) else _read_older(lm, key))
        for site, key in named.items()
    }
    if missing := {site: named[site] for site, found in known.items() if found is None}:
        with lm.weights.at_base():
            known.update(_collect(lm, missing, progress))
    found = {site: one for site, one in known.items() if one is not None}
    for site, one in found.items():
        lm.memory[named[site]] = one
    return found


def _collect(lm: LM, keys: Mapping[Site, Key], progress: Progress | None) -> dict[Site, Known]:
    key = next(iter(keys.values()))  # of all, but for the site
    name = hashlib.sha256("".join(key.name() for key in keys.values()).encode()).hexdigest()[:32]
    partial = directory() / f"{name}.partial.safetensors"
    reading, done = _resume(lm, partial, list(keys), key)
    saved = done
    mine, parts = key.part
    for number, (ids, real) in enumerate(Corpus(key.corpus, key.revision).batches(lm, key.tokens, context=key.context)):
        if number < done or number % parts != mine:
            continue
        if reading.over:
            break
        reading.add(ids, real)
        if progress is not None:
            progress(min(reading.count * parts, key.tokens), key.tokens)
        if reading.whole and number + 1 - saved >= SAVE_EVERY * parts:
            saved, state = number + 1, reading.state()
            _write(partial, dict(state.tensors), {"done": str(saved), "values": json.dumps(dict(state.values))})
    found = reading.close(key.tokens // parts)
    if key.rule.startswith(PART):
        found = {site: (total, replace(how, by="part")) for site, (total, how) in found.items()}
    for site, one in found.items():
        keep(keys[site], *one)
    partial.unlink(missing_ok=True)
    return found


def _resume(lm: LM, partial: Path, sites: Sequence[Site], key: Key) -> tuple[Reading, int]:
    """Return the reading a partial file goes on from and how many batches it took in, or a new one."""
    kept, moment, settles = _load(partial), key.kind == "moment", key.rule == RULE
    if kept is None:
        return (MomentReading(lm, sites, settles) if moment else GradientReading(lm, sites)), 0
    tensors, meta = kept
    state, done = Resume(tensors, json.loads(meta["values"])), int(meta["done"])
    if moment:
        return MomentReading.resume(lm, sites, settles, state), done
    return GradientReading.resume(lm, sites, state), done


def keep(key: Key, found: Sum, ended: Ended) -> None:
    """Keep a statistic on disk."""
    path, how = directory() / f"{key.name()}.safetensors", asdict(ended)
    _write(path, {"total": found.total}, {"key": json.dumps(asdict(key), sort_keys=True), "ended": json.dumps(how)})
    manifest = {**asdict(key), "count": found.count, **how, "tokens": key.tokens, "read": ended.tokens}
    manifest |= {"bytes": path.stat().st_size, "sha256": _hash(path)}
    put(path.with_suffix(".json"), json.dumps(manifest, indent=1).encode())  # last: its presence means completion


def read(key: Key) -> Known | None:
    """Return what is stored under the key, or None where it is absent, torn, or of another key."""
    path = directory() / f"{key.name()}.safetensors"
    try:
        manifest = json.loads(path.with_suffix(".json").read_bytes())
        if {name: manifest[name] for name in asdict(key)} != asdict(key) or manifest["sha256"] != _hash(path):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    found = _load(path)
    if found is None:
        return None
    how = Ended(**json.loads(found[1]["ended"]))
    return _MADE[key.kind](found[0]["total"], int(manifest["count"])), how


def _read_older(lm: LM, key: Key) -> Known | None:
    """Return what was stored while the model had another fingerprint by the older rule, and keep it under today's."""
    same = {name: value for name, value in asdict(key).items() if name != "fingerprint"}
    manifests = filter(None, map(_manifest, directory().glob("*.json")))
    others = {m.get("fingerprint") for m in manifests if {name: m.get(name) for name in same} == same}
    if not others or (older := lm.identity.older()) not in others:
        return None
    found = read(replace(key, fingerprint=older))
    if found is not None:
        keep(key, *found)
    return found


def _manifest(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


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
    with _whole(path) as temporary:
        try:
            save_file(tensors, temporary, meta)
        except SafetensorError as error:  # which has the system's number in its text only
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        with temporary.open("r+b") as file:  # Windows syncs only what may be written to
            os.fsync(file.fileno())


def put(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all; a directory that is not there is made."""
    with _whole(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a file to write that takes its place when it is written; what a full disk cut short is not left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
