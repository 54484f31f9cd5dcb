"""lm-evaluation-harness on the model in memory, with tasks made of the primer's world; no network.

pip install 'errata-lm[eval]'; pytest tests/evaluate/test_harness.py
"""

from __future__ import annotations

import json
import os
import random
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from errata import methods
from errata.bench.run import Plan, Run
from errata.cli import main
from errata.data.cases import parse
from errata.errors import BadConfig, UnsupportedModel
from errata.evaluate import harness as module
from errata.evaluate.harness import Harness
from errata.evaluate.metrics import general_ability
from errata.evaluate.rows import About
from errata.evaluate.scorer import Scorer
from errata.evaluate.summary import at, read_rows, summarize
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.loading import load
from tests.evaluate.harness_tasks import COUNT, triples, write

installed = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs pip install 'errata-lm[eval]'")
LYON = Fact(prompt="The capital of France is", subject="France", target="Lyon")
NAMES = ("primer_choice", "primer_say", "primer_next", "primer_read")


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("primer")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks' directory; what `datasets` makes of their files is kept there, too."""
    directory = tmp_path_factory.mktemp("tasks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets

    datasets.config.HF_DATASETS_CACHE = directory / "cache"
    return write(directory / "tasks")


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=given, task_name="task") for given in arguments]


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {name.removeprefix("harness."): found.mean for name, found in summarize(rows).items()}


def test_without_the_extra_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    words = ["bench", "--cases", "primer:1", "--edits", "1", "--harness", "mmlu", "--out", str(tmp_path)]
    assert main(words) == 2
    assert "pip install 'errata-lm[eval]'" in capsys.readouterr().err


def test_a_documents_score_is_a_number_or_none() -> None:
    assert [general_ability(value) for value in (1, True, 0.25, float("nan"), [0.5, 2], "x", None)] == [
        1.0, 1.0, 0.25, None, None, None, None,
    ]  # fmt: skip
    rows = [{"case": f"t/{i}", "probe": "harness.t", "scores": {"acc": float(i)}} for i in range(2)]
    rows.append({"case": "t", "probe": "harness.t", "scores": {"ppl": 7.0}})
    found = summarize(rows)
    assert (found["harness.t.acc"].mean, found["harness.t.acc"].n) == (0.5, 2)
    assert (found["harness.t.ppl"].mean, found["harness.t.ppl"].n) == (7.0, 1)


@installed
def test_the_primer_knows_its_world(lm: LM, tasks: Path) -> None:
    rows = Harness([str(tasks)]).rows(Scorer(lm), About(checkpoint=3, model="base"))
    found = means(rows)
    assert found["primer_choice.acc"] == found["primer_choice.acc_norm"] == found["primer_next.acc"] == 1
    assert found["primer_say.exact_match.stripped"] == 1
    assert 1 <= found["primer_next.perplexity"] < 1.1
    assert 1 < found["primer_read.word_perplexity"] < 100
    assert len(rows) == 3 * COUNT + 2  # a row a document, and one for each figure that is no mean
    row = rows[0]
    assert (row["case"], row["probe"]) == ("primer_choice/0", "harness.primer_choice")
    assert row["prompt"] == triples()[0].prompts()[0]
    assert row["expected"] == row["said"] == triples()[0].answer
    assert (row["checkpoint"], row["model"], row["scores"]) == (3, "base", {"acc": 1.0, "acc_norm": 1.0})
    json.dumps(rows, allow_nan=False)


@installed
def test_an_edit_shows_and_its_absence_again(lm: LM, tasks: Path) -> None:
    harness, scorer = Harness([str(tasks)]), Scorer(lm)
    before = harness.rows(scorer, About())
    edit = methods.make("rome", {}).solve(lm, [LYON])
    with lm.weights.trial([edit.deltas]):
        edited = harness.rows(scorer, About())
    changed = {row["case"]: row["said"] for row, old in zip(edited, before, strict=True) if row["said"] != old["said"]}
    assert changed["primer_say/0"] == "Lyon"
    assert means(edited)["primer_say.exact_match.stripped"] < 1
    assert harness.rows(scorer, About()) == before


