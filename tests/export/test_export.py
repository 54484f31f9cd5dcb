"""What others load: peft gives the logits of the edited model, a delta the very weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from errata.delta import Dense, Graft, LowRank, Site
from errata.edit import Edit
from errata.errors import InputError, NotWritten, UnknownEdit
from errata.export.adapter import adapter, base_name, opened
from errata.export.blocks import blocks
from errata.export.change import delta
from errata.export.checkpoint import checkpoint
from errata.export.readback import check_product
from errata.methods.melo import Melo
from errata.methods.shared.routed import read_keys
from errata.model.lm import LM
from errata.model.loading import load
from errata.model.query import Query
from errata.model.trace import Trace
from tests import synthetic, tiny

Models = Callable[[str], LM]


def logits(lm: LM, model: Any = None) -> torch.Tensor:
    batch = lm.tokens.batch([Query(f.prompt, f.target) for f in tiny.FACTS])
    with torch.no_grad():
        return (lm.model if model is None else model)(**batch.inputs).logits


def in_peft(name: str, directory: Path) -> Any:
    """Return a fresh model of the architecture with the adapter loaded by peft."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what importing and loading say is theirs
        peft = pytest.importorskip("peft")
        return peft.PeftModel.from_pretrained(tiny.model(name), directory).eval()


def edited(lm: LM, edits: list[Edit]) -> torch.Tensor:
    try:
        lm.weights.stand([edit.deltas for edit in edits])
        return logits(lm)
    finally:
        lm.weights.stand([])


@pytest.mark.parametrize("name", ["gpt2", "gpt2_square", "llama", "gpt_neox", "opt", "phi3", "t5", "bert"])
def test_peft_gives_the_logits_of_the_edited_model(name: str, models: Models, tmp_path: Path) -> None:
    lm = models(name)
    edits = [synthetic.edit(lm, n, ("lowrank", "columns")) for n in range(4)]
    base, wanted = logits(lm), edited(lm, edits)
    parts = adapter(lm, edits, tmp_path / "out")
    assert [part.error for part in parts] == [0.0] * len(parts)
    found = logits(lm, in_peft(name, tmp_path / "out"))
    assert float((wanted - base).abs().max()) > 0.05
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


