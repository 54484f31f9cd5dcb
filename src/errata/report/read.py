"""Run directories into values: what the page is made from.

A run directory holds `run.json` (what was asked for), `summary.json` (the numbers) and `rows.jsonl` (every probe); the
rows may be missing, and their last line torn by a kill. Only this file and `rows` know the names of fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from errata.errors import BadFile
from errata.report.rows import ProbeRows, as_float, read_rows

# Names that mean the same, and the one the page uses.
ALIASES = {
    "paraphrase_said": "said_paraphrase",
    "paraphrase_exact": "exact_paraphrase",
    **{f"retention_{group}{dot}said": f"retention_{group}" for group in ("oldest", "newest", "random") for dot in "._"},
}


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean with the half-width of its 95 % interval and its number of facts; None is what could not be computed."""

    mean: float | None
    half: float | None = None
    n: int | None = None
    missing: int = 0  # rows that could not be scored

    @property
    def low(self) -> float | None:
        """The lower end of the interval, None without one."""
        return None if self.mean is None or self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """The upper end of the interval, None without one."""
        return None if self.mean is None or self.half is None else self.mean + self.half


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was measured with `edits` edits standing; 0 is the unedited model."""

    edits: int
    metrics: Mapping[str, Measured]
    cost: Mapping[str, float]  # seconds_per_edit (s), peak_bytes, bytes_per_edit (bytes); what is unknown is left out


@dataclass(frozen=True, slots=True)
class RunReport:
    """One method with its settings on one model and one set of cases."""

    directory: Path
    method: str
    about: Mapping[str, Any]  # run.json as it is
    base: Checkpoint | None  # the unedited model
    checkpoints: tuple[Checkpoint, ...]  # with at least one edit, by number of edits
    refused: int
    stopped: str | None
    rows: ProbeRows
    label: str = ""  # the method, with what tells it apart from other runs of the same method
    unwritable: int = 0  # updates that `errata edit` would have refused, measured all the same

    @property
    def last(self) -> Checkpoint | None:
        """The last checkpoint that was reached."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def sequential(self) -> bool:
        """Whether edits pile up in one model, rather than each being tried alone."""
        return bool(self.about.get("mode", "sequential") != "independent")

    def at(self, edits: int) -> Checkpoint | None:
        """Return the checkpoint after `edits` edits, None if there is none."""
        return next((c for c in self.checkpoints if c.edits == edits), None)

    def dimension(self, name: str) -> int | None:
        """Return "width" (out) or "inner" (in) of the edited matrices, None where it is unknown."""
        value = as_float(self.about.get(name))
        return int(value) if value and value >= 1 else None


def read_all(directories: Iterable[Path]) -> list[RunReport]:
    """Return the runs in the order given, labelled so that no two in one comparison share a name.

    Raises BadFile if a directory lacks run.json or summary.json, or one of them cannot be understood.
    """
    runs = [read(Path(directory)) for directory in dict.fromkeys(directories)]
    if not runs:
        raise BadFile("A report needs at least one run: name the directories that `errata bench --out` wrote.")
    return _labelled(runs)


def read(directory: Path) -> RunReport:
    """Return one run, not yet labelled; raises BadFile as `read_all` does."""
    about, summary = _object(directory / "run.json"), _object(directory / "summary.json")
    listed = summary.get("checkpoints", [])
    if not isinstance(listed, list) or not all(
        isinstance(c, dict) and as_float(c.get("edits")) is not None for c in listed
    ):
        raise BadFile(f'{directory / "summary.json"}: "checkpoints" must be a list of objects that each have "edits".')
    checkpoints = sorted((_checkpoint(c) for c in listed), key=lambda c: c.edits)
    stopped = summary.get("stopped")
    return RunReport(
        directory=directory,
        method=str(summary.get("method") or about.get("method") or directory.name),
        about={
            **{key: summary[key] for key in ("model", "cases", "seed", "mode", "versions") if key in summary},
            **about,
        },
        base=next((c for c in checkpoints if c.edits == 0), None),
        checkpoints=tuple(c for c in checkpoints if c.edits > 0),
        refused=_count(summary.get("refused")),
        unwritable=_count(summary.get("unwritable")),
        stopped=str(stopped) if stopped else None,
        rows=read_rows(directory / "rows.jsonl"),
    )


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        message = (
            f"{path.parent} is not a finished run: it has no {path.name}. Name directories that `errata bench` wrote."
        )
        raise BadFile(message) from None
    except (OSError, ValueError) as error:
        raise BadFile(f"{path} cannot be read as JSON ({error}); run the benchmark again to write it anew.") from error
    if not isinstance(found, dict):
        raise BadFile(f"{path} must hold one JSON object; run the benchmark again to write it anew.")
    return found


def _count(value: object) -> int:
    """Return a count given as a number, or as the list or table of what is counted."""
    return len(value) if isinstance(value, (list, dict)) else int(as_float(value) or 0)


def _checkpoint(given: Mapping[str, Any]) -> Checkpoint:
    metrics = given.get("metrics")
    known = (
        {ALIASES.get(str(name), str(name)): _value(v) for name, v in metrics.items()}
        if isinstance(metrics, dict)
        else {}
    )
    costs = {name: as_float(given.get(name)) for name in ("seconds_per_edit", "peak_bytes", "bytes_per_edit")}
    return Checkpoint(int(given["edits"]), known, {name: cost for name, cost in costs.items() if cost is not None})


def _value(given: object) -> Measured:
    if not isinstance(given, dict):
        return Measured(as_float(given))
    n = as_float(given.get("n"))
    mean, half = as_float(given.get("mean")), as_float(given.get("half_width"))
    return Measured(mean, half, None if n is None else int(n), _count(given.get("missing")))


def comparison(run: RunReport) -> tuple[str, ...]:
    """Return what two runs must share to be compared: mode, model, weights and cases."""
    mode = "sequential" if run.sequential else "independent"
    return mode, *(str(run.about.get(key, "")) for key in ("model", "fingerprint", "cases"))


def _labelled(runs: Sequence[RunReport]) -> list[RunReport]:
    """Name each run by its method and, where several runs of a method are compared, by the settings that differ from
    what most of them have."""
    labelled = []
    for run in runs:
        twins = [r for r in runs if r.method == run.method and comparison(r) == comparison(run)]
        mine = _settings(run)
        differing = []
        for key in mine:
            alike = sum(_settings(twin).get(key) == mine[key] for twin in twins)
            if alike < len(twins) and 2 * alike <= len(twins):
                differing.append(key)
        label = " ".join([run.method, *(f"{key}={mine[key]}" for key in differing)])
        equal = [twin for twin in twins if _settings(twin) == mine]
        labelled.append(replace(run, label=label if len(equal) == 1 else f"{label} ({_place(run, equal)})"))
    return labelled


def _place(run: RunReport, twins: Sequence[RunReport]) -> str:
    """Return the end of a run's path that sets it apart from its twins."""
    paths = [twin.directory.resolve().parts for twin in twins]
    length = next((n for n in range(1, 9) if len({parts[-n:] for parts in paths}) == len(paths)), 1)
    return "/".join(run.directory.resolve().parts[-length:])


def _settings(run: RunReport) -> dict[str, str]:
    """Return what was chosen for a run, as text: config, options, batch and seed."""
    chosen: dict[str, Any] = {}
    for key in ("config", "options"):
        value = run.about.get(key)
        chosen |= value if isinstance(value, dict) else {}
    chosen |= {key: run.about[key] for key in ("batch", "seed") if key in run.about}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in chosen.items()}
