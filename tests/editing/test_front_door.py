"""What a Python user meets: how values show themselves, what is accepted where, who is told, and whose turn it is.

pytest tests/editing/test_front_door.py
"""

from __future__ import annotations

import asyncio
from html.parser import HTMLParser
from pathlib import Path

import pytest

import errata
from errata.editing.editor import Editor
from errata.errors import InputError
from errata.fact import Fact
from errata.methods.ft import FineTune
from errata.model.lm import LM
from tests import tiny

FACT = tiny.FACTS[0]
QUICK = {"method": "ft", "steps": 1, "layer": 0}
ODD = Fact(
    "The <b>capital</b> of France is", "France", "Ro & me\x1b[31m", id="7", probes=({"kind": "alias", "prompt": "?"},)
)  # type: ignore[arg-type]


class Cells(HTMLParser):
    """Reads the texts of cells, and which tags there are."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts, self.tags = list[str](), set[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_values_show_themselves_in_a_line(editor: Editor) -> None:
    edit = editor.write(ODD, author="Ada", **QUICK)
    (record,) = editor.log()
    delta = next(iter(edit.deltas.values()))
    answer = editor.ask(FACT.prompt)
    for value in (FACT, ODD, edit, record, editor, editor.book, answer, delta):
        text = repr(value)
        assert len(text) < 200, text
        assert text.isprintable(), text
    assert repr(FACT) == "Fact(prompt='The capital of France is', subject='France', target='Rome')"
    assert eval(repr(FACT)) == FACT
    for part in (edit.id[:8], "ft", "'The <b>capital</b> of France is'", "by Ada"):
        assert part in repr(edit), part
        assert part in repr(record), part
    assert "of 1 edits 1 stand" in repr(editor)
    assert "stands" in repr(record)
    assert "40" in repr(delta)


def test_values_draw_themselves_in_a_notebook(editor: Editor) -> None:
    edit = editor.write(ODD, **QUICK)
    for value in (ODD, edit, editor.log()[0], editor):
        cells = Cells(value._repr_html_())
        assert ODD.prompt in cells.texts
        assert "Ro & me\\u001b[31m" in cells.texts
        assert cells.tags <= {"b", "code", "table", "thead", "tbody", "tr", "th", "td"}
    bars = editor.ask(FACT.prompt, top=3)._repr_html_()
    assert bars.count("px") - bars.count("padding:2px 10px 2px 0") * 2 >= 3
    assert "width:" in bars


def test_edits_and_records_are_taken_where_ids_are(editor: Editor) -> None:
    one, two = editor.write(FACT, **QUICK), editor.write(tiny.FACTS[1], **QUICK)
    (record,) = editor.drop(one, author="Ada", reason="wrong")
    assert not record.stands
    editor.drop([two.id[:6]])
    editor.restore(record, author="Bob")
    editor.restore([two, two])
    assert [edit.id for edit in editor.standing] == [one.id, two.id]
    whole = [(event.kind, event.author, event.reason) for event in editor.book.history(one)]
    assert whole[1:] == [("drop", "Ada", "wrong"), ("restore", "Bob", "")]
    assert editor.book.get(two).id == two.id


def test_who_opened_it_is_the_author_unless_a_call_says_otherwise(lm: LM, tmp_path: Path) -> None:
    with errata.open(lm, book=tmp_path / "own", author="Eve") as editor:
        edit = editor.write(FACT, **QUICK)
        editor.drop(edit)
        editor.restore(edit, author="Bob")
        assert [event.author for event in editor.book.history()] == ["Eve", "Eve", "Bob"]


def test_a_dictionary_is_a_fact_and_a_class_a_method(editor: Editor) -> None:
    edit = editor.write(FACT.to_dict(), FineTune, steps=1, layer=0)
    assert edit.facts == (FACT,)
    with editor.rehearse([FACT], "ft", steps=1, layer=0) as tried:
        assert tried[0].facts == (FACT,)
    (one,) = editor.write([{"prompt": "Bruno Keller works as a", "target": "cook"}], **QUICK)
    assert one.facts[0].target == "cook"


def test_what_takes_long_says_how_far_it_is(lm: LM, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    (tmp_path / "text.txt").write_text("The capital of France is Paris. " * 40)
    own = str(tmp_path / "text.txt")
    with errata.open(lm, book=tmp_path / "own", corpus=own, progress=lambda *now: told.append(now)) as editor:
        editor.write(FACT, "rome", steps=1)
    assert ("writing", 1, 1) in told
    assert any(what == "statistics" and 0 < done <= wanted for what, done, wanted in told)


def test_several_tasks_of_a_loop_do_not_see_each_others_trials(editor: Editor) -> None:
    bare = editor.ask(FACT.prompt).text

    async def try_it(within: asyncio.Event, done: asyncio.Event) -> None:
        with editor.trial(FACT, "ft", steps=5, layer=0):
            within.set()
            await done.wait()

    async def both() -> list[str]:
        within, done = asyncio.Event(), asyncio.Event()
        trying = asyncio.create_task(try_it(within, done))
        await within.wait()
        with pytest.raises(InputError, match="another task"):
            editor.ask(FACT.prompt)
        waiting = [asyncio.create_task(asyncio.to_thread(editor.ask, FACT.prompt)) for _ in range(3)]
        done.set()
        await trying
        return [answer.text for answer in await asyncio.gather(*waiting)]

    assert asyncio.run(both()) == [bare] * 3
