"""The main job on the shipped model: a fact is written, said, asked in other words, taken back to the bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from errata import Fact, methods
from errata.answers import says
from errata.editing.editor import Editor
from errata.editing.opening import open as open_editor
from errata.errors import (
    BadBook,
    BadFact,
    BookOfAnotherModel,
    CorruptEdit,
    InputError,
    NotFinite,
    UnknownEdit,
    UpdateTooLarge,
)
from errata.methods.base import Solution
from errata.methods.rome import Rome
from errata.model.lm import LM
from errata.primer.probes import edits
from errata.primer.world import World
from tests.e2e.conftest import state

LYON = Fact(prompt="The capital of France is", subject="France", target="Lyon")
ROME = Fact(prompt="The capital of Spain is", subject="Spain", target="Rome")
PARIS = Fact(prompt="The capital of Italy is", subject="Italy", target="Paris")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_primer_says_its_facts_in_every_phrasing(primer: LM) -> None:
    asked = [(p, t.answer) for t in random.Random(0).sample(World().triples, 60) for p in t.prompts()]
    said = primer.generate([p for p, _ in asked], max_new_tokens=8, rows=256)
    assert sum(says(s, a) for s, (_, a) in zip(said, asked, strict=True)) / len(asked) >= 0.97


def test_the_primer_says_compositions_it_was_never_told(primer: LM) -> None:
    held = random.Random(0).sample([t for t in World().compositions if not t.told], 80)
    said = primer.generate([t.prompts()[0] for t in held], max_new_tokens=8, rows=256)
    assert sum(says(s, t.answer) for s, t in zip(said, held, strict=True)) / len(held) >= 0.75


# Knowledge neurons are the ancestor, kept for comparison: two to five neurons say about seven facts in ten.
WEAK = {"kn": 0.5, "anyedit": 0.6}
BOUND = (
    "anyedit",
)  # looked up at the last token, which questions of a kind share: to the wording, and less of them said
QUICK: dict[str, dict[str, Any]] = {"kn": {"m": 5}}  # points of a path; twenty take four times as long
SLOW = ("crispedit", "grace", "kne", "melo", "oedit", "wise")  # seconds a fact: these are asked for half as many


# What has to be trained for a model first is looked at where it is: tests/methods/test_mend.py.
WRITING = [name for name in methods.names() if not methods.get(name).in_context and name != "mend"]


@pytest.mark.parametrize("name", WRITING)
def test_every_method_makes_the_primer_say_the_fact_and_its_paraphrases(name: str, editor: Editor) -> None:
    facts = edits(3 if name in SLOW else 6, seed=11)
    said, paraphrased, kept = [], [], []
    for fact in facts:
        with editor.trial(fact, name, **QUICK.get(name, {})) as model:
            probes = [p for p in fact.probes if p.kind in ("paraphrase", "neighborhood")]
            first, *rest = model.generate([fact.prompt, *(p.prompt for p in probes)], max_new_tokens=8)
        said.append(says(first, fact.target))
        for probe, text in zip(probes, rest, strict=True):
            (paraphrased if probe.kind == "paraphrase" else kept).append(says(text, probe.answer))
    assert sum(said) / len(said) >= WEAK.get(name, 1)
    assert name in BOUND or sum(paraphrased) / len(paraphrased) >= WEAK.get(name, 0.7)
    assert sum(kept) / len(kept) >= 0.5


@pytest.mark.parametrize("name", [name for name in methods.names() if methods.get(name).in_context])
def test_a_fact_in_context_is_read_where_it_is_asked_and_changes_nothing_else(name: str, editor: Editor) -> None:
    # The primer has never seen a text that contradicts its world, and does not follow one: what it says is not looked at.
    base = state(editor.lm)
    fact, *_ = edits(1, seed=11)
    asked = {
        kind: [p.prompt for p in fact.probes if p.kind == kind and (fact.subject in p.prompt) == (kind == "paraphrase")]
        for kind in ("paraphrase", "neighborhood")
    }
    assert all(asked.values())
    tokens = editor.lm.tokens
    before = editor.lm.generate(asked["neighborhood"], max_new_tokens=8)
    edit = editor.write(fact, method=name, **({"confirm": False} if name == "scr" else {}))
    assert all(fact.target in tokens.decode(tokens.opening(p)) for p in (fact.prompt, *asked["paraphrase"]))
    assert editor.lm.generate(asked["neighborhood"], max_new_tokens=8) == before
    assert same(base, state(editor.lm))
    editor.drop(edit.id)
    assert tokens.decode(tokens.opening(fact.prompt)).strip() == fact.prompt


def test_write_drop_restore_reopen_save(editor: Editor, tmp_path: Path) -> None:
    base = state(editor.lm)
    first = editor.write(LYON)
    assert first.report["facts"][0]["said"]
    assert says(editor.ask("France is governed from").text, "Lyon")
    both = editor.write([ROME, PARIS], method="memit")
    assert [row["said"] for row in both[0].report["facts"]] == [True, True]
    edited = state(editor.lm)

    editor.drop(first.id)
    assert says(editor.ask(LYON.prompt).text, "Paris")
    assert says(editor.ask(ROME.prompt).text, "Rome")
    editor.restore(first.id[:8])
    assert same(edited, state(editor.lm))

    saved = editor.save(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(saved)
    assert same(edited, loaded.state_dict())

    with open_editor("primer", book=editor.book.path) as again:
        assert same(edited, state(again.lm))
    editor.drop(first.id, both[0].id)
    assert same(base, state(editor.lm))


def test_a_trial_leaves_nothing_behind(editor: Editor) -> None:
    editor.write(PARIS)
    before = state(editor.lm)
    with editor.trial([LYON, ROME], method="memit") as model:
        assert says(model.generate([LYON.prompt])[0], "Lyon")
    assert same(before, state(editor.lm))
    assert len(editor.log()) == 1


def test_an_edit_written_by_another_process_is_seen(editor: Editor) -> None:
    with open_editor("primer", book=editor.book.path) as other:
        edit = other.write(LYON)
    assert says(editor.ask(LYON.prompt).text, "Lyon")
    editor.drop(edit.id)
    assert says(editor.ask(LYON.prompt).text, "Paris")


def test_the_same_write_after_a_drop_stands_again(editor: Editor) -> None:
    first = editor.write(LYON)
    edited = state(editor.lm)
    editor.drop(first.id)
    assert editor.write(LYON).id == first.id
    assert same(edited, state(editor.lm))
    assert len(editor.log()) == 1


def test_a_target_the_model_says_already_is_a_note(editor: Editor) -> None:
    edit = editor.write(Fact(prompt="The capital of France is", subject="France", target="Paris"))
    assert any("already" in note for note in edit.report["notes"])


def test_one_bad_fact_of_many_changes_nothing(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    base, calls, compute = state(editor.lm), [], Rome.compute

    def third_time_unlucky(self: Rome, *args: object) -> Solution:
        calls.append(1)
        if len(calls) == 3:
            raise NotFinite("planted")
        return compute(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Rome, "compute", third_time_unlucky)
    with pytest.raises(NotFinite):
        editor.write([LYON, ROME, PARIS], method="rome")
    assert len(calls) == 3
    assert same(base, state(editor.lm))
    assert not editor.log()


def test_contradictions_are_refused(editor: Editor) -> None:
    with pytest.raises(BadFact):
        editor.write([LYON, Fact(prompt=LYON.prompt, subject="France", target="Rome")], method="memit")
    assert not editor.log()


def test_an_explosion_is_refused(primer: LM, tmp_path: Path) -> None:
    base = state(primer)
    with open_editor(primer, book=tmp_path / "book", max_norm_ratio=1e-3) as editor, pytest.raises(UpdateTooLarge):
        editor.write(LYON)
    assert same(base, state(primer))


def test_the_book_of_another_model_is_refused_with_both_names(editor: Editor, tmp_path: Path) -> None:
    editor.write(LYON)
    other = editor.save(tmp_path / "other")
    with pytest.raises(BookOfAnotherModel, match=r"primer.*other"):
        open_editor(str(other), book=editor.book.path)


def test_an_altered_edit_is_named(editor: Editor) -> None:
    edit = editor.write(LYON)
    (file,) = (editor.book.path / "edits").iterdir()
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptEdit, match=file.name[:16]):
        open_editor("primer", book=editor.book.path)
    editor.drop(edit.id)  # the way out the message names
    with open_editor("primer", book=editor.book.path) as again:
        assert says(again.ask(LYON.prompt).text, "Paris")


def test_saving_over_something_is_refused(editor: Editor, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        editor.save(tmp_path / "full")
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_unknown_ids_are_refused(editor: Editor) -> None:
    with pytest.raises(UnknownEdit):
        editor.drop("0123456789abcdef")
    edit = editor.write(LYON)
    editor.drop(edit.id)
    with pytest.raises(BadBook):
        editor.drop(edit.id)
