"""Which method held up and where it broke, computed from the numbers and put into sentences.

At a checkpoint a run *holds* while it still says at least half of its facts and the perplexity of ordinary text is at
most twice the unedited model's. Both limits are a choice: they are printed on the page next to what they decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from errata.report.names import edits, mean, number, spoken
from errata.report.read import Checkpoint, Measured, RunReport

SAID_AT_LEAST = 0.5
MOST_SAID = 0.8  # below this the headline says how many
PERPLEXITY_AT_MOST = 2.0  # times the unedited model's
NEIGHBOURS_LOSE = 0.1  # more than this, beyond the interval, is worth a word
GAP_FROM = 0.15  # teacher-forced efficacy above what is said by this much, too
LEADING = ("said", "exact", "token_accuracy", "efficacy")  # the first one that all runs have decides

_State = Literal["holds", "broke", "never", "nothing", "unmeasured"]


@dataclass(frozen=True, slots=True)
class MethodVerdict:
    """How a run ended. `held` and `broke` count edits; `reason` says what failed, `price` what the neighbours lost."""

    state: _State
    held: int | None = None
    broke: int | None = None
    reason: str = ""
    price: str = ""

    def sentence(self) -> str:
        """Return the verdict without the method's name: "holds to 100 edits", "broke between 10 and 50 edits"."""
        if self.state == "holds" and self.held is not None:
            return f"holds to {edits(self.held)}"
        if self.state == "broke" and self.held is not None:
            return (
                f"broke between {self.held:,} and {edits(self.broke)}"
                if self.broke
                else f"broke after {edits(self.held)}"
            )
        return {"never": "never held", "nothing": "writes nothing", "unmeasured": "not measured"}[self.state]


def leading(runs: Iterable[RunReport]) -> str:
    """Return the metric that decides for these runs: `said` if all have it, else the next best of LEADING."""
    last = [run.last.metrics for run in runs if run.last]
    return next((name for name in LEADING if last and all(name in metrics for metrics in last)), LEADING[-1])


def failure(run: RunReport, checkpoint: Checkpoint, lead: str) -> str:
    """Return why the run does not hold at this checkpoint, in a few words, or ""."""
    value, before = checkpoint.metrics.get("perplexity"), run.base.metrics.get("perplexity") if run.base else None
    if value is not None and before is not None and before.mean:
        if value.mean is None and value.n != 0:
            return "perplexity is no longer a number"
        if value.mean is not None and value.mean > PERPLEXITY_AT_MOST * before.mean:
            return f"perplexity {number(value.mean)}, unedited {number(before.mean)}"
    main = checkpoint.metrics.get(lead)
    if main is not None and main.mean is not None and main.mean < SAID_AT_LEAST:
        return f"{spoken(lead)} {mean(lead, main)}"
    return ""


def verdict(run: RunReport, lead: str) -> MethodVerdict:
    """Return how the run ended, by its last checkpoints: one bad early one, of a single fact, decides nothing."""
    if not run.checkpoints:
        return MethodVerdict("unmeasured")
    if not writes(run):
        return MethodVerdict("nothing", reason="no better than the unedited model")
    failures = [failure(run, c, lead) for c in run.checkpoints]
    good = [number for number, why in enumerate(failures) if not why]
    if not good:
        return MethodVerdict("never", broke=run.checkpoints[0].edits, reason=failures[0])
    held = run.checkpoints[good[-1]]
    if good[-1] + 1 < len(failures):
        after = good[-1] + 1
        return MethodVerdict("broke", held.edits, run.checkpoints[after].edits, failures[after], _price(run, held))
    if run.stopped:  # by the collapse guard, on the way to a checkpoint it never got to
        return MethodVerdict("broke", held.edits, price=_price(run, held))
    return MethodVerdict("holds", held.edits, price=_price(run, held))


def writes(run: RunReport) -> bool:
    """Return whether some checkpoint has clearly more of the facts than the unedited model; a control has not.

    Clearly is twice the interval, because every checkpoint and metric is another chance to be above by accident. So few
    facts that not even all against none would be clear cannot convict a method of writing nothing: there the means decide.
    """
    before = run.base.metrics if run.base else {}
    pairs = [
        (c.metrics[name], before[name])
        for name in LEADING
        if name in before
        for c in run.checkpoints
        if name in c.metrics
    ]
    measured = [(value, other, _error(value), _error(other)) for value, other in pairs]
    telling = [(value, other) for value, other, a, b in measured if a is not None and b is not None and _tells(a, b)]
    if telling:
        return any(above(value, other, times=2) for value, other in telling)
    return not pairs or any((value.mean or 0.0) > (other.mean or 0.0) for value, other in pairs)


def _tells(one: float, two: float) -> bool:
    return 2 * math.hypot(one, two) < 1


def above(value: Measured | None, other: Measured | None, times: float = 1) -> bool:
    """Return whether `value` exceeds `other` by more than `times` the interval of their difference.

    The two are taken as independent. Runs on the same cases are not, so this asks for more than a paired comparison
    would. Without an interval, as for a single fact, nothing is certain.
    """
    if value is None or other is None or value.mean is None or other.mean is None:
        return False
    one, two = _error(value), _error(other)
    return one is not None and two is not None and value.mean - other.mean > times * math.hypot(one, two)


