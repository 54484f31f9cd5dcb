"""MEND's network against its equations, token by token and dense, in float64; and the file it is kept in.

pytest tests/solve/test_mend.py
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from errata.delta import Site
from errata.errors import BadFile, UnknownSite
from errata.fact import Fact
from errata.methods.mend import default_sites
from errata.model.lm import LM
from errata.model.query import Query
from errata.solve.descent.losses import row_losses
from errata.solve.mend import GradientFactors, Network, factors
from errata.solve.ultraedit import Spread
from tests import networks, tiny

NAMES = ("gpt2", "llama", "falcon", "phi3", "t5")
BARE = tiny.FACTS[0].prompt


@pytest.fixture(params=NAMES)
def lm(request: pytest.FixtureRequest) -> LM:
    return tiny.build(request.param, dtype=torch.float64)


def asked(lm: LM, facts: tuple[Fact, ...] = tiny.FACTS) -> object:
    return lm.tokens.batch([Query.of(fact) for fact in facts])


def dense(lm: LM, site: Site, facts: tuple[Fact, ...]) -> Tensor:
    """Return the gradient of the whole matrix, (out, in), from autograd itself."""
    weight = lm.stored(site)
    batch = asked(lm, facts)
    weight.requires_grad_(True)
    try:
        (found,) = torch.autograd.grad(row_losses(batch, lm.answer_logits(batch)).sum(), weight)
    finally:
        weight.requires_grad_(False)
    return found.T if lm.row.transposed else found


def test_the_factors_multiply_to_the_gradient_of_the_matrix(lm: LM) -> None:
    sites = default_sites(lm)
    seen = factors(lm, sites, asked(lm))
    assert len(sites) == 6
    for site in sites:
        torch.testing.assert_close(seen[site].gradients.T @ seen[site].inputs, dense(lm, site, tiny.FACTS))


def test_each_rows_tokens_are_its_own(lm: LM) -> None:
    sites = default_sites(lm)
    seen = factors(lm, sites, asked(lm))
    for row, fact in enumerate(tiny.FACTS):
        for site in sites:
            mine = seen[site].rows == row
            product = seen[site].gradients[mine].T @ seen[site].inputs[mine]
            torch.testing.assert_close(product, dense(lm, site, (fact,)))


def by_hand(network: Network, site: Site, u: Tensor, delta: Tensor) -> Tensor:
    """Return ΔW as the paper has it, written out: one token after another, one coordinate scaled after another."""
    part = {name.partition("/")[2]: t for name, t in network.tensors.items() if name.startswith(f"{site}/")}
    shape = f"{delta.shape[1]}x{u.shape[1]}/"
    part |= {name.removeprefix(shape): t for name, t in network.tensors.items() if name.startswith(shape)}
    total = torch.zeros(delta.shape[1], u.shape[1], dtype=torch.float64)
    for one, other in zip(u, delta, strict=True):
        z = (torch.cat([one, other]) - part["mean"]) / part["deviation"]
        for layer in "12":
            inner = part[f"u{layer}"] @ (part[f"v{layer}"] @ z) + part[f"b{layer}"]
            z = z + torch.relu(torch.diag(part[f"s{layer}"]) @ inner + part[f"o{layer}"])
        total -= torch.exp(part["log_rate"]) * torch.outer(z[len(one) :], z[: len(one)])
    return total


def test_the_change_is_the_papers_equation(lm: LM) -> None:
    network = networks.drawn(lm, tiny.FACTS, noise=0.3).to(torch.float64)
    seen = factors(lm, network.sites, asked(lm))
    for site in network.sites:
        change = network.change(site, seen[site])
        wanted = by_hand(network, site, seen[site].inputs, seen[site].gradients)
        assert float((change.dense() - wanted).norm() / wanted.norm()) < 1e-6  # the floor beside σ
        assert change.left.shape[1] == len(seen[site].rows)


def spread(width: int) -> Spread:
    return Spread.of(torch.randn(50, width, generator=torch.Generator().manual_seed(3)).double() * 4 + 1)


def test_a_fresh_network_hands_on_what_is_normalised() -> None:
    site = Site(0, "down")
    network = Network.fresh({site: (3, 5)}, {site: spread(8)}, rank=2, rate=0.5).to(torch.float64)
    rows = torch.randn(7, 8, dtype=torch.float64)
    u, delta = network.pseudo(site, rows[:, :5], rows[:, 5:])
    normal = spread(8).normed(rows)
    torch.testing.assert_close(torch.cat([u, delta], 1), normal, atol=1e-5, rtol=1e-5)
    change = network.change(site, GradientFactors(torch.zeros(7, dtype=torch.long), rows[:, :5], rows[:, 5:]))
    torch.testing.assert_close(change.dense(), -0.5 * normal[:, 5:].T @ normal[:, :5], atol=1e-4, rtol=1e-4)


def test_matrices_of_one_shape_share_a_network_and_others_do_not() -> None:
    shapes = {Site(0, "down"): (3, 5), Site(1, "down"): (3, 5), Site(1, "up"): (5, 3)}
    network = Network.fresh(shapes, {site: spread(8) for site in shapes}, rank=2)
    assert sorted(name for name in network.tensors if name.endswith("/v1")) == ["3x5/v1", "5x3/v1"]
    assert network.sites == (Site(0, "down"), Site(1, "down"), Site(1, "up"))
    assert network.layers == (0, 1)
    assert {name.rpartition("/")[2] for name in network.tensors.keys() - network.learned().keys()} == {
        "mean",
        "deviation",
    }


def test_a_coordinate_that_never_moves_is_no_division_by_zero() -> None:
    site, rows = Site(0, "down"), torch.ones(4, 8, dtype=torch.float64)
    network = Network.fresh({site: (3, 5)}, {site: Spread.of(rows)}, rank=2)
    assert all(bool(part.isfinite().all()) for part in network.pseudo(site, rows[:, :5], rows[:, 5:]))


def test_other_matrices_are_our_error() -> None:
    site = Site(0, "down")
    network = Network.fresh({site: (3, 5)}, {site: spread(8)}, rank=2)
    none = torch.zeros(1, 5, dtype=torch.float64)
    with pytest.raises(UnknownSite, match=r"the network changes 0\.down, not 1\.down"):
        network.change(Site(1, "down"), GradientFactors(torch.zeros(1, dtype=torch.long), none, none[:, :3]))


# ------------------------------------------------------------------ the file


@pytest.fixture
def network() -> Network:
    shapes = {Site(0, "down"): (3, 5), Site(1, "up"): (5, 3)}
    return Network.fresh(shapes, {site: spread(8) for site in shapes}, rank=2).holding({}, model="tiny", steps=3)


def test_a_file_gives_the_same_network_and_the_same_bytes(network: Network) -> None:
    data = network.to_bytes()
    again = Network.from_bytes(data, "the file")
    assert again.to_bytes() == data == network.to_bytes()
    assert (again.shapes, again.about) == (network.shapes, {"model": "tiny", "steps": 3})
    assert all(torch.equal(again.tensors[name], t) for name, t in network.tensors.items())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\x02\0\0\0\0\0\0\0{}",
        b"\xff" * 64,
        save({"a": torch.ones(2)}),
        save({"a": torch.ones(2)}, {"mend": "[]"}),
    ],
)
def test_what_is_no_network_is_named(data: bytes) -> None:
    with pytest.raises(
        BadFile, match=r"^mine\.bin is no network of MEND: train one with benchmarks/models/mend\.py\.$"
    ):
        Network.from_bytes(data, "mine.bin")


@pytest.mark.parametrize("wrong", ["missing", "another size", "more", "not finite", "whole numbers", "no site"])
def test_a_network_that_is_not_whole_is_named(network: Network, wrong: str) -> None:
    tensors = dict(network.tensors)
    if wrong == "missing":
        del tensors["3x5/u1"]
    elif wrong == "no site":
        network = Network({}, {}, network.about)
        tensors = {}
    else:
        tensors["1.up/s1"] = {
            "another size": torch.ones(7), "not finite": torch.full((8,), float("nan")),
            "whole numbers": torch.ones(8, dtype=torch.long), "more": tensors["1.up/s1"],
        }[wrong]  # fmt: skip
        tensors |= {"extra": torch.ones(1)} if wrong == "more" else {}
    data = Network(network.shapes, tensors, network.about).to_bytes()
    with pytest.raises(BadFile, match="not whole: train it again"):
        Network.from_bytes(data, "mine.bin")


def test_a_network_of_a_later_format_is_named(network: Network) -> None:
    data = network.to_bytes()
    with pytest.raises(BadFile, match="of format 9; this errata reads format 1"):
        Network.from_bytes(data.replace(b'\\"format\\": 1', b'\\"format\\": 9'), "mine.bin")
    assert load(data)
