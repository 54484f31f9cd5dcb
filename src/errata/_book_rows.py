"""What the commands about the book print with `--json`; a contract, as in `_rows`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from errata.book.book import Event
    from errata.book.compact import Compacted
    from errata.book.facts import Conflict, Said
    from errata.book.merge import Plan
    from errata.book.states import State
    from errata.book.verify import Findings
    from errata.checking import Verdict
    from errata.collisions import Collision
    from errata.comparing import Difference
    from errata.export import Part
    from errata.moving import Moved
    from errata.push import Pushed


def said(one: Said | None) -> dict[str, Any] | None:
    """Return {"prompt", "subject", "target", "edit"}, or None."""
    if one is None:
        return None
    return {"prompt": one.fact.prompt, "subject": one.fact.subject, "target": one.fact.target, "edit": one.edit_id}


def difference(found: Difference) -> dict[str, Any]:
    """Return {"a", "b", "dropped", "added", "facts": [{"before", "after"}], "sites": […]}."""
    return {
        "a": asdict(found.a),
        "b": asdict(found.b),
        "dropped": found.dropped,
        "added": found.added,
        "facts": [{"before": said(change.before), "after": said(change.after)} for change in found.facts],
        "sites": [asdict(site) for site in found.sites],
    }


def tag(name: str, event: Event, state: State) -> dict[str, Any]:
    """Return {"name", "seq", "at", "author", "reason", "edits"}."""
    who = {"author": event.author, "reason": event.reason}
    return {"name": name, "seq": event.seq, "at": event.at, **who, "edits": len(state.ids)}


def findings(found: Findings) -> dict[str, Any]:
    """Return what `errata verify` found, and whether all is well."""
    return {"whole": not found.problems, **asdict(found)}


def merged(plan: Plan, dry_run: bool) -> dict[str, Any]:
    """Return {"done", "took": […], "restored", "dropped", "left_out", "shared", "clashes": […]}."""
    took = [{"id": r.id, "facts": [{"prompt": f.prompt, "target": f.target} for f in r.facts]} for r in plan.take]
    lists = {"restored": plan.restore, "dropped": plan.drop, "left_out": plan.left_out, "shared": plan.shared}
    return {"done": not dry_run, "took": took, **lists, "clashes": [asdict(clash) for clash in plan.clashes]}


def conflicts(found: Iterable[Conflict], collisions: Iterable[Collision]) -> dict[str, Any]:
    """Return {"facts": [{"kind", "first", "second"}], "keys": [{"site", "edit_id", "other_id", "share"}]}."""
    pairs = [{"kind": one.kind, "first": said(one.first), "second": said(one.second)} for one in found]
    return {"facts": pairs, "keys": [asdict(one) for one in collisions]}


def verdicts(found: Sequence[Verdict], dropped: Sequence[str]) -> dict[str, Any]:
    """Return {"facts": [{"edit", "prompt", "target", "said", "status", "by", "probes"}], "counts", "dropped"}."""
    facts = [
        {
            "edit": v.edit_id,
            "prompt": v.fact.prompt,
            "target": v.fact.target,
            "said": v.said,
            "status": v.status,
            "by": v.by,
            "probes": {kind: {"right": right, "asked": asked} for kind, (right, asked) in v.probes.items()},
        }
        for v in found
    ]
    counts: dict[str, int] = {}
    for v in found:
        counts[v.status] = counts.get(v.status, 0) + 1
    return {"facts": facts, "counts": counts, "dropped": list(dropped)}


def moved(one: Moved) -> dict[str, Any]:
    """Return {"prompt", "subject", "target", "edit", "outcome", "said", "new_edit", "why"}."""
    fact = {"prompt": one.fact.prompt, "subject": one.fact.subject, "target": one.fact.target}
    return fact | {
        "edit": one.edit_id, "outcome": one.outcome, "said": one.said, "new_edit": one.new_id, "why": one.why,
    }  # fmt: skip


def compacted(found: Compacted) -> dict[str, Any]:
    """Return {"removed", "forgotten", "before", "after"}."""
    return asdict(found)


def exported(directory: Path, form: str, state: State, model: str, parts: Sequence[Part]) -> dict[str, Any]:
    """Return {"directory", "form", "model", "at", "edits": […], "parts": […]}."""
    about = {"directory": str(directory), "form": form, "model": model, "at": state.name, "edits": list(state.ids)}
    return about | {"parts": [asdict(part) for part in parts]}


def pushed(found: Pushed) -> dict[str, Any]:
    """Return {"url", "name", "path", "answer", "models"}."""
    return asdict(found)
