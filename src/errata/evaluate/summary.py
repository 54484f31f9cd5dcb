"""From rows to numbers: mean ± half-width of the 95 % interval, clustered by fact.

    rows = read_rows("out/rows.jsonl")
    for name, estimate in summarize(at(rows, checkpoint=100)).items():
        name, str(estimate)                                   # "efficacy", "0.94 ± 0.02 (n = 200)"
    compare(rows_of_memit, rows_of_rome, "said").difference   # paired: only cases that both were asked

Prompts come in groups per fact and are not independent, so facts, not prompts, are drawn again in the bootstrap.
What was not scored is counted; the mean of nothing is an error. Needs numpy, not torch.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from errata.errors import BadFile, ErrataError, did_you_mean
from errata.evaluate.metrics import Array, Metric, Row, metrics_of

RESAMPLES = 1000
_AT_ONCE = 50  # resamples computed together; bounds memory, not results


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its error and its count.

    Args:
        mean: over facts; NaN if nothing was scored.
        half_width: of the 95 % percentile interval of a bootstrap over facts; NaN for fewer than two. Where all facts
            agree the bootstrap cannot see its own ignorance and gives 0: then n is what says how much to believe.
        n: facts that were scored.
        missing: rows that could not be scored.
    """

    mean: float
    half_width: float
    n: int
    missing: int = 0

    def __str__(self) -> str:
        if not self.n:
            return f"not scored ({self.missing} rows)"
        error = "" if math.isnan(self.half_width) else f" ± {_digits(self.half_width, self.mean)}"
        missing = f", {self.missing} rows not scored" if self.missing else ""
        return f"{_digits(self.mean, self.mean)}{error} (n = {self.n}{missing})"

    def to_dict(self) -> dict[str, float | int | None]:
        """Return {"mean", "half_width", "n", "missing"}, JSON-able: NaN and infinity become null."""
        mean, half = (x if math.isfinite(x) else None for x in (self.mean, self.half_width))
        return {"mean": mean, "half_width": half, "n": self.n, "missing": self.missing}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two methods on the same facts: `first` minus `second`, and how many facts only one of them was asked."""

    difference: Estimate
    first: float
    second: float
    only_first: int
    only_second: int


def _digits(value: float, size: float) -> str:
    return f"{value:.2f}" if abs(size) < 10 else f"{value:.1f}" if abs(size) < 1000 else f"{value:.3g}"


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a file.

    Raises:
        BadFile: it cannot be read, or a line is no row; a torn last line, too, which a resumed run has to cut off
        first.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"cannot read {path} ({type(error).__name__}).") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise BadFile(f"{path}, line {number}: no JSON row ({error}).") from error
    return rows


def dump_row(row: Row) -> str:
    """Return a row as its line: keys sorted, so that equal rows are equal bytes.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say: such a score must be None.
    """
    return json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False)


def at(rows: Iterable[Row], **equal: object) -> list[Row]:
    """Return the rows whose fields have these values: `at(rows, method="rome", checkpoint=100)`."""
    return [row for row in rows if all(row.get(key) == value for key, value in equal.items())]


def summarize(
    rows: Sequence[Row],
    *,
    facts: Iterable[str] | None = None,
    groups: Mapping[str, Iterable[str]] | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return an estimate for every metric the rows hold, in the table's order.

    Args:
        rows: of one method and one checkpoint.
        facts: only these; all unless given. Rows of texts and sites are always kept.
        groups: facts by group, as `metrics.retention` gives them; without them nothing is said of a group.
        seed: of the bootstrap; the same rows in any order and the same seed give the same digits.
    """
    kept = _among(rows, facts)
    asked = {"": kept, **{group: _among(kept, part) for group, part in (groups or {}).items()}}
    return {m.name: _estimate(*_by_fact(asked[m.group], m), m, seed) for m in metrics_of(kept, asked)}


def _among(rows: Sequence[Row], facts: Iterable[str] | None) -> Sequence[Row]:
    wanted = None if facts is None else set(facts)
    return [row for row in rows if wanted is None or row["case"] in wanted or row["probe"] in ("text", "site")]


def estimate(rows: Sequence[Row], name: str, *, seed: int = 0) -> Estimate:
    """Return the estimate of one metric.

    Raises:
        ErrataError: no such metric in these rows, or nothing of it was scored.
    """
    metric = _metric(rows, name)
    found = _estimate(*_by_fact(rows, metric), metric, seed)
    if not found.n:
        raise ErrataError(f"{name}: none of {found.missing} rows was scored, and the mean of nothing is no number.")
    return found


