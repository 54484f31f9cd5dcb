"""Record, replace and resume: the only file that registers hooks.

    with Trace(lm, inputs=[Site(5, "down")]) as trace:
        lm.forward(batch)
    keys = trace.inputs[Site(5, "down")]                      # (b, t, in)

    with resume(lm, 5, hidden):                               # blocks 0–4 are not computed
        logits = lm.forward(batch)

    with grafted(lm, lm.model, opened, {Site(5, "down"): change}):   # changes that stay until taken off

Every context manager lets go on the way out, whatever happened inside; what is recorded is cloned (Falcon adds to its
MLP's output in place) and always shown as (batch, token, dim) (OPT's MLP sees the tokens flattened). Beside the roles
of `model.arch`, the role ``block`` stands for the block's input and output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.hooks import RemovableHandle

from errata.delta import Site

Hidden = Float[Tensor, "b t d"]
Replace = Callable[[Hidden], Hidden]


@runtime_checkable
class Modules(Protocol):
    """What a trace needs of a model."""

    def module(self, site: Site) -> nn.Module:
        """Return the module of a site, or the block itself for the role ``block``."""

    def head(self) -> nn.Module:
        """Return the output embedding."""

    def embedding(self) -> nn.Module:
        """Return the input embedding."""

    def below(self, layer: int) -> list[tuple[nn.Module, int]]:
        """Return the blocks that need not run when the input of `layer` is known, each with the length of the tuple it
        returns (0: a plain tensor)."""


class _Reached(Exception):
    """Raised inside a forward pass to leave it, for the trace that asked to."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace


