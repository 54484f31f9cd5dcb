"""The story `errata demo` tells: three facts written, one of them dropped, and what the model says.

The primer is asked about its own world and any other model about ours, so the right answer is known at every moment.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from errata.answers import says
from errata.cli import common as opt
from errata.fact import Fact
from errata.primer.world import RELATIONS, Triple, World

if TYPE_CHECKING:
    from errata.editing.editor import Editor

NEW_CAPITAL = ("France", "Lyon")
PARAPHRASE = 3  # which phrasing a paraphrase is asked in; edits are written with the first, 0


@dataclass(frozen=True, slots=True)
class StoryQuestion:
    """What is asked, and the right answer before editing, after it, and once the birthplace is dropped again."""

    kind: str
    prompt: str
    before: str
    edited: str
    dropped: str


@dataclass(frozen=True, slots=True)
class Story:
    """Which fact is written with which method, what is asked, and which of the edits (by number) is dropped."""

    steps: tuple[tuple[str, Fact], ...]
    questions: tuple[StoryQuestion, ...]
    drop: int


@dataclass(frozen=True, slots=True)
class StoryAnswer:
    """What the model said and whether that is right."""

    said: str
    right: bool


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One question with its answers, a column each."""

    kind: str
    prompt: str
    answers: tuple[StoryAnswer, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """A titled table (`heads` over all its columns) and a remark; either may be empty."""

    title: str
    heads: tuple[str, ...] = ()
    lines: tuple[StoryLine, ...] = ()
    remark: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the scene as JSON-able values."""
        return asdict(self)


def tell(model: str = "primer") -> Iterator[Scene]:
    """Yield the scenes as they are played, on a model and in a book that is gone afterwards."""
    story = compose(World()) if model == "primer" else real()
    with tempfile.TemporaryDirectory(prefix="errata-demo-") as book, opt.opened(model, book=book) as editor:
        yield from perform(editor, story)


def real() -> Story:
    """Return a story of the real world; every right answer of it is one that SmolLM2 gives, which knows few."""
    told = (
        (("The capital of France is", "France", "Paris", "Lyon"), "The capital city of France is",
         ("The capital of Spain is", "Madrid")),
        (("The Eiffel Tower is in the city of", "Eiffel Tower", "Paris", "Rome"), "",
         ("The Brandenburg Gate is in the city of", "Berlin")),
        (("The currency of Japan is the", "Japan", "yen", "euro"), "",
         ("The currency of Russia is the", "ruble")),
    )  # fmt: skip
    dropped, steps, questions = 1, [], []
    for number, ((prompt, subject, truth, target), other, (near, answer)) in enumerate(told):
        steps.append(("rome", Fact(prompt=prompt, subject=subject, target=target)))
        answers = truth, target, truth if number == dropped else target
        asked = [("fact", prompt), ("paraphrase", other)] if other else [("fact", prompt)]
        questions += [StoryQuestion(kind, text, *answers) for kind, text in asked]
        questions.append(StoryQuestion("neighbour", near, answer, answer, answer))
    return Story(tuple(steps), tuple(questions), dropped)


def compose(world: World) -> Story:
    """Choose the facts of the story from a world; the same world gives the same story."""
    truth = {(t.subject, t.relation): t.answer for t in (*world.triples, *world.compositions)}
    country = {t.subject: t.answer for t in world.triples if t.relation == "located_in"}
    # Somebody whose country of birth training states, so that the composition is known before it has to change.
    born = next(t for t in world.compositions if t.relation == "birth_country" and t.told).subject
    town, old_country = truth[born, "born_in"], truth[born, "birth_country"]
    new_town = next(other for other in world.towns if country[other] != old_country)
    worker = next(t for t in world.triples if t.relation == "works_as" and t.subject != born)
    trade = next(t.answer for t in world.triples if t.relation == "works_as" and t.answer != worker.answer)
    place, capital = NEW_CAPITAL
    steps = (
        ("rome", _fact("capital", place, capital)),
        ("memit", _fact("born_in", born, new_town)),
        ("ft", _fact("works_as", worker.subject, trade)),
    )
    questions = (
        *_around(world, "capital", place, (truth[place, "capital"], capital, capital)),
        *_around(world, "born_in", born, (town, new_town, town)),
        StoryQuestion("composition", _ask("birth_country", born), old_country, country[new_town], old_country),
        *_around(world, "works_as", worker.subject, (worker.answer, trade, trade)),
    )
    return Story(steps, questions, drop=1)


def _ask(relation: str, subject: str, phrasing: int = 0) -> str:
    return RELATIONS[relation].phrasings[phrasing].format(s=subject)


def _fact(relation: str, subject: str, target: str) -> Fact:
    return Fact(prompt=_ask(relation, subject), subject=subject, target=target)


def _around(world: World, relation: str, subject: str, answers: tuple[str, str, str]) -> tuple[StoryQuestion, ...]:
    """Return the fact itself, a paraphrase of it, and the same asked about a neighbour, who must not change."""
    near = _neighbour(world, relation, subject, answers)
    return (
        StoryQuestion("fact", _ask(relation, subject), *answers),
        StoryQuestion("paraphrase", _ask(relation, subject, PARAPHRASE), *answers),
        StoryQuestion("neighbour", _ask(relation, near.subject), near.answer, near.answer, near.answer),
    )


def _neighbour(world: World, relation: str, subject: str, answers: Sequence[str]) -> Triple:
    """Return another subject of the same relation with an answer of its own, so that a leak would show."""
    alike = (t for t in world.triples if t.relation == relation and t.subject != subject)
    return next(t for t in alike if t.answer not in answers)


def perform(editor: Editor, story: Story) -> Iterator[Scene]:
    """Play a story: ask, write the facts one after the other, ask, drop one, ask again."""
    before = _answers(editor, [(q.prompt, q.before) for q in story.questions])
    yield Scene("The model as it was trained", ("", "asked", "says"), _lines(story.questions, (before,), "fact"))
    written = []
    for method, fact in story.steps:
        edit = editor.write(fact, method)
        written.append(edit)
        yield _writing(editor, method, fact, f"edit {edit.id[:8]}, {sum(edit.report.seconds.values()):.1f} s")
    edited = _answers(editor, [(q.prompt, q.edited) for q in story.questions])
    editor.drop(written[story.drop].id)
    yield Scene(f"errata drop {written[story.drop].id[:8]}", remark="Taken back by replaying the others on the base.")
    dropped = _answers(editor, [(q.prompt, q.dropped) for q in story.questions])
    yield _ending(story, (before, edited, dropped))


def _writing(editor: Editor, method: str, fact: Fact, remark: str) -> Scene:
    title = f"errata edit --method {method}: {fact.prompt} → {fact.target}"
    answers = _answers(editor, [(fact.prompt, fact.target)])
    return Scene(title, ("", "asked", "says now"), (StoryLine("fact", fact.prompt, tuple(answers)),), remark)


def _ending(story: Story, columns: Sequence[Sequence[StoryAnswer]]) -> Scene:
    heads = ("", "asked", "before", "three edits", "one dropped")
    right, asked = sum(answer.right for column in columns for answer in column), sum(map(len, columns))
    remark = f"{right} of {asked} are right: neighbours must not change, and what is dropped must be as it was before."
    return Scene("What it says about all this", heads, _lines(story.questions, columns), remark)


def _answers(editor: Editor, asked: Sequence[tuple[str, str]]) -> list[StoryAnswer]:
    """Ask each prompt and compare with what would be right."""
    said = [(editor.ask(prompt, top=0).text.strip(), right) for prompt, right in asked]
    return [StoryAnswer(text, says(text, right)) for text, right in said]


def _lines(
    questions: Sequence[StoryQuestion], columns: Sequence[Sequence[StoryAnswer]], kind: str = ""
) -> tuple[StoryLine, ...]:
    rows = zip(questions, zip(*columns, strict=True), strict=True)
    return tuple(StoryLine(q.kind, q.prompt, answers) for q, answers in rows if kind in ("", q.kind))
