"""What the commands about the book print with `--json`; a contract, as in `_rows`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from errata.comparing import Difference
    from errata.registry.facts import Said
    from errata.registry.log import Event
    from errata.registry.states import State
    from errata.registry.verifying import Findings


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