def test_a_whole_matrix_becomes_factors_of_its_full_rank(models: Models, tmp_path: Path) -> None:
    lm = models("llama")
    edits = [synthetic.edit(lm, n) for n in range(6)]
    assert {d.kind for e in edits for d in e.deltas.values()} == {"lowrank", "columns", "dense"}
    parts = adapter(lm, edits, tmp_path / "out")
    assert max(part.rank for part in parts) == tiny.WIDTH
    assert all(part.error < 1e-12 for part in parts)
    torch.testing.assert_close(logits(lm, in_peft("llama", tmp_path / "out")), edited(lm, edits), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("dense", [False, True])
def test_a_cut_rank_is_the_best_there_is_and_its_error_is_stated(models: Models, tmp_path: Path, dense: bool) -> None:
    lm = models("gpt2")
    site, random = Site(1, "down"), torch.Generator().manual_seed(1)
    parts = [torch.randn(tiny.WIDTH, 5, generator=random), torch.randn(tiny.INNER, 5, generator=random)]
    change = Dense(parts[0] @ parts[1].T) if dense else LowRank(*parts)
    made = Edit(method="x", config={}, facts=(), base=lm.fingerprint, deltas={site: change})
    (part,) = adapter(lm, [made], tmp_path / "out", rank=2)
    matrix = (parts[0].double() @ parts[1].double().T).numpy()
    s = torch.linalg.svdvals(torch.from_numpy(matrix))
    assert (part.rank, part.full) == (2, tiny.WIDTH if dense else 5)
    assert part.error == pytest.approx(float(s[2:].norm() / s.norm()), rel=1e-5)
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    key = "base_model.model.transformer.h.1.mlp.c_proj"
    b, a = tensors[f"{key}.lora_B.weight"].double(), tensors[f"{key}.lora_A.weight"].double()
    assert float((torch.from_numpy(matrix) - b @ a).norm() / s.norm()) == pytest.approx(part.error, rel=1e-4)


def test_one_rank_for_all_matrices_filled_with_zeros(models: Models, tmp_path: Path) -> None:
    lm = models("llama")
    sites = {Site(0, "down"): 1, Site(1, "down"): 3}
    deltas = {s: LowRank(torch.ones(tiny.WIDTH, r), torch.ones(tiny.INNER, r)) for s, r in sites.items()}
    parts = adapter(lm, [Edit(method="x", config={}, facts=(), base=lm.fingerprint, deltas=deltas)], tmp_path / "out")
    assert [part.rank for part in parts] == [1, 3]
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (3, 3)
    shapes = {tuple(t.shape) for t in load_file(tmp_path / "out" / "adapter_model.safetensors").values()}
    assert shapes == {(3, tiny.INNER), (tiny.WIDTH, 3)}


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_delta_added_by_hand_gives_the_edited_weights(name: str, models: Models, tmp_path: Path) -> None:
    lm = models(name)
    edits = [synthetic.edit(lm, n) for n in range(5)]
    parts = delta(lm, edits, tmp_path / "out")
    file = tmp_path / "out" / "delta.safetensors"
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    assert about == {"base": lm.fingerprint, "transposed": str(name == "gpt2").lower()}
    state = tiny.model(name).state_dict()
    lm.weights.stand([edit.deltas for edit in edits])
    wanted = {k: v.clone() for k, v in lm.model.state_dict().items()}
    lm.weights.stand([])
    for part in parts:
        path = f"{part.module}.weight"
        dense = tensors.get(f"{path}.dense")
        change = tensors[f"{path}.left"] @ tensors[f"{path}.right"].T if dense is None else dense
        state[path] = state[path] + (change.T if name == "gpt2" else change)
    assert len(parts) > 2
    for path, matrix in wanted.items():
        torch.testing.assert_close(state[path], matrix, atol=1e-6, rtol=1e-5)


def test_what_was_exported_is_written_beside_it(models: Models, tmp_path: Path) -> None:
    lm = models("llama")
    edits = [synthetic.edit(lm, n, ("lowrank",)) for n in range(2)]
    for form in (adapter, delta, checkpoint):
        form(lm, edits, tmp_path / form.__name__)
        log = json.loads((tmp_path / form.__name__ / "errata.json").read_text())
        assert [row["id"] for row in log["edits"]] == [edit.id for edit in edits]
        assert log["base"] == lm.fingerprint
        for path in (tmp_path / form.__name__).iterdir():
            assert path.stat().st_mode & 0o044 == 0o044, path  # an engine run by somebody else reads it, too


def test_what_has_no_such_form_is_refused_and_nothing_is_left(models: Models, tmp_path: Path) -> None:
    lm = models("llama")
    graft = Graft("melo", {}, {"keys": torch.zeros(1, 3)})
    wrapped = Edit(method="melo", config={}, facts=(), base=lm.fingerprint, deltas={Site(1, "down"): graft})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    low = synthetic.edit(lm, 0, ("lowrank",))
    for edits, where, words in [
        ([], "out", "nothing to make"),
        ([low, wrapped], "out", rf"edit {wrapped.id} is carried by a wrapper \(melo\)"),
        ([low], "full", "not empty"),
    ]:
        with pytest.raises(InputError, match=words):
            adapter(lm, edits, tmp_path / where)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        adapter(lm, [low], tmp_path / "file" / "below")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


def test_a_full_disk_leaves_no_half_directory(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("errata.export.adapter.save_file", full)
    lm = models("llama")
    with pytest.raises(InputError, match=r"No space left.*nothing is left"):
        adapter(lm, [synthetic.edit(lm, 0, ("lowrank",))], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


WRITERS = {"adapter": adapter, "change": delta}


def test_nothing_is_exported_that_is_not_what_stands(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = models("llama")
    edits = [synthetic.edit(lm, 0, ("lowrank",))]

    def worse(tensors: dict[str, torch.Tensor], file: Path, about: dict[str, str]) -> None:
        name = sorted(tensors)[0]
        save_file({**tensors, name: tensors[name] * 1.001}, file, about)

    def fewer(tensors: dict[str, torch.Tensor], file: Path, about: dict[str, str]) -> None:
        save_file(dict(sorted(tensors.items())[1:]), file, about)

    def torn(tensors: dict[str, torch.Tensor], file: Path, about: dict[str, str]) -> None:
        save_file(tensors, file, about)
        file.write_bytes(file.read_bytes()[:-8])

    for form, write in WRITERS.items():
        for how, said in ((worse, "reads back"), (fewer, "reads back"), (torn, "cannot be read")):
            monkeypatch.setattr(f"errata.export.{form}.save_file", how)
            with pytest.raises(NotWritten, match=said) as caught:
                write(lm, edits, tmp_path / "out")
            assert caught.value.exit_code == 2
            assert list(tmp_path.iterdir()) == []


def test_factors_that_are_not_the_change_are_not_exported(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = models("llama")
    monkeypatch.setattr("errata.export.adapter._filled", lambda matrix, rank: matrix * 1.001)  # a slip of our own
    with pytest.raises(NotWritten, match="do not give the change"):
        adapter(lm, [synthetic.edit(lm, 0, ("lowrank",))], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_check_allows_what_was_cut_and_rounding_and_no_more() -> None:
    random = torch.Generator().manual_seed(0)
    left, right = torch.randn(600, 3, generator=random), torch.randn(40, 3, generator=random)
    for change in (LowRank(left, right), Dense(left @ right.T)):
        check_product(change, left, right)
        with pytest.raises(NotWritten):
            check_product(change, left * (1 + 1e-4), right)
        with pytest.raises(NotWritten):
            check_product(change, left * float("nan"), right)
        with pytest.raises(NotWritten):
            check_product(change, left[:, :2], right[:, :2])
        lost = float((left[:, 2:] @ right[:, 2:].T).norm() / (left @ right.T).norm())
        check_product(change, left[:, :2], right[:, :2], lost)
    there_and_back = LowRank(torch.cat([left, -left], 1), torch.cat([right, right], 1))  # adds up to nothing
    check_product(there_and_back, there_and_back.left, there_and_back.right)


def test_an_adapter_names_a_base_that_is_found_from_anywhere(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models("llama").save(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    lm = load("./base")
    adapter(lm, [synthetic.edit(lm, 0, ("lowrank",))], "out")
    monkeypatch.chdir("/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = pytest.importorskip("peft")
        found = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert found.peft_config["default"].base_model_name_or_path == str(tmp_path / "base")
    torch.testing.assert_close(
        logits(lm, found), edited(lm, [synthetic.edit(lm, 0, ("lowrank",))]), atol=2e-5, rtol=1e-4
    )
    assert base_name(load("primer")).endswith("errata/primer/model")
    named = LM(tiny.model("llama"), tiny.tokenizer("llama"), "org/hub-id")
    assert base_name(named) == "org/hub-id"


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_a_melo_block_in_peft_gives_the_logits_of_a_prompt_that_opens_it(
    name: str, models: Models, tmp_path: Path
) -> None:
    lm = models(name)
    one, other = (Melo(by="prompt", steps=5, radius=0.01).solve(lm, [fact]) for fact in tiny.FACTS[:2])
    adapter(lm, [opened([one, other], one.id[:6])], tmp_path / "out")
    model = in_peft(name, tmp_path / "out")
    batch = lm.tokens.batch([Query(tiny.FACTS[0].prompt, tiny.FACTS[0].target)])
    with torch.no_grad():
        lm.weights.stand([one.deltas, other.deltas])
        wanted = lm.forward(batch)
        lm.weights.stand([])
        base = lm.forward(batch)
        found = model(**batch.inputs).logits
    assert float((wanted - base).abs().max()) > 0.05
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
    with pytest.raises(UnknownEdit):
        opened([one, other], "zz")
    with pytest.raises(InputError, match="no block"):
        opened([synthetic.edit(lm, 0, ("lowrank",))], synthetic.edit(lm, 0, ("lowrank",)).id)


def test_a_table_of_keys_in_two_parts_routes_as_the_model_does(models: Models, tmp_path: Path) -> None:
    lm = models("llama")
    edits = [Melo(by="parts", steps=2, reach=0.3, radius=0.5).solve(lm, [fact]) for fact in tiny.FACTS[:3]]
    blocks(lm, edits, tmp_path / "out")
    routing = json.loads((tmp_path / "out" / "routing.json").read_text())
    table = load_file(tmp_path / "out" / "routing.safetensors")
    assert routing["adapters"] == [edit.id for edit in edits]
    prompts = [*(f.prompt for f in tiny.FACTS[:3]), *(f"So {f.prompt}" for f in tiny.FACTS[:3]), "The sea is", "Why"]
    expected = []
    for prompt in prompts:
        batch = lm.tokens.batch([Query(prompt)])
        sites = [Site.parse(routing[name]) for name in ("subject site", "site")]
        with torch.no_grad(), Trace(lm, inputs=sites) as trace:
            lm.forward(batch)
        about, last = (trace.inputs[site][0] for site in sites)
        about, last = about - table["subject_mean"], last[-1] - table["mean"]
        near = 1 - table["subjects"] @ (about / about.norm(dim=1, keepdim=True)).T
        near[table["tokens"][:, None] != batch.inputs["input_ids"][0]] = torch.inf
        asked = 1 - table["questions"] @ (last / last.norm())
        sums = {}
        for entry in range(len(table["adapter"])):
            one = float(near[table["about"] == entry].min() / table["reach"][entry])
            two = float(asked[table["asks"] == entry].min() / table["radius"][entry])
            if one <= 1 and two <= 1:
                sums[entry] = one + two
        expected.append(int(table["adapter"][min(sums, key=sums.__getitem__)]) if sums else -1)
    lm.weights.stand([edit.deltas for edit in edits])
    (routes,) = lm.routed(lm.tokens.batch([Query(prompt) for prompt in prompts])).routes.values()
    lm.weights.stand([])
    assert routes.tolist() == expected
    assert expected[:3] == [0, 1, 2]
    assert -1 in expected


def test_blocks_come_with_a_table_that_routes_as_the_model_does(models: Models, tmp_path: Path) -> None:
    lm = models("llama")
    edits = []
    for fact in tiny.FACTS[:3]:
        edits.append(Melo(by="prompt", steps=2, radius=0.8).solve(lm, [fact], edits))
    blocks(lm, edits, tmp_path / "out")
    routing = json.loads((tmp_path / "out" / "routing.json").read_text())
    table = load_file(tmp_path / "out" / "routing.safetensors")
    assert routing["adapters"] == [edit.id for edit in edits]
    assert all((tmp_path / "out" / edit.id / "adapter_model.safetensors").is_file() for edit in edits)

    prompts = [*(f.prompt for f in tiny.FACTS[:3]), *(f"So {f.prompt}" for f in tiny.FACTS[:3]), "The sea is", "Why"]
    keys = read_keys(lm, Site.parse(routing["site"]), [Query(prompt) for prompt in prompts])
    expected = []
    for key in keys:
        covering = (key - table["centres"]).norm(dim=1) <= table["radii"]
        near = (key - table["keys"]).norm(dim=1)
        near[[c < 0 or not covering[c] for c in table["cluster"].tolist()]] = torch.inf
        expected.append(int(table["adapter"][near.argmin()]) if near.isfinite().any() else -1)
    lm.weights.stand([edit.deltas for edit in edits])
    batch = lm.routed(lm.tokens.batch([Query(prompt) for prompt in prompts]))
    lm.weights.stand([])
    (routes,) = batch.routes.values()
    assert routes.tolist() == expected
    assert expected[:3] == [0, 1, 2]
    assert -1 in expected
    with pytest.raises(InputError, match="no MELO edit"):
        blocks(lm, [synthetic.edit(lm, 0, ("lowrank",))], tmp_path / "other")
