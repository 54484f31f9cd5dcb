"""A book and the model it corrects: which changes of a checkpoint it lets pass, what it says of others, and older books.

pytest tests/editing/test_base.py
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from errata.bench.run import Plan, Run
from errata.book import Book
from errata.book.verify import verify
from errata.data.case import Case
from errata.delta import Site
from errata.editing.editor import Editor
from errata.editing.opening import open as open_editor
from errata.errors import BookOfAnotherModel
from errata.identity import Identity
from errata.methods import make
from errata.model.lm import LM
from errata.model.loading import load
from errata.stats import remembered_layer, store
from tests import tiny

METHOD = make("ft", {"steps": 2, "layer": 0})
FACT = tiny.FACTS[0]
Change = Callable[[Path], dict[str, Any] | None]


@pytest.fixture
def saved(models: Callable[[str], LM], tmp_path: Path) -> Path:
    """A checkpoint with a book that has an edit in it."""
    models("llama").save(tmp_path / "model")
    with open_editor(str(tmp_path / "model"), book=tmp_path / "book") as editor:
        editor.write(FACT, METHOD)
    return tmp_path / "model"


def configured(path: Path, **changes: object) -> None:
    config = {**json.loads((path / "config.json").read_text()), **changes}
    (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_a_checkpoint_that_computes_the_same_opens_the_book(saved: Path) -> None:
    for change in (
        {"pad_token_id": 0},
        {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None},
        {"unsloth_version": "2025.1", "unsloth_fixed": True},
        {"rms_norm_eps": None, "hidden_act": None},  # as the class has them anyway
        {"rms_norm_eps": 1e-06, "hidden_act": "silu", "attention_bias": False},
        {"rope_parameters": None, "rope_theta": 10000.0},
    ):
        configured(saved, **change)
        with open_editor(str(saved), book=saved.parent / "book") as editor:
            assert len(editor.standing) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rms_norm_eps": 1e-3}, r"rms_norm_eps is 0\.001 where the book's is the default"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
            r"rope_parameters\.rope_theta is 500 where",
        ),
        ({"hidden_act": "gelu", "rms_norm_eps": 0.1}, r'hidden_act is "gelu" where .* rms_norm_eps is 0\.1'),
        ({"max_position_embeddings": 64}, "max_position_embeddings is 64 where the book's is 128"),
    ],
)
def test_a_setting_that_changes_the_function_is_refused_by_its_name(
    saved: Path, change: dict[str, object], said: str
) -> None:
    configured(saved, **change)
    with pytest.raises(BookOfAnotherModel, match=said) as caught:
        open_editor(str(saved), book=saved.parent / "book")
    assert "weights" not in str(caught.value)
    assert "when the book was made" in str(caught.value)  # the same directory is not named as two models


def test_dtype_weights_and_vocabulary_are_named(saved: Path) -> None:
    book = saved.parent / "book"
    with pytest.raises(BookOfAnotherModel, match=r"dtype is bfloat16 where the book's is float32.*--dtype float32"):
        open_editor(str(saved), book=book, dtype="bfloat16")
    lm = load(str(saved))
    with torch.no_grad():
        lm.model.model.layers[1].mlp.down_proj.weight[0, 0] += 1
    changed = LM(lm.model, lm.tokenizer, "changed")
    with pytest.raises(BookOfAnotherModel, match=r"not changed .*: its weights are others; open that model"):
        open_editor(changed, book=book)
    with pytest.raises(BookOfAnotherModel, match="vocabulary has 400 tokens where the book's has 360"):
        open_editor(tiny.build("llama", vocab_size=400), book=book)


# ------------------------------------------------------------------ books of before identities had parts


def as_before(path: Path) -> LM:
    """Load a model that goes by its older fingerprint, as every model did."""
    lm = load(str(path))
    lm.fingerprint = lm.identity.older()
    lm.identity = replace(lm.identity, older=str)
    return lm


def older_book(saved: Path) -> Path:
    shutil.rmtree(saved.parent / "book")
    lm = as_before(saved)
    with Editor(lm, Book.open(saved.parent / "book", lm.fingerprint, lm.name)) as editor:
        editor.write(FACT, METHOD)
    return saved.parent / "book"


def meta(path: Path) -> dict[str, str]:
    with Book.open(path) as book, book.query() as db:
        return dict(db.execute("SELECT key, value FROM meta"))


def test_an_older_book_opens_takes_edits_and_gives_them_back(saved: Path) -> None:
    path = older_book(saved)
    lm = load(str(saved))
    older = lm.identity.older()
    assert set(meta(path)) == {"base", "name", "id"}
    with open_editor(lm, book=path) as editor:
        assert (editor.book.base, editor.standing[0].base) == (older, older)
        new = editor.write(tiny.FACTS[1], METHOD)
        assert new.base == older != lm.fingerprint
        assert new.id in " ".join(edit.id for edit in editor.standing)
        with editor.rehearse([new]):
            pass
        with editor.trial(tiny.FACTS[2], METHOD):
            pass
        assert not verify(editor.book).problems
        editor.drop(new.id)
        editor.restore(new.id)
        editor.drop(new.id, editor.log()[0].id)
        assert not editor.standing
        assert not verify(editor.book).problems
    assert Identity.from_json(meta(path)["identity"]) == lm.identity


def test_an_older_book_knows_afterwards_what_counts(saved: Path) -> None:
    path = older_book(saved)
    configured(saved, unsloth_version="1")
    with pytest.raises(BookOfAnotherModel, match=r"older book does not say: open it with that model's own files"):
        open_editor(str(saved), book=path)
    configured(saved, unsloth_version=None)
    open_editor(str(saved), book=path).close()
    configured(saved, unsloth_version="1")
    lm = load(str(saved))
    with open_editor(lm, book=path) as editor:  # without the older rule, which would not know the model
        assert (
            editor.write(tiny.FACTS[1], METHOD).base == meta(path)["base"] not in (lm.fingerprint, lm.identity.older())
        )
    Book.open(path, lm.fingerprint, lm.name).close()
    configured(saved, rms_norm_eps=0.5)
    with pytest.raises(BookOfAnotherModel, match=r"rms_norm_eps is 0\.5"):
        open_editor(str(saved), book=path)


def test_an_older_book_that_may_not_be_written_to_opens(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = older_book(saved)
    monkeypatch.setattr("errata.book.book.os.access", lambda *_: False)
    with open_editor(str(saved), book=path) as editor:
        assert len(editor.standing) == 1
    assert "identity" not in meta(path)


def test_the_older_fingerprint_is_worked_out_only_for_older_books(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> str:
        raise AssertionError("asked for")

    monkeypatch.setattr("errata.model.identify.fingerprint_in_older_books", never)
    with open_editor(str(saved), book=saved.parent / "book") as editor:
        edit = editor.write(tiny.FACTS[1], METHOD)
        assert editor.lm.identity.goes_by(edit.base)
        with editor.rehearse([edit]):
            pass


def test_statistics_and_layers_of_before_are_found(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERRATA_CACHE", str(tmp_path / "cache"))
    before, site = as_before(saved), Site(1, "down")
    found = store.second_moments(before, [site], tokens=300)[site]
    remembered_layer.remember(before, 2)
    now = load(str(saved))

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(store, "_collect", never)
    assert torch.equal(store.second_moments(now, [site], tokens=300)[site], found)
    assert remembered_layer.remembered(now) == 2
    remembered_layer.forget(now)
    assert remembered_layer.remembered(now) is None
    with pytest.raises(AssertionError, match="read again"):
        store.second_moments(tiny.build("llama", seed=1), [site], tokens=300)


def test_a_benchmark_of_before_is_gone_on_with(saved: Path, tmp_path: Path) -> None:
    cases = [
        Case(id=str(i), prompt=f.prompt, target=f.target, subject=f.subject, fact=f) for i, f in enumerate(tiny.FACTS)
    ]
    plan = Plan(method="ft", options={"steps": 1, "layer": 0}, edits=2, checkpoints=(1,))
    older = as_before(saved)
    run = Run(plan, older, cases, tmp_path / "run")
    run._lm.identity = older.fingerprint  # type: ignore[assignment]  # what a book was opened with
    assert run.go()["checkpoints"][-1]["edits"] == 2
    (tmp_path / "run/summary.json").unlink()
    again = Run(plan, load(str(saved)), cases, tmp_path / "run").go()
    assert again["checkpoints"][-1]["edits"] == 2
    assert json.loads((tmp_path / "run/run.json").read_text())["fingerprint"] == older.fingerprint
