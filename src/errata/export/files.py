"""An export's directory: it appears whole or not at all, and says what it is of."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from errata.content import check_free
from errata.delta import Dense, Graft, LowRank, Site, total
from errata.edit import Edit, by_site
from errata.errors import InputError, UnsupportedModel
from errata.model.lm import LM


@dataclass(frozen=True, slots=True)
class ExportedMatrix:
    """One matrix of what was exported.

    Args:
        site: which. module: its path in the model. rank: of its change as exported; 0 of a whole matrix.
        full: the rank at which nothing is lost. error: ‖Δ − exported‖ / ‖Δ‖.
    """

    site: str
    module: str
    rank: int
    full: int
    error: float


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported: where, in which form, of which model in which state, with which edits."""

    directory: Path
    form: str
    model: str
    at: str
    edits: Sequence[str]
    parts: Sequence[ExportedMatrix]


def sums_of(lm: LM, edits: Sequence[Edit]) -> dict[Site, LowRank | Dense]:
    """Return the sum of all changes at each site; grafts are no sums."""
    for edit in edits:
        for change in edit.deltas.values():
            if isinstance(change, Graft):
                raise InputError(
                    f"edit {edit.id} is carried by a wrapper ({change.wrapper}), not by matrices: it has no such form. "
                    "Drop it, export a state without it (--at), or one block of it as an adapter (--block)."
                )
    changes = by_site(edits)
    found = {site: total(changes[site], lm.shape(site)[1]) for site in sorted(changes)}
    return {site: summed for site, summed in found.items() if summed is not None}


def module_path(lm: LM, site: Site) -> str:
    """Return the name of a site's module in the model; raises UnsupportedModel if it has none."""
    wanted = lm.module(site)
    for name, module in lm.model.named_modules():
        if module is wanted:
            return str(name)
    raise UnsupportedModel(f"{lm.name} has no name for {site}; export a checkpoint instead.")


def write_log(directory: Path, lm: LM, edits: Sequence[Edit]) -> None:
    """Write ``errata.json``: the base and all that is known of the edits."""
    log: Mapping[str, object] = {"base": lm.fingerprint, "edits": [edit.meta() for edit in edits]}
    (directory / "errata.json").write_text(json.dumps(log, indent=1, ensure_ascii=False), encoding="utf-8")


@contextmanager
def new_directory(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty directory that takes the given name when the block has ended well, and is gone otherwise.

    Raises:
        InputError: there is something of that name already.
    """
    target = check_free(directory)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    except OSError as error:
        raise InputError(f"cannot write to {target} ({error.strerror}); name another directory.") from error
    try:
        yield made
        made.chmod(0o755)
        for path in made.rglob("*"):  # safetensors makes files that only their owner may read
            path.chmod(path.stat().st_mode | 0o044 if path.is_file() else 0o755)
        if os.name == "nt" and target.is_dir():  # elsewhere an empty directory is replaced
            target.rmdir()
        os.replace(made, target)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError):
            raise InputError(f"cannot write {target} ({error.strerror}): make room; nothing is left of it.") from error
        raise
