"""Experts as matrices: where a block's are, what each takes and gives, and which of them a token opens.

A mixture of experts puts out Σ g_e (W_e k_e + b_e) over the experts e that its router opens for a token, with gates g_e. The
`down` matrices of all experts lie in one tensor; which tensor, and stored which way, is found by that identity. What an
expert's matrix takes is made inside one function and never passes a module, so it is read by running the experts with rows of
the identity in place of the matrix: what comes out is then the key itself, slice by slice.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from errata.delta import Site
from errata.model.roles import tolerance
from errata.model.tokens import Batch
from errata.model.trace import Trace, watched

# Roles of a block's experts: all of them, whose output is their sum, and one, as in "expert3", which has a matrix.
EXPERTS, EXPERT = "experts", "expert"
_REFUSALS = (RuntimeError, TypeError, ValueError, IndexError)


class Routing(NamedTuple):
    """What a block's experts were called with: states (n, d), the experts opened (n, k), and their gates (n, k)."""

    x: Float[Tensor, "n d"]
    opened: Int[Tensor, "n k"]
    gates: Float[Tensor, "n k"]


@dataclass(frozen=True, eq=False, slots=True)
class Experts:
    """The experts of one block.

    Args:
        module: what is called with states, the experts opened and their gates. name: its parameter with the `down` matrices of
            all of them, first dimension first. transposed: each is stored (in, out).
    """

    module: nn.Module
    name: str
    transposed: bool

    @property
    def tensor(self) -> Tensor:
        """All `down` matrices as they are stored."""
        found: Tensor = self.module.get_parameter(self.name)
        return found

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.tensor)

    def matrix(self, expert: int) -> Float[Tensor, "out in"]:
        """Return the live `down` matrix of an expert, as a view to write through."""
        return self.tensor[expert].T if self.transposed else self.tensor[expert]

    @torch.no_grad()
    def keys(self, x: Float[Tensor, "n d"], expert: int) -> Float[Tensor, "n in"]:
        """Return what the `down` matrix of an expert takes for each state."""
        out, inner = self.matrix(expert).shape
        none = self._put_out(x, expert, torch.zeros_like(self.matrix(expert)))
        parts = []
        for start in range(0, inner, out):
            rows = torch.zeros_like(self.matrix(expert))
            size = min(out, inner - start)
            rows[torch.arange(size), torch.arange(start, start + size)] = 1
            parts.append((self._put_out(x, expert, rows) - none)[:, :size])
        return torch.cat(parts, 1)

    def _put_out(self, x: Tensor, expert: int, matrix: Tensor) -> Tensor:
        """Return what an expert gives with another matrix, its gate 1; one matrix stands for all, and takes no room."""
        one = matrix.T if self.transposed else matrix
        stand_in = one.contiguous()[None].expand(self.tensor.shape)
        opened = torch.full((len(x), 1), expert, dtype=torch.long, device=x.device)
        found: Tensor = functional_call(self.module, {self.name: stand_in}, (x, opened, x.new_ones(len(x), 1)))
        return found


@runtime_checkable
class BlockModel(Protocol):
    """All that is used of a model."""

    model: Any
    depth: int

    def block(self, layer: int) -> nn.Module:
        """Return a block."""

    def two_texts(self) -> object:
        """Run one pass over two short texts."""


@torch.no_grad()
def find(lm: BlockModel) -> dict[int, Experts]:
    """Return the experts of every block that has some whose `down` matrices were found."""
    called = _called(lm)
    found = {layer: _of(module, routing) for layer, (module, routing) in called.items()}
    return {layer: experts for layer, experts in found.items() if experts is not None}


def _called(lm: BlockModel) -> dict[int, tuple[nn.Module, Routing]]:
    """Return, by layer, the module with stacked matrices that was given states, experts and gates."""
    called: dict[int, tuple[nn.Module, Routing]] = {}

    def note(layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: object) -> None:
        routing = routing_of(args)
        if routing is not None:
            called[layer] = module, routing

    stacked = [(layer, module) for layer in range(lm.depth) for module in _stacked(lm.block(layer).modules())]
    with watched([(module, partial(note, layer)) for layer, module in stacked]):
        lm.two_texts()
    return called


def _stacked(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return [m for m in modules if any(p.ndim == 3 for p in m.parameters(recurse=False))]


def routing_of(args: tuple[Any, ...]) -> Routing | None:
    """Return what experts were called with, or None if it is not states, whole numbers and gates of one length."""
    if len(args) != 3 or not all(isinstance(arg, Tensor) and arg.ndim == 2 for arg in args):
        return None
    x, opened, gates = args
    fits = len(x) == len(opened) == len(gates) and opened.shape == gates.shape
    return Routing(*args) if fits and not opened.is_floating_point() and gates.is_floating_point() else None


def _of(module: nn.Module, routing: Routing) -> Experts | None:
    """Return the experts of a module if W k + b of a stacked tensor is what they give."""
    for name, tensor in module.named_parameters(recurse=False):
        for transposed in (False, True) if tensor.ndim == 3 else ():
            found = Experts(module, name, transposed)
            if len(found.matrix(0)) != routing.x.shape[1]:
                continue
            with suppress(*_REFUSALS):
                if _holds(found, routing):
                    return found
    return None


def _holds(experts: Experts, routing: Routing) -> bool:
    total: Tensor = experts.module(*routing)
    made = torch.zeros_like(total, dtype=torch.float64)
    for expert in range(experts.count):
        rows, place = (routing.opened == expert).nonzero(as_tuple=True)
        if not len(rows):
            continue
        x, gates = routing.x[rows], routing.gates[rows, place].double()
        matrix = experts.matrix(expert)
        bias = experts._put_out(x, expert, torch.zeros_like(matrix)).double()
        given = experts.keys(x, expert).double() @ matrix.double().T + bias
        made.index_add_(0, rows, gates[:, None] * given)
    return bool((made - total.double()).abs().max() <= tolerance(total) * total.double().abs().max())


def is_expert(site: Site) -> bool:
    """Return whether a site is one expert of a layer."""
    return site.role.startswith(EXPERT) and site.role != EXPERTS


def expert_sites(lm: Any, layer: int) -> list[Site]:
    """Return the sites of a layer's experts, in the order of their numbers."""
    return [Site(layer, f"{EXPERT}{number}") for number in range(lm.experts[layer].count)]


def opened_keys(
    experts: Experts, routing: Routing, among: Container[int] | None = None
) -> Mapping[int, tuple[Tensor, Float[Tensor, "m in"]]]:
    """Return, by expert, the rows that open it and g_e k_e of each; of all experts, or those `among` some."""
    found = {}
    for expert in routing.opened.unique().tolist():
        rows, place = (routing.opened == expert).nonzero(as_tuple=True)
        if expert < experts.count and len(rows) and (among is None or expert in among):
            keys = experts.keys(routing.x[rows], expert)
            found[expert] = rows, keys * routing.gates[rows, place, None].to(keys.dtype)
    return found


def routing_at(lm: Any, site: Site, inputs: Mapping[str, Tensor]) -> Routing:
    """Return what a layer's experts are called with in a pass over token ids, every position a row."""
    found: list[Routing] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: object) -> None:
        routing = routing_of(args)
        assert routing is not None
        found.append(Routing(*(tensor.clone() for tensor in routing)))

    with watched([(lm.experts[site.layer].module, note)]), Trace(lm, stop=Site(site.layer, "block")):
        lm.forward(Batch.unlabelled(dict(inputs)))
    return found[0]
