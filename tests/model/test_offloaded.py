"""Matrices that are elsewhere until their module runs: edits stand beside them, and are those of the same model in memory.

pytest tests/model/test_offloaded.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from errata import methods
from errata.delta import Columns, Dense, Graft, LowRank, Site
from errata.edit import Edit
from errata.errors import NotFinite, UnsupportedModel
from errata.export.adapter import adapter
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.trace import Trace
from errata.model.verify import checks
from errata.stats.gradients import of_batch
from tests import synthetic, tiny

accelerate = pytest.importorskip("accelerate")

FACT = Fact(prompt="What is the capital of France", subject="France", target="Rome")
SITE = Site(1, "down")
SMALL = {"steps": 4, "tokens": 400}


def elsewhere(name: str, folder: Path | None = None) -> LM:
    """Return a tiny model whose weights lie on disk, or beside it in memory."""
    made: Any = tiny.model(name)
    if folder is None:
        made = accelerate.cpu_offload(made, execution_device="cpu")
    else:
        made = accelerate.disk_offload(made, str(folder), execution_device="cpu")
    return LM(made, tiny.tokenizer(name), f"tiny {name}")


@torch.no_grad()
def logits(lm: LM) -> Tensor:
    return lm.forward(lm.tokens.batch([Query(FACT.prompt), Query("Anna Lindgren plays")]))


def hooks(lm: LM) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules())


def low(rank: int = 1, scale: float = 1.0) -> LowRank:
    made = torch.Generator().manual_seed(rank)
    left, right = (torch.randn(size, rank, generator=made) for size in (tiny.WIDTH, tiny.INNER))
    return LowRank(left * scale, right)


@pytest.fixture
def lm() -> LM:
    return elsewhere("llama")


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "t5"])
def test_an_offloaded_model_is_the_model(name: str, tmp_path: Path) -> None:
    lm, whole = elsewhere(name, tmp_path), tiny.build(name)
    assert (lm.fingerprint, lm.width, lm.inner) == (whole.fingerprint, whole.width, whole.inner)
    assert (lm.device.type, lm.tokens.separator) == ("cpu", whole.tokens.separator)
    assert torch.equal(logits(lm), logits(whole))
    assert torch.equal(lm.parameter(SITE), whole.parameter(SITE))
    assert (lm.writable(SITE), whole.writable(SITE)) == (False, True)
    assert [check for check in checks(lm) if not check.holds] == []


@pytest.mark.parametrize(
    ("name", "method"),
    [("gpt2", "rome"), ("gemma2", "rome"), ("gpt2", "kne"), ("llama", "ft"), ("llama", "oedit"), ("t5", "melo")],
)
def test_an_edit_is_the_one_of_the_model_in_memory(name: str, method: str, tmp_path: Path) -> None:
    lm, whole = elsewhere(name, tmp_path), tiny.build(name)
    known = {key: value for key, value in SMALL.items() if key in methods.get(method).__dataclass_fields__}
    base, hooked = logits(lm), hooks(lm)
    edit, other = (methods.make(method, known).solve(one, [FACT]) for one in (lm, whole))
    assert torch.equal(logits(lm), base)
    assert hooks(lm) == hooked
    for site, delta in edit.deltas.items():
        theirs = other.deltas[site]
        assert all(torch.equal(tensor, theirs.tensors()[key]) for key, tensor in delta.tensors().items()), site
    for one in (lm, whole):
        one.weights.stand([edit.deltas])
    torch.testing.assert_close(logits(lm), logits(whole), atol=2e-5, rtol=0)
    assert not torch.equal(logits(lm), base)
    lm.weights.stand([])
    assert torch.equal(logits(lm), base)
    assert (hooks(lm), lm.weights.additions.nbytes) == (hooked, 0)


def test_an_adapter_is_trained_beside_weights_that_are_elsewhere(lm: LM) -> None:
    pytest.importorskip("peft")
    base = logits(lm)
    edit = methods.make("lora", {"steps": 10}).solve(lm, [FACT])
    assert torch.equal(logits(lm), base)
    asked = [Query(FACT.prompt, FACT.target)]
    before = float(lm.logprobs(asked)[0].sum())
    lm.weights.stand([edit.deltas])
    assert float(lm.logprobs(asked)[0].sum()) > before + 1


# ------------------------------------------------------------------ what stands beside


def test_factors_stay_factors_until_a_matrix_takes_less_room(lm: LM) -> None:
    base, whole = lm.weights.base(SITE).clone(), tiny.WIDTH * tiny.INNER * 4
    columns = Columns(torch.tensor([0, 3]), torch.ones(tiny.WIDTH, 2))
    lm.weights.stand([{SITE: low()}, {SITE: columns}])
    assert lm.weights.additions.nbytes == 3 * (tiny.WIDTH + tiny.INNER) * 4 < whole
    wanted = base + low().dense() + columns.dense((tiny.WIDTH, tiny.INNER))
    torch.testing.assert_close(lm.weights[SITE], wanted, atol=1e-5, rtol=0)
    lm.weights.stand([{SITE: low(tiny.WIDTH)}])
    assert lm.weights.additions.nbytes == whole
    lm.weights.stand([{SITE: low()}, {SITE: Dense(low(2).dense())}])
    torch.testing.assert_close(lm.weights[SITE], base + low().dense() + low(2).dense(), atol=1e-5, rtol=0)
    assert torch.equal(lm.weights.base(SITE), base)


def test_the_base_a_trial_and_another_matrix_show_inside_and_go(lm: LM) -> None:
    base, known = logits(lm), tiny.build("llama")
    lm.weights.stand([{SITE: low()}])
    edited = logits(lm)
    with lm.weights.at_base():
        assert torch.equal(logits(lm), base)
    for context, other in (
        (lm.weights.trial([{SITE: low(2)}]), known.weights.trial([{SITE: low()}, {SITE: low(2)}])),
        (lm.weights.shown({SITE: low(3).dense()}), known.weights.shown({SITE: low(3).dense()})),
    ):
        with context, other:
            torch.testing.assert_close(logits(lm), logits(known), atol=2e-5, rtol=0)
        assert torch.equal(logits(lm), edited)


def test_a_sum_that_is_not_finite_leaves_the_base(lm: LM) -> None:
    base, hooked = logits(lm), hooks(lm)
    lm.weights.stand([{SITE: low()}])
    for bad in (low(2) * float("nan"), low(2, 1e30) * 1e30, Dense(low().dense() * float("inf"))):
        with pytest.raises(NotFinite, match="finite"), lm.weights.trial([{SITE: bad}]):
            pass
        torch.testing.assert_close(lm.weights[SITE], lm.weights.base(SITE) + low().dense(), atol=1e-5, rtol=0)
    with pytest.raises(NotFinite, match="do not add up"):
        lm.weights.stand([{SITE: low()}, {SITE: low(2) * float("nan")}])
    assert torch.equal(logits(lm), base)
    assert hooks(lm) == hooked


def test_a_trace_records_what_stands_beside_as_output(lm: LM) -> None:
    known = tiny.build("llama")
    for one in (lm, known):
        one.weights.stand([{SITE: low()}])
    seen = []
    for one in (lm, known):
        with Trace(one, inputs=[SITE], outputs=[SITE]) as trace:
            logits(one)
        seen.append(trace)
    torch.testing.assert_close(seen[0].outputs[SITE], seen[1].outputs[SITE], atol=2e-5, rtol=0)
    with Trace(lm, outputs=[SITE]) as trace:
        lm.weights.stand([])  # and put on again while a trace looks
        lm.weights.stand([{SITE: low()}])
        logits(lm)
    assert torch.equal(trace.outputs[SITE], seen[0].outputs[SITE])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gradients_of_text_are_those_of_the_model_in_memory(name: str) -> None:
    ids = torch.arange(5, 29).reshape(2, 12)
    found, wanted = (of_batch(one, [SITE], ids, ids > 0)[SITE] for one in (elsewhere(name), tiny.build(name)))
    torch.testing.assert_close(found.total, wanted.total, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------ what leaves


def test_what_cannot_be_saved_is_refused_and_leaves_as_an_adapter(lm: LM, tmp_path: Path) -> None:
    edit: Edit = synthetic.edit(lm, 1)
    assert not any(isinstance(delta, Graft) for delta in edit.deltas.values())
    with pytest.raises(UnsupportedModel, match="not in memory; load it with --device cpu"):
        lm.save(tmp_path / "base")
    lm.weights.stand([edit.deltas])
    with pytest.raises(UnsupportedModel, match=r"stand beside them .* `errata export DIRECTORY --as adapter`"):
        lm.save(tmp_path / "edited")
    parts = adapter(lm, [edit], tmp_path / "adapter")
    assert {part.site for part in parts} == {str(site) for site in edit.deltas}
    assert not (tmp_path / "edited").exists()
