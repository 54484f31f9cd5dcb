"""Sixty and more ways to hold it wrong from Python: each ends in one of our errors, and nothing is changed.

pytest tests/editing/test_misuse.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import errata
from errata.editing.editor import Editor
from errata.errors import ErrataError
from errata.fact import Fact, Probe
from errata.model.lm import LM
from tests import tiny

FACT = tiny.FACTS[0]
QUICK = {"method": "ft", "steps": 1, "layer": 0}


def entered(manager: Any) -> None:
    with manager:
        pass


# Of an editor with one edit, in an empty directory; what is said names what was wrong.
EDITOR: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "ask nothing": (lambda e, at: e.ask("  "), "empty"),
    "ask None": (lambda e, at: e.ask(None), "must be text, not NoneType"),
    "ask a number": (lambda e, at: e.ask(3), "must be text, not int"),
    "ask bytes": (lambda e, at: e.ask(b"hi"), "must be text, not bytes"),
    "ask several": (lambda e, at: e.ask(["a", "b"]), "one prompt"),
    "ask a fact": (lambda e, at: e.ask(FACT), r"fact\.prompt"),
    "ask no Unicode": (lambda e, at: e.ask("a\ud800"), "no valid Unicode"),
    "no tokens": (lambda e, at: e.ask("hi", max_new_tokens=0), "from 1 on"),
    "many tokens": (lambda e, at: e.ask("hi", max_new_tokens="many"), "max_new_tokens is a whole number"),
    "half a token": (lambda e, at: e.ask("hi", max_new_tokens=2.5), "whole number"),
    "top below nothing": (lambda e, at: e.ask("hi", top=-1), "top is a whole number from 0"),
    "top as text": (lambda e, at: e.ask("hi", top="5"), "top is a whole number"),
    "chat without template": (lambda e, at: e.ask("hi", chat=True), "no chat template"),
    "write a sentence": (lambda e, at: e.write("France has the capital Lyon", **QUICK), "where the answer begins"),
    "write half a dict": (lambda e, at: e.write({"prompt": "x"}, **QUICK), "no 'target'"),
    "write a dict misspelt": (lambda e, at: e.write({"prompt": "x", "targt": "y"}, **QUICK), "Did you mean target"),
    "write None": (lambda e, at: e.write(None, **QUICK), "no fact"),
    "write a number": (lambda e, at: e.write([FACT, 5], **QUICK), "5 is no fact"),
    "write texts": (lambda e, at: e.write(["a", "b"], **QUICK), "no fact"),
    "write a tuple": (lambda e, at: e.write(("The capital of France is", "France", "Lyon"), **QUICK), "no fact"),
    "write an edit": (lambda e, at: e.write(e.standing[0], **QUICK), "written already"),
    "write a file": (lambda e, at: e.write(at / "facts.jsonl", **QUICK), "read_facts"),
    "write a contradiction": (
        lambda e, at: e.write([FACT, Fact(FACT.prompt, "France", "Oslo")], **QUICK),
        "contradict",
    ),
    "write it twice": (lambda e, at: e.write([FACT, FACT], **QUICK), "same fact"),
    "method misspelt": (lambda e, at: e.write(FACT, "roem"), "Did you mean rome"),
    "method None": (lambda e, at: e.write(FACT, None), "a method is named"),
    "setting misspelt": (lambda e, at: e.write(FACT, "ft", stepz=2), "Did you mean steps"),
    "setting of a method": (lambda e, at: e.write(FACT, errata.methods.make("ft", {}), stepz=2), "Did you mean steps"),
    "setting as text": (lambda e, at: e.write(FACT, "ft", steps="two"), "whole number"),
    "setting of none": (lambda e, at: e.write(FACT, "ft", steps=0), "at least 1"),
    "layer beyond": (lambda e, at: e.write(FACT, "ft", layer=99), "layers 0 to 2"),
    "label as text": (lambda e, at: e.write(FACT, label="me", **QUICK), "a label is Label"),
    "author a number": (lambda e, at: e.write(FACT, author=5, **QUICK), "text for its author"),
    "tags a number": (lambda e, at: e.write(FACT, tags=5, **QUICK), "text for its tags"),
    "tags numbers": (lambda e, at: e.write(FACT, tags=[1, 2], **QUICK), "text for its tags"),
    "no day": (lambda e, at: e.write(FACT, valid_until="tomorrow", **QUICK), "YYYY-MM-DD"),
    "gates as a dict": (lambda e, at: e.write(FACT, gates={"said": 1}, **QUICK), "gates are Gates"),
    "progress as text": (lambda e, at: e.write(FACT, progress="bar", **QUICK), "progress is a function"),
    "try a sentence": (lambda e, at: entered(e.trial("x", **QUICK)), "where the answer begins"),
    "rehearse a sentence": (lambda e, at: entered(e.rehearse("abc", **QUICK)), "where the answer begins"),
    "let ids stand": (lambda e, at: entered(e.standing_as(["abcdef"])), "no edit"),
    "drop what is not there": (lambda e, at: e.drop("ffffff"), "no edit 'ffffff'"),
    "drop None": (lambda e, at: e.drop(None), "None names no edit"),
    "drop a number": (lambda e, at: e.drop(3), "3 names no edit"),
    "drop a fact": (lambda e, at: e.drop(FACT), "names no edit"),
    "drop a short id": (lambda e, at: e.drop(e.standing[0].id[:3]), "at least 6"),
    "drop for a number": (lambda e, at: e.drop(e.standing[0], reason=5), "the reason is text"),
    "drop by a number": (lambda e, at: e.drop(e.standing[0], author=5), "the author is text"),
    "restore what stands": (lambda e, at: e.restore(e.standing[0]), "already stands"),
    "restore None": (lambda e, at: e.restore(None), "None names no edit"),
    "save to None": (lambda e, at: e.save(None), "the directory is given as a path"),
    "save onto the book": (lambda e, at: e.save(e.book.path), "not empty"),
    "export misspelt": (lambda e, at: e.export(at / "o", "adaptor"), "Did you mean adapter"),
    "export at a number": (lambda e, at: e.export(at / "o", at=3), "a state is named"),
    "export of no rank": (lambda e, at: e.export(at / "o", rank=0), "from 1 on"),
    "export onto a text": (lambda e, at: e.export(at / "o", "gguf", onto="x.gguf"), r"Onto\(path\)"),
    "statistics misspelt": (lambda e, at: e.stats("mmit"), "Did you mean memit"),
    "save an edit nowhere": (lambda e, at: e.standing[0].save(at / "none" / "x"), "cannot write"),
    "look up None": (lambda e, at: e.book.get(None), "names no edit"),
    "an editor of names": (lambda e, at: Editor("primer", ".errata"), "errata.open"),  # type: ignore[arg-type]
}

ALONE: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "open None": (lambda lm, at: errata.open(None, book=at), "not NoneType"),  # type: ignore[arg-type]
    "open a module": (lambda lm, at: errata.open(lm.model, book=at), "save_pretrained"),
    "open nowhere": (lambda lm, at: errata.open(str(at / "none"), book=at), "not there"),
    "open misspelt": (lambda lm, at: errata.open(lm, bok=at), "Did you mean book"),
    "open for what": (lambda lm, at: errata.open(lm, book=at, use="watch"), "'watch'"),  # type: ignore[arg-type]
    "dtype a number": (lambda lm, at: errata.open("primer", book=at, dtype=16), "dtype"),  # type: ignore[arg-type]
    "book None": (lambda lm, at: errata.open(lm, book=None), "the book is given as a path"),  # type: ignore[arg-type]
    "author a number": (lambda lm, at: errata.open(lm, book=at, author=5), "the author is text"),
    "limit below nothing": (lambda lm, at: errata.open(lm, book=at, max_norm_ratio=-1), "above 0"),
    "no target": (lambda lm, at: Fact("x"), "needs a prompt and a target"),
    "target None": (lambda lm, at: Fact("a x", "x", None), "target must be text"),  # type: ignore[arg-type]
    "probes as text": (lambda lm, at: Fact("a x", "x", "z", probes="p"), "must be a list"),  # type: ignore[arg-type]
    "a probe of nothing": (lambda lm, at: Probe("alias"), "empty prompt"),
    "a share of text": (lambda lm, at: errata.Gates(said="all"), "takes a number"),  # type: ignore[arg-type]
    "a share of 3": (lambda lm, at: errata.Gates(said=3), "between 0 and 1"),
    "an edit of nowhere": (lambda lm, at: errata.Edit.load(at / "none"), "cannot be read"),
    "a method of None": (lambda lm, at: errata.methods.get(None), "no method None"),  # type: ignore[arg-type]
}

CLOSED: dict[str, Callable[[Any, Any], object]] = {
    "ask": lambda e, at: e.ask("hi"),
    "write": lambda e, at: e.write(FACT, **QUICK),
    "drop": lambda e, at: e.drop("abcdef"),
    "log": lambda e, at: e.log(),
    "standing": lambda e, at: e.standing,
    "save": lambda e, at: e.save(at / "x"),
    "again": lambda e, at: Editor(e.lm, e.book),
}


def test_every_misuse_of_an_editor_is_one_of_our_errors(editor: Editor, tmp_path: Path) -> None:
    assert len(EDITOR) + len(ALONE) + len(CLOSED) > 60
    editor.write(FACT, **QUICK)
    before = editor.book.version()
    for name, (misuse, said) in EDITOR.items():
        with pytest.raises(ErrataError, match=said):
            misuse(editor, tmp_path)
        assert editor.book.version() == before, name
    assert [edit.facts for edit in editor.standing] == [(FACT,)]
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ALONE)
def test_every_misuse_at_the_door_is_one_of_our_errors(name: str, lm: LM, tmp_path: Path) -> None:
    misuse, said = ALONE[name]
    with pytest.raises(ErrataError, match=said):
        misuse(lm, tmp_path / "book")


def test_a_closed_book_says_so(lm: LM, tmp_path: Path) -> None:
    with errata.open(lm, book=tmp_path / "book") as closed:
        pass
    for misuse in CLOSED.values():
        with pytest.raises(ErrataError, match="closed: open it again"):
            misuse(closed, tmp_path)