def _error(value: Measured) -> float | None:
    """Return the half-width; where all facts agree, which a bootstrap takes for certainty, at least 3 / n."""
    if value.half == 0 and value.n and value.mean in (0.0, 1.0, -1.0):
        return min(1.0, 3 / value.n)
    return value.half


def _price(run: RunReport, checkpoint: Checkpoint) -> str:
    """Return what the neighbours lost, where that is more than a little."""
    after, before = checkpoint.metrics.get("neighborhood"), run.base.metrics.get("neighborhood") if run.base else None
    if after is None or before is None or not above(before, after):
        return ""
    lost = (before.mean or 0.0) - (after.mean or 0.0)
    if lost <= NEIGHBOURS_LOSE:
        return ""
    return f"neighborhood {mean('neighborhood', after)}, unedited {mean('neighborhood', before)}"


def listing(words: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def order(runs: Sequence[RunReport]) -> list[RunReport]:
    """Return runs of one comparison, those that held longest first; among equals, those that say most."""
    lead = leading(runs)
    states: tuple[_State, ...] = ("holds", "broke", "never", "nothing", "unmeasured")

    def place(run: RunReport) -> tuple[int, int, bool, float]:
        found, value = verdict(run, lead), run.last.metrics.get(lead) if run.last else None
        said = value.mean if value is not None and value.mean is not None else 0.0
        # One edit at a time there is nothing to outlast: what is said decides alone.
        held, price = (found.held or 0, bool(found.price)) if run.sequential else (0, False)
        return states.index(found.state) if run.sequential else 0, -held, price, -said

    return sorted(runs, key=place)


def headline(runs: Sequence[RunReport]) -> str:
    """Return one or more sentences on runs of one mode: those that lasted longest first."""
    lead = leading(runs)
    if not any(run.checkpoints for run in runs):
        return "Nothing has been measured yet."
    return _sequential(runs, lead) if runs[0].sequential else _independent(runs, lead)


def _sequential(runs: Sequence[RunReport], lead: str) -> str:
    """Return "memit holds to 100 edits; rome broke between 10 and 50." """
    found = [(run.label, verdict(run, lead), _short_of(run, lead)) for run in order(runs)]
    clauses: dict[tuple[str, _State], list[str]] = {}
    for label, one, short in found:
        disturbed = short if one.state == "holds" else ""
        disturbed += " but disturbs its neighbours" if one.state == "holds" and one.price else ""
        clauses.setdefault((one.sentence() + disturbed, one.state), []).append(label)
    if len(clauses) > 1:  # a control that writes nothing is no news next to methods that do
        clauses = {key: labels for key, labels in clauses.items() if key[1] != "nothing"}
    return "; ".join(f"{listing(labels)} {_plural(what, len(labels))}" for (what, _), labels in clauses.items()) + "."


def _short_of(run: RunReport, lead: str) -> str:
    """Return how few of its facts a run that holds has at its end, where that is less than most of them."""
    value = run.last.metrics.get(lead) if run.last else None
    if value is None or value.mean is None or value.mean >= MOST_SAID:
        return ""
    return f" with {value.mean * 100:.0f}\u00a0% of its facts {'said' if lead == 'said' else 'written'}"


def _plural(sentence: str, count: int) -> str:
    if count == 1:
        return sentence
    swaps = {"holds": "hold", "of its facts": "of their facts", "disturbs its": "disturb their", "writes": "write"}
    for one, many in swaps.items():
        sentence = sentence.replace(one, many)
    return sentence


def _independent(runs: Sequence[RunReport], lead: str) -> str:
    """Return "One edit at a time, memit says 97 % of its facts, rome 95 % and ft 55 %." """
    doing = [run for run in runs if writes(run)] or runs
    last = [(run.label, value) for run in doing if run.last and (value := run.last.metrics.get(lead)) is not None]
    found = sorted(((label, v.mean) for label, v in last if v.mean is not None), key=lambda pair: -pair[1])
    if not found:
        return "One edit at a time, nothing could be scored."
    verb = "says" if lead == "said" else "writes"
    shares = [f"{share * 100:.0f}\u00a0%" for _, share in found]
    parts = [f"{label} {share}" for (label, _), share in zip(found, shares, strict=True)]
    parts[0] = f"{found[0][0]} {verb} {shares[0]} of its facts"
    return f"One edit at a time, {listing(parts)}."


def gap(runs: Sequence[RunReport]) -> str:
    """Return a sentence on the widest gap between teacher-forced efficacy and what is said, "" if all are narrow."""
    widest: tuple[float, str] = (GAP_FROM, "")
    for run in runs:
        for checkpoint in run.checkpoints:
            forced, said = checkpoint.metrics.get("efficacy"), checkpoint.metrics.get("said")
            if forced is None or said is None or not above(forced, said):
                continue
            by = (forced.mean or 0.0) - (said.mean or 0.0)
            where = f"at {edits(checkpoint.edits)} " if run.sequential else ""
            text = (
                f"{where}{run.label} has efficacy {mean('efficacy', forced)} and says {mean('said', said)} of its facts"
            )
            widest = max(widest, (by, text))
    return f"Teacher-forced numbers flatter: {widest[1]}." if widest[1] else ""
