"""An edit tried and put back: what is said before and after, of the fact, of paraphrases and of neighbours, and the gates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from errata.answers import says
from errata.data.readers.own import primer_probes
from errata.editing.editor import Editor
from errata.editing.gates import GateCheck, Gates, in_force, stricter
from errata.fact import Fact, Probe, occurrences, plain, question
from errata.methods.base import Method
from errata.model.query import Query

NEIGHBOURS: Final = 6  # questions about other subjects that are asked
LIGHTS: Final = Gates(
    said=1.0, paraphrase=0.5, neighborhood=0.9, unrelated=0.9
)  # where neither request nor book has gates
CONTEXTS: Final = ("It was a long day. {}", "Here is what is known. {}", "The book was open on the table. {}")
_SMALL: Final = frozenset(
    "a an and are as at by does did do for from has have how in is it of on or the this to was were what when where which who "
    "whom whose why with that answer question complete".split()
)


def tried(editor: Editor, facts: Sequence[Fact], method: Method, gates: Gates | None) -> dict[str, Any]:
    """Return what would come of writing facts: {"rows": [{"kind", "prompt", "answer", "before", "after", …}], "gates": […]}.

    Nothing is kept: the model is put back to the bit, and the book is not touched.
    """
    facts = [with_probes(editor, fact) for fact in facts]
    asked = [("fact", Query.asked(f), f.target) for f in facts]
    asked += [(p.kind, Query.asked(f, p.prompt), p.answer) for f in facts for p in f.probes]
    queries = [query for _, query, _ in asked]
    room = editor.lm.room(answer for *_, answer in asked)
    lights = stricter(in_force(editor.book), gates) or LIGHTS
    before = editor.lm.generate(queries, room)
    keeper = GateCheck(editor.lm, lights, facts, editor.standing)
    with editor.rehearse([facts], method) as edits:
        after = editor.lm.generate(queries, room)
        figures = keeper.figures()
        seconds = [dict(edit.report.get("seconds", {})) for edit in edits]
    rows = [
        {
            "kind": kind, "prompt": query.prompt, "answer": answer, "before": was, "after": now,
            "moved": was.strip() != now.strip(), "said": says(now, answer, reply=query.turn) if answer else None,
        }
        for (kind, query, answer), was, now in zip(asked, before, after, strict=True)
    ]  # fmt: skip
    return {"rows": rows, "gates": [figure.to_dict() for figure in figures], "seconds": seconds}


def with_probes(editor: Editor, fact: Fact) -> Fact:
    """Return a fact with something to ask about it, where nothing is: the primer's own questions, or what can be made up.

    Neighbours are the same question about other subjects of the book; their answers are what the model says now.
    """
    if fact.probes or not fact.subject:
        return fact
    if found := primer_probes(fact.prompt, fact.subject, fact.target) if editor.name == "primer" else []:
        return replace(fact, probes=tuple(found))
    made = [Probe("paraphrase", form.format(fact.prompt), fact.target) for form in CONTEXTS if not fact.chat]
    own, others = plain(fact.subject), dict[str, str]()
    for other in (f for edit in editor.standing for f in edit.facts if f.subject):
        if plain(other.subject) != own and question(other)[1] == question(fact)[1]:
            others[other.prompt] = ""
        elif plain(other.subject) != own:
            others.setdefault(fact.prompt.replace(fact.subject, other.subject), "")
    prompts = list(others)[-NEIGHBOURS:]
    said = editor.lm.generate([Query.asked(fact, prompt) for prompt in prompts]) if prompts else []
    near = [Probe("neighborhood", p, text.strip(" .\n")) for p, text in zip(prompts, said, strict=True)]
    return replace(fact, probes=(*made, *near))


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


def candidates(prompt: str, known: Sequence[str] = ()) -> list[str]:
    """Return what of a prompt may be its subject, longest first."""
    names = [name for name in dict.fromkeys(known) if occurrences(prompt, name)]
    if names:
        return [n for n in names if not any(n != other and n in other for other in names)]
    words = list(re.finditer(r"[\w'’.-]*\w", prompt))
    runs: list[tuple[int, int]] = []
    for word in words:
        text = word.group()
        if not text[:1].isupper() or text.casefold() in _SMALL:
            continue
        if runs and prompt[runs[-1][1] : word.start()] in (" ", " of ", " de ", " the ", " of the ", " von ", " van "):
            runs[-1] = (runs[-1][0], word.end())
        else:
            runs.append((word.start(), word.end()))
    found = [prompt[a:b] for a, b in runs] or [w.group() for w in words if w.group().casefold() not in _SMALL]
    return sorted({name for name in found if occurrences(prompt, name)}, key=len, reverse=True)
