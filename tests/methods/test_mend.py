"""MEND on models: the edit is the network's, which is found by name, by its hash, or beside the model's statistics.

pytest tests/methods/test_mend.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from errata.cli import main
from errata.delta import Dense, LowRank, Site
from errata.edit import Edit
from errata.errors import BadConfig, BadFile, UnsupportedModel
from errata.fact import Fact
from errata.methods import make
from errata.methods.mend import KIND, default_sites
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve.mend import Network, factors
from errata.stats import trained
from tests import networks, tiny

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def lm() -> LM:
    return tiny.build("llama", dtype=torch.float64)


@pytest.fixture
def network(lm: LM) -> Network:
    return networks.drawn(lm, tiny.FACTS, noise=0.1)


@pytest.fixture
def file(network: Network, tmp_path: Path) -> Path:
    (tmp_path / "network.safetensors").write_bytes(network.to_bytes())
    return tmp_path / "network.safetensors"


def solved(lm: LM, facts: list[Fact], past: list[Edit] | None = None, **options: object) -> Edit:
    return make("mend", options).solve(lm, facts, past or [])


def test_the_edit_is_what_the_network_makes_of_the_facts_gradient(lm: LM, network: Network, file: Path) -> None:
    edit = solved(lm, [tiny.FACTS[0]], network=str(file))
    seen = factors(lm, network.sites, lm.tokens.batch([Query.of(tiny.FACTS[0])]))
    assert edit.deltas.keys() == set(default_sites(lm)) == set(network.sites)
    for site, delta in edit.deltas.items():
        wanted = network.to(torch.float64).change(site, seen[site])
        assert isinstance(delta, LowRank)
        torch.testing.assert_close(delta.dense(), wanted.dense())
    lm.weights.stand([edit.deltas])
    after = [float(-logp.mean()) for logp in lm.logprobs([Query.of(tiny.FACTS[0])])]
    lm.weights.stand([])
    assert edit.report["loss"] == pytest.approx(after, abs=1e-5)


def test_facts_of_a_batch_add_up_each_as_if_it_were_alone(lm: LM, file: Path) -> None:
    both = solved(lm, list(tiny.FACTS[:2]), network=str(file))
    alone = [solved(lm, [fact], network=str(file)) for fact in tiny.FACTS[:2]]
    for site, delta in both.deltas.items():
        torch.testing.assert_close(delta.dense(), alone[0].deltas[site].dense() + alone[1].deltas[site].dense())


def test_an_edit_on_top_of_another_takes_its_gradient_there(lm: LM, file: Path) -> None:
    first = solved(lm, [tiny.FACTS[0]], network=str(file))
    lm.weights.stand([first.deltas])
    second = solved(lm, [tiny.FACTS[1]], [first], network=str(file))
    lm.weights.stand([])
    alone = solved(lm, [tiny.FACTS[1]], network=str(file))
    site = default_sites(lm)[0]
    assert not torch.allclose(second.deltas[site].dense(), alone.deltas[site].dense())


def test_many_facts_are_kept_as_a_matrix_where_that_is_smaller(lm: LM, file: Path) -> None:
    facts = [
        replace(tiny.FACTS[0], prompt=f"{word} capital of France is")
        for word in ("The", "Old", "New", "A", "One", "Real")
    ]
    edit = solved(lm, facts, network=str(file))
    assert all(isinstance(delta, Dense) for site, delta in edit.deltas.items() if site.layer == 0)
    total = sum(solved(lm, [fact], network=str(file)).deltas[Site(0, "down")].dense() for fact in facts)
    torch.testing.assert_close(edit.deltas[Site(0, "down")].dense(), total)


# ------------------------------------------------------------------ which network


def test_a_network_is_named_by_its_file_by_its_hash_or_kept_as_the_models(lm: LM, network: Network, file: Path) -> None:
    by_name = solved(lm, [tiny.FACTS[0]], network=str(file))
    digest = by_name.config["network"]
    file.unlink()
    by_hash = solved(lm, [tiny.FACTS[0]], network=digest)
    assert trained.keep(lm, KIND, network.to_bytes()) == digest
    kept = solved(lm, [tiny.FACTS[0]])
    assert by_name.to_bytes() == by_hash.to_bytes() == kept.to_bytes()
    other = networks.drawn(lm, tiny.FACTS, seed=5, noise=0.1)
    trained.keep(lm, KIND, other.to_bytes())  # trained again: the edits that stand name the one they are of
    assert solved(lm, [tiny.FACTS[0]]).config["network"] != digest
    assert solved(lm, [tiny.FACTS[0]], network=digest).to_bytes() == kept.to_bytes()


def test_without_one_a_sentence_says_what_to_run(lm: LM, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = (
        "mend needs a network trained for .*, and none is kept with its statistics: train one, once, with "
        r"python benchmarks/models/mend\.py, or name its file with --set network=FILE\."
    )
    for call in (lambda: solved(lm, [tiny.FACTS[0]]), lambda: make("mend", {}).prepare(lm)):
        with pytest.raises(BadConfig, match=f"^{sentence.replace('.*', 'tiny llama')}$"):
            call()
    told = [
        "--prompt",
        "The capital of France is",
        "--subject",
        "France",
        "--target",
        "Lyon",
        "--book",
        str(tmp_path / "b"),
    ]
    assert main(["edit", "--method", "mend", *told]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "train one, once, with python benchmarks/models/mend.py" in shown


@pytest.mark.parametrize("wrong", ["nowhere", "a folder", "no network", "\0"])
def test_a_file_that_is_no_network_is_named(lm: LM, tmp_path: Path, wrong: str) -> None:
    path = tmp_path / wrong if wrong != "\0" else "\0"
    if wrong == "a folder":
        Path(path).mkdir()
    if wrong == "no network":
        Path(path).write_bytes(b"text")
    with pytest.raises(BadFile) as caught:
        solved(lm, [tiny.FACTS[0]], network=str(path))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_hash_of_nothing_and_a_file_that_was_altered_are_named(lm: LM, file: Path, cache: Path) -> None:
    with pytest.raises(BadConfig, match=r"the mend file 0{16}… is not kept here: give it once by name"):
        solved(lm, [tiny.FACTS[0]], network="0" * 64)
    digest = solved(lm, [tiny.FACTS[0]], network=str(file)).config["network"]
    (kept,) = cache.glob("mend-*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    with pytest.raises(BadFile, match="was altered: delete it"):
        solved(tiny.build("llama", dtype=torch.float64), [tiny.FACTS[0]], network=digest)


def test_a_network_of_another_model_is_refused_and_of_other_weights_noted(lm: LM, file: Path) -> None:
    for other in (tiny.build("gpt2_square"), tiny.build("llama", num_hidden_layers=2), tiny.build("mixtral")):
        with pytest.raises((BadConfig, UnsupportedModel), match=r"other sizes than those|experts"):
            solved(other, [tiny.FACTS[0]], network=str(file))
    edit = solved(tiny.build("llama", seed=3, dtype=torch.float64), [tiny.FACTS[0]], network=str(file))
    assert edit.report.notes == [
        "the network was trained for tiny llama with other weights, or in another precision, than tiny llama."
    ]
    assert not solved(lm, [tiny.FACTS[0]], network=str(file)).report.notes


def test_some_of_its_layers_may_be_chosen_and_no_others(file: Path, network: Network) -> None:
    lm = tiny.build("llama", dtype=torch.float64)
    edit = solved(lm, [tiny.FACTS[0]], network=str(file), layers=(2,))
    whole = solved(lm, [tiny.FACTS[0]], network=str(file))
    assert edit.deltas.keys() == {Site(2, "down"), Site(2, "up")}
    torch.testing.assert_close(edit.deltas[Site(2, "up")].dense(), whole.deltas[Site(2, "up")].dense())
    deep = tiny.build("llama", dtype=torch.float64, num_hidden_layers=4)
    with pytest.raises(BadConfig, match="the network is for the layers 0 to 2 and not for 3: leave layers out"):
        solved(deep, [tiny.FACTS[0]], network=str(file), layers=(2, 3))


def test_the_last_three_blocks_are_edited_of_all_stacks_together() -> None:
    assert [str(s) for s in default_sites(tiny.build("llama", num_hidden_layers=5))][::2] == [
        "2.down",
        "3.down",
        "4.down",
    ]
    assert {s.layer for s in default_sites(tiny.build("t5"))} == {2, 3, 4}