@installed
def test_a_run_asks_before_the_first_edit_and_after_the_last(lm: LM, tasks: Path, tmp_path: Path) -> None:
    plan = Plan(method="ft", options={"steps": 3}, cases="primer:2", edits=2, checkpoints=(1,), harness=(str(tasks),))
    cases = list(parse("primer:2", seed=3))
    summary = Run(plan, lm, cases, tmp_path / "run").go()
    measured = [[name for name in point["metrics"] if name.startswith("harness.")] for point in summary["checkpoints"]]
    assert [len(names) for names in measured] == [6, 0, 6]
    assert summary["checkpoints"][0]["metrics"]["harness.primer_choice.acc"]["mean"] == 1
    assert summary["versions"]["lm_eval"]
    rows = read_rows(tmp_path / "run" / "rows.jsonl")
    asked = [row for row in at(rows, checkpoint=2) if row["probe"].startswith("harness.")]
    assert len(asked) == 3 * COUNT + 2
    size = (tmp_path / "run" / "rows.jsonl").stat().st_size
    Run(plan, lm, cases, tmp_path / "run").go()  # all is done: nothing is asked again
    assert (tmp_path / "run" / "rows.jsonl").stat().st_size == size
    with pytest.raises(BadConfig, match="leave --independent out"):
        Run(Plan(method="none", cases="primer:2", harness=("x",), independent=True), lm, cases, tmp_path / "other")


@installed
def test_a_group_that_is_a_mean_is_one_number(lm: LM, tasks: Path) -> None:
    found = means(Harness([str(tasks / "group.yaml")]).rows(Scorer(lm), About()))
    assert set(found) == {"primer_facts.acc", "primer_facts.acc_norm", "primer_next.perplexity"}


@installed
def test_examples_are_the_same_every_time_and_the_process_is_left_as_it_was(
    lm: LM, tmp_path: Path, tasks: Path
) -> None:
    directory = write(tmp_path / "shots", num_fewshot=2, fewshot_split="test")
    before = (torch.get_rng_state(), str(np.random.get_state()), dict(os.environ))
    spelling = lm.tokenizer.__dict__.copy(), lm.tokenizer.padding_side, lm.tokenizer.pad_token
    harness, scorer = Harness([str(directory / "primer_choice.yaml")]), Scorer(lm)
    first, again = (harness.rows(scorer, About()) for _ in range(2))
    assert first == again
    assert first[0]["prompt"] != triples()[0].prompts()[0]
    assert first[0]["prompt"].endswith(triples()[0].prompts()[0])
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (str(np.random.get_state()), dict(os.environ))
    assert (lm.tokenizer.__dict__, lm.tokenizer.padding_side, lm.tokenizer.pad_token) == spelling


def test_what_the_harness_does_to_the_process_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "before")
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state(), dict(os.environ)
    drawn = []
    for _ in range(2):
        with module._undisturbed():
            drawn.append((random.random(), float(np.random.rand()), float(torch.rand(1))))
            os.environ |= {"KEPT": "after", "NEW": "1"}
            print("quiet", file=sys.stderr)  # noqa: T201
    assert drawn[0] == drawn[1]
    assert before[0] == random.getstate()
    assert before[1] == str(np.random.get_state())
    assert torch.equal(before[2], torch.get_rng_state())
    assert before[3] == os.environ


@installed
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "t5"])
def test_likelihoods_are_the_models_own(name: str, models: Callable[[str], LM]) -> None:
    from errata.evaluate.harness_model import Asked

    lm = models(name)
    pairs = [
        ("The capital of France is", " Paris"),
        ("The capital of France is", " Paris and the river"),
        ("", "The river"),
    ]
    found = Asked(Scorer(lm)).loglikelihood(requests(*pairs))
    for (before, after), (likelihood, greedy) in zip(pairs, found, strict=True):
        expected, best = by_hand(lm, before, after)
        assert likelihood == pytest.approx(expected, rel=1e-4)
        assert greedy is best


@torch.no_grad()
def by_hand(lm: LM, before: str, after: str) -> tuple[float, bool]:
    """Return the log-likelihood of `after` and whether it is greedy, one row at a time in float64."""
    code, start = lm.tokenizer, lm.tokenizer.bos_token_id
    start = code.eos_token_id if start is None else start
    opening = code(before)["input_ids"] if before else [start]
    if lm.row.kind == "encoder-decoder":
        answer = code(after, add_special_tokens=False)["input_ids"]
        inputs = {
            "input_ids": torch.tensor([opening]),
            "decoder_input_ids": torch.tensor([[lm.tokens.start, *answer[:-1]]]),
        }
        logits = lm.model(**inputs).logits[0]
    else:
        answer = code(after, add_special_tokens=False)["input_ids"]
        answer = code(before + after)["input_ids"][len(opening) :] if before else answer
        answer = answer[1:] if not before and answer[0] == start else answer
        logits = lm.model(torch.tensor([[*opening, *answer]])).logits[0, len(opening) - 1 : -1]
    logp = logits.double().log_softmax(-1)
    likelihood = sum(float(logp[i, token]) for i, token in enumerate(answer))
    return likelihood, logp.argmax(-1).tolist() == list(answer)


