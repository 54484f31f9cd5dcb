"""Find a model's blocks and matrices by what they do: for every `model_type` that the table has no row of.

One pass over two short texts shows which blocks a text goes through; each block is then run by itself, with what it was given.
A matrix that puts out vectors of the stream's size belongs to the stream if the block's output moves with it while all others
are held: query and gate projections then have no way to it. Of these, what hears of other positions while the rest is held is
an attention's (or another mixer's) output; what does not is the feed-forward part's, and the matrices that move its input are
its up projections. Orientation is read off numbers: which of W k and Wᵀ k is what came out. Nothing is taken from a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn

from errata.errors import UnsupportedModel
from errata.model.arch import Architecture, Kind, Stack

CLASSIFIES: Final = "ForSequenceClassification"  # how the classes are called whose head names a class of a text
ROWS, TOKENS, ANSWER = 2, 7, 5  # texts, tokens of each, and of each before a decoder that stands behind an encoder
LAST, BEFORE = slice(-1, None), slice(0, -1)  # positions
_TEXTS: Final = (
    "The capital of France is Paris, and the river Seine runs through it.",
    "In this article, we will look at what was founded in the year 1900.",
)


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


def kind_of(model: Any) -> Kind:
    """Return how text goes in and answers come out, as the class of a model says."""
    name = type(model).__name__
    if name.endswith(CLASSIFIES) and model.config.is_encoder_decoder:
        raise UnsupportedModel("it classifies by a decoder that stands behind an encoder.")
    if name.endswith(CLASSIFIES):
        return "classifier"
    if model.config.is_encoder_decoder:
        return "encoder-decoder"
    return "encoder" if name.endswith("ForMaskedLM") else "decoder"


def start_of(config: Any) -> int:
    """Return the token that a decoder behind an encoder begins with."""
    decoder = getattr(config, "decoder", None)
    begins = (getattr(config, "decoder_start_token_id", None), getattr(decoder, "bos_token_id", None))
    return next((int(token) for token in begins if token is not None), 0)


def inputs_for(model: Any, tokenizer: Any, kind: Kind) -> dict[str, Tensor]:
    """Return two texts of as many tokens, as a model takes them."""
    embedding = model.get_input_embeddings().weight
    rows = [list(tokenizer(text, verbose=False)["input_ids"]) for text in _TEXTS]
    ids = torch.tensor([[token % len(embedding) for token in [*row[: TOKENS - 1], row[-1]]] for row in rows])
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "encoder-decoder":
        begins = torch.full_like(ids[:, :1], start_of(model.config))
        found["decoder_input_ids"] = torch.cat([begins, ids[:, : ANSWER - 1]], 1)
    return {name: value.to(embedding.device) for name, value in found.items()}


def row_of(model: Any, tokenizer: Any) -> Architecture:
    """Return the row of a model as its shape tells it; raises UnsupportedModel, naming the model's type."""
    try:
        kind = kind_of(model)
        inputs = inputs_for(model, tokenizer, kind)
        return find(model, kind, lambda: model(**inputs, use_cache=False))
    except Exception as error:  # a model nobody has looked at may fail in any way
        said = str(error) if isinstance(error, UnsupportedModel) else f"it does not take a text ({in_short(error)})."
        raise UnsupportedModel(
            f"the type {model.config.model_type!r} has no row in the table, and its matrices were not found by their shape: "
            f"{said}"
        ) from error


