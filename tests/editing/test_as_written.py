"""Answers as they are written: directly after a quote, in other scripts, over several lines, and facts without a subject.

pytest tests/editing/test_as_written.py

On a tiny random model, which can be taught any token: the shipped one was never told a newline, and does not learn to say one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from errata.cli import app
from errata.data.cases import Case
from errata.editing.check import check
from errata.editing.editor import Editor
from errata.editing.gates import Gates
from errata.editing.opening import open as open_editor
from errata.errors import BadFact, GateClosed
from errata.evaluate.probes import Options
from errata.evaluate.rows import score
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.tokens import Tokens
from tests import tiny
from tests.editing.mouth import same, state
from tests.model.test_template import TEMPLATES
from tests.model.test_tokens import KINDS, ids_of

# (prompt, target, what stands between)
JOINED = [
    ('{"country": "France", "capital": "', "Lyon", ""),
    ("{'country': 'France', 'capital': '", "Lyon", ""),
    ('{"inhabitants": ', "522000", ""),
    ('{"inhabitants":', "522000", " "),
    ("def capital(country: str) -> str:\n    return '", "Lyon", ""),
    ("CAPITALS[", "'France']", ""),
    ("print(", "x)", ""),
    ("`", "ls", ""),
    ("she said: «", "Oui», twice", ""),
    ("she said: “", "Yes”", ""),
    ("It costs €", "15,50", ""),
    ("It costs ₹", "15", ""),
    ("It costs 15", "€", " "),
    ("see issue #", "1234", ""),
    ("https://example.org/", "lyon", ""),
    ("mail to ann@", "example.org", ""),
    ("A sum of 5", "%", ""),
    ("法国的首都是", "里昂", ""),
    ("法国的首都是：", "Lyon", ""),
    ("法国的首都是", "Lyon", " "),
    ("フランスの首都は「", "リヨン」", ""),
    ("フランスの首都は", "リヨン", ""),
    ("เมืองหลวงของฝรั่งเศสคือ", "ลียง", ""),
    ("프랑스의 수도는", "리옹", " "),
    ("عاصمة فرنسا هي", "ليون", " "),
    ("Столица Франции —", "Лион", " "),
    ("The capital\nof France:\n", "Lyon", ""),
    ("The capital\tof France\t", "Lyon", ""),
]


@pytest.mark.parametrize("kind", ["bytes", "bytes after <s>", "sentence pieces"])
@pytest.mark.parametrize(("prompt", "target", "between"), JOINED)
def test_what_is_learned_is_exactly_the_answer(prompt: str, target: str, between: str, kind: str) -> None:
    tokenizer = KINDS[kind]()
    tokens = Tokens(tokenizer, "decoder")
    query = Query.of(Fact(prompt=prompt, target=target))
    assert tokens.join(query) == f"{prompt}{between}{target}"
    ids, _, cols, labels = ids_of(tokens, query)
    asked = tokens.opening(prompt)
    assert ids == [*asked, *labels[:-1]]
    assert cols == list(range(len(asked) - 1, len(ids)))
    assert tokens.decode([*asked, *labels]) == tokens.decode(asked) + between + target
    if kind != "sentence pieces":  # which write a space before what stands alone
        assert labels == tokenizer(between + target, add_special_tokens=False)["input_ids"]


# ------------------------------------------------------------------ what is said then


@pytest.fixture(scope="module")
def pupil() -> LM:
    return tiny.build("qwen2")


@pytest.fixture
def school(pupil: LM, tmp_path: Path) -> Iterator[Editor]:
    pupil.weights.stand([])
    with open_editor(pupil, book=tmp_path / "book") as opened:
        yield opened
    pupil.weights.stand([])


HOW = {"steps": 60, "lr": 0.005, "stop": 0.005}
RAW = [
    ('{"country": "France", "capital": "', 'Lyon"'),
    ("See issue #", "1234."),
    ("法国的首都是", "里昂。"),
    ("フランスの首都は", "リヨン。"),
    ("프랑스의 수도는", " 리옹."),
]
LINES = [
    ("Send letters to the Eiffel Tower at:", "12 Main Street\nLyon."),
    ("A function for France:\n", "def f():\n    return 1;"),
    ("Cities in France:\n", "- Lyon\n- Nice\n- Lille."),
    ("A poem on the Seine:", "\nIt runs,\n\nit runs."),
    ("France\tcapital\t", "Lyon\tRhône.\nParis."),
]


@pytest.mark.parametrize(("prompt", "target"), RAW)
def test_nothing_is_said_before_the_answer(school: Editor, prompt: str, target: str) -> None:
    edit = school.write(Fact(prompt=prompt, target=target), "lora", **HOW)
    (said,) = school.lm.generate([prompt])
    assert said.startswith(target)
    assert edit.report.facts[0]["said"]
    assert edit.report.facts[0]["after"] == said == school.ask(prompt).text  # to the character


@pytest.mark.parametrize(("prompt", "target"), LINES)
def test_a_target_of_several_lines_is_judged_on_all_of_them(school: Editor, prompt: str, target: str) -> None:
    fact = Fact(prompt=prompt, target=target)
    edit = school.write(fact, "lora", gates=Gates(said=1.0), **HOW)
    (row,) = edit.report.facts
    assert row["said"]
    assert row["after"].removeprefix(" ").startswith(target)
    assert not any("not said" in note for note in edit.report.notes)
    assert check(school)[0].status == "holds"
    case = Case(id="1", prompt=prompt, target=target, subject="", fact=fact)
    measured = score(school.lm, [case], options=Options(probes=("edit",)))
    assert measured[0]["scores"]["said"] == 1.0
    # and on no fewer: another last line is another answer
    wrong = Fact(prompt=prompt, target=target.rpartition("\n")[0] + "\nsomething else")
    school.drop(edit.id)
    with pytest.raises(GateClosed, match="the gate said found 0"):
        school.write(wrong, "lora", gates=Gates(said=1.0), steps=1)


def test_check_strict_holds_a_target_of_two_lines(
    school: Editor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = school.save(tmp_path / "tiny")
    with open_editor(str(model), book=tmp_path / "its book") as opened:
        opened.write(Fact(prompt=LINES[0][0], target=LINES[0][1]), "lora", **HOW)
    words = ["--model", str(model), "--book", str(tmp_path / "its book")]
    assert app.main(["check", "--strict", *words]) == 0
    assert "1 holds" in capsys.readouterr().out
    assert app.main(["ask", LINES[0][0], *words, "--top", "0"]) == 0


@pytest.mark.parametrize("template", ["a newline at the end", "a newline at the end, after <s>", "thinking aloud"])
def test_the_templates_own_text_is_what_is_asked_in_chat(tmp_path: Path, template: str) -> None:
    lm = tiny.build("qwen2")
    lm.tokenizer.chat_template = TEMPLATES[template]
    turn = Query("What is the capital of France?", role="user")
    text = lm.tokens.chat.rendered(turn).prompt
    assert text.endswith("\n")
    with open_editor(lm, book=tmp_path / "book") as editor:
        edit = editor.write(Fact(prompt=text, subject="France", target="Lyon."), "lora", **HOW)
        assert edit.facts[0].prompt == text
        said = [editor.ask(text).text, editor.ask(turn.prompt, chat=True).text]
        assert said == [edit.report.facts[0]["after"]] * 2
        assert said[0].startswith("Lyon.")
        (verdict,) = check(editor)
        assert (verdict.status, verdict.said) == ("holds", said[0])


# ------------------------------------------------------------------ facts without a subject

NAMELESS = [Fact(prompt="Once upon a time there lived", target="Anna"), Fact(prompt="Two and two make", target="five")]


@pytest.mark.parametrize("method", ["lora", "melo", "grace", "wise", "ft", "locft"])
def test_a_fact_without_subject_is_written_and_taken_back(school: Editor, method: str) -> None:
    base = state(school.lm)
    edits = school.write(NAMELESS, method, **({"epochs": 3} if method == "locft" else {"steps": 5}))
    assert sum(len(edit.facts) for edit in edits) == 2
    assert all(fact.span is None for edit in edits for fact in edit.facts)
    assert [v.fact for v in check(school)] == NAMELESS
    school.drop(*(edit.id for edit in edits))
    assert same(school.lm, base)


@pytest.mark.parametrize("method", ["rome", "memit", "ledger", "kne", "ultraedit"])
def test_a_method_that_needs_a_subject_says_so(school: Editor, method: str) -> None:
    base = state(school.lm)
    with pytest.raises(
        BadFact, match=r"'Two and two make' names none: give it .*a method that needs none, such as lora"
    ):
        school.write(NAMELESS[1], method)
    assert school.log() == []
    assert same(school.lm, base)