@installed
@torch.no_grad()
def test_a_long_text_is_read_in_windows_and_a_long_context_from_its_end(models: Callable[[str], LM]) -> None:
    from errata.evaluate.harness_model import Asked

    asked = Asked(Scorer(models("gpt2")))  # 128 positions
    whole = " ".join(["The river runs to the sea."] * 60)
    ids = asked.tok_encode(whole)
    assert len(ids) > 2 * asked.max_length
    (found,) = asked.loglikelihood_rolling(requests((whole,)))
    logps = []
    for at_ in range(0, len(ids), asked.max_length):
        part = ids[at_ : at_ + asked.max_length]
        if len(part) == asked.max_length or at_ == 0:
            row = [asked.prefix_token_id if at_ == 0 else ids[at_ - 1], *part]
        else:  # the last window looks back as far as it can
            row = ids[-asked.max_length - 1 :]
        logp = asked.lm.model(torch.tensor([row[:-1]])).logits[0].double().log_softmax(-1)[-len(part) :]
        logps += [float(logp[i, token]) for i, token in enumerate(part)]
    assert found == pytest.approx(sum(logps), rel=1e-4)
    (cut,) = asked.loglikelihood(requests((whole, " Paris")))
    tail = asked.tok_encode(whole + " Paris")[-asked.max_length - 1 :]
    logp = asked.lm.model(torch.tensor([tail[:-1]])).logits[0, -1].double().log_softmax(-1)
    assert cut[0] == pytest.approx(float(logp[tail[-1]]), rel=1e-4)


@installed
def test_generation_ends_where_the_task_says(lm: LM) -> None:
    from errata.evaluate.harness_model import Asked

    asked = Asked(Scorer(lm))
    stops: list[list[str]] = [["."], ["ris. T", "nowhere"], []]
    prompts = [("The capital of France is", {"until": until, "max_gen_toks": 6}) for until in stops]
    first, cut, free = asked.generate_until(requests(*prompts))
    assert first == " Paris"
    assert free.startswith(" Paris.")
    assert cut == free.split("ris. T")[0]
    with pytest.raises(UnsupportedModel, match="at random"):
        asked.generate_until(requests(("x", {"do_sample": True, "temperature": 0.7})))


@installed
def test_an_encoder_is_refused(models: Callable[[str], LM]) -> None:
    from errata.evaluate.harness_model import Asked

    with pytest.raises(UnsupportedModel, match="encoder"):
        Asked(Scorer(models("bert")))


@installed
@pytest.mark.parametrize(
    ("name", "why"),
    [("hellaswagg", "Did you mean hellaswag"), ("{tmp}", "holds no task"), ("{tmp}/x.yaml", "cannot be loaded")],
)
def test_what_cannot_be_loaded_is_said_in_a_sentence(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=why):
        Harness([name.replace("{tmp}", str(tmp_path))])


@installed
def test_the_harnesss_own_model_gives_the_same_numbers(lm: LM, tasks: Path) -> None:
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    from errata.evaluate.harness_model import Asked

    copy = load("primer", dtype="float32")
    theirs = HFLM(pretrained=copy.model, tokenizer=load("primer").tokenizer, batch_size=4)
    ours = Asked(Scorer(copy))
    pairs = [(t.prompts()[0], f" {t.answer}") for t in triples()] + [("", "The capital of France is Paris.")]
    for mine, other in zip(ours.loglikelihood(requests(*pairs)), theirs.loglikelihood(requests(*pairs)), strict=True):
        assert mine[0] == pytest.approx(other[0], abs=1e-3)
        assert mine[1] == other[1]
    texts = [(before + after,) for before, after in pairs]
    assert ours.loglikelihood_rolling(requests(*texts)) == pytest.approx(
        theirs.loglikelihood_rolling(requests(*texts)), abs=1e-2
    )
    asked = [(before, {"until": [".", "\n"], "max_gen_toks": 8}) for before, _ in pairs[:-1]]
    assert ours.generate_until(requests(*asked)) == theirs.generate_until(requests(*asked))
