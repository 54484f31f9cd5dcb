"""The parts of the page that are text: the strip of verdicts, the table of numbers, what went wrong, how it was run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from errata.report.markup import Safe, el, join, text
from errata.report.names import edits, half, mean, meaning, ordered, section, sign, spoken
from errata.report.paired import Field
from errata.report.read import Measured, RunReport
from errata.report.rows import Wrong
from errata.report.svg import colour, mark
from errata.report.verdict import PERPLEXITY_AT_MOST, SAID_AT_LEAST, failure, leading, verdict

WORST = 5
LONGEST = 220  # letters of what was said
COMPARED = ("said", "said_paraphrase", "efficacy", "neighborhood", "perplexity")
_Slots = Mapping[str, int]


def swatch(label: str, slots: _Slots) -> Safe:
    """Return a method's name with its marker."""
    drawn = el("svg", mark(slots[label], 7, 7, 4.6), viewBox="0 0 14 14", class_=f"swatch {colour(slots[label])}")
    return el("span", drawn, " ", label, class_="method")


def strip(runs: Sequence[RunReport], slots: _Slots) -> Safe:
    """Return a row for each method and a bar for each checkpoint: how far each one got, at a glance."""
    lead = leading(runs)
    columns = sorted({c.edits for run in runs for c in run.checkpoints})
    heads = [el("th", "method", scope="col"), *(el("th", f"{t:,}", scope="col") for t in columns)]
    head = el("tr", *heads, el("th", "verdict", scope="col"))
    body = [_lane(run, lead, columns, slots) for run in runs]
    caption = el("caption", el("b", _caption(lead)), " after so many edits")
    rule = (
        f"A method holds while {spoken(lead)} ({meaning(lead)}) is at least {SAID_AT_LEAST:g} and perplexity "
        f"at most {PERPLEXITY_AT_MOST:g} times the unedited model's; ✕ marks where it does not."
    )
    table = el("table", caption, el("thead", head), el("tbody", *body), class_="strip", style=f"--k:{len(columns)}")
    return el("div", table, el("p", rule, class_="fine"))


def _caption(lead: str) -> str:
    return "Share of its facts the model says" if lead == "said" else f"{spoken(lead).capitalize()}"


def _lane(run: RunReport, lead: str, columns: Sequence[int], slots: _Slots) -> Safe:
    found, cells = verdict(run, lead), []
    for t in columns:
        checkpoint = run.at(t)
        if checkpoint is None:
            gone = run.stopped and run.last and t > run.last.edits
            cells.append(el("td", el("span", "stopped" if gone else ""), class_="gone"))
            continue
        value = checkpoint.metrics.get(lead)
        bad = bool(failure(run, checkpoint, lead)) and found.state != "nothing"
        kind = "bad" if bad else "idle" if found.state == "nothing" else "good"
        height = 0.0 if value is None or value.mean is None else min(max(value.mean, 0.0), 1.0)
        shown = join("✕ " if bad else "", mean(lead, value))
        cells.append(el("td", el("i", style=f"height:{height * 100:.0f}%"), el("span", shown), class_=kind))
    stopped = f"stopped: {run.stopped}" if run.stopped else ""
    reasons = [why for why in (found.reason, stopped, found.price) if why]
    verdict_cell = el(
        "td", el("b", found.sentence()), *(el("small", why) for why in reasons), class_=f"v {found.state}"
    )
    return el("tr", el("th", swatch(run.label, slots), scope="row"), *cells, verdict_cell)


