"""JSON shapes: what `--json` prints; a contract, from which the tables on a terminal are made, too. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from errata.book.book import Event, Record
    from errata.book.bundle import Bundled
    from errata.book.compact import Compacted
    from errata.book.facts import Conflict, Said
    from errata.book.merge import MergePlan
    from errata.book.states import BookState
    from errata.book.verify import Findings
    from errata.edit import Edit
    from errata.editing.answering import Answer
    from errata.editing.check import Verdict
    from errata.editing.collisions import Collision
    from errata.editing.diff import Difference
    from errata.editing.migrate import Moved
    from errata.editing.served import Delivered
    from errata.export.files import Exported
    from errata.methods.base import Method
    from errata.methods.shared.presets import Preset
    from errata.model.lm import LM
    from errata.model.verify import Check

FACT_FIELDS = ("prompt", "subject", "target", "before", "after", "said")
PARTS = ("stats", "solve", "apply")
PLAIN = ("seq", "id", "method", "stands", "author", "reason", "source", "created_at", "bytes", "sha256")
LABELS = ("tenant", "valid_from", "valid_until")


def answer(given: Answer) -> dict[str, Any]:
    """Return {"prompt", "text", "chat", "of", "top": [{"token", "p"}], "notes": […]}."""
    top = [{"token": token, "p": p} for token, p in given.top]
    row = {"prompt": given.prompt, "text": given.text, "chat": given.chat, "of": given.of}
    return {**row, "top": top, "notes": list(given.notes)}


def edit(written: Edit, size: int) -> dict[str, Any]:
    """Return {"id", "method", "seed", "facts": […], "seconds": {…}, "sites": […], "bytes"}; `size` is its file's."""
    return {
        "id": written.id,
        "method": written.method,
        "seed": written.seed,
        "facts": [{key: fact[key] for key in FACT_FIELDS} for fact in written.report.facts],
        "seconds": {part: written.report.seconds[part] for part in PARTS},
        "sites": list(written.sites),
        "bytes": size,
    }


def record(kept: Record) -> dict[str, Any]:
    """Return one line of the log: who wrote what, when and why, whether it stands, and which older edits it overrode."""
    report: Mapping[str, Any] = kept.meta.get("report") or {}
    row = {name: getattr(kept, name) for name in (*PLAIN, *LABELS)}
    row["forgotten"] = [dict(lost) for lost in report.get("forgotten", ())]
    return row | {"tags": list(kept.tags), "facts": [fact.to_dict() for fact in kept.facts]}


def whole_record(kept: Record, history: Sequence[Event]) -> dict[str, Any]:
    """Return all the book knows of an edit, with what happened to it since."""
    return {**kept.meta, **record(kept), "history": [asdict(event) for event in history]}


def architecture(lm: LM, checks: Sequence[Check]) -> dict[str, Any]:
    """Return {"model", "model_type", "by", "kind", "layers", "width", …, "blocks": […], "checks": [{"what", "holds", "seen"}],
    "profile": settings of methods that were found to suit it}.

    "by" is "row" where the table has one, else "shape"; a line of "blocks" is for layers that are alike. "packing" is what
    matrices are packed as, "beside" how many of them cannot be written.
    """
    from errata.delta import Site
    from errata.stats.profile import kept

    row, kinds = lm.row, dict[Any, list[int]]()
    for layer in range(lm.depth):
        kinds.setdefault((lm.stack(layer), type(lm.module(Site(layer, "block"))).__name__), []).append(layer)
    blocks = [
        {
            "layers": layers, "block": block, "path": stack.blocks, "up": list(stack.up),
            "down": stack.down, "attention": stack.attention,
        }
        for (stack, block), layers in kinds.items()
    ]  # fmt: skip
    return {
        "model": lm.name, "model_type": lm.model.config.model_type, "by": lm.found_by, "kind": row.kind, "layers": lm.depth,
        "width": lm.width, "transposed": row.transposed, "post_norm": row.post_norm, "experts": row.experts,
        "packing": lm.packing, "beside": sum(not lm.writable(Site(layer, role)) for layer in range(lm.depth)
                                             for role in ("up", "down", "attention") if lm.has(Site(layer, role))),
        "cache": row.cache, "blocks": blocks, "checks": [check._asdict() for check in checks],
        "profile": {method: dict(settings) for method, settings in kept(lm).settings.items() if settings},
    }  # fmt: skip


