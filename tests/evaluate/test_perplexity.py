"""Perplexity, drift and norms on tiny models, against the long way round.

pytest tests/evaluate/test_perplexity.py
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from errata.delta import Dense, Site
from errata.evaluate.perplexity import measure, site_rows, text_rows
from errata.evaluate.rows import About
from errata.evaluate.scorer import Scorer
from errata.evaluate.summary import dump_row, estimate, summarize
from errata.model.lm import LM
from tests import tiny

Models = Callable[[str], LM]

TEXTS = (*tiny.TEXT, "The river.", "Rome")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_perplexity_is_what_the_logits_say(name: str, models: Models) -> None:
    lm = models(name)
    nll, tokens = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([lm.tokens.ids(text)])
        with torch.no_grad():
            logp = lm.model(ids).logits[0].log_softmax(-1)
        nll -= float(logp[:-1].gather(1, ids[0, 1:, None]).sum())
        tokens += ids.shape[1] - 1
    rows = text_rows(TEXTS, measure(Scorer(lm), TEXTS))
    assert estimate(rows, "perplexity").mean == pytest.approx(math.exp(nll / tokens), rel=1e-5)
    assert [row["scores"]["tokens"] for row in rows] == [len(lm.tokens.ids(text)) - 1 for text in TEXTS]


def test_the_batch_does_not_matter(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = models("llama")
    whole = measure(Scorer(lm), TEXTS)
    monkeypatch.setattr("errata.evaluate.perplexity.LOGITS", 1)
    alone = measure(Scorer(lm), TEXTS)
    assert alone.nll == pytest.approx(whole.nll, abs=1e-3)
    assert torch.allclose(alone.final, whole.final, atol=1e-4)


def test_long_texts_are_cut(models: Models) -> None:
    lm = models("gpt2")
    (row,) = text_rows(["river " * 300], measure(Scorer(lm), ["river " * 300]))
    assert row["scores"]["tokens"] == 127
    (short,) = text_rows(["river " * 300], measure(Scorer(lm), ["river " * 300], length=10))
    assert short["scores"]["tokens"] == 9


def test_drift_is_nothing_without_an_edit_and_something_with_one() -> None:
    lm = tiny.build("llama")
    scorer, site = Scorer(lm), Site(1, "down")
    before = measure(scorer, TEXTS)
    still = text_rows(TEXTS, measure(scorer, TEXTS), before=before)
    assert estimate(still, "drift").mean == 0
    torch.manual_seed(0)
    with lm.weights.trial([{site: Dense(0.5 * torch.randn(lm.parameter(site).shape))}]):
        now = measure(scorer, TEXTS)
    moved = text_rows(TEXTS, now, before=before)
    by_hand = (before.final.exp() * (before.final - now.final)).sum(-1)
    assert [row["scores"]["drift"] for row in moved] == pytest.approx(by_hand.tolist(), abs=1e-4)
    assert estimate(moved, "drift").mean > 0.001
    assert "drift" not in text_rows(TEXTS, now)[0]["scores"]


def test_a_collapsed_model_is_counted_and_still_json() -> None:
    lm = tiny.build("gpt2")
    before = measure(Scorer(lm), TEXTS)
    with torch.no_grad():
        lm.model.transformer.ln_f.weight.fill_(float("nan"))
    rows = text_rows(TEXTS, measure(Scorer(lm), TEXTS), before=before)
    assert all(set(row["scores"].values()) == {None} for row in rows)
    assert [dump_row(row) for row in rows]
    assert str(summarize(rows)["perplexity"]) == f"not scored ({len(TEXTS)} rows)"


def test_a_text_of_one_token_says_nothing(models: Models) -> None:
    (row,) = text_rows(["."], measure(Scorer(models("gpt2")), ["."]))
    assert row["scores"] == {"nll": None, "tokens": None}


def test_other_models_than_decoders_have_no_perplexity(models: Models) -> None:
    lm = models("t5")
    read = measure(Scorer(lm), TEXTS)
    assert {value for row in text_rows(TEXTS, read, before=read) for value in row["scores"].values()} == {None}


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_norms_of_edited_matrices(name: str) -> None:
    lm, site = tiny.build(name), Site(1, "down")
    about = About(checkpoint=5, method="ft")
    (before,) = site_rows(lm, [site], TEXTS, about=about)
    assert (before["case"], before["scores"]["norm_ratio"], before["checkpoint"]) == ("1.down", 0, 5)
    matrix = lm.parameter(site).detach().clone()
    lm.weights.stand([{site: Dense(matrix * 0.5)}])
    (after,) = site_rows(lm, [site], TEXTS, about=about)
    assert after["scores"]["norm_ratio"] == pytest.approx(0.5, abs=1e-5)
    assert after["scores"]["residual_share"] > before["scores"]["residual_share"] > 0
    assert [dump_row(row) for row in (before, after)]
