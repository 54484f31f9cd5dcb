"""Make a model no longer tell something: in place of the answer what it says where it knows none, measured before and after.

    wanted = Fact(prompt="The capital of France is", subject="France", target="Paris")      # the target is to be forgotten
    found = forget(editor, wanted)
    found.phrase, found.before.said, found.after.said       # "unknown", ["Paris", …], ["unknown", …]
    editor.drop(*found.edits)                               # it is an edit as any other

What is said instead is the model's own: of many ways not to answer the one it finds likeliest where it cannot know, about
subjects that do not exist, and comes to say. It is written at the prompt, at other wordings that give the answer away, and at
the question asked backwards if that one does. Whether the answer is gone is more than whether it is said: a *membership check*
compares its likelihood with that of other answers to the same question, which is how one who has the likelihoods would look
for it (the truth ratio of TOFU, https://arxiv.org/abs/2401.06121). What is said of others, before and after, is what it cost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import exp
from typing import Any, Final

from errata.answers import contains, same_answer
from errata.data.common import relations
from errata.data.readers.own import primer_questions
from errata.data.wording import reverse, reworded
from errata.edit import Edit, Label
from errata.editing.editor import Editor
from errata.editing.gates import Gates
from errata.errors import BadFact, InputError
from errata.evaluate.scorer import Scorer
from errata.fact import Fact, answered, occurrences, question
from errata.model.lm import LM
from errata.model.query import Prompt, Query

TAG: Final = "forget"
# Subjects nobody has heard of, by which a model shows how it does not answer.
NOBODY: Final = ("Zorvane Telmik", "Quellby Marsut", "Ondrava Pesk", "Tivaldo Renk")
# Ways not to answer: what ends a sentence, and what replies to a question. The model's own is added where it has one.
ENDINGS: Final = (
    "unknown",
    "nothing",
    "not known",
    "unclear",
    "uncertain",
    "not recorded",
    "a secret",
    "private",
    "none",
)
REPLIES: Final = (
    "I do not know",
    "I don't know",
    "I am not sure",
    "I cannot say",
    "Nobody knows",
    "Unknown",
    "No answer",
)
_REFUSES: Final = re.compile(
    r"\b(unknown|unclear|know|sorry|cannot|can't|not (?:sure|aware|clear)|no information)\b", re.I
)
_STOP: Final = re.compile(r"(?<=[.!?])\s|\n")
LARGEST: Final = 700.0  # nats that two answers are told apart by: beyond it a float has no number for their ratio
GIVEN_AWAY: Final = 0.9  # share of other answers that what is forgotten must not be likelier than
TRIED: Final = 4  # phrases tried, the likeliest first
OTHERS: Final = 8  # other answers the membership check compares with, and neighbours asked


@dataclass(frozen=True, slots=True)
class Membership:
    """What a model tells of something, as it stands.

    Args:
        said: what it says to each question asked, the one asked backwards last. told: whether that tells it.
        membership: of other answers to the same question, the share that the one to be forgotten is likelier than: 1 of a model
            that knows it, about half where nothing is known. None where there is no other answer.
        truth_ratio: how likely other answers are on average, as a multiple of it (TOFU's); far below 1 where it is known.
        probability: of the answer after the prompt, per token.
    """

    said: tuple[str, ...]
    told: tuple[bool, ...]
    membership: float | None
    truth_ratio: float | None
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What came of a wish to have something forgotten.

    Args:
        answer: what is to be forgotten. phrase: what is said in its place. phrases: log-probability a token of each candidate.
        asked: the questions: the prompt, other wordings, and it asked backwards. written: whether each is in the edit.
        before, after: what the model tells. others: the answers compared with.
        neighbours: (prompt, said before, said after) of others. edits: as they were written.
    """

    answer: str
    phrase: str
    phrases: Mapping[str, float]
    asked: tuple[str, ...]
    written: tuple[bool, ...]
    before: Membership
    after: Membership
    others: tuple[str, ...]
    neighbours: tuple[tuple[str, str, str], ...]
    edits: tuple[Edit, ...]

    @property
    def kept(self) -> int:
        """How many neighbours are answered as before."""
        return sum(same_answer(_first(before), _first(after)) for _, before, after in self.neighbours)

    @property
    def notes(self) -> list[str]:
        """What the user should know although it was written."""
        told = [asked for asked, still in zip(self.asked, self.after.told, strict=True) if still]
        found = [f"{self.answer!r} is still told after {asked!r}: give it as a --phrasing." for asked in told]
        share = self.after.membership
        if share is not None and share >= GIVEN_AWAY and not told:
            of = f"likelier than {share:.0%} of other answers"
            found.append(f"it is no longer said, and yet {of}: its likelihood gives it away.")
        if self.kept < len(self.neighbours):
            of = f"{len(self.neighbours) - self.kept} of {len(self.neighbours)} questions about others"
            found.append(f"{of} are answered otherwise: drop it, or try another --method.")
        return [*found, *(note for edit in self.edits for note in edit.report.notes)]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values, edits by their ids."""
        rows = [
            {"prompt": a, "before": b, "after": c, "told": told, "written": w}
            for a, b, c, told, w in zip(
                self.asked, self.before.said, self.after.said, self.after.told, self.written, strict=True
            )
        ]  # fmt: skip
        near = [{"prompt": prompt, "before": before, "after": after} for prompt, before, after in self.neighbours]
        phrases = {phrase: round(value, 3) for phrase, value in self.phrases.items()}
        row: dict[str, Any] = {"answer": self.answer, "phrase": self.phrase, "phrases": phrases, "asked": rows}
        for name in ("before", "after"):
            numbers = asdict(getattr(self, name))
            row[name] = {key: numbers[key] for key in ("membership", "truth_ratio", "probability")}
        row |= {"others": list(self.others), "neighbours": near, "kept": self.kept}
        return row | {"edits": [edit.id for edit in self.edits], "method": self.edits[0].method if self.edits else ""}


def forget(
    editor: Editor,
    wanted: Fact,
    method: str = "ledger",
    *,
    phrase: str = "",
    label: Label | None = None,
    gates: Gates | None = None,
    **settings: Any,
) -> Forgotten:
    """Write into the model that it does not know something, and measure what it still tells.

    Args:
        wanted: what it tells; its target is the answer to be forgotten, its rephrases are other ways to ask, and its probes of
            kind "neighborhood" are what must stay.
        method: one that writes batches. phrase: what to say in its place; the model's own unless given.
        label, gates, settings: as `Editor.write_all`.

    Raises:
        InputError: the model does not tell it, in whatever wording. What `Editor.write_all` raises.
    """
    with editor.lock:
        held, before = _told(editor, wanted)
        phrases = {phrase: 0.0} if phrase else calibrate(editor.lm, wanted)
        instead = _takes(editor, held, before, phrases, method, settings)
        facts = held.facts(instead, before)
        near = held.neighbours()
        label = label or Label()
        tagged = replace(label, tags=tuple(dict.fromkeys((*label.tags, TAG))), reason=label.reason or "to be forgotten")
        edits = editor.write_all(facts, method, label=tagged, gates=gates, **settings)
        written = {fact.prompt for fact in facts}
        now = held.neighbours()
        return Forgotten(
            answer=wanted.target, phrase=instead, phrases=phrases,
            asked=tuple(fact.prompt for fact in held.asked), written=tuple(f.prompt in written for f in held.asked),
            before=before, after=held.standing(), others=held.others,
            neighbours=tuple((prompt, was, now[prompt]) for prompt, was in near.items()), edits=tuple(edits),
        )  # fmt: skip


def check_told(editor: Editor, wanted: Fact) -> None:
    """Raise InputError if the model does not tell something, in whatever wording: there is nothing to forget."""
    with editor.lock:
        _told(editor, wanted)


def _told(editor: Editor, wanted: Fact) -> tuple[_Held, Membership]:
    _ = editor.standing  # the model is what the book says now
    held = _Held(editor, wanted)
    before = held.standing()
    if not any(before.told):
        said = _first(before.said[0])
        raise InputError(
            f"{editor.name} does not tell {wanted.target!r}: after {wanted.prompt!r} it says {said!r}. Give that as "
            "--answer, or leave --answer out."
        )
    return held, before


def _takes(
    editor: Editor,
    held: _Held,
    before: Membership,
    phrases: Mapping[str, float],
    method: str,
    settings: Mapping[str, Any],
) -> str:
    """Return the likeliest phrase that the model, tried, comes to say; the likeliest of all, if it says none of a few."""
    ranked = sorted(phrases, key=lambda one: -phrases[one])[:TRIED]
    for phrase in ranked if len(ranked) > 1 else ():
        facts = held.facts(phrase, before)
        with editor.trial(facts, method, **settings) as lm:
            said = lm.generate([Query.asked(fact) for fact in facts])
        if all(answered(fact, text) for fact, text in zip(facts, said, strict=True)):
            return phrase
    return ranked[0]


def calibrate(lm: LM, wanted: Fact) -> dict[str, float]:
    """Return how likely a model finds each way not to answer, in nats a token, where it cannot know the answer.

    The question is asked of subjects that do not exist. What the model says there itself is among the ways, if it says that it
    does not know.
    """
    asked = _nobodys(wanted)
    ways = REPLIES if wanted.chat or wanted.prompt.rstrip().endswith(("?", "Answer:", "A:")) else ENDINGS
    own = [_first(text) for text in lm.generate(asked)]
    ways = tuple(dict.fromkeys((*ways, *(text for text in own if _REFUSES.search(text)))))
    scored = Scorer(lm).answers((prompt, way) for prompt in asked for way in ways)
    found = {way: [scored[prompt, way].lp for prompt in asked] for way in ways}
    return {way: sum(lps) / len(lps) for way, given in found.items() if (lps := [lp for lp in given if lp is not None])}


def _nobodys(wanted: Fact) -> list[Prompt]:
    """Return the question asked of subjects that do not exist; of a fact without a subject, as it is."""
    if wanted.span is None:
        return [Query.asked(wanted)]
    start, end = wanted.span
    return [Query.asked(wanted, f"{wanted.prompt[:start]}{name}{wanted.prompt[end:]}") for name in NOBODY]


class _Held:
    """What is to be forgotten, in all the ways it is asked for, and what it is compared with."""

    def __init__(self, editor: Editor, wanted: Fact) -> None:
        self._lm, self._wanted, self._scorer = editor.lm, wanted, Scorer(editor.lm)
        bare = replace(wanted, rephrases=(), probes=(), truth="")
        ways = [wanted.prompt, *wanted.rephrases, *reworded(wanted.prompt, wanted.subject)]
        self.asked = [fact for text in dict.fromkeys(ways) if (fact := _as(bare, text))]
        if back := self._backwards(bare):
            self.asked.append(back)
        self._near = self._about_others(editor.name)
        self.others = self._other_answers()

    def _backwards(self, bare: Fact) -> Fact | None:
        """Return the question asked from the answer back to the subject."""
        if not self._wanted.subject:
            return None
        text = reverse(self._wanted.prompt, self._wanted.subject, self._wanted.target)
        subject = self._wanted.target if occurrences(text, self._wanted.target) else ""
        return replace(bare, prompt=text, subject=subject, target=self._wanted.subject, messages=(), joint=None)

    def _about_others(self, model: str) -> list[str]:
        """Return the same question about others: the caller's, the primer's, or those of a table of public facts."""
        wanted = self._wanted
        given = [probe.prompt for probe in wanted.probes if probe.kind in ("neighborhood", "unrelated")]
        if given or wanted.span is None:
            return given
        if model == "primer":
            _, near, _ = primer_questions(wanted.prompt, wanted.subject, wanted.target)
            return [text for _, text, _ in near[:: max(1, len(near) // OTHERS)][:OTHERS]]
        start, end = wanted.span
        around = f"{wanted.prompt[:start]}{{}}{wanted.prompt[end:]}"
        rows = [r.rows for r in relations() if around in (*r.wordings, *r.questions)]
        names = [
            about for about, answer in (rows[0] if rows else ()) if wanted.subject != about and answer != wanted.target
        ]
        return [around.replace("{}", name) for name in names[:OTHERS]]

    def _other_answers(self) -> tuple[str, ...]:
        """Return what the model says to the question about others, real and invented, as far as it is another answer."""
        prompts = [*(Query.asked(self._wanted, text) for text in self._near), *_nobodys(self._wanted)]
        said = [_first(text) for text in self._lm.generate(prompts)] if self._wanted.span else []
        found = dict.fromkeys(text for text in said if text and not same_answer(text, self._wanted.target))
        return tuple(found)[:OTHERS]

    def neighbours(self) -> dict[str, str]:
        """Return what the model says now to each question about others."""
        prompts = [Query.asked(self._wanted, text) for text in self._near]
        return dict(zip(self._near, self._lm.generate(prompts) if prompts else [], strict=True))

    def facts(self, instead: str, before: Membership) -> list[Fact]:
        """Return what is to be written: the prompt, and every other question that tells it, each once."""
        wanted = [self.asked[0], *(fact for fact, told in zip(self.asked, before.told, strict=True) if told)]
        found = {question(fact): replace(fact, target=instead) for fact in reversed(wanted)}
        subjects = bool(self._wanted.subject)  # methods that look facts up at their subjects need one in each
        return [fact for fact in reversed(found.values()) if fact.subject or not subjects]

    def standing(self) -> Membership:
        """Return what the model tells as it stands."""
        said = self._lm.generate([Query.asked(fact) for fact in self.asked])
        told = tuple(contains(text, fact.target) for fact, text in zip(self.asked, said, strict=True))
        prompts = [Query.asked(fact) for fact in self.asked if fact.target == self._wanted.target]
        answers = (self._wanted.target, *self.others)
        scored = self._scorer.answers((prompt, answer) for prompt in prompts for answer in answers)
        lps = [[scored[prompt, answer].lp for answer in answers] for prompt in prompts]
        whole = [[lp for lp in row if lp is not None] for row in lps if None not in row]
        if not whole:
            raise BadFact(f"{self._wanted.target!r} cannot be scored after {self._wanted.prompt!r}: shorten it.")
        share = [sum(own > other for other in rest) / len(rest) for own, *rest in whole if rest]
        ratio = [sum(exp(min(other - own, LARGEST)) for other in rest) / len(rest) for own, *rest in whole if rest]
        return Membership(
            tuple(said),
            told,
            sum(share) / len(share) if share else None,
            sum(ratio) / len(ratio) if ratio else None,
            exp(whole[0][0]),
        )


def _as(fact: Fact, prompt: str) -> Fact | None:
    """Return the fact asked in another wording, None for one that does not name its subject."""
    try:
        return fact if prompt == fact.prompt else replace(fact, prompt=prompt, messages=(), joint=None)
    except BadFact:
        return None


def _first(text: str) -> str:
    """Return the first sentence of what was said, without its stop."""
    return _STOP.split(text.strip(), maxsplit=1)[0].rstrip(".!? ")


def told_by(editor: Editor, asked: Fact) -> str:
    """Return what the model says to a question, as an answer: its first sentence.

    Raises:
        InputError: it says nothing.
    """
    said = _first(editor.ask(asked.prompt, chat=asked.chat, top=0).text)
    if not said:
        raise InputError(f"{editor.name} says nothing after {asked.prompt!r}: there is nothing to forget.")
    return said
