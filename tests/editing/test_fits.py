"""Texts about as long as the model reads: what fits is written and said, what does not is named in a sentence.

pytest tests/editing/test_fits.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from errata import methods
from errata.bench.run import Plan, Run
from errata.cli import main
from errata.data.case import Case
from errata.editing.editor import Editor
from errata.editing.gates import Gates
from errata.editing.locate import locate, trace_all
from errata.editing.opening import open as open_editor
from errata.editing.radius import reach
from errata.errors import BadFact, InputError
from errata.evaluate.scorer import Scorer
from errata.fact import Fact, Probe
from errata.methods.base import Method
from errata.model.fitting import clipped, essence, fits
from errata.model.generation import context
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve.keys import contexts_for, prefixes
from tests import networks, tiny

MOST = 64
SMALL = {"steps": 2, "m": 2, "tokens": 300, "weight": 1.0, "directions": 2, "rank": 4, "contexts": 3, "kl": 0.1}


@pytest.fixture(scope="module")
def short() -> LM:
    return networks.give(tiny.build("gpt2", n_positions=MOST), tiny.FACTS)


@pytest.fixture
def lm(short: LM) -> Iterator[LM]:
    short.weights.stand([])
    yield short
    short.weights.stand([])


@pytest.fixture
def editor(lm: LM, tmp_path: Path) -> Iterator[Editor]:
    with open_editor(lm, book=tmp_path / "book", max_norm_ratio=1e9) as opened:
        yield opened


def padded(lm: LM, end: str, length: int, filler: str = " so", begin: str = "Well") -> str:
    """Return a prompt of exactly so many tokens that ends with `end`."""
    text = begin
    while len(lm.tokens.ids(f"{text}{filler} {end}")) <= length:
        text += filler
    for more in ("", ".", "..", "...", "....", " a", " a.", " a a", " a a a"):
        if len(lm.tokens.ids(found := f"{text}{more} {end}")) == length:
            return found
    raise AssertionError(f"no text of {length} tokens")


def fact(lm: LM, length: int, **more: Any) -> Fact:
    return Fact(prompt=padded(lm, "the capital of France is", length), subject="France", target="Rome", **more)


def small(name: str, **options: Any) -> Method:
    known = {field.name for field in fields(methods.get(name))}
    return methods.make(name, {**{k: v for k, v in SMALL.items() if k in known}, **options})


# ------------------------------------------------------------------ contexts


WRITING = [name for name in methods.names() if not methods.get(name).in_context]
TELLING = [name for name in methods.names() if methods.get(name).in_context]


@pytest.mark.parametrize("name", WRITING)
def test_a_prompt_that_nearly_fills_the_model_is_written(editor: Editor, name: str) -> None:
    lm, how = editor.lm, small(name)
    answer = len(lm.tokens.ids(" Rome"))
    edit = editor.write(fact(lm, MOST - 1 - answer), how)
    assert all(not text for text in edit.prefixes)  # nothing fits before it
    notes = [note for note in edit.report.notes if "left out" in note]
    uses_contexts = name in ("kn", "kne", "ultraedit", "wise", "melo", "grace") or bool(edit.prefixes)
    assert len(notes) == uses_contexts
    assert all("longer than the 64 tokens tiny gpt2 reads" in note for note in notes)
    with pytest.raises(BadFact, match="tokens long, and tiny gpt2 reads fewer than 64: shorten it"):
        editor.write(fact(lm, MOST - answer), how)
    assert len(editor.standing) == 1


@pytest.mark.parametrize("name", TELLING)
def test_a_fact_that_has_no_room_before_its_prompt_is_not_told(editor: Editor, name: str) -> None:
    with pytest.raises(BadFact, match=f"text that {name} puts before it leave no room in the 64 tokens .*shorten it"):
        editor.write(fact(editor.lm, MOST - 8), name)
    assert not editor.standing


@pytest.mark.parametrize("name", TELLING)
def test_before_a_prompt_that_is_too_long_nothing_is_told(name: str, tmp_path: Path) -> None:
    lm = tiny.build("gpt2")
    most = context(lm)
    with open_editor(lm, book=tmp_path / "book") as editor:
        editor.write(tiny.FACTS[0], small(name))
        subject = tiny.FACTS[0].subject
        for length in (most - 1, most - most // 16, most // 2, 40):
            asked = Query(padded(lm, f"{subject} is", length))
            told = lm.tokens.put_before(asked)
            assert fits(lm, told)
            assert told.prompt.endswith(asked.prompt)
            assert (told == asked) or length < most - most // 16
            lm.logprobs([asked])
            editor.ask(asked.prompt, max_new_tokens=2)


def test_contexts_that_fit_before_the_longest_fact_stay(lm: LM) -> None:
    every = prefixes(lm, 0)
    lengths = sorted(len(lm.tokens.ids(f"{text} ")) for text in every[1:])
    assert lengths[0] < lengths[-1]
    found = [contexts_for(lm, [fact(lm, length)], every) for length in (20, *range(44, 62, 3))]
    kept = [len(one.texts) for one in found]
    assert kept == sorted(kept, reverse=True)
    assert (kept[0], kept[-1]) == (6, 1)
    assert len(set(kept)) > 2
    for one in found:
        assert one.texts[0] == ""
        assert set(one.texts) <= set(every)
        assert len(one.texts) + one.left_out == 6
        assert bool(one.report(lm)) == bool(one.left_out)
    both = contexts_for(lm, [tiny.FACTS[1], fact(lm, 55)], every)
    assert both == contexts_for(lm, [fact(lm, 55)], every)
    assert contexts_for(lm, [fact(lm, 20)], every, ["Rome " * 12]).left_out
    roomy = tiny.build("gpt2")
    assert not contexts_for(roomy, [tiny.FACTS[0]], prefixes(roomy, 0)).left_out


def test_every_method_counts_what_it_puts_before_a_prompt() -> None:
    files = list(Path(methods.__path__[0]).rglob("*.py"))
    used = [path for path in files if any(f"{name}(lm" in path.read_text() for name in ("prefixes", "contexts"))]
    assert len(used) > 5
    assert not [path.name for path in used if "contexts_for(lm" not in path.read_text()]


@pytest.mark.parametrize("length", [50, 53, 55, 57])
def test_a_batch_with_one_long_fact_is_written(editor: Editor, length: int) -> None:
    (edit,) = editor.write([tiny.FACTS[1], fact(editor.lm, length)], small("memit"))
    assert len(edit.facts) == 2
    for text in edit.prefixes:
        for one in edit.facts:
            assert fits(editor.lm, Query.of(one).after(text))


@pytest.mark.parametrize("name", ["rome", "memit", "kne", "kn", "grace", "wise"])
@pytest.mark.parametrize("filler", ["🎉", "国", " Zürich", "0"])
def test_a_subject_too_long_to_be_said_something_of_is_written(lm: LM, tmp_path: Path, name: str, filler: str) -> None:
    prompt = filler.strip()
    while len(lm.tokens.ids(f"{prompt}{filler} Rome")) < MOST - 1:
        prompt += filler
    while len(lm.tokens.ids(f"{prompt}0 a")) < MOST:
        prompt += "0"
    one = Fact(prompt=prompt, subject=prompt, target="a")
    with open_editor(lm, book=tmp_path / "book", max_norm_ratio=1e9) as editor:
        assert editor.write(one, small(name)).facts == (one,)


def test_of_a_long_subject_the_end_is_said_something_of(lm: LM) -> None:
    assert essence(lm, "France") == Query("France is a", "", (0, 6))
    asked = essence(lm, "Jo " * 100 + "Anna Lindgren")
    assert asked.prompt.endswith("Anna Lindgren is a")
    assert fits(lm, asked)
    assert asked.prompt[: asked.span[1]].endswith("Lindgren")  # type: ignore[index]
    assert fits(lm, Query(clipped(lm, "So it is. " * 90)))
    assert clipped(lm, "So it is.") == "So it is."


@pytest.mark.parametrize("name", ["grace", "melo", "wise"])
def test_rephrases_that_are_too_long_are_left_out(editor: Editor, name: str) -> None:
    lm = editor.lm
    one = fact(lm, 30, rephrases=("The capital of France:", padded(lm, "France has the capital", 90)))
    edit = editor.write(one, small(name))
    assert [note for note in edit.report.notes if note.startswith("1 text that prompts are read after left out")]


@pytest.mark.parametrize("name", ["kn", "kne"])
def test_an_old_answer_that_does_not_fit_is_not_looked_for(editor: Editor, name: str) -> None:
    how = small(name, **({"answer": "old"} if name == "kne" else {}))
    editor.write(fact(editor.lm, 40, truth="Paris " * 40), how)


# ------------------------------------------------------------------ asking


@pytest.mark.parametrize("length", [MOST, MOST + 1, 90, 700])
def test_a_prompt_that_fills_the_model_is_refused(editor: Editor, length: int) -> None:
    prompt = padded(editor.lm, "and", length)
    with pytest.raises(BadFact, match=rf"the prompt is {length} tokens long, and tiny gpt2 reads 64 .*shorten it"):
        editor.ask(prompt)
    with pytest.raises(BadFact, match="tokens long"):
        editor.ask(prompt, top=0)
    with pytest.raises(BadFact, match="tokens long"):
        locate(editor, f"{prompt} France is", "France", "Rome")
    assert Scorer(editor.lm).said([prompt]) == {prompt: None}
    assert Scorer(editor.lm).answers([(prompt, "Rome"), (prompt + " so", "Rome")])[prompt + " so", "Rome"].lp is None


@pytest.mark.parametrize("length", [MOST - 1, 60, 50, 33])
def test_an_answer_cut_by_the_end_of_the_model_says_so(editor: Editor, length: int) -> None:
    lm, prompt = editor.lm, padded(editor.lm, "and", length)
    found, left = editor.ask(prompt, max_new_tokens=40), MOST - length
    whole = lm.generate([prompt], 40)[0]
    assert found.text == whole
    assert len(found.top) == 5
    if "\n" not in lm.generate([prompt], 40)[0] and found.notes:
        assert found.notes == (f"the answer is cut after {left} tokens, where tiny gpt2 reads no further: "
                               "shorten the prompt to have more.",)  # fmt: skip
    assert editor.ask(prompt, max_new_tokens=1).notes == ()


def test_an_answer_that_ended_in_the_last_place_is_not_called_cut(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = padded(editor.lm, "and", MOST - 3)
    assert editor.ask(prompt).notes
    monkeypatch.setattr(LM, "endings", lambda self, lines=1: lambda place, token: True)
    assert editor.ask(prompt).notes == ()


def test_the_command_says_it_and_exits_with_2(
    lm: LM, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm.save(tmp_path / "model")
    where = ["--model", str(tmp_path / "model"), "--book", str(tmp_path / "book")]
    long, near = padded(lm, "and", 70), padded(lm, "and", 60)
    assert main(["ask", long, *where]) == 2
    assert re.fullmatch(r"errata: the prompt is 70 tokens long, .*\n", capsys.readouterr().err)
    assert main(["ask", near, *where, "--json"]) == 0
    out, err = capsys.readouterr()
    (note,) = json.loads(out)["notes"]
    assert err == f"errata: note: {note}\n"
    assert "cut after 4 tokens" in note
    one = ["--prompt", fact(lm, 62).prompt, "--subject", "France", "--target", "Rome Rome Rome"]
    assert main(["edit", *one, *where]) == 2
    assert "shorten it" in capsys.readouterr().err
    one[1] = fact(lm, 55).prompt
    assert main(["edit", *one[:-1], "Rome", *where, "--json", "--set", "steps=2"]) == 0
    assert "left out" in capsys.readouterr().err


def test_nothing_else_stumbles_over_long_prompts(editor: Editor, tmp_path: Path) -> None:
    lm, far = editor.lm, padded(editor.lm, "the capital of Spain is", 90)
    probes = tuple(Probe(kind, far, "Rome") for kind in ("paraphrase", "neighborhood", "unrelated"))
    one = fact(lm, 55, probes=probes)
    edit = editor.write_all(
        [one], small("ft"), gates=Gates(paraphrase=0.0, neighborhood=0.0, efficacy=0.0, perplexity=1e9)
    )[0]
    assert edit.report.gates
    cases = [
        Case(id="0", prompt=one.prompt, target="Rome", subject="France", fact=one, truth="Paris"),
        Case(
            id="1", prompt=tiny.FACTS[1].prompt, target="Paris", subject="Anna Lindgren",
            fact=replace(tiny.FACTS[1], probes=probes), rephrases=(far,), neighborhood=((far, "Rome"),),
            unrelated=((far, "Paris"),), generation=(far,), portability={"one_hop": ((far, "Rome"),)},
        ),
    ]  # fmt: skip
    plan = Plan(method="rome", options={"steps": 2}, edits=2, generation=True)
    assert Run(plan, lm, cases, tmp_path / "run").go()["checkpoints"][-1]["edits"] == 2
    for call in (
        lambda: reach(lm, [replace(one, prompt=f"{far} France has", subject="France")], "melo"),
        lambda: trace_all(editor, [replace(one, prompt=f"{far} France has")]),
    ):
        with pytest.raises(BadFact, match="shorten it"):
            call()
    with pytest.raises(InputError, match="no other wording"):
        reach(lm, [fact(lm, 60)], "melo")
    assert trace_all(editor, [one], samples=2).result["facts"] == 1
