"""Gradients of the language-modelling loss: sums that add up, equal to a plain loop over texts, kept like the moments.

pytest tests/stats/test_gradients.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from errata.delta import Dense, Site
from errata.errors import NotFinite, StatsMissing, UnknownSite
from errata.model.lm import LM
from errata.stats import accumulate, store
from errata.stats.gradients import GradientSum, of_batch
from errata.stats.store import gradients, second_moments
from tests import tiny
from tests.stats.test_moments import TEXTS, padded

SITES = (Site(0, "down"), Site(1, "down"))


def plain(lm: LM, name: str, site: Site) -> tuple[Tensor, int]:
    """Return the sum of gradients, text by text without padding."""
    weight, total, count = lm.module(site).weight, 0, 0
    weight.requires_grad_(True)
    ids, real = padded(lm)
    for row, mask in zip(ids, real, strict=True):
        if name == "t5":
            half = ids.shape[1] // 2
            labels = row[half:][mask[half:]][None]
            if not labels.numel():
                continue
            start = torch.cat([torch.tensor([[lm.tokens.start]]), labels[:, :-1]], 1)
            logits = lm.model(input_ids=row[:half][mask[:half]][None], decoder_input_ids=start).logits
        else:
            text = row[mask][None]
            labels, logits = text[:, 1:], lm.model(input_ids=text).logits[:, :-1]
        nll = -logits.log_softmax(-1).gather(2, labels[..., None]).sum()
        total = total + torch.autograd.grad(nll, weight)[0]
        count += labels.numel()
    weight.requires_grad_(False)
    return (total.T if lm.row.transposed else total).double(), count


@pytest.mark.parametrize("name", tiny.EDITABLE)
def test_gradients_are_a_plain_loop_over_texts(models: Callable[[str], LM], name: str) -> None:
    lm = models(name)
    lm.model.requires_grad_(False)
    found = of_batch(lm, SITES, *padded(lm))
    for site in SITES:
        wanted, count = plain(lm, name, site)
        assert (found[site].count, found[site].total.dtype) == (count, torch.float64)
        assert found[site].total.shape == (lm.width, lm.inner)
        assert float((found[site].total - wanted).norm() / wanted.norm()) < 1e-3


def test_sums_add_up() -> None:
    lm = tiny.build("llama", dtype=torch.float64)
    whole = of_batch(lm, SITES[:1], *padded(lm))[SITES[0]]
    parts = [of_batch(lm, SITES[:1], *padded(lm, (text,)))[SITES[0]] for text in TEXTS]
    together = sum(parts[1:], parts[0])
    assert together.count == whole.count
    torch.testing.assert_close(together.mean, whole.mean, atol=1e-12, rtol=1e-9)


def test_the_model_is_left_as_it_was() -> None:
    lm = tiny.build("llama")
    flags = [True, False] * len(list(lm.model.parameters()))
    for parameter, flag in zip(lm.model.parameters(), flags, strict=False):
        parameter.requires_grad_(flag)
    with torch.no_grad():
        of_batch(lm, SITES, *padded(lm))
    assert [p.requires_grad for p in lm.model.parameters()] == flags[: len(list(lm.model.parameters()))]
    assert all(p.grad is None for p in lm.model.parameters())


def test_they_are_the_base_models_computed_once_and_apart_from_the_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def counted(*args: object) -> object:
        ran.append(1)
        return of_batch(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(accumulate.gradients, "of_batch", counted)
    clean = gradients(tiny.build("llama"), SITES, tokens=300)
    once = len(ran)
    edited = tiny.build("llama")
    edited.weights.stand([{SITES[0]: Dense(torch.ones(tiny.WIDTH, tiny.INNER))}])
    assert all(torch.equal(found, clean[site]) for site, found in gradients(edited, SITES, tokens=300).items())
    assert len(ran) == once  # from disk
    for file in store.directory().iterdir():
        file.unlink()
    fresh = tiny.build("llama")
    fresh.weights.stand([{SITES[0]: Dense(torch.ones(tiny.WIDTH, tiny.INNER))}])
    assert all(torch.equal(found, clean[site]) for site, found in gradients(fresh, SITES, tokens=300).items())
    assert len(ran) == 2 * once
    assert second_moments(fresh, SITES[:1], tokens=300)[SITES[0]].shape == (tiny.INNER, tiny.INNER)


def test_texts_longer_than_the_model_reads_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(" ".join(["Anna Lindgren was born in Oslo."] * 200))
    lm = tiny.build("gpt2")  # which has 128 positions
    assert gradients(lm, SITES[:1], str(path), tokens=50)[SITES[0]].isfinite().all()
    assert second_moments(lm, SITES[:1], str(path), tokens=50)[SITES[0]].isfinite().all()


def test_what_cannot_be_computed_is_our_error() -> None:
    lm = tiny.build("llama")
    with pytest.raises(StatsMissing):
        _ = GradientSum(torch.zeros(2, 3, dtype=torch.float64), 0).mean
    with pytest.raises(UnknownSite):
        of_batch(lm, [Site(0, "block")], *padded(lm))
    with torch.no_grad():
        lm.model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(NotFinite):
        of_batch(lm, SITES, *padded(lm))
