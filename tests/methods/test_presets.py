"""Presets: settings as the literature has them, under names that stand for methods.

pytest tests/methods/test_presets.py
"""

from __future__ import annotations

import pytest
import torch

from errata import methods
from errata.cli import main
from errata.errors import UnknownMethod
from errata.fact import Fact
from errata.methods.melo import Melo
from errata.methods.oedit import OEdit
from errata.methods.shared.presets import SOURCES
from errata.model.loading import load
from errata.solve.subspace import similarity
from tests import tiny

FACT = Fact(prompt="The capital of France is", subject="France", target="Rome")


@pytest.mark.parametrize("name", methods.presets())
def test_every_setting_is_one_of_its_method_and_has_a_source(name: str) -> None:
    preset = methods.presets()[name]
    made = methods.make(name, {})
    assert type(made) is methods.get(preset.method) is methods.get(name)
    for key, value in preset.settings.items():
        held = getattr(made, key)
        assert (list(held) if isinstance(held, tuple) else held) == value
        assert preset.source[key] in SOURCES
    assert name not in methods.names()


def test_melo_has_the_released_scale_in_which_it_converges() -> None:
    """s = r / p = 350 on GPT2-XL: (350 · 2) / 2, not the 1 that the paper's step alone would leave."""
    for name, scale in (("melo-gpt2xl", 350), ("melo-t5", 20), ("melo-bert", 100)):
        made = methods.make(name, {})
        assert isinstance(made, Melo)
        assert made.scale == scale
    lm = load("primer")
    here = {"index": 3, "layers": (4, 5)}
    scaled = methods.make("melo-gpt2xl", here).solve(lm, [FACT]).report["loss"][0]  # type: ignore[index]
    unscaled = methods.make("melo-gpt2xl", {**here, "alpha": None}).solve(lm, [FACT]).report["loss"][0]  # type: ignore[index]
    assert scaled < 0.1 < 1 < unscaled


def test_own_settings_go_before_those_of_a_preset() -> None:
    made = methods.make("o-edit", {"lambda1": 3.0})
    assert isinstance(made, OEdit)
    assert (made.lambda1, made.lambda2, made.constraint) == (3.0, 50.0, "o-edit")


def test_the_papers_share_is_of_the_model() -> None:
    lm = tiny.build("llama")
    kne = methods.make("kne-paper", {"m": 2}).resolve(lm)
    _, chosen = kne.locate(lm, [FACT])  # type: ignore[attr-defined]
    weights = sum(int(mask.sum()) * lm.weights[site].shape[0] for site, mask in chosen.items())
    assert weights == pytest.approx(0.01 * sum(p.numel() for p in lm.model.parameters()), rel=0.35)  # whole columns


def test_the_sum_over_directions_is_the_mean_times_their_number() -> None:
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(8, 3, generator=draw)).Q
    delta = torch.randn(2, 8, generator=draw)
    by_hand = (delta @ basis).abs() / delta.norm(dim=1, keepdim=True)
    torch.testing.assert_close(similarity(delta, basis, over="sum"), by_hand.sum(1))
    torch.testing.assert_close(similarity(delta, basis), by_hand.mean(1))


def test_the_command_lists_them_and_shows_where_a_setting_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    assert "melo-t5" in capsys.readouterr().out
    assert main(["methods", "melo-gpt2xl"]) == 0
    shown = capsys.readouterr().out
    assert "700 (code)" in shown
    assert "0.5 (paper)" in shown
    assert "melo-t5" not in shown
    with pytest.raises(UnknownMethod, match="Did you mean"):
        methods.get("melo-gpt2")
