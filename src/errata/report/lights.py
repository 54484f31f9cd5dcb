"""What critics ask, as one row of lights for each method: full, half or hollow, with the number and its interval below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from errata.evaluate.metrics import table
from errata.report.markup import Safe, el, join
from errata.report.names import half, mean
from errata.report.read import Measured, RunReport
from errata.report.tables import swatch

GOOD, POOR = 0.8, 0.5  # full from here on, hollow below; printed on the page
# What every edit is judged by, and then what critics ask; what no run measured is left out.
SHOWN: Final[Mapping[str, str]] = {
    "said": "said",
    "said_paraphrase": "para\u00adphrase",
    "neighborhood": "neigh\u00adbours",
    "reworded": "reworded",
    "distractor": "after dis\u00adtractors",
    "portability_said": "two hops",
    "grounded": "grounded",
    "reversed": "reversed",
    "negation": "denied",
    "same_subject": "same subject",
    "neighborhood_plus": "neigh\u00adbours +",
    "language": "other language",
    "said_q8": "in 8 bits",
    "said_q4": "in 4 bits",
}
_RULE: Final = (
    "Full: at least {good:g}; hollow: below {poor:g}; half: between. A dashed rim: the interval reaches over one of these "
    "limits. What a model does not understand an edit is not to blame for, so read each light beside the unedited model's."
)
_DENIED: Final = " Denied (“… is not”), the unedited model leaves its own old answer unsaid in {old} of the cases."
_Light = Literal["full", "half", "hollow"]


def lights(runs: Sequence[RunReport], slots: Mapping[str, int]) -> Safe:
    """Return the table of lights at each run's last checkpoint; nothing where no run asked what critics ask."""
    ends = [run.last for run in runs]
    held = {name for end in ends if end for name in end.metrics}
    if not held & {metric.name for metric in table() if metric.section == "In the wild"}:
        return Safe()
    shown = [name for name in SHOWN if name in held]
    heads = [el("th", "", scope="col"), *(el("th", SHOWN[name], scope="col") for name in shown)]
    base = {name: value for run in reversed(runs) if run.base for name, value in run.base.metrics.items()}
    lines = [_line("unedited", base, shown)] if base else []
    lines += [_line(swatch(run.label, slots), run.last.metrics if run.last else {}, shown) for run in runs]
    drawn = el("table", el("thead", el("tr", *heads)), el("tbody", *lines), class_="lights")
    old = base.get("negation_old")
    rule = _RULE.format(good=GOOD, poor=POOR) + (_DENIED.format(old=mean("negation_old", old)) if old else "")
    return join(
        el("h3", "In the wild"),
        el("p", rule, class_="fine"),
        el("div", drawn, class_="scroll", tabindex="0", role="region", aria_label="what critics ask"),
    )


def light(value: Measured) -> _Light | None:
    """Return which light a share is, None where there is no number."""
    if value.mean is None:
        return None
    return "full" if value.mean >= GOOD else "half" if value.mean >= POOR else "hollow"


def unsure(value: Measured) -> bool:
    """Return whether the interval reaches over a limit, so that the light might as well be the next one."""
    if value.mean is None or value.low is None or value.high is None:
        return value.mean is not None
    return any(
        (value.low < limit) != (value.mean < limit) or (value.high < limit) != (value.mean < limit)
        for limit in (GOOD, POOR)
    )


def _line(head: object, metrics: Mapping[str, Measured], shown: Sequence[str]) -> Safe:
    return el("tr", el("th", head, scope="row"), *(_cell(name, metrics.get(name)) for name in shown))


def _cell(name: str, value: Measured | None) -> Safe:
    kind = None if value is None else light(value)
    if value is None or kind is None:
        return el("td", "–")
    parts = [el("circle", cx=11, cy=11, r=8, class_="rim unsure" if unsure(value) else "rim")]
    if kind != "hollow":
        parts.insert(0, el("path", d="M11 3a8 8 0 0 0 0 16z" if kind == "half" else "M11 3a8 8 0 1 0 .1 0z"))
    drawn = el("svg", el("title", kind), *parts, viewBox="0 0 22 22", class_=kind, role="img")
    return el("td", drawn, mean(name, value), el("small", half(name, value)))
