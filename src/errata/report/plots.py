"""Runs into plots: which numbers go into which drawing, each a list of figures that may be empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from errata.report import bars, curves
from errata.report.markup import Safe, el
from errata.report.names import edits, half, is_share, mean, meaning, seconds, size, spoken
from errata.report.read import Measured, RunReport
from errata.report.verdict import writes

CURVES = ("said", "retention_oldest", "neighborhood", "perplexity", "efficacy", "said_paraphrase")
RANGES = ("said", "said_paraphrase", "efficacy", "neighborhood", "portability", "perplexity")
COSTS = {"seconds_per_edit": "Seconds per edit", "peak_bytes": "Peak memory", "bytes_per_edit": "Bytes stored per edit"}
Slots = Mapping[str, int]


def figure(title: str, note: str, drawing: Safe) -> Safe:
    """Return a drawing under its title and a line on how to read it."""
    return el("figure", el("figcaption", el("b", title), " ", el("span", note)), drawing)


def over_edits(runs: Sequence[RunReport], slots: Slots) -> list[Safe]:
    """Return a plot of curves for each metric that was measured at some checkpoint."""
    ticks = tuple(sorted({c.edits for run in runs for c in run.checkpoints}))
    found = []
    for name in CURVES:
        lines = [line for run in runs if (line := _line(run, name, slots[run.label])).points]
        if lines:
            panel = curves.Panel(spoken(name), is_share(name), _baseline(runs, name), ticks, _dimensions(runs))
            found.append(figure(spoken(name), meaning(name), curves.curves(panel, lines)))
    return found


def _line(run: RunReport, name: str, slot: int) -> curves.Line:
    """Return the metric over the edits; what could not be scored is left out."""
    points = []
    for checkpoint in run.checkpoints:
        value = checkpoint.metrics.get(name)
        if value is not None and value.mean is not None:
            points.append(curves.Point(checkpoint.edits, value.mean, value.low, value.high))
    return curves.Line(run.label, slot, tuple(points), broken=bool(run.stopped))


def _baseline(runs: Sequence[RunReport], name: str) -> float | None:
    """Return what the unedited model has, from the first run that measured it."""
    found = (run.base.metrics[name].mean for run in runs if run.base and name in run.base.metrics)
    return next((value for value in found if value is not None), None)


def _dimensions(runs: Sequence[RunReport]) -> tuple[tuple[str, int], ...]:
    """Return ("out", …) and ("in", …) where all runs agree on them: edits per dimension is what models share."""
    found = []
    for shown, key in (("out", "width"), ("in", "inner")):
        sizes = {run.dimension(key) for run in runs}
        if len(sizes) == 1 and (size_ := sizes.pop()):
            found.append((shown, size_))
    return tuple(found)


def gaps(runs: Sequence[RunReport], slots: Slots) -> list[Safe]:
    """Return for each run its teacher-forced efficacy above what it says, over the edits."""
    found = []
    for run in filter(writes, runs):
        forced, said = (_line(run, name, slots[run.label]) for name in ("efficacy", "said"))
        shared = {p.x for p in forced.points} & {p.x for p in said.points}
        if len(shared) < 2:
            continue
        upper, lower = (
            curves.Line(line.label, line.slot, tuple(p for p in line.points if p.x in shared), line.broken)
            for line in (forced, said)
        )
        last = (upper.points[-1], lower.points[-1])
        note = f"at {edits(int(last[0].x))}: efficacy {last[0].y:.2f}, said {last[1].y:.2f}"
        found.append(figure(run.label, note, curves.gap(f"{run.label} {note}", upper, lower, ("efficacy", "said"))))
    return found


def ranges(runs: Sequence[RunReport], slots: Slots) -> list[Safe]:
    """Return for each metric the runs' means with their intervals, at the last checkpoint of each."""
    found = []
    for name in RANGES:
        rows = []
        for run in runs:
            value = run.last.metrics.get(name) if run.last else None
            if value is not None and value.mean is not None:
                note = f"{mean(name, value)} {half(name, value)}".strip()
                rows.append(bars.Bar(run.label, slots[run.label], value.mean, note, value.low, value.high))
        if rows:
            drawing = bars.ranges(spoken(name), rows, is_share(name), _baseline(runs, name))
            found.append(figure(spoken(name), meaning(name), drawing))
    return found


def pairs(runs: Sequence[RunReport], slots: Slots, first: str, second: str) -> list[Safe]:
    """Return one plot of two metrics of each run, joined, at the last checkpoint that has both; `second` is filled."""
    rows = []
    for run in filter(writes, runs):
        both = [c for c in run.checkpoints if all(_known(c.metrics.get(name)) for name in (first, second))]
        if both:
            one, two = (both[-1].metrics[name].mean or 0.0 for name in (first, second))
            rows.append(bars.Bar(run.label, slots[run.label], two, f"{two - one:+.2f}".replace("-", "−"), other=one))
    if not rows:
        return []
    title = f"{spoken(second)} ● against {spoken(first)} ○"
    return [figure(title, "and their difference", bars.dumbbells(title, rows))]


def _known(value: Measured | None) -> bool:
    return value is not None and value.mean is not None


def costs(runs: Sequence[RunReport], slots: Slots) -> list[Safe]:
    """Return bars for time, memory and storage, from the last checkpoint that has them; memory is the most of all."""
    found = []
    for key, title in COSTS.items():
        shown = seconds if key == "seconds_per_edit" else size
        rows = []
        for run in runs:
            values = [c.cost[key] for c in run.checkpoints if key in c.cost]
            if values:
                cost = max(values) if key == "peak_bytes" else values[-1]
                rows.append(bars.Bar(run.label, slots[run.label], cost, shown(cost)))
        if rows:
            found.append(figure(title, "", bars.bars(title, rows)))
    return found
