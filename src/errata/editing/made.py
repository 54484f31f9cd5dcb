"""Probes that make themselves: something to ask about a fact that came with nothing, so that no gate is empty.

    with_probes(lm, facts, standing, ("paraphrase", "neighborhood"))

Paraphrases are the other wordings of its relation, where the primer's world or the table of public facts has it; else what the
model itself offers as other words for the prompt, kept where it answers them as it answers the prompt, and the prompt after
another sentence. Neighbours are the same question about other subjects: of that world or table, else of what stands, else of
the table. Unrelated ones ask something else, and so do neighbours of what names nothing. Each is marked as made, and answers
are taken from the model as it is when they are made: a neighbour is what must not move, whether it is true or not.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from errata.answers import is_unspaced, says
from errata.data.common import relations
from errata.data.readers.own import primer_questions
from errata.edit import Edit
from errata.evaluate.scorer import Scorer
from errata.fact import Fact, Probe, occurrences, plain, question
from errata.model.generation import generate_tokens, top_k
from errata.model.lm import LM
from errata.model.query import Prompt, Query

KINDS: Final = ("paraphrase", "neighborhood", "unrelated")
EACH: Final = 6  # probes of a kind
LEAST: Final = 3  # neighbours whose answers the model knows, from which on others are not asked
WORDS: Final = 3  # of an answer that is what the model happens to say
TRIES: Final = 8  # rephrasings that are sampled
LENGTH: Final = 32  # tokens of one, and of an answer
CONTEXTS: Final = ("It was a long day. {}", "Here is what is known. {}", "The book was open on the table. {}")
_SHOWN: Final = 3  # relations that show the model what to rephrase is
_ARROW: Final = " ~ "
_SMALL: Final = frozenset(
    "a an and are as at by does did do for from has have how in is it of on or the this to was were what when where which who "
    "whom whose why with that answer question complete".split()
)
_Other = tuple[str, str, str]  # what it is about, the text, and the answer that is known of it ("" if none is)


@dataclass(slots=True)
class _Sheet:
    """What could be asked about a fact: texts, and questions about others; subjects that may move as well are `moved`."""

    fact: Fact
    moved: frozenset[str]
    paraphrases: list[str] = field(default_factory=list)
    offered: list[str] = field(default_factory=list)  # as paraphrases, by the model itself: to be looked at
    neighbours: list[_Other] = field(default_factory=list)
    unrelated: list[_Other] = field(default_factory=list)


def with_probes(
    lm: LM,
    facts: Sequence[Fact],
    standing: Sequence[Edit] = (),
    kinds: Sequence[str] = KINDS,
    *,
    moved: Sequence[Fact] | None = None,
    sampled: bool = True,
) -> list[Fact]:
    """Return the facts, each with made probes of those `kinds` that it has none of.

    Args:
        lm: the model, in the state that answers are taken from. standing: what else it was taught, for neighbours.
        moved: facts of which the model is to say something else than now, so that none is a neighbour; `facts` unless given.
        sampled: let the model rephrase what no table has.
    """
    times = Counter(plain(fact.subject) for fact in (facts if moved is None else moved))
    others = [f for edit in standing for f in edit.facts]
    sheets = {
        number: _sheet(lm, fact, others, frozenset(times - Counter([plain(fact.subject)])))
        for number, fact in enumerate(facts)
        if any(_lacks(fact, kind) for kind in kinds)
    }
    if sampled and "paraphrase" in kinds and lm.row.kind == "decoder":
        for sheet in sheets.values():
            if not sheet.paraphrases and _lacks(sheet.fact, "paraphrase"):
                sheet.offered = _rephrased(lm, sheet.fact)
    said = _said(lm, list(sheets.values()))
    found = {number: [p for p in _probes(sheet, said) if p.kind in kinds] for number, sheet in sheets.items()}
    return [
        replace(fact, probes=(*fact.probes, *(p for p in found.get(number, ()) if _lacks(fact, p.kind))))
        for number, fact in enumerate(facts)
    ]


def _lacks(fact: Fact, kind: str) -> bool:
    return not any(probe.kind == kind and probe.answer for probe in fact.probes)


def _sheet(lm: LM, fact: Fact, others: Sequence[Fact], moved: frozenset[str]) -> _Sheet:
    """Collect what could be asked about a fact."""
    sheet = _Sheet(fact, moved)
    if lm.name == "primer":
        same, near, apart = primer_questions(fact.prompt, fact.subject, fact.target)
        sheet.paraphrases, sheet.neighbours, sheet.unrelated = list(same), _still(sheet, near), _still(sheet, apart)
    if not sheet.paraphrases:
        _from_table(sheet)
    sheet.neighbours = sheet.neighbours or _still(sheet, _substituted(fact, others))
    sheet.neighbours = sheet.neighbours or _still(sheet, _elsewhere(fact, 1))
    sheet.unrelated = sheet.unrelated or _still(sheet, _elsewhere(fact, 0))
    return sheet


def _still(sheet: _Sheet, others: Iterable[_Other]) -> list[_Other]:
    """Return the first of the questions that no other fact is to move, each once."""
    found = {one[1]: one for one in others if plain(one[0]) not in sheet.moved}
    return list(islice(found.values(), EACH))


def _from_table(sheet: _Sheet) -> None:
    """Take in the other wordings of a fact's relation and its other subjects, if the table of public facts has it."""
    fact = sheet.fact
    for relation in relations() if fact.subject else ():
        forms = (*relation.wordings, *relation.questions)
        asked = [form.replace("{}", fact.subject) for form in forms]
        if (prompt := fact.prompt.strip()) not in asked:
            continue
        form = forms[asked.index(prompt)]
        fitting = relation.questions if fact.chat else relation.wordings
        sheet.paraphrases = [w.replace("{}", fact.subject) for w in fitting if w != form][:EACH]
        rows = [row for row in relation.rows if plain(row[0]) != plain(fact.subject) and row[1] != fact.target]
        sheet.neighbours = _still(sheet, ((subject, form.replace("{}", subject), answer) for subject, answer in rows))