def numbers(field: Field, slots: _Slots) -> Safe:
    """Return the table of every metric for each run, best in bold where that is certain."""
    runs = field.runs
    base = next((run.base for run in runs if run.base), None)
    names = ordered(name for checkpoint in field.at if checkpoint for name in checkpoint.metrics)
    heads = [el("th", swatch(run.label, slots), scope="col") for run in runs]
    first, facts = el("th", "metric", scope="col"), el("th", "facts", scope="col")
    body, current = [], ""
    for name in names:
        if section(name) != current:
            current = section(name)
            body.append(_section(current, len(runs)))
        values, best = field.values(name), field.best(name)
        cells = [_number(name, value, index == best) for index, value in enumerate(values)]
        before = _number(name, base.metrics.get(name) if base else None, False)
        body.append(el("tr", _metric_head(name), before, *cells, el("td", _facts(values), class_="n")))
    head = el("thead", el("tr", first, el("th", "unedited", scope="col"), *heads, facts))
    kind = "numbers wide" if len(runs) > 5 else "numbers"
    table = el("table", head, el("tbody", *body, *_counts(runs)), class_=kind)
    return el("div", table, class_="scroll", tabindex="0", role="region", aria_label="all metrics")


def _section(title: str, runs: int) -> Safe:
    return el("tr", el("th", title, scope="rowgroup"), el("td", colspan=runs + 2), class_="section")


def _metric_head(name: str) -> Safe:
    arrow = {1.0: "\u00a0↑", -1.0: "\u00a0↓"}.get(sign(name), "")
    return el("th", spoken(name), el("span", arrow, class_="arrow"), el("small", meaning(name)), scope="row")


def _number(name: str, value: Measured | None, best: bool) -> Safe:
    shown = mean(name, value)
    return el("td", el("b", shown) if best else shown, " ", el("span", half(name, value), class_="pm"))


def _facts(values: Iterable[Measured | None]) -> str:
    """Return the number of facts behind a row of numbers: "300", or "298–300" where methods differ."""
    counts = {value.n for value in values if value and value.n is not None}
    missing = max((value.missing for value in values if value), default=0)
    shown = "–".join(f"{n:,}" for n in sorted({min(counts), max(counts)})) if counts else ""
    return f"{shown} ({missing:,} rows not scored)" if missing else shown


def _counts(runs: Sequence[RunReport]) -> list[Safe]:
    """Return the last rows: what was refused, not scored, known before or lost; without those that are zero for all."""
    counted = {
        "cases refused": [run.refused for run in runs],
        "updates that errata edit refuses": [run.unwritable for run in runs],
        "probes not scored": [run.rows.unscored for run in runs],
        "torn rows": [run.rows.torn for run in runs],
    }
    kept = [
        (name, counts)
        for name, counts in counted.items()
        if any(counts) or name in ("cases refused", "probes not scored")
    ]
    found = [(name, [f"{count:,}" for count in counts]) for name, counts in kept]
    if any(run.rows.asked_before for run in runs):
        known = [f"{run.rows.known_before:,} of {run.rows.asked_before:,}" for run in runs]
        found.append(("old answers the unedited model knew", known))
    lines = [
        [el("th", name, scope="row"), el("td"), *(el("td", c) for c in counts), el("td")] for name, counts in found
    ]
    return [_section("Counted, whole run", len(runs)), *(el("tr", *line) for line in lines)]


def differences(field: Field, slots: _Slots) -> Safe:
    """Return the first run against each other one, metric by metric and paired by fact; nothing without their rows."""
    others = range(1, len(field.runs))
    table = {name: [field.difference(name, 0, other) for other in others] for name in COMPARED}
    table = {name: values for name, values in table.items() if any(values)}
    if not table:
        return Safe()
    lines = []
    for other in others:
        found = [(name, values[other - 1]) for name, values in table.items()]
        n = _facts([value for _, value in found])
        minus = el("th", "− ", swatch(field.runs[other].label, slots), scope="row")
        lines.append(el("tr", minus, *(_difference(*pair) for pair in found), el("td", n, class_="n")))
    heads = [el("th", word, scope="col") for word in (*map(spoken, table), "facts")]
    head = el("tr", el("th", swatch(field.runs[0].label, slots), scope="col"), *heads)
    drawn = el("table", el("thead", head), el("tbody", *lines), class_="numbers pairs")
    return el("div", drawn, class_="scroll", tabindex="0", role="region", aria_label="differences")