def compare(first: Sequence[Row], second: Sequence[Row], name: str, *, seed: int = 0) -> Comparison:
    """Return the difference of a metric between two methods on the facts that both were scored on, paired.

    Raises:
        ErrataError: no such metric in the rows, or the two have no scored fact in common.
    """
    metric = _metric(first, name)
    (one, table, a), (other, table2, b) = _by_fact(first, metric), _by_fact(second, metric)
    both = sorted(set(one) & set(other))
    columns = len(metric.columns)
    sides = [t[np.isin(facts, both)].reshape(-1, columns) for facts, t in ((one, table), (other, table2))]
    pairs = np.concatenate(sides, axis=1)  # both sorted by fact
    if np.isnan(pairs).all(axis=0).any():
        raise ErrataError(f"{name}: the two have no scored fact in common; run them on the same cases.")

    def difference(means: Array) -> Array:
        result: Array = metric.combine(means[..., :columns]) - metric.combine(means[..., columns:])
        return result

    mean, half = _bootstrap(pairs, difference, seed)
    ends = [float(metric.combine(_means(part))) for part in (pairs[:, :columns], pairs[:, columns:])]
    found = Estimate(mean, half, len(both), a + b)
    return Comparison(found, ends[0], ends[1], len(set(one) - set(other)), len(set(other) - set(one)))


def known_before(base: Iterable[Row]) -> dict[str, bool]:
    """Return for each case whether the unedited model, measured in `base`, said what was true, where truth is known."""
    known: dict[str, bool] = {}
    for row in base:
        knew = row["scores"].get("said_true") if row["probe"] == "edit" else None
        if knew is not None:
            known[row["case"]] = known.get(row["case"], True) and bool(knew)
    return known


def _metric(rows: Sequence[Row], name: str) -> Metric:
    held = {metric.name: metric for metric in metrics_of(rows)}
    if name not in held:
        hint = did_you_mean(name, held)
        raise ErrataError(f"these rows hold nothing for {name!r}.{hint} They hold: {', '.join(held) or 'nothing'}.")
    return held[name]


def _by_fact(rows: Sequence[Row], metric: Metric) -> tuple[list[str], Array, int]:
    """Return (facts, table (n, k) of pooled scores with NaN where a fact has none, rows not scored)."""
    pooled: list[dict[str, float]] = []
    missing: set[int] = set()
    for probe, score in metric.columns:
        values: dict[str, list[float]] = defaultdict(list)
        for place, row in _asked(rows, probe, "" if metric.score else score):
            value = metric.of(row, score)
            if value is None:
                missing.add(place)
            else:
                values[row["case"]].append(float(value))
        pooled.append({fact: _pool(metric, found) for fact, found in values.items()})
    facts = sorted(set().union(*pooled))
    return facts, np.array([[column.get(f, math.nan) for column in pooled] for f in facts]), len(missing)


def _asked(rows: Iterable[Row], probe: str, score: str) -> Iterator[tuple[int, Row]]:
    for place, row in enumerate(rows):
        kind: str = row["probe"]
        if (not score or score in row["scores"]) and (
            kind == probe or (probe.endswith(".") and kind.startswith(probe))
        ):
            yield place, row


def _pool(metric: Metric, values: list[float]) -> float:
    if metric.pool == "any":
        return max(values)
    return sum(values) if metric.pool == "sum" else sum(values) / len(values)


def _estimate(facts: list[str], table: Array, missing: int, metric: Metric, seed: int) -> Estimate:
    if not facts or np.isnan(table).all(axis=0).any():
        return Estimate(math.nan, math.nan, 0, missing)
    mean, half = _bootstrap(table, metric.combine, seed)
    return Estimate(mean, half, len(facts), missing)


def _means(table: Array) -> Array:
    means: Array = np.nanmean(table, axis=0)
    return means


def _bootstrap(table: Array, combine: Any, seed: int) -> tuple[float, float]:
    """Return (number, half-width of its 95 % interval) from facts drawn with replacement; NaN width for one fact."""
    n = len(table)
    mean = float(combine(_means(table)))
    if n < 2:
        return mean, math.nan
    given = ~np.isnan(table)
    filled = np.where(given, table, 0.0)
    rng = np.random.default_rng(seed)
    found = []
    with np.errstate(invalid="ignore", over="ignore"):  # a resample may miss every fact that has a column
        for _ in range(0, RESAMPLES, _AT_ONCE):
            drawn = rng.integers(n, size=(_AT_ONCE, n))
            found.append(combine(filled[drawn].sum(axis=1) / given[drawn].sum(axis=1)))
        low, high = np.nanpercentile(np.concatenate(found), [2.5, 97.5])
    return mean, float(high - low) / 2