def in_short(error: Exception) -> str:
    """Return an error of another library as one line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:160]}" if said else type(error).__name__


@torch.no_grad()
def find(model: nn.Module, kind: Kind, run: Callable[[], object]) -> Architecture:
    """Return the row of a model, found by its shape.

    Args:
        run: one pass of the model over `inputs_for`.

    Raises:
        UnsupportedModel: blocks or matrices cannot be told; the message says what was found and what was not.
    """
    stacks, by_layer = list[Stack](), dict[int, Stack]()
    known: dict[object, Roles] = {}
    every: list[Roles] = []
    experts = False
    for calls in chains(model, kind, run):
        _check_width(model, calls[0])
        for call in calls:
            sign = _signature(call.block)
            known[sign] = roles = known[sign] if sign in known else roles_of(call)
            experts |= not roles.down and _has_experts(call.block)
            every.append(roles)
        mine = every[-len(calls) :]
        path = calls[0].path.rpartition(".")[0]
        usual = max(mine, key=lambda roles: (bool(roles.down), mine.count(roles)))
        stacks.append(usual.at(path))
        others = {len(every) - len(calls) + i: roles.at(path) for i, roles in enumerate(mine)}
        by_layer |= {layer: stack for layer, stack in others.items() if stack != stacks[-1]}
    stored = {roles.transposed for roles in every if roles.down or roles.attention}
    if len(stored) != 1:
        raise UnsupportedModel(
            "some of its matrices are stored (in, out) and others (out, in), which no row can say."
            if stored
            else f"blocks were found ({', '.join(stack.blocks for stack in stacks)}), but no matrix in them that writes to the "
            "stream."
        )
    return Architecture(
        tuple(stacks),
        kind,
        stored == {True},
        not all(roles.added for roles in every),
        experts=experts,
        by_layer=by_layer,
    )


def _check_width(model: Any, call: Call) -> None:
    """Refuse a stream of several (hyper-connections), which is wider than what goes in and comes out."""
    sizes = [getattr(model.config.get_text_config(), name, None) for name in ("hidden_size", "d_model", "n_embd")]
    sizes.append(model.get_input_embeddings().weight.shape[1])
    if call.width not in sizes:
        raise UnsupportedModel(
            f"its blocks hand on vectors of {call.width} numbers, and a token has {next(s for s in sizes if s)}: several streams "
            "in one."
        )


def _has_experts(block: nn.Module) -> bool:
    """Say whether a block has experts; only messages depend on it."""
    names = {type(module).__name__ for module in block.modules()}
    return any(word in name for name in names for word in ("Expert", "MoE", "Moe", "SparseM"))


def _signature(block: nn.Module) -> object:
    parts = (
        (name, type(part), *(tuple(p.shape) for p in part.parameters(recurse=False)))
        for name, part in block.named_modules()
    )
    return tuple(parts)


# ------------------------------------------------------------------ the blocks


def chains(model: nn.Module, kind: Kind, run: Callable[[], object]) -> list[list[Call]]:
    """Return the blocks that a text goes through, in order, as they were called: one list, or encoder's and decoder's.

    Raises:
        UnsupportedModel: there is no such list of blocks, or its blocks do not hand the stream from one to the next.
    """
    lists = [name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part)]
    paths = {f"{name}.{i}": name for name in lists for i in range(len(model.get_submodule(name)))}  # type: ignore[arg-type]
    calls, counts = _called(model, paths, run)
    whole, why, size = [], [], 0
    for name in lists:
        mine = [path for path, owner in paths.items() if owner == name]
        if any(owner != name and name.startswith(f"{path}.") for path, owner in paths.items()):
            continue  # a list inside a block
        if not any(counts[path] for path in mine):
            continue  # another modality's
        size += _size(model.get_submodule(name))
        bad = _unlike_a_stack(mine, calls, counts)
        if bad:
            why.append(f"{name} {bad}")
        else:
            whole.append([calls[path] for path in mine])
    wanted = 2 if kind == "encoder-decoder" else 1
    whole.sort(key=lambda stack: -sum(_size(call.block) for call in stack))
    whole = whole[:wanted]
    # A list that holds the smaller part of what the pass went through is a side room, and the blocks are something else.
    if len(whole) < wanted or sum(_size(call.block) for stack in whole for call in stack) < size / 2:
        found = f" ({'; '.join(why)})" if why else ""
        raise UnsupportedModel(f"no list of blocks was found that a text goes through one after another{found}.")
    order = list(calls)
    return sorted(whole, key=lambda stack: order.index(stack[0].path))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _called(
    model: nn.Module, paths: Mapping[str, str], run: Callable[[], object]
) -> tuple[dict[str, Call], dict[str, int]]:
    calls: dict[str, Call] = {}
    counts = dict.fromkeys(paths, 0)
    given: dict[str, Tensor | None] = {}

    def before(path: str, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs.get("hidden_states")
        given[path] = hidden.clone() if isinstance(hidden, Tensor) else None

    def after(path: str, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        counts[path] += 1
        made = output[0] if isinstance(output, tuple) and output else output
        if (hidden := given[path]) is not None and isinstance(made, Tensor):
            calls[path] = Call(block, path, args, dict(kwargs), hidden, made.clone())

    with ExitStack() as stack:
        for path in paths:
            part = model.get_submodule(path)
            stack.callback(part.register_forward_pre_hook(partial(before, path), with_kwargs=True).remove)
            stack.callback(part.register_forward_hook(partial(after, path), with_kwargs=True).remove)
        run()
    return calls, counts


def _unlike_a_stack(paths: Sequence[str], calls: Mapping[str, Call], counts: Mapping[str, int]) -> str:
    """Return why a list of modules is no stack of blocks; "" if it is one."""
    if twice := [path for path in paths if counts[path] > 1]:
        return f"is run {counts[twice[0]]} times over"
    if lacking := [path for path in paths if path not in calls]:
        return f"has a block that was given or gave no hidden states ({lacking[0]})"
    for path in paths:
        shape = calls[path].hidden.shape
        if len(shape) != 3 or shape[0] != ROWS or shape[1] not in (TOKENS, ANSWER) or calls[path].output.shape != shape:
            return f"takes {list(shape)} and gives {list(calls[path].output.shape)}, not (texts, tokens, size)"
    for one, two in pairwise(paths):
        if not torch.equal(calls[one].output, calls[two].hidden):
            return f"does not hand on what {one} gives to {two}"
    return ""


# ------------------------------------------------------------------ the matrices of a block


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


@contextmanager
def _swapped(swaps: Sequence[tuple[nn.Module, Swap]]) -> Iterator[None]:
    """Let functions change what modules put out."""

    def hook(swap: Swap, module: nn.Module, args: object, output: Tensor) -> Tensor:
        return swap(output)

    with ExitStack() as stack:
        for module, swap in swaps:
            stack.callback(module.register_forward_hook(partial(hook, swap)).remove)
        yield


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

    def note(path: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            seen.setdefault(path, []).append((args[0].clone(), output.clone()))

    with ExitStack() as stack:
        for path, module in call.block.named_modules():
            weight = getattr(module, "weight", None)
            if path and isinstance(weight, Tensor) and weight.ndim == 2:
                stack.callback(module.register_forward_hook(partial(note, path)).remove)
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
    weight: Any = module.weight.T if transposed else module.weight
    if weight.shape != (y.shape[-1], x.shape[-1]) or not weight.is_floating_point():
        return False
    bias: Any = getattr(module, "bias", None)
    exact = x.double() @ weight.double().T + (0.0 if bias is None else bias.double())
    return bool((exact - y.double()).abs().max() <= tolerance(y) * exact.abs().max())


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
    handle = matrix.module.register_forward_pre_hook(lambda module, args: found.append(args[0].clone()))
    try:
        with _swapped(_held(writers, but=[matrix])):
            _again(call, hidden, other)
    finally:
        handle.remove()
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
