"""Texts that are classified: the target of a fact is the class, and every edit works as on models that speak.

pytest tests/model/test_classifier.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from errata import methods
from errata.cli import main
from errata.editing.editor import Editor
from errata.editing.opening import open as open_editor
from errata.errors import BadFact, UnsupportedModel
from errata.evaluate.scorer import Scorer
from errata.fact import Fact
from errata.methods.base import CLASSIFY
from errata.model.lm import LM
from errata.model.loading import load
from errata.model.query import Query
from tests import tiny

CLASSES = ("civil rights", "economics", "federalism")
TEXTS = (
    "The capital of France is Paris. The capital of Italy is Rome.",
    "Bruno Keller works as a baker. Carla Moreno plays the violin.",
    "Anna Lindgren speaks Norwegian. Bruno Keller speaks German. The company Altona is based in Hamburg.",
)
EDITORS = ("grace", "lora", "melo", "wise")


def classifier(seed: int = 0) -> LM:
    config = tiny.config("bert", num_labels=3, id2label=dict(enumerate(CLASSES)),
                         label2id={name: i for i, name in enumerate(CLASSES)}, max_position_embeddings=24)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = transformers.AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn_like(parameter) * min(parameter.shape) ** -0.5)
    return LM(made.eval(), tiny.tokenizer("bert"), "tiny classifier")


@pytest.fixture
def lm() -> LM:
    return classifier()


@pytest.fixture
def editor(lm: LM, tmp_path: Path) -> Iterator[Editor]:
    with open_editor(lm, book=tmp_path / "book") as opened:
        yield opened


def other(lm: LM, text: str) -> Fact:
    """Return the fact that a text is of the class the model thinks least likely."""
    return Fact(prompt=text, subject=text.split()[0], target=lm.top(text, 3)[-1][0])


def logits(lm: LM, *texts: str) -> torch.Tensor:
    with torch.no_grad():
        return lm.answer_logits(lm.tokens.batch([Query(text, CLASSES[0]) for text in texts]))


def test_it_says_the_class_and_gives_all_probabilities(lm: LM) -> None:
    assert lm.row.kind == "classifier"
    top = lm.top(TEXTS[0], 9)
    assert sorted(name for name, _ in top) == sorted(CLASSES)
    assert sum(p for _, p in top) == pytest.approx(1)
    assert lm.generate(TEXTS) == [lm.top(text, 1)[0][0] for text in TEXTS]
    assert Scorer(lm).said(TEXTS) == dict(zip(TEXTS, lm.generate(TEXTS), strict=True))
    (logp,) = lm.logprobs([Query(TEXTS[0], top[0][0])])
    assert float(logp.exp()) == pytest.approx(top[0][1], abs=1e-5)
    scored = Scorer(lm).answers([(TEXTS[0], name) for name in CLASSES])
    assert sorted(s.hits for s in scored.values()) == [(False,), (False,), (True,)]
    with pytest.raises(BadFact, match=r"no class.*Did you mean economics"):
        lm.logprobs([Query(TEXTS[0], "economic")])


def test_a_long_text_is_read_as_far_as_the_model_goes(lm: LM) -> None:
    batch = lm.tokens.batch([Query(" ".join(TEXTS) * 3, CLASSES[1]), Query(TEXTS[0], CLASSES[2])])
    assert batch.inputs["input_ids"].shape[1] == 24
    assert batch.ends is not None
    assert batch.inputs["input_ids"][0, batch.ends[0]] == lm.tokenizer.eos_token_id  # closed as every text is
    assert batch.labels.tolist() == [1, 2]
    logits(lm, " ".join(TEXTS) * 3)


@pytest.mark.parametrize("method", EDITORS)
def test_an_edit_gives_the_text_its_class_and_leaves_others(method: str, editor: Editor) -> None:
    fact = other(editor.lm, TEXTS[0])
    before = logits(editor.lm, *TEXTS)
    edit = editor.write(fact, method, **({"radius": 0.05} if method in ("grace", "melo") else {}))
    assert edit.report["facts"][0]["said"]  # type: ignore[index]
    answer = editor.ask(TEXTS[0])
    assert answer.text == fact.target == answer.top[0][0]
    after = logits(editor.lm, *TEXTS)
    if method != "lora":
        assert torch.equal(logits(editor.lm, TEXTS[1]), logits_of_base(editor, TEXTS[1]))
        assert torch.allclose(after[1:], before[1:], atol=1e-5)
    editor.drop(edit.id)
    assert torch.equal(logits(editor.lm, *TEXTS), before)


def logits_of_base(editor: Editor, text: str) -> torch.Tensor:
    with editor.lm.weights.at_base():
        return logits(editor.lm, text)


def test_melo_writes_a_batch_and_calibrates_on_parts_of_the_texts(editor: Editor) -> None:
    facts = [other(editor.lm, text) for text in TEXTS[:2]]
    (edit,) = editor.write(facts, "melo")
    assert [row["said"] for row in edit.report["facts"]] == [True, True]  # type: ignore[index]
    assert len(edit.report["index"]["distances"]["near"]) >= 4  # type: ignore[index]


def test_methods_that_need_speech_say_so(lm: LM) -> None:
    fact = other(lm, TEXTS[0])
    for name in methods.names():
        if name in EDITORS or "classifier" in methods.get(name).kinds:
            continue
        with pytest.raises(UnsupportedModel, match=f"classifier.*Use {CLASSIFY}"):
            methods.make(name, {}).solve(lm, [fact])
    assert sorted(CLASSIFY.replace(" or ", ", ").split(", ")) == sorted(EDITORS)
    with pytest.raises(UnsupportedModel):
        lm.sample(1, 3, 0)


def test_a_document_without_rephrasings_reaches_a_quarter_of_the_way_to_the_nearest_text(lm: LM) -> None:
    alone = other(lm, TEXTS[0])
    reworded = replace(alone, rephrases=(TEXTS[0].replace("is", "was"),))
    for fact, near in ((alone, False), (reworded, True)):
        found = methods.make("melo", {"steps": 1}).solve(lm, [fact]).report["index"]
        far = found["distances"]["far"][0]  # type: ignore[index]
        assert (found["radius"] == pytest.approx(far / 4, rel=1e-3)) is not near  # type: ignore[index]


def test_the_command_line_edits_and_asks(lm: LM, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm.save(tmp_path / "model")
    assert load(str(tmp_path / "model")).row.kind == "classifier"
    fact = other(lm, TEXTS[0])
    common = ["--model", str(tmp_path / "model"), "--book", str(tmp_path / "book")]
    told = ["--prompt", fact.prompt, "--subject", fact.subject, "--target", fact.target]
    assert main(["edit", *told, "--method", "melo", *common]) == 0
    capsys.readouterr()
    assert main(["ask", fact.prompt, *common, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == fact.target
    assert answer["of"] == "class"
    assert {row["token"] for row in answer["top"]} == set(CLASSES)
    assert main(["ask", fact.prompt, *common]) == 0
    assert re.search(r"^ class +p ", capsys.readouterr().out, re.M)