def _substituted(fact: Fact, others: Sequence[Fact]) -> list[_Other]:
    """Return the same question about other subjects: of facts that ask the same, of other facts, of the table."""
    subject = fact.subject or next((name for name in candidates(fact.prompt) if name[:1].isupper()), "")
    if not subject:
        return []
    same, rest = list[str](), list[str]()
    for other in others:
        if other.subject and plain(other.subject) != plain(subject):
            (same if question(other)[1] == question(fact)[1] else rest).append(other.subject)
    public = [row[0] for relation in relations() for row in relation.rows[:2]]
    start = fact.span[0] if fact.span else fact.prompt.index(subject)
    before, after = fact.prompt[:start], fact.prompt[start + len(subject) :]
    names = [name for name in dict.fromkeys([*same[::-1], *rest[::-1], *public]) if plain(name) != plain(subject)]
    return [(name, f"{before}{name}{after}", "") for name in names]


def _elsewhere(fact: Fact, place: int) -> Iterator[_Other]:
    """Yield questions of other relations, about what the fact is not about: of each relation the one in this place."""
    for relation in relations():
        forms = relation.questions if fact.chat else relation.wordings
        about = question(fact)[1]
        if any(plain(form.replace("{}", "…")).rstrip(" .?!:") == about for form in relation.wordings):
            continue
        rows = [row for row in relation.rows if not occurrences(fact.prompt, row[0]) and row[1] != fact.target]
        for subject, answer in rows[place : place + 1]:
            yield subject, forms[0].replace("{}", subject), answer


def _rephrased(lm: LM, fact: Fact) -> list[str]:
    """Return what the model offers as other words for a prompt, as far as these could ask the same."""
    shown = [(r.asked(r.rows[0][0])[0], r.asked(r.rows[0][0])[1]) for r in relations()[:_SHOWN]]
    text = "".join(f"{one}{_ARROW}{other}\n" for one, other in shown) + f"{fact.prompt.strip()}{_ARROW}".rstrip()
    asked = Query(f"Say this in other words, in one line: {fact.prompt}", role="user") if fact.chat else Query(text)
    keys = [f"{hashlib.sha256(fact.prompt.encode()).hexdigest()} {number}" for number in range(TRIES)]
    starts = [lm.tokens.opening(asked)] * TRIES
    drawn = generate_tokens(lm, starts, LENGTH, pick=top_k(keys, LENGTH, 0), ends=lm.endings())
    found = dict.fromkeys(lm.tokens.lines(ids, 1).split(_ARROW.strip())[0].strip(" \"'") for ids in drawn)
    return [text for text in found if _could_ask(text, fact)]


def _could_ask(text: str, fact: Fact) -> bool:
    """Say whether a text can be another wording of a prompt: about its subject, open where the answer goes, and without it."""
    named = not fact.subject or bool(occurrences(text, fact.subject))
    open_ended = fact.chat or text[-1:] not in ".!?"
    other = plain(text) != plain(fact.prompt) and len(text) <= 3 * len(fact.prompt)
    return bool(text) and named and open_ended and other and not occurrences(text, fact.target)


def _said(lm: LM, sheets: Sequence[_Sheet]) -> dict[Prompt, str]:
    """Return what the model says to all that has to be known."""
    wanted: dict[Prompt, None] = {}
    for sheet in sheets:
        texts = [prompt for _, prompt, _ in (*sheet.neighbours, *sheet.unrelated)]
        texts += [sheet.fact.prompt, *sheet.offered] if sheet.offered else []
        wanted |= dict.fromkeys(Query.asked(sheet.fact, text) for text in texts)
    return {asked: text or "" for asked, text in Scorer(lm).said(wanted, LENGTH).items()} if wanted else {}


def _probes(sheet: _Sheet, said: dict[Prompt, str]) -> Iterator[Probe]:
    fact = sheet.fact

    def heard(prompt: str) -> str:
        return said.get(Query.asked(fact, prompt), "")

    own = brief(heard(fact.prompt))
    same = [text for text in sheet.offered if own and says(heard(text), own, reply=fact.chat)]
    framed = [form.format(fact.prompt) for form in CONTEXTS]
    for text in (sheet.paraphrases or [*same[:LEAST], *framed])[:EACH]:
        yield Probe("paraphrase", text, fact.target, made=True)
    for kind, pairs in (("neighborhood", sheet.neighbours), ("unrelated", sheet.unrelated)):
        known = [(text, answer) for _, text, answer in pairs if answer and says(heard(text), answer, reply=fact.chat)]
        if len(known) < min(LEAST, len(pairs)):
            known = [(text, brief(heard(text))) for _, text, _ in pairs]
        for prompt, answer in known[:EACH]:
            if answer:
                yield Probe(kind, prompt, answer, made=True)


def brief(text: str) -> str:
    """Return the beginning of what was said, short enough that an edit elsewhere should leave it as it is."""
    first = next((part.strip() for part in re.split(r"[.!?;:,\n。！？；：，]", text) if part.strip()), "")
    if any(map(is_unspaced, first)):
        return first[: 2 * WORDS]
    return " ".join(first.split()[:WORDS])


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
