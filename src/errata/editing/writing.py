"""What a model says, and what came of an edit: refused because it would break the model, or reported in the model's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from errata.edit import Edit, Label
from errata.errors import BadFact, UpdateTooLarge
from errata.fact import Fact, says
from errata.model.generation import context
from errata.model.lm import LM


def check_fits(lm: LM, facts: Sequence[Fact]) -> list[str]:
    """Return the facts' prompts; raises BadFact for one that with its target is longer than what the model can read.

    A model that classifies reads the beginning of a longer text.
    """
    most = context(lm)
    for fact in facts if lm.row.kind != "classifier" else ():
        length = len(lm.tokens.ids(f"{fact.prompt} {fact.target}"))
        if length >= most:
            who = f"the fact about {fact.subject[:40]!r}"
            raise BadFact(f"{who} is {length} tokens long, and {lm.name} reads fewer than {most}: shorten it.")
    return [fact.prompt for fact in facts]


def guard(edit: Edit, limit: float) -> Edit:
    """Return the edit, or refuse an explosion.

    Args:
        limit: largest ‖ΔW‖/‖W‖ of one fact; n facts may change a matrix √n times as much, as independent changes add up to.

    Raises:
        UpdateTooLarge: a matrix would change by more.
    """
    ratios: Mapping[str, float] = edit.report["norm_ratio"]  # type: ignore[assignment]
    limit *= max(1, len(edit.facts)) ** 0.5
    for site, ratio in ratios.items():
        if ratio > limit:
            raise UpdateTooLarge(
                f"the update at {site} is {ratio:.1f} times as large as the matrix itself (limit {limit:g}); nothing "
                "was changed. Lower clamp or lr with --set, or word the fact otherwise."
            )
    return edit


def labelled(edit: Edit, label: Label, author: str = "") -> Edit:
    """Return the edit with its label on and the time of writing; `author` where the label names none.

    Source and reason that the label does not give are those of the first fact that gives any.
    """
    words = label.to_dict()
    words["author"] = label.author or author
    for name in ("source", "reason"):
        words[name] = getattr(label, name) or next((v for f in edit.facts if (v := getattr(f, name))), "")
    return replace(edit, **words, created_at=datetime.now(UTC).isoformat(timespec="seconds"))


def outcome(edit: Edit, before: Sequence[str], after: Sequence[str], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return the edit's report with what the model said before and after, the seconds spent, and notes."""
    rows = [
        {
            "prompt": f.prompt,
            "subject": f.subject,
            "target": f.target,
            "before": b,
            "after": a,
            "said": says(a, f.target),
        }
        for f, b, a in zip(edit.facts, before, after, strict=True)
    ]
    timed = {name: round(value, 4) for name, value in seconds.items()}
    return {**edit.report, "facts": rows, "seconds": timed, "notes": _notes(edit, rows)}


def _notes(edit: Edit, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the user should know although nothing went wrong."""
    notes = [
        f"the model said {r['target']!r} after {r['prompt']!r} already." for r in rows if says(r["before"], r["target"])
    ]
    lost: Any = edit.report.get("forgotten", [])
    notes += [f"edit {old['edit']} is overridden: its key for {old['prompt']!r} is forgotten." for old in lost]
    converged: Any = edit.report.get("converged", [])
    if not all(converged):
        notes.append(f"the loss of {len(converged) - sum(converged)} of {len(converged)} did not reach its stop value.")
    return notes
