"""Compute an edit and say what came of it: refused because it would break the model, or reported in the model's words."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import torch

from errata.delta import Columns, Graft, LowRank, Site
from errata.edit import Edit, Label, Report
from errata.errors import BadFact, UnknownSite, UpdateTooLarge
from errata.fact import Fact, answered
from errata.methods.base import Method
from errata.model.generation import context
from errata.model.lm import LM
from errata.model.query import Prompt, Query
from errata.stats.store import Progress

MAX_NORM_RATIO: Final = 5.0  # ‖ΔW‖/‖W‖ above which one fact's update is an explosion, not an edit


def check_fits(lm: LM, facts: Sequence[Fact]) -> None:
    """Raise BadFact for a fact that with its target is longer than what the model can read.

    A model that classifies reads the beginning of a longer text.
    """
    most = context(lm)
    for fact in facts if lm.row.kind != "classifier" else ():
        length = len(lm.tokens.ids(lm.tokens.join(Query.of(fact))))
        if length >= most:
            who = f"the fact about {(fact.subject or fact.prompt)[:40]!r}"
            raise BadFact(f"{who} is {length} tokens long, and {lm.name} reads fewer than {most}: shorten it.")


def check_room(lm: LM, prompt: Prompt) -> int:
    """Return how many tokens may follow a prompt; many where the model has no limit.

    Raises:
        BadFact: the prompt leaves room for none. A model that classifies reads the beginning of a longer text.
    """
    most = context(lm)
    length = len(lm.tokens.opening(prompt)) if lm.row.kind != "classifier" else 0
    if length >= most:
        raise BadFact(f"the prompt is {length} tokens long, and {lm.name} reads {most} with its answer: shorten it.")
    return most - length


def solve(  # noqa: PLR0913, PLR0917
    lm: LM,
    method: Method,
    facts: Sequence[Fact],
    past: Sequence[Edit],
    limit: float | None,
    base: str | None = None,
    progress: Progress | None = None,
) -> tuple[Edit, dict[str, float]]:
    """Compute an edit, as every edit here is: facts that fit, statistics, the mathematics, and no explosion.

    Args:
        past: the edits that stand, oldest first. limit: as `guard`; None lets any size through.
        base: what the book calls the model, which in older ones is another word than today's; None takes today's.
        progress: is told how much of the statistics is read, where some are needed that are not there yet.

    Returns:
        the edit, which stands nowhere yet, and the seconds spent on ``stats`` and ``solve``.

    Raises:
        BadFact: a fact is too long for the model. UpdateTooLarge: the update is an explosion.
        UnknownSite, UnsupportedModel, NotFinite, …: as `Method.solve`.
    """
    check_fits(lm, facts)
    asked = time.perf_counter()
    method.prepare(lm, progress)
    ready = time.perf_counter()
    edit = method.solve(lm, facts, past)
    edit = edit if base in (None, edit.base) else replace(edit, base=base)
    seconds = {"stats": ready - asked, "solve": time.perf_counter() - ready}
    return edit if limit is None else guard(edit, limit), seconds


def guard(edit: Edit, limit: float) -> Edit:
    """Return the edit, or refuse an explosion.

    Args:
        limit: largest ‖ΔW‖/‖W‖ of one fact; n facts may change a matrix √n times as much, as independent changes add up to.

    Raises:
        UpdateTooLarge: a matrix would change by more.
    """
    limit *= max(1, len(edit.facts)) ** 0.5
    for site, ratio in edit.report.norm_ratio.items():
        if ratio > limit:
            raise UpdateTooLarge(
                f"the update at {site} is {ratio:.1f} times as large as the matrix itself (limit {limit:g}); nothing "
                "was changed. Lower clamp or lr with --set, or word the fact otherwise."
            )
    return edit


def measured(lm: LM, edit: Edit, known: dict[Site, float] | None = None) -> dict[Site, float]:
    """Return ‖ΔW‖/‖W‖ at each matrix of an edit, whatever its report says; infinite where it is no number.

    Args:
        known: ‖W‖ of matrices measured before, to which those of others are added: to measure one takes longest.
    """
    found, known = dict[Site, float](), {} if known is None else known
    for site in edit.matrices:
        delta = edit.deltas[site]
        assert not isinstance(delta, Graft)
        if site not in known:
            base = lm.weights.base(site).detach()
            known[site] = float(torch.linalg.vector_norm(base, dtype=torch.float32))
        found[site] = delta.norm() / known[site] if delta.isfinite() and known[site] else float("inf")
    return found


def misfit(lm: LM, edit: Edit, most: float, known: dict[Site, float] | None = None) -> str:
    """Return why an edit that is as it was written cannot stand in this model, or "".

    Args:
        most: largest ‖ΔW‖/‖W‖ of one fact; of n facts √n times that. known: as `measured`.
    """
    for site in edit.matrices:
        delta = edit.deltas[site]
        assert not isinstance(delta, Graft)
        try:
            out, width = lm.shape(site)
        except UnknownSite as error:
            return str(error)
        shape, columns = delta.shape, isinstance(delta, Columns)
        if shape[0] != out or (shape[1] > width if columns else shape[1] != width):
            return f"its change at {site} is of {shape[0]} × {shape[1]}, the matrix of {out} × {width}."
        if isinstance(delta, Columns) and len(delta.index) and int(delta.index.min()) < 0:
            return f"its change at {site} is of a column before the first."
        if isinstance(delta, LowRank) and delta.left.shape[1] != delta.right.shape[1]:
            return f"its factors at {site} have ranks {delta.left.shape[1]} and {delta.right.shape[1]}."
        if not delta.isfinite():
            return f"its change at {site} is not finite."
    limit = most * max(1, len(edit.facts)) ** 0.5
    for site, ratio in measured(lm, edit, known).items():
        if not ratio <= limit:
            return f"its change at {site} is {ratio:.3g} times as large as the matrix."
    return ""


def labelled(edit: Edit, label: Label, author: str = "") -> Edit:
    """Return the edit with its label on and the time of writing; `author` where the label names none.

    Source and reason that the label does not give are those of the first fact that gives any.
    """
    words = label.to_dict()
    words["author"] = label.author or author
    for name in ("source", "reason"):
        words[name] = getattr(label, name) or next((v for f in edit.facts if (v := getattr(f, name))), "")
    return replace(edit, **words, created_at=datetime.now(UTC).isoformat(timespec="seconds"))


def outcome(
    edit: Edit,
    before: Sequence[str],
    after: Sequence[str],
    seconds: Mapping[str, float],
    strange: Set[str] = frozenset(),
) -> Report:
    """Return the edit's report with what the model said before and after, the seconds spent, and notes.

    Args:
        strange: answers that the model can hardly say, as `errata.editing.sayable` finds them.
    """
    rows = [
        {
            "prompt": f.prompt,
            "subject": f.subject,
            "target": f.target,
            "before": b,
            "after": a,
            "said": answered(f, a),
            **({"chat": True} if f.chat else {}),
        }
        for f, b, a in zip(edit.facts, before, after, strict=True)
    ]
    timed = {name: round(value, 4) for name, value in seconds.items()}
    return edit.report.plus(facts=rows, seconds=timed, notes=[*edit.report.notes, *_notes(edit, rows, strange)])


def _notes(edit: Edit, rows: Sequence[Mapping[str, Any]], strange: Set[str]) -> list[str]:
    """Return what the user should know although nothing went wrong."""
    notes = [
        f"the model said {r['target']!r} after {r['prompt']!r} already."
        for fact, r in zip(edit.facts, rows, strict=True)
        if answered(fact, r["before"])
    ]
    lost, converged = edit.report.forgotten, edit.report.converged
    missed = [r for r in rows if not r["said"]]
    notes += [f"edit {old['edit']} is overridden: its key for {old['prompt']!r} is forgotten." for old in lost]
    why = "" if all(converged) or "steps" not in edit.config else " (its loss did not reach its stop value)"
    tries = "more steps (--set steps=…), another method" if "steps" in edit.config else "another method"
    for r in missed:
        said = " ".join(r["after"].split())
        other = f"try {tries}, or a prompt that ends right before the answer"
        notes.append(
            f"{r['target']!r} is not said after {r['prompt']!r}{why}; the model says {said[:60]!r}. Drop edit {edit.id[:8]} "
            f"and {'choose an answer that the model can say' if r['target'] in strange else other}."
        )
    return notes