def _difference(name: str, value: Measured | None) -> Safe:
    if value is None or value.mean is None:
        return el("td", "–")
    shown = ("+" if value.mean > 0 else "") + mean(name, value).replace("-", "−")
    certain = abs(value.mean) > (value.half or 0.0)
    return el("td", el("b", shown) if certain else shown, " ", el("span", half(name, value), class_="pm"))


def worst(runs: Sequence[RunReport], slots: _Slots) -> Safe:
    """Return the probes each method answered worst at its last checkpoint, with what the model said."""
    blocks = []
    for run in runs:
        at = max(run.rows.worst, default=0)
        found = run.rows.worst.get(at, [])[:WORST]
        if found:
            when = f" at {edits(at)}" if run.sequential else ""
            title = el("h4", swatch(run.label, slots), el("small", when))
            blocks.append(el("article", title, el("ol", *(_case(wrong) for wrong in found))))
    return el("div", *blocks, class_="cases") if blocks else Safe()


def _case(wrong: Wrong) -> Safe:
    said = " ".join((wrong.said or "").split())
    said = said if len(said) <= LONGEST else said[:LONGEST] + "…"
    heard = el("q", said) if said else el("em", "nothing" if wrong.said is not None else "not generated")
    pairs = [el("dt", "wanted"), el("dd", el("q", wrong.wanted)), el("dt", "said"), el("dd", heard, class_="said")]
    return el("li", el("p", wrong.prompt, " ", el("small", spoken(wrong.probe))), el("dl", *pairs))


def provenance(runs: Sequence[RunReport], slots: _Slots) -> Safe:
    """Return how the runs came about: what they share, then each one's exact command and what is its own."""
    fields = [_fields(run) for run in runs]
    shared = {key: value for key, value in fields[0].items() if all(own.get(key) == value for own in fields)}
    blocks = [el("article", el("h4", "All runs"), _terms(shared))] if len(runs) > 1 and shared else []
    for run, own in zip(runs, fields, strict=True):
        command = el("pre", el("code", run.about.get("command") or "(the command was not recorded)"))
        left = {key: value for key, value in own.items() if not blocks or key not in shared}
        blocks.append(el("article", el("h4", swatch(run.label, slots)), command, _terms(left)))
    return el("div", *blocks, class_="runs")


def _fields(run: RunReport) -> dict[str, Safe]:
    about = run.about
    plain = {key: about.get(key) for key in ("model", "fingerprint", "cases", "mode", "batch", "seed")}
    plain["harness"] = ", ".join(map(str, about.get("harness") or ())) or None
    judge = about.get("judge")
    plain |= (
        {"judge": judge.get("name"), "asked to judge": judge.get("prompt") or None} if isinstance(judge, dict) else {}
    )
    sets = {key: about.get(key) for key in ("config", "options", "versions")}
    fields = {key: text(value) for key, value in plain.items() if value is not None}
    fields |= {key: _pairs(value) for key, value in sets.items() if isinstance(value, dict) and value}
    if run.dimension("width"):
        fields["out, in"] = text(f"{run.dimension('width')}, {run.dimension('inner')}")
    fields["rows"] = text(f"{run.rows.total:,}" + (f", and {run.rows.torn:,} torn" if run.rows.torn else ""))
    if run.stopped:
        fields["stopped"] = text(run.stopped)
    return fields | {"read from": text(run.directory.name)}


def _terms(fields: Mapping[str, Safe]) -> Safe:
    return el("dl", *(el("div", el("dt", key), el("dd", value)) for key, value in fields.items()))


def _pairs(values: Mapping[str, object]) -> Safe:
    shown = (f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items())
    return join(*(join(el("code", pair), " ") for pair in shown))