class Trace:
    """Record inputs and outputs of sites, and replace outputs, while the block runs.

    Args:
        model: where the sites are.
        inputs: sites whose input to record.
        outputs: sites whose output to record (after any replacement).
        replace: a function from a site's output (b, t, d) to what shall stand in its place.
        tap: called with a site's live input (b, t, d), gradients and all, before the site runs.
        stop: leave the forward pass, and with it the ``with`` block, after this site.

    Attributes:
        inputs, outputs: recorded tensors by site, detached clones (b, t, d). A site never reached has no entry.
    """

    def __init__(
        self,
        model: Modules,
        *,
        inputs: Iterable[Site] = (),
        outputs: Iterable[Site] = (),
        replace: Mapping[Site, Replace] | None = None,
        tap: Mapping[Site, Callable[[Hidden], None]] | None = None,
        stop: Site | None = None,
    ) -> None:
        self._model, self._stop = model, stop
        self._want_in, self._want_out, self._replace = tuple(inputs), tuple(outputs), dict(replace or {})
        self._tap = dict(tap or {})
        self.inputs: dict[Site, Hidden] = {}
        self.outputs: dict[Site, Hidden] = {}
        self._rows = 1
        self._exit = ExitStack()

    def __enter__(self) -> Trace:
        with ExitStack() as stack:
            stack.callback(self._model.embedding().register_forward_pre_hook(self._count_rows).remove)
            for site in dict.fromkeys((*self._want_in, *self._tap)):
                stack.callback(self._on_input(site).remove)
            for site in dict.fromkeys((*self._replace, *self._want_out, *((self._stop,) if self._stop else ()))):
                stack.callback(self._on_output(site).remove)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self._exit.close()
        return isinstance(error, _Reached) and error.trace is self

    def _on_input(self, site: Site) -> Any:
        return self._model.module(site).register_forward_pre_hook(partial(self._before, site), with_kwargs=True)

    def _before(self, site: Site, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = _shown(_argument(args, kwargs), self._rows)
        if site in self._tap:
            self._tap[site](hidden)
        if site in self._want_in:
            self.inputs[site] = hidden.detach().clone()

    def _on_output(self, site: Site) -> Any:
        return self._model.module(site).register_forward_hook(partial(self._after, site))

    def _after(self, site: Site, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if site in self._replace:
            hidden = self._replace[site](_shown(hidden, self._rows)).reshape(hidden.shape)
        if site in self._want_out:
            self.outputs[site] = _shown(hidden, self._rows).detach().clone()
        if site == self._stop:
            raise _Reached(self)
        if site in self._replace:
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
        return None

    def _count_rows(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        # Some blocks flatten (batch, token) into one dimension; the ids say how many rows there are.
        self._rows = args[0].shape[0]


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the hidden states a module was called with: Llama-type attention gets keywords only."""
    value = args[0] if args else kwargs["hidden_states"]
    assert isinstance(value, Tensor)
    return value


def _shown(hidden: Tensor, rows: int) -> Hidden:
    return hidden.reshape(rows, -1, hidden.shape[-1]) if hidden.ndim == 2 else hidden


@contextmanager
def resume(model: Modules, layer: int, hidden: Hidden) -> Iterator[None]:
    """Run forward passes from the input of block `layer` on, with `hidden` (b, t, d) as that input.

    Embeddings, masks and rotary angles are still made by the model itself, from the inputs it is given; the blocks
    below are passed through without being computed. Where an architecture's blocks hand each other more than hidden
    states (T5), they are computed and their result is replaced.
    """
    with ExitStack() as stack:
        block = model.module(Site(layer, "block"))
        stack.callback(block.register_forward_pre_hook(partial(_put, hidden), with_kwargs=True).remove)
        for block, length in model.below(layer):
            stack.enter_context(_passed_through(block, length))
        yield


def _put(hidden: Tensor, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


@contextmanager
def _passed_through(block: nn.Module, length: int) -> Iterator[None]:
    """Let `block` return its input, in the shape its callers expect, without computing."""
    # An instance attribute shadows the class's forward; accelerate sets one too, so put back what was there.
    before = block.__dict__.get("forward")
    block.forward = partial(_hand_on, length)
    try:
        yield
    finally:
        if before is None:
            del block.forward
        else:
            block.forward = before


def _hand_on(length: int, *args: Any, **kwargs: Any) -> Any:
    hidden = _argument(args, kwargs)
    return (hidden, *[None] * (length - 1)) if length else hidden


Before = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]
After = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Any]


@contextmanager
def watched(
    before: Iterable[tuple[nn.Module, Before]] = (), after: Iterable[tuple[nn.Module, After]] = ()
) -> Iterator[None]:
    """Let functions see what modules are called with, and what they put out; what one returns then stands in its place.

    For modules that no site names yet: `Trace` is for those that are.
    """
    with ExitStack() as stack:
        for module, look in before:
            stack.callback(module.register_forward_pre_hook(look, with_kwargs=True).remove)
        for module, change in after:
            stack.callback(module.register_forward_hook(change, with_kwargs=True).remove)
        yield


_Change = Callable[[Hidden, Hidden], Hidden]


@contextmanager
def beside(model: Modules, parts: Mapping[Site, Replace]) -> Iterator[None]:
    """Add to what each site puts out what a function makes of its input, gradients and all: x ↦ y + parts[site](x)."""
    inputs: dict[Site, Hidden] = {}

    def add(site: Site) -> Replace:
        return lambda output: output + parts[site](inputs.pop(site)).to(output.dtype)

    taps = {site: partial(inputs.__setitem__, site) for site in parts}
    with Trace(model, tap=taps, replace={site: add(site) for site in parts}):
        yield


def added(module: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> RemovableHandle:
    """Let a function of what a module takes and puts out stand in the latter's place from now on, until it is removed.

    It comes before whatever else looks at the module: what a `Trace` records as its output is what the function gives.
    """

    def hook(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        return change(_argument(args, kwargs), output)

    return module.register_forward_hook(hook, prepend=True, with_kwargs=True)


Opened = Callable[[Mapping[str, Any]], int]


def grafted(model: Modules, opening: nn.Module, opened: Opened, at: Mapping[Site, _Change]) -> ExitStack:
    """Let functions change what sites put out, in every pass from now on, until the stack that is returned is closed.

    Args:
        opening: the module whose call begins a pass over prompts: the model, or the encoder.
        opened: told what `opening` is called with, by name; returns how many rows that is.
        at: from a site's input and output (b, t, d) to what stands in the output's place.
    """
    rows = [1]  # of the pass that runs

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows[0] = opened({**({"input_ids": args[0]} if args else {}), **kwargs})

    def change(site: Site, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        x, y = _shown(_argument(args, kwargs), rows[0]), _shown(output, rows[0])
        return at[site](x, y).reshape(output.shape)

    with ExitStack() as stack:
        stack.callback(opening.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for site in at:
            hook = partial(change, site)
            stack.callback(model.module(site).register_forward_hook(hook, with_kwargs=True).remove)
        return stack.pop_all()


@contextmanager
def answers_only(model: Modules, rows: Int[Tensor, " a"], cols: Int[Tensor, " a"]) -> Iterator[None]:
    """Give the head only the hidden states at [rows, cols], so that logits come out as (1, a, vocabulary).

    What the model does to its logits afterwards (scales, soft-caps) still happens; a full-vocabulary product over all
    positions does not.
    """
    handle = model.head().register_forward_pre_hook(partial(_pick, rows, cols))
    try:
        yield
    finally:
        handle.remove()


def _pick(rows: Tensor, cols: Tensor, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0][rows, cols][None], *args[1:])


def tuple_lengths(blocks: Iterable[nn.Module], run: Callable[[], object]) -> list[int]:
    """Return how long a tuple each block returns while `run` runs; 0 for a plain tensor."""
    lengths: list[int] = []

    def hook(module: nn.Module, args: object, output: object) -> None:
        lengths.append(len(output) if isinstance(output, tuple) else 0)

    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_hook(hook).remove)
        run()
    return lengths


def plain_attention(device: torch.device) -> AbstractContextManager[Any]:
    """On a CPU, attend without the flash kernel, whose backward is several times slower on short rows."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


@contextmanager
def no_grads_kept(module: nn.Module) -> Iterator[None]:
    """Switch off gradients of the parameters for a while, so that only what is being learned is differentiated."""
    flags = [(p, p.requires_grad) for p in module.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def at(hidden: Hidden, position: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
    """Return each row's vector at its position."""
    return hidden[torch.arange(len(position), device=hidden.device), position.to(hidden.device)]
