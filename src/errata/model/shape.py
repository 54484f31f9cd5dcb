"""Find a model's blocks by what goes through them, and its row of the table: for every `model_type` that has none there.

One pass over two short texts shows which blocks a text goes through, one handing the stream to the next; each kind of block is
then looked at by itself (`errata.model.roles`). Nothing is taken from a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn

from errata.errors import UnsupportedModel
from errata.model.arch import Architecture, Kind, Stack
from errata.model.roles import ROWS, Call, Roles, roles_of
from errata.model.storage import device_of
from errata.model.trace import watched

CLASSIFIES: Final = "ForSequenceClassification"  # how the classes are called whose head names a class of a text
TOKENS, ANSWER = 7, 5  # of each text, and of what a decoder behind an encoder is given
_TEXTS: Final = (
    "The capital of France is Paris, and the river Seine runs through it.",
    "In this article, we will look at what was founded in the year 1900.",
)


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
    embedding = model.get_input_embeddings()
    rows = [list(tokenizer(text, verbose=False)["input_ids"]) for text in _TEXTS]
    ids = torch.tensor([[token % len(embedding.weight) for token in [*row[: TOKENS - 1], row[-1]]] for row in rows])
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "encoder-decoder":
        begins = torch.full_like(ids[:, :1], start_of(model.config))
        found["decoder_input_ids"] = torch.cat([begins, ids[:, : ANSWER - 1]], 1)
    return {name: value.to(device_of(embedding)) for name, value in found.items()}


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
            experts |= not roles.down and has_experts(call.block)
            every.append(roles)
        mine = every[-len(calls) :]
        path = calls[0].path.rpartition(".")[0]
        usual = max(mine, key=lambda roles: (bool(roles.down), mine.count(roles)))
        stacks.append(usual.at(path))
        others = {len(every) - len(calls) + i: roles.at(path) for i, roles in enumerate(mine)}
        by_layer |= {layer: stack for layer, stack in others.items() if stack != stacks[-1]}
    transposed, added = _stored(every, stacks), all(roles.added for roles in every)
    return Architecture(tuple(stacks), kind, transposed, not added, experts=experts, by_layer=by_layer)


def _stored(every: Sequence[Roles], stacks: Sequence[Stack]) -> bool:
    """Return whether matrices are stored (in, out); raises UnsupportedModel where some are, or there is none."""
    stored = {roles.transposed for roles in every if roles.down or roles.attention}
    if len(stored) == 1:
        return stored.pop()
    if stored:
        raise UnsupportedModel("some of its matrices are stored (in, out) and others (out, in), which no row can say.")
    names = ", ".join(stack.blocks for stack in stacks)
    raise UnsupportedModel(f"blocks were found ({names}), but no matrix in them that writes to the stream.")


def _check_width(model: Any, call: Call) -> None:
    """Refuse a stream of several (hyper-connections), which is wider than what goes in and comes out."""
    sizes = [getattr(model.config.get_text_config(), name, None) for name in ("hidden_size", "d_model", "n_embd")]
    sizes.append(model.get_input_embeddings().weight.shape[1])
    if call.width not in sizes:
        raise UnsupportedModel(
            f"its blocks hand on vectors of {call.width} numbers, and a token has {next(s for s in sizes if s)}: several "
            "streams in one."
        )


def has_experts(block: nn.Module) -> bool:
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

    parts = [(path, model.get_submodule(path)) for path in paths]
    with watched(
        [(part, partial(before, path)) for path, part in parts], [(part, partial(after, path)) for path, part in parts]
    ):
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
