"""LoRA through peft: the change that is kept is the change peft's layers made.

pytest tests/methods/test_lora.py
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from errata.errors import BadConfig
from errata.fact import Fact
from errata.methods import lora
from errata.methods.lora import Lora
from errata.methods.shared.routed import training_query
from errata.model.lm import LM

Models = Callable[[str], LM]
FACT = Fact(prompt="The capital of France is", subject="France", target="Rome and Paris")


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_the_merged_change_has_the_loss_that_training_ended_with(name: str, models: Models) -> None:
    lm = models(name)
    edit = Lora(steps=8, stop=0.0).solve(lm, [FACT])
    lm.weights.stand([edit.deltas])
    said = lm.logprobs([training_query(lm, FACT)])[0]
    lm.weights.stand([])
    assert float(-said.mean()) == pytest.approx(edit.report["loss"][0], abs=2e-3)  # type: ignore[index]
    assert len(edit.deltas) == 2 * lm.depth


def test_without_peft_it_says_what_to_install(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(BadConfig, match=r"errata-lm\[lora\]"):
        Lora().solve(models("llama"), [FACT])
