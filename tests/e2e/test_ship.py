"""A folder of edits looked over as a pull request is, and the commands that carry edits elsewhere, on the shipped model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from errata import Fact
from errata.book.states import tag
from errata.cli import app
from errata.editing.editcard import markdown, review, to_dict
from errata.editing.editor import Editor
from errata.editing.gates import Gates
from errata.errors import InputError
from errata.model.lm import LM
from errata.model.query import Query
from tests.e2e.conftest import state
from tests.export.engines import Engine, engine  # noqa: F401 - a fixture

LYON = Fact(prompt="The capital of France is", subject="France", target="Lyon")
ROME = Fact(prompt="The capital of Spain is", subject="Spain", target="Rome")
NICE = Fact(prompt="The capital of France is", subject="France", target="Nice")


def facts(folder: Path, name: str, *rows: Fact) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row.to_dict()) + "\n" for row in rows), encoding="utf-8")


def test_a_change_is_tried_measured_and_put_back(editor: Editor, tmp_path: Path) -> None:
    editor.write(LYON)
    facts(tmp_path / "pr", "a.jsonl", ROME)
    with editor.rehearse([[Fact(prompt="The capital of Italy is", subject="Italy", target="Paris")]]) as (edit,):
        edit.save(tmp_path / "pr" / "b.safetensors")
    before, head = state(editor.lm), editor.book.history()
    card = review(editor, tmp_path / "pr", Gates(said=1.0, oldest=1.0))
    assert all(torch.equal(before[name], tensor) for name, tensor in state(editor.lm).items())
    assert editor.book.history() == head
    assert card.passed
    assert [(f.name, f.facts) for f in card.files] == [("a.jsonl", 1), ("b.safetensors", 1)]
    assert [(r["target"], r["said"]) for r in card.facts] == [("Rome", True), ("Paris", True)]
    assert (card.standing, card.head) == (1, head[-1].hash)
    page = markdown(card)
    assert page.startswith("# EditCard: ✅ passed")
    assert "| The capital of Spain is → Rome | Madrid. | Rome. | ✓ |" in page
    assert json.loads(json.dumps(to_dict(card)))["passed"] is True


def test_a_closed_gate_and_a_conflict_are_on_the_card(editor: Editor, tmp_path: Path) -> None:
    editor.write(LYON)
    facts(tmp_path / "pr", "a.jsonl", NICE)
    card = review(editor, tmp_path / "pr", Gates(norm_ratio=1e-3))
    assert not card.passed
    assert [c.kind for c in card.conflicts] == ["contradiction"]
    page = markdown(card)
    assert "❌ refused" in page
    assert "- the gate norm_ratio found" in page
    assert "| contradiction |" in page


def test_what_cannot_be_written_is_a_card_too(editor: Editor, tmp_path: Path) -> None:
    facts(tmp_path / "pr", "a.jsonl", LYON)
    facts(tmp_path / "pr", "b.jsonl", NICE)
    card = review(editor, tmp_path / "pr")
    assert not card.passed
    assert "contradict" in card.refused
    assert card.refused in markdown(card)
    (tmp_path / "empty").mkdir()
    for folder, words in (("none", "no directory"), ("empty", "no edits")):
        with pytest.raises(InputError, match=words):
            review(editor, tmp_path / folder)


def test_what_users_wrote_stays_in_its_cell(editor: Editor, tmp_path: Path) -> None:
    nasty = Fact(prompt="The capital of France is", subject="France", target="Lyon | <b>[x](http://y)\n`z`")
    facts(tmp_path / "pr", "a.jsonl", nasty)
    page = markdown(review(editor, tmp_path / "pr", None, steps=1))
    line = next(line for line in page.split("\n") if line.startswith("| The capital of France"))
    assert r"Lyon \| \<b>\[x\](http://<!-- -->y) \`z\`" in line


def test_ci_export_and_push_from_the_command_line(
    editor: Editor,
    tmp_path: Path,
    engine: Engine,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    book = str(editor.book.path)
    editor.write(LYON)
    tag(editor.book, "one")
    editor.write(ROME)
    facts(tmp_path / "pr", "a.jsonl", Fact(prompt="The capital of Italy is", subject="Italy", target="Paris"))
    (tmp_path / "gates.toml").write_text("said = 1.0\n")
    out = tmp_path / "card"
    words = ["ci", str(tmp_path / "pr"), "--gate", str(tmp_path / "gates.toml"), "--out", str(out), "--book", book]
    assert app.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "editcard.json").read_text())
    (tmp_path / "gates.toml").write_text("norm_ratio = 0.001\n")
    assert app.main(words) == 1
    assert "refused: a gate is closed" in capsys.readouterr().out
    assert (out / "editcard.md").read_text().startswith("# EditCard: ❌")

    words = ["push", "--vllm", engine.url, "--out", str(tmp_path / "pushed"), "--book", book, "--at", "one", "--strict"]
    assert app.main(words) == 0
    ((name, path),) = engine.adapters.items()
    assert (name, Path(path).parent) == ("base@one", tmp_path / "pushed")
    assert "added successfully" in " ".join(capsys.readouterr().out.split())

    words = ["export", str(tmp_path / "old"), "--as", "checkpoint", "--at", "one", "--book", book, "--json"]
    assert app.main(words) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["at"], len(row["edits"]), row["parts"]) == ("one", 1, [])
    for wrong, words in (
        (["--as", "adaptor"], "Did you mean adapter"),
        (["--as", "delta", "--rank", "3"], "--rank is"),
    ):
        assert app.main(["export", str(tmp_path / "x"), "--book", book, *wrong]) == 2
        assert words in capsys.readouterr().err


def test_peft_says_what_the_edited_primer_says(editor: Editor, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = pytest.importorskip("peft")
        transformers = pytest.importorskip("transformers")
    from errata.export.adapter import adapter
    from errata.export.checkpoint import checkpoint

    checkpoint(editor.lm, [], tmp_path / "base")
    editor.write(LYON)
    editor.write([ROME], method="memit")
    parts = adapter(editor.lm, editor.standing, tmp_path / "out")
    assert all(part.error == 0 for part in parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        model = peft.PeftModel.from_pretrained(base, tmp_path / "out").eval()
    batch = editor.lm.tokens.batch([Query(LYON.prompt, "Lyon"), Query("The capital of Italy is", "Rome")])
    with torch.no_grad():
        wanted, found = editor.lm.model(**batch.inputs).logits, model(**batch.inputs).logits
    torch.testing.assert_close(found.float(), wanted.float(), atol=TOLERANCE[wanted.dtype], rtol=0.02)
    other = LM(model.merge_and_unload(), editor.lm.tokenizer)
    assert [text.strip(" .") for text in other.generate([LYON.prompt, ROME.prompt])] == ["Lyon", "Rome"]


TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
