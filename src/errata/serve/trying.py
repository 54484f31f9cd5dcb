"""An edit tried and put back: what is said before and after, of the fact, of paraphrases and of neighbours, and the gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from errata.answers import says
from errata.editing.editor import Editor
from errata.editing.gates import GateCheck, Gates, in_force, stricter
from errata.editing.made import candidates, with_probes
from errata.fact import Fact
from errata.methods.base import Method
from errata.model.query import Query

LIGHTS: Final = Gates(
    said=1.0, paraphrase=0.5, neighborhood=0.9, unrelated=0.9
)  # where neither request nor book has gates


def tried(editor: Editor, facts: Sequence[Fact], method: Method, gates: Gates | None) -> dict[str, Any]:
    """Return what would come of writing facts: {"rows": [{"kind", "prompt", "answer", "before", "after", …}], "gates": […]}.

    Nothing is kept: the model is put back to the bit, and the book is not touched.
    """
    facts = with_probes(editor.lm, facts, editor.standing)
    asked = [("fact", Query.asked(f), f.target, False) for f in facts]
    asked += [(p.kind, Query.asked(f, p.prompt), p.answer, p.made) for f in facts for p in f.probes]
    queries = [query for _, query, *_ in asked]
    room = editor.lm.room(answer for *_, answer, _ in asked)
    lights = stricter(in_force(editor.book), gates) or LIGHTS
    before = editor.lm.generate(queries, room)
    keeper = GateCheck(editor.lm, lights, facts, editor.standing)
    with editor.rehearse([facts], method) as edits:
        after = editor.lm.generate(queries, room)
        figures = keeper.figures()
        seconds = [dict(edit.report.get("seconds", {})) for edit in edits]
    rows = [
        {
            "kind": kind, "prompt": query.prompt, "answer": answer, "made": made, "before": was, "after": now,
            "moved": was.strip() != now.strip(), "said": says(now, answer, reply=query.turn) if answer else None,
        }
        for (kind, query, answer, made), was, now in zip(asked, before, after, strict=True)
    ]  # fmt: skip
    return {"rows": rows, "gates": [figure.to_dict() for figure in figures], "seconds": seconds}


def subject(editor: Editor, prompt: str) -> str:
    """Return what a prompt is likeliest about, as it stands there; "" where nothing can be.

    Of the names in it (words with capitals, subjects of the book, else any word that is not small) the one without which the
    model is least sure of what it says.
    """
    found = candidates(prompt, [f.subject for edit in editor.standing for f in edit.facts if f.subject])
    if len(found) < 2:
        return "".join(found)
    lm = editor.lm
    said = lm.top(prompt, 1)[0][0].strip()
    if not said:
        return max(found, key=len)
    queries = [Query(prompt, said), *(Query(prompt.replace(name, "it"), said) for name in found)]
    whole, *without = (float(lp.sum()) for lp in lm.logprobs(queries))
    return max(zip(found, without, strict=True), key=lambda pair: (whole - pair[1], len(pair[0])))[0]