def method(name: str, cls: type[Method], presets: Iterable[Preset] = ()) -> dict[str, Any]:
    """Return {"name", "title", "paper", "settings": [{"name", "type", "default", "help"}], "presets": [preset]}.

    A preset is {"name", "title", "settings": {name: [value, source]}}.

    Title and paper are the first line and the first link of the docstring of the file the method is in.
    """
    from errata.config import describe

    settings = [
        {"name": key, "type": kind, "default": None if default is MISSING else default, "help": text}
        for key, kind, default, text in describe(cls)
    ]
    about = import_module(cls.__module__).__doc__ or ""
    paper = re.search(r"https?://[^\s,;)]+[^\s,;.)]", about)
    return {
        "name": name,
        "title": about.strip().partition("\n")[0],
        "paper": paper.group() if paper else "",
        "settings": settings,
        "presets": [
            {"name": p.name, "title": p.title, "settings": {key: [p.settings[key], p.source[key]] for key in p.settings}}
            for p in presets if name in (p.name, p.method)
        ],
    }  # fmt: skip


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


def tag(name: str, event: Event, state: BookState) -> dict[str, Any]:
    """Return {"name", "seq", "at", "author", "reason", "edits"}."""
    who = {"author": event.author, "reason": event.reason}
    return {"name": name, "seq": event.seq, "at": event.at, **who, "edits": len(state.ids)}


def findings(found: Findings) -> dict[str, Any]:
    """Return what `errata verify` found, and whether all is well."""
    return {"whole": not found.problems, **asdict(found)}


def merged(plan: MergePlan, dry_run: bool) -> dict[str, Any]:
    """Return {"done", "took": […], "restored", "dropped", "left_out", "shared", "refused", "ancestor", "clashes": […]}."""
    took = [{"id": r.id, "facts": [{"prompt": f.prompt, "target": f.target} for f in r.facts]} for r in plan.take]
    lists = {"restored": plan.restore, "dropped": plan.drop, "left_out": plan.left_out, "shared": plan.shared}
    lists |= {"refused": plan.refused, "ancestor": plan.ancestor}
    return {"done": not dry_run, "took": took, **lists, "clashes": [asdict(clash) for clash in plan.clashes]}


def conflicts(found: Iterable[Conflict], collisions: Iterable[Collision]) -> dict[str, Any]:
    """Return {"facts": [{"kind", "first", "second"}], "keys": [{"site", "edit_id", "other_id", "share"}]}."""
    pairs = [{"kind": one.kind, "first": said(one.first), "second": said(one.second)} for one in found]
    return {"facts": pairs, "keys": [asdict(one) for one in collisions]}


def verdicts(found: Sequence[Verdict]) -> dict[str, Any]:
    """Return {"facts": [{"edit", "prompt", "target", "said", "status", "by", "probes"}], "counts", "dropped"}."""
    facts = [
        {
            "edit": v.edit_id,
            "prompt": v.fact.prompt,
            "target": v.fact.target,
            "said": v.said,
            "status": v.status,
            "by": v.by,
            "probes": {
                kind: {"right": right, "asked": asked, **({"made": True} if kind in v.made else {})}
                for kind, (right, asked) in v.probes.items()
            },
        }
        for v in found
    ]
    counts: dict[str, int] = {}
    for v in found:
        counts[v.status] = counts.get(v.status, 0) + 1
    return {"facts": facts, "counts": counts, "dropped": sorted({v.edit_id for v in found if v.dropped})}


def moved(one: Moved) -> dict[str, Any]:
    """Return {"prompt", "subject", "target", "edit", "outcome", "said", "new_edit", "why"}."""
    fact = {"prompt": one.fact.prompt, "subject": one.fact.subject, "target": one.fact.target}
    return fact | {
        "edit": one.edit_id, "outcome": one.outcome, "said": one.said, "new_edit": one.new_id, "why": one.why,
    }  # fmt: skip


def compacted(found: Compacted) -> dict[str, Any]:
    """Return {"removed", "forgotten", "before", "after"}."""
    return asdict(found)


def bundled(done: Bundled) -> dict[str, Any]:
    """Return {"path", "base", "fingerprint", "edits", "events", "bytes", "head", "commands", "signers"}."""
    return asdict(done)


def exported(done: Exported) -> dict[str, Any]:
    """Return {"directory", "form", "model", "at", "edits": […], "parts": […]}."""
    about = {"directory": str(done.directory), "form": done.form, "model": done.model}
    return about | {"at": done.at, "edits": list(done.edits), "parts": [asdict(part) for part in done.parts]}


def delivered(done: Delivered) -> dict[str, Any]:
    """Return what `exported` does, and {"url", "name", "path", "answer", "models", "model", "already", "rank", "asked"}."""
    return exported(done.exported) | asdict(done.pushed) | {
        "base": done.exported.model, "rank": done.rank, "asked": asdict(done.asked) if done.asked else None,
    }  # fmt: skip
