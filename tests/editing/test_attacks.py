"""What a crafted edit, a second thread or a stranger's folder can do to an editor and its card: each was possible once.

pytest tests/editing/test_attacks.py
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from errata.delta import Columns, Dense, LowRank, Site
from errata.edit import Edit, Report
from errata.editing.editcard import Card, File, markdown, review, write
from errata.editing.editor import Editor
from errata.editing.gates import Figure, Gates
from errata.errors import BadBook, BadConfig, InputError, UpdateTooLarge
from errata.fact import Fact
from errata.model.lm import LM
from tests import synthetic
from tests.editing.mouth import Mouth, put, same, state

SITE = Site(0, "down")


def crafted(editor: Editor, change: Any, number: int = 7) -> Edit:
    """Return an edit whose id is right, whatever it changes; its report says that all is small."""
    fact = Fact(prompt="Ulm lies in", subject="Ulm", target="Mali")
    small = Report({"norm_ratio": {str(SITE): 0.001}})
    return Edit(
        method="x",
        config={},
        facts=(fact,),
        base=editor.lm.fingerprint,
        seed=number,
        deltas={SITE: change},
        report=small,
    )


def shapes(lm: LM) -> tuple[int, int]:
    out, width = lm.parameter(SITE).shape
    return out, width


CRAFTED: dict[str, tuple[Callable[[int, int], Any], str]] = {
    "a million times too large": (lambda o, w: LowRank(torch.full((o, 1), 1e6), torch.ones(w, 1)), "times as large"),
    "not a number": (lambda o, w: Dense(torch.full((o, w), float("nan"))), "not finite"),
    "another shape": (lambda o, w: Dense(torch.ones(o, w + 1)), "the matrix of"),
    "a column before the first": (lambda o, w: Columns(torch.tensor([-1]), torch.ones(o, 1)), "before the first"),
    "a column after the last": (lambda o, w: Columns(torch.tensor([w]), torch.ones(o, 1)), "the matrix of"),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_an_edit_that_cannot_stand_shuts_nobody_out(editor: Editor, mouth: Mouth, tmp_path: Path, case: str) -> None:
    change, words = CRAFTED[case]
    good, bad = synthetic.edit(editor.lm, 1), crafted(editor, change(*shapes(editor.lm)))
    put(editor.book, good)
    assert [edit.id for edit in editor.standing] == [good.id]
    right = state(editor.lm)
    put(editor.book, bad)
    assert [edit.id for edit in editor.standing] == [good.id]
    assert same(editor.lm, right)
    assert list(editor.skipped) == [bad.id]
    assert words in editor.skipped[bad.id]
    assert any(f"errata drop {bad.id}" in note for note in editor.notes)
    put(editor.book, later := synthetic.edit(editor.lm, 2))  # and the book goes on
    assert [edit.id for edit in editor.standing] == [good.id, later.id]
    assert list(editor.skipped) == [bad.id]
    editor.drop(bad.id)
    assert editor.skipped == {}
    # Nor is it let in by a card.
    folder = tmp_path / "change"
    folder.mkdir()
    bad.save(folder / "a.safetensors")
    card = review(editor, folder, Gates(texts=1), "ft", steps=1, layer=0)
    assert not card.passed
    assert words in card.refused


def test_a_card_says_sizes_as_measured(editor: Editor, mouth: Mouth, tmp_path: Path) -> None:
    out, width = shapes(editor.lm)
    change = LowRank(torch.ones(out, 1), torch.ones(width, 1) * 1e-3)
    crafted(editor, change).save(tmp_path / "a.safetensors")
    card = review(editor, tmp_path, Gates(texts=1), "ft")
    wanted = change.norm() / float(editor.lm.weights.base(SITE).norm())
    assert card.sites == {str(SITE): pytest.approx(wanted, rel=1e-4)}
    with pytest.raises(UpdateTooLarge), editor.rehearse([crafted(editor, change * 1e6)]):
        pass


def test_a_card_does_not_tick_what_was_not_asked() -> None:
    figures = (Figure("oldest", None, 0.9, 0, True), Figure("paraphrase", None, 0.9, 0, False))
    page = markdown(Card("m", "b", "h", 0, "ft", "2026", figures=figures))
    assert "| oldest | – | 0.9 | 0 | nothing asked |" in page
    assert "| paraphrase | – | 0.9 | 0 | ✗ nothing asked |" in page


EVIL = "![x](http://evil/?q) <img src=x> [a](b) @everyone #12 www.evil.org `x` | **b** _i_ ~s~ $m$ \x1b[31m \u202ekcab &lt;"


def test_nothing_a_stranger_wrote_is_markup() -> None:
    row = {"prompt": EVIL, "subject": EVIL, "target": EVIL, "before": EVIL, "after": EVIL, "said": True}
    figure = Figure("said", 0.0, 0.5, 1, False, (EVIL,))
    page = markdown(
        Card(EVIL, EVIL, EVIL, 0, EVIL, "2026", files=[File(EVIL, "0" * 64, 1)], facts=[row], figures=[figure],
             refused=EVIL, sites={EVIL: 1.0}, versions={EVIL: EVIL})
    )  # fmt: skip
    for raw in (
        "![",
        "[a]",
        "<img",
        "@e",
        "#1",
        "www.e",
        "://e",
        "**b",
        "_i",
        "~s",
        "$m",
        "`x",
        "| **",
        "&lt",
        "\x1b",
        "\u202e",
    ):
        assert not re.search(r"(?<!\\)" + re.escape(raw), page), raw
    assert r"\u202ekcab" in page.replace("\\\\", "\\")


def test_a_card_is_written_through_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("dear")
    out = tmp_path / "card"
    out.mkdir()
    (out / "editcard.md").symlink_to(victim)
    write(Card("m", "b", "h", 0, "ft", "2026"), out)
    assert victim.read_text() == "dear"
    assert not (out / "editcard.md").is_symlink()
    assert json.loads((out / "editcard.json").read_text())["model"] == "m"
    with pytest.raises(InputError, match="cannot write the card"):
        write(Card("m", "b", "h", 0, "ft", "2026"), victim)


def test_links_in_a_change_are_not_followed(editor: Editor, mouth: Mouth, tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text('{"prompt": "a b", "subject": "a", "target": "c"}')
    (tmp_path / "change").mkdir()
    (tmp_path / "change" / "a.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(InputError, match="is a link"):
        review(editor, tmp_path / "change")


def test_a_closed_editor_says_that_it_is(editor: Editor) -> None:
    editor.close()
    with pytest.raises(BadBook, match="is closed: open it again"):
        editor.ask("Ulm lies in")


def test_two_threads_take_turns(editor: Editor) -> None:
    """What one asks is answered by a model with all edits that were reported, and none half written."""
    facts = [Fact(prompt=f"Town {n} lies in", subject=f"Town {n}", target="Mali") for n in range(1)]
    alone = {}
    for n in range(len(facts) + 1):
        alone[n] = editor.ask("Town 0 lies in", max_new_tokens=3, top=3).top
        if n < len(facts):
            editor.write(facts[n], "ft", steps=1, layer=0)
    editor.drop(*(edit.id for edit in editor.standing))
    failed, heard, done = list[BaseException](), list[Any](), threading.Event()

    def ask() -> None:
        try:
            while not done.wait(0.01):
                heard.append(editor.ask("Town 0 lies in", max_new_tokens=3, top=3).top)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(1)]
    for thread in threads:
        thread.start()
    try:
        for fact in facts:
            editor.write(fact, "ft", steps=1, layer=0)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert all(any(one == known for known in alone.values()) for one in heard)
    assert editor.ask("Town 0 lies in", max_new_tokens=3, top=3).top == alone[len(facts)]


def test_a_report_of_an_edit_is_its_authors_word(editor: Editor, mouth: Mouth, tmp_path: Path) -> None:
    out, width = shapes(editor.lm)
    edit = replace(crafted(editor, Dense(torch.zeros(out, width))), report=Report({"norm_ratio": {"no.site": "x"}}))
    edit.save(tmp_path / "a.safetensors")
    assert review(editor, tmp_path, Gates(texts=1), "ft").sites == {str(SITE): 0.0}


@pytest.mark.parametrize("setting", [{"seed": 10**30}, {"seed": -(10**30)}, {"lr": 1e308}, {"steps": 2**70}])
def test_a_number_that_no_tensor_holds_is_named(setting: dict[str, float]) -> None:
    from errata.editing.given import method_of

    with pytest.raises(BadConfig, match="larger than any number"):
        method_of("rome", setting)
    assert method_of("rome", {"seed": 7, "lr": 0.5}).seed == 7
