"""Tell the matrices of a block by what they do: which one writes the feed-forward part's output, which the attention's.

A block is run by itself, with what it was given. A matrix that puts out vectors of the stream's size writes to the stream if
the block's output moves with it while all others are held: a query or gate has no way to it then. Of these, what hears of other
positions while the rest is held is an attention's (or another mixer's) output; what does not is the feed-forward part's, and
the matrices that move its input are its up projections. Orientation is read off numbers: which of W k and Wᵀ k came out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from errata.model.arch import Stack
from errata.model.storage import bias_of, matrix_of, roundness, weight_of
from errata.model.trace import watched

ROWS: Final = 2  # texts a block is looked at with
LAST, BEFORE = slice(-1, None), slice(0, -1)  # positions


@dataclass(eq=False, slots=True)
class Call:
    """A block as it was called: what with, and what it gave back."""

    block: nn.Module
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    hidden: Tensor
    output: Tensor

    @property
    def width(self) -> int:
        """Size of the stream."""
        return int(self.hidden.shape[-1])

    def others(self) -> list[str | int]:
        """Return which arguments are states of another stack, such as an encoder's: by place or name."""
        given: list[tuple[str | int, Any]] = [*enumerate(self.args), *self.kwargs.items()]
        wanted = self.hidden.shape
        return [
            key for key, value in given
            if isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 3
            and value.shape[0] == wanted[0] and value.shape[1] not in (1, wanted[1])
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of a block, what came in and what came out of it in the pass."""

    path: str
    module: nn.Module
    x: Tensor
    y: Tensor
    transposed: bool

    @property
    def inner(self) -> int:
        """Size of what it takes."""
        return int(self.x.shape[-1])


@dataclass(frozen=True, slots=True)
class Roles:
    """What was found in one block.

    Args:
        down, attention: paths in the block, "" where there is none. up: those that make what `down` takes.
        added: a vector added to what `down` puts out is added to the stream. transposed: matrices are stored (in, out).
        others: what else writes to the stream.
    """

    down: str = ""
    attention: str = ""
    up: tuple[str, ...] = ()
    added: bool = True
    transposed: bool = False
    others: tuple[str, ...] = ()

    def at(self, blocks: str) -> Stack:
        """Return them as a stack of blocks has them."""
        return Stack(blocks, self.up, self.down, self.attention)


def roles_of(call: Call) -> Roles:
    """Return which matrices of a block write to the stream, and what they are there for."""
    matrices = _matrices(call)
    writers = [m for m in matrices if m.y.shape[-1] == call.width and _moves(call, matrices, m)]
    local = [w for w in writers if not _hears(call, writers, w)]
    mixing = [w for w in writers if w not in local and _hears(call, writers, w, other=False)]
    down = max(local, key=lambda m: m.inner, default=None)
    attention = max(mixing, key=lambda m: ("Attention" in type(_parent(call, m)).__name__, m.inner), default=None)
    ups = [m for m in matrices if down and m not in writers and _feeds(call, writers, m, down)]
    chosen = [m for m in (down, attention) if m]
    return Roles(
        down.path if down else "",
        attention.path if attention else "",
        tuple(m.path for m in ups),
        down is None or _adds(call, down),
        any(m.transposed for m in chosen),
        tuple(w.path for w in writers if w not in chosen),
    )


def _parent(call: Call, matrix: Matrix) -> nn.Module:
    return call.block.get_submodule(matrix.path.rpartition(".")[0])


Swap = Callable[[Tensor], Tensor]


def _swapped(swaps: Sequence[tuple[nn.Module, Swap]]) -> AbstractContextManager[None]:
    """Let functions change what modules put out."""

    def change(swap: Swap, module: nn.Module, args: object, kwargs: object, output: Tensor) -> Tensor:
        return swap(output)

    return watched(after=[(module, partial(change, swap)) for module, swap in swaps])


def _again(call: Call, hidden: Tensor | None = None, other: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Return what a block gives for what it was given, or for something else in its place."""
    hidden = call.hidden.clone() if hidden is None else hidden
    args, kwargs = [*call.args], dict(call.kwargs)
    for key in call.others() if other else ():
        holder: Any = args if isinstance(key, int) else kwargs
        holder[key] = other(holder[key])  # type: ignore[misc]
    if args:
        args[0] = hidden
    else:
        kwargs["hidden_states"] = hidden
    output = call.block(*args, **kwargs)
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _matrices(call: Call) -> list[Matrix]:
    """Return the matrices that a block puts every token through once, in the order of their calls."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    tokens = call.hidden.shape[0] * call.hidden.shape[1]

    def note(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: object, output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            seen.setdefault(path, []).append((args[0].clone(), output.clone()))

    weights = ((path, module, weight_of(module)) for path, module in call.block.named_modules() if path)
    flat = [(path, module) for path, module, weight in weights if isinstance(weight, Tensor) and weight.ndim == 2]
    with watched(after=[(module, partial(note, path)) for path, module in flat]):
        _again(call)
    found = []
    for path, passes in seen.items():
        x, y = passes[0]
        if len(passes) > 1 or x.numel() // x.shape[-1] != tokens or y.numel() // y.shape[-1] != tokens:
            continue
        module = call.block.get_submodule(path)
        for transposed in (False, True):
            if _is_product(module, x, y, transposed):
                found.append(Matrix(path, module, x, y, transposed))
                break
    return found


def _is_product(module: nn.Module, x: Tensor, y: Tensor, transposed: bool) -> bool:
    """Say whether what came out is W x + b, or with W stored the other way."""
    weight = matrix_of(module)
    weight = weight.T if transposed else weight
    if weight.shape != (y.shape[-1], x.shape[-1]) or not weight.is_floating_point():
        return False
    bias = bias_of(module)
    exact = x.double() @ weight.double().T + (0.0 if bias is None else bias.double())
    return bool((exact - y.double()).abs().max() <= max(tolerance(y), roundness(module)) * exact.abs().max())


def tolerance(like: Tensor) -> float:
    """Return by what share of its largest entry a result in this number type may be off."""
    return 1e-4 if like.dtype in (torch.float32, torch.float64) else 2e-2


def _shift(like: Tensor) -> Tensor:
    """Return a vector as large as those of a tensor."""
    drawn = torch.randn(like.shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (drawn.to(like.device) * like.double().square().mean().sqrt()).to(like.dtype)


def _last(like: Tensor, rows: int = ROWS) -> Tensor:
    return like.reshape(rows, -1, like.shape[-1])[:, -1]


def _shifted(shift: Tensor, where: slice, output: Tensor) -> Tensor:
    moved = output.clone()
    moved.view(ROWS, -1, moved.shape[-1])[:, where].add_(shift)
    return moved


def _held(matrices: Sequence[Matrix], but: Sequence[Matrix] = ()) -> list[tuple[nn.Module, Swap]]:
    return [(m.module, partial(_put, m.y)) for m in matrices if all(m is not free for free in but)]


def _put(value: Tensor, output: Tensor) -> Tensor:
    return value.clone()


def _differs(one: Tensor, other: Tensor) -> bool:
    """Say whether two results are not the same but for rounding."""
    return bool((one.double() - other.double()).abs().max() > tolerance(one) * 1e-1 * other.double().abs().max())


def _moves(call: Call, matrices: Sequence[Matrix], matrix: Matrix) -> bool:
    """Say whether the block's output moves with what a matrix puts out, there and nowhere else, while all others are held."""
    held = _held([m for m in matrices if m.y.shape[-1] == call.width], but=[matrix])
    with _swapped(held):
        plain = _again(call)
    shift = _shift(matrix.y)
    with _swapped([*held, (matrix.module, partial(_shifted, shift, LAST))]):
        moved = _differs(_last(_again(call)), _last(plain))
    with _swapped([*held, (matrix.module, partial(_shifted, shift, BEFORE))]):
        return moved and not _differs(_last(_again(call)), _last(plain))


def _hears(call: Call, writers: Sequence[Matrix], matrix: Matrix, other: bool = True) -> bool:
    """Say whether what a matrix takes at the last position depends on earlier ones, or on another stack's states."""
    mixed = call.hidden.clone()
    mixed[:, :-1] = call.hidden.flip(0).roll(1, 1)[:, :-1] * 1.5
    changed = _taken(call, writers, matrix, mixed, None)
    if _differs(_last(changed), _last(matrix.x)):
        return True
    if not other or not call.others():
        return False
    return _differs(_last(_taken(call, writers, matrix, None, lambda states: states.flip(0) * 1.5)), _last(matrix.x))


def _taken(
    call: Call,
    writers: Sequence[Matrix],
    matrix: Matrix,
    hidden: Tensor | None,
    other: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Return what a matrix takes while all other writers are held."""
    found: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: object) -> None:
        found.append(args[0].clone())

    with watched([(matrix.module, note)]), _swapped(_held(writers, but=[matrix])):
        _again(call, hidden, other)
    return found[0]


def _feeds(call: Call, writers: Sequence[Matrix], matrix: Matrix, down: Matrix) -> bool:
    """Say whether a matrix makes what `down` takes: of its size, or twice that where two are in one."""
    if matrix.y.shape[-1] not in (down.inner, 2 * down.inner):
        return False
    with _swapped([(matrix.module, partial(_shifted, _shift(matrix.y), LAST))]):
        return _differs(_last(_taken(call, writers, down, None, None)), _last(down.x))


def _adds(call: Call, matrix: Matrix) -> bool:
    """Say whether a vector added to what a matrix puts out is added to the block's output, no more and no less."""
    shift = _shift(matrix.y)
    with _swapped([(matrix.module, partial(_shifted, shift, LAST))]):
        moved = _last(_again(call)).double() - _last(call.output).double()
    scale = max(float(shift.double().abs().max()), float(call.output.double().abs().max()))
    return bool((moved - shift.double()).abs().max() <= tolerance(shift) * scale)
