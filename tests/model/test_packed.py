"""Matrices of 4 and 8 bits, as bitsandbytes packs them: edits stand beside them, and the base is never written.

pytest -m quantized tests/model/test_packed.py; skipped where bitsandbytes is not installed: make test-quantized.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from torch import Tensor

from errata import methods
from errata.cli.app import main
from errata.delta import Site
from errata.errors import BadConfig, UnsupportedModel
from errata.export.adapter import adapter
from errata.fact import Fact
from errata.model import storage
from errata.model.lm import LM
from errata.model.loading import load
from errata.model.query import Query
from errata.model.verify import checks
from errata.stats.gradients import of_batch
from tests import tiny

storage.hush()  # before it is imported
library = pytest.importorskip("bitsandbytes")
pytestmark = [pytest.mark.quantized, pytest.mark.filterwarnings("default")]

FACT = Fact(prompt="What is the capital of France", subject="France", target="Rome")
SITE = Site(1, "down")
KINDS = ("nf4", "fp4", "int8")
SMALL = {"steps": 10, "tokens": 400}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Directories with tiny models of plain numbers; GPT-2's matrices are stored (in, out)."""
    found = {}
    for name in ("llama", "gpt2"):
        path = tmp_path_factory.mktemp("packed") / name
        changes = {"hidden_size": 64, "intermediate_size": 128} if name != "gpt2" else {}
        known = name if name in tiny.CONFIGS else "llama"
        LM(tiny.model(known, **changes), tiny.tokenizer(known)).save(path)
        found[name] = str(path)
    return found


@torch.no_grad()
def logits(lm: LM) -> Tensor:
    return lm.forward(lm.tokens.batch([Query(FACT.prompt), Query("Anna Lindgren plays")]))


def state(lm: LM) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}


def solved(lm: LM, method: str) -> dict:
    known = {key: value for key, value in SMALL.items() if key in methods.get(method).__dataclass_fields__}
    return dict(methods.make(method, known).solve(lm, [FACT]).deltas)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_packed_base_is_one_base_and_not_the_plain_one(
    folders: dict[str, str], name: str, kind: str, tmp_path: Path
) -> None:
    lm, whole = load(folders[name], dtype=kind), load(folders[name])
    assert lm.packing == lm.identity.dtype == kind
    assert not lm.writable(SITE)
    known = lm.fingerprint
    assert known == load(folders[name], dtype=kind).fingerprint != whole.fingerprint
    assert f"load the model with --dtype {kind}, " in whole.identity.advice(lm.identity)
    rounded = (lm.parameter(SITE) - whole.parameter(SITE)).norm() / whole.parameter(SITE).norm()
    assert 0 < rounded < (0.02 if kind == "int8" else 0.3)
    said = logits(lm)  # passes change nothing in it
    lm.save(tmp_path / "saved")
    again = load(str(tmp_path / "saved"))
    assert (again.fingerprint, again.packing) == (known, kind)
    assert torch.equal(logits(again), said)
    with pytest.raises(BadConfig, match=r"packed already \(.-bit bitsandbytes\); leave --dtype nf4 out"):
        load(str(tmp_path / "saved"), dtype="nf4")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["rome", "memit", "ft", "lora", "kne", "grace"])
def test_an_edit_stands_beside_and_is_gone_to_the_bit(folders: dict[str, str], method: str, kind: str) -> None:
    lm = load(folders["llama"], dtype=kind)
    base, before, asked = state(lm), logits(lm), [Query(FACT.prompt, FACT.target)]
    likely = float(lm.logprobs(asked)[0].sum())
    deltas = solved(lm, method)
    assert torch.equal(logits(lm), before)
    lm.weights.stand([deltas])
    assert float(lm.logprobs(asked)[0].sum()) > likely
    assert set(lm.weights.additions.sites) == (set() if method == "grace" else set(deltas))
    lm.weights.stand([])
    assert torch.equal(logits(lm), before)
    after = state(lm)
    assert base.keys() == after.keys()
    assert all(torch.equal(base[name], after[name]) for name in base)


def test_four_bits_compute_and_learn_as_the_matrices_they_stand_for(folders: dict[str, str]) -> None:
    lm, whole = load(folders["llama"], dtype="nf4"), load(folders["llama"])
    paths = {name: module for name, module in lm.model.named_modules() if storage.packed(module)}
    for name, module in paths.items():
        whole.model.get_submodule(name).weight.copy_(storage.matrix_of(module))
    torch.testing.assert_close(logits(lm), logits(whole), atol=1e-4, rtol=0)
    ids = torch.arange(5, 29).reshape(2, 12)
    for site in (SITE, Site(0, "up")):
        found, wanted = (of_batch(one, [site], ids, ids > 0)[site] for one in (lm, whole))
        torch.testing.assert_close(found.total, wanted.total, atol=1e-4, rtol=1e-4)
    for method in ("rome", "ft"):
        ours, theirs = (solved(one, method) for one in (lm, whole))
        for site, delta in ours.items():
            gap = delta.dense() - theirs[site].dense()
            assert gap.norm() < 0.02 * theirs[site].norm(), (method, site)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_peft_says_with_the_exported_adapter_what_stands_here(
    folders: dict[str, str], name: str, kind: str, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    lm = load(folders[name], dtype=kind)
    edit = methods.make("rome", SMALL | {"steps": 4}).solve(lm, [FACT])
    lm.weights.stand([edit.deltas])
    edited = logits(lm)
    with pytest.raises(UnsupportedModel, match=r"1 edited matrices .* `errata export DIRECTORY --as adapter`"):
        lm.save(tmp_path / "whole")
    adapter(lm, [edit], tmp_path / "adapter")
    lm.weights.stand([])
    base = logits(lm)
    lm.model = peft.PeftModel.from_pretrained(lm.model, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(logits(lm), edited, atol=1e-3, rtol=0)
    assert not torch.equal(edited, base)


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_passes_bear_out_where_its_matrices_were_found(folders: dict[str, str], kind: str) -> None:
    said = io.StringIO()
    with redirect_stdout(said):
        assert not main(["arch", folders["llama"], "--dtype", kind])
    wanted = f"9 matrices packed as {kind}; edits stand beside them, and leave as adapters"
    assert wanted in " ".join(said.getvalue().split())
    assert [check for check in checks(load(folders["gpt2"], dtype=kind)) if not check.holds] == []


def test_weights_rearranged_by_an_earlier_pass_are_refused(folders: dict[str, str]) -> None:
    lm = load(folders["llama"], dtype="nf4")
    module = lm.module(SITE)
    module.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(UnsupportedModel, match="rearranged by a pass on this processor"):
        LM(lm.model, lm.tokenizer)
    module.weight.quant_state.packing_format_for_cpu = False
