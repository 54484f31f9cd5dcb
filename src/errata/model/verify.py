"""Check on a model's own passes that what a row says of it is so.

    for check in checks(lm): ...                 # what `errata arch` prints
    lm.row = settled(lm)                         # of a row found by shape: raises UnsupportedModel if a check fails

Every check is an identity: W k + b, a stream to which a vector is added, logits that do not know of padding, of what comes
later, or of the way they were come by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor

from errata.delta import LowRank, Site
from errata.errors import ErrataError, UnsupportedModel
from errata.model.arch import Architecture, Cache
from errata.model.generation import generate_tokens
from errata.model.query import Query
from errata.model.roles import tolerance
from errata.model.shape import in_short
from errata.model.storage import bias_of, roundness
from errata.model.trace import Trace, resume

Model: TypeAlias = Any  # an `LM`: it asks this file whether it may be one
_QUERIES: Final = (
    Query("The capital of France is", "Paris"),
    Query("The river Seine, which begins in Burgundy, runs through the city of", "Paris"),
)
_REFUSALS: Final = (
    TypeError,
    ValueError,
    RuntimeError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
    ErrataError,
)


def _asked(lm: Model) -> list[Query]:
    """Return two texts with an answer each: a word, or a class."""
    if lm.row.kind != "classifier":
        return list(_QUERIES)
    return [replace(query, answer=next(iter(lm.tokens.classes))) for query in _QUERIES]


class Check(NamedTuple):
    """One identity: what should hold, whether it does, and what was seen."""

    what: str
    holds: bool
    seen: str = ""


@torch.no_grad()
def checks(lm: Model) -> list[Check]:
    """Return every check of a model, those that do not hold as well."""
    return [
        *(_products(lm, role) for role in ("down", "attention")),
        _stream(lm),
        *(_tried(what, look, lm) for what, look in _IDENTITIES.items() if what not in _NOT_FOR.get(lm.row.kind, ())),
    ]


@torch.no_grad()
def settled(lm: Model) -> Architecture:
    """Return the row of a model that was found by shape, with what only whole passes show of it.

    Raises:
        UnsupportedModel: a check fails; the message names it.
    """
    lm.row = replace(lm.row, skips=_resumes(lm, skips=True))
    lm.row = replace(lm.row, cache=_cache(lm))
    failed = [check for check in checks(lm) if not check.holds]
    if failed:
        said = "; ".join(f"{check.what} ({check.seen or 'it does not'})" for check in failed)
        raise UnsupportedModel(
            f"{lm.name} ({lm.model.config.model_type}) has no row in the table, and what was found by its shape "
            f"({lm.row.stacks[-1].blocks}) does not pass: {said}."
        )
    found: Architecture = lm.row
    return found


def same(one: Tensor, other: Tensor, room: float = 0.0) -> bool:
    """Say whether two results are the same but for rounding, to that share of the largest entry if it is more than usual."""
    if one.shape != other.shape:
        return False
    gap = (one.double() - other.double()).abs().max()
    return bool(gap <= max(tolerance(other), room) * other.double().abs().max())


def _tried(what: str, look: Callable[[Model], bool], lm: Model) -> Check:
    try:
        return Check(what, look(lm))
    except _REFUSALS as error:
        return Check(what, False, in_short(error))


def _products(lm: Model, role: str) -> Check:
    """Look whether what a role puts out is W x + b in every layer that has it."""
    sites = [site for layer in range(lm.depth) if lm.has(site := Site(layer, role))]
    with Trace(lm, inputs=sites, outputs=sites) as trace:
        lm.forward(lm.tokens.batch(_asked(lm)))
    good = 0
    for site in sites:
        if site not in trace.inputs:  # a kernel has taken the weights past the module
            continue
        bias = bias_of(lm.module(site))
        x, weight = trace.inputs[site].double(), lm.parameter(site).double()
        made = x @ weight.T + (0.0 if bias is None else bias.double())
        good += same(made, trace.outputs[site], roundness(lm.module(site)))
    name = "down(k) = W k + b" if role == "down" else "attention output = W x + b"
    return Check(name, good == len(sites), f"{good} of {lm.depth} layers" if sites else "no layer has one")


def _stream(lm: Model) -> Check:
    """Look whether what `down` puts out is added to the stream where the row says so, and is not where it says so."""
    sites = [site for layer in range(lm.depth) if lm.has(site := Site(layer, "down"))]
    batch = lm.tokens.batch(_asked(lm)[:1])
    blocks = [Site(site.layer, "block") for site in sites]
    with Trace(lm, outputs=[*sites, *blocks]) as plain:
        lm.forward(batch)
    added = []
    for site, block in zip(sites, blocks, strict=True):
        shift = plain.outputs[site].flip(1)
        moving = {site: lambda y, s=shift: y + s.to(y.dtype)}
        with Trace(lm, outputs=[block], replace=moving, stop=block) as moved:
            lm.forward(batch)
        received = moved.outputs[block].double() - plain.outputs[block].double()
        room = tolerance(shift) * float(max(plain.outputs[block].abs().max(), shift.abs().max()))
        added.append(bool((received - shift.double()).abs().max() <= room))
    said = "what down puts out is added to the stream"
    if lm.row.post_norm:
        return Check(
            f"{said} after a norm or scale", not all(added) or not sites, f"{added.count(False)} of {len(sites)} layers"
        )
    return Check(said, all(added), f"{added.count(True)} of {len(sites)} layers")


# ------------------------------------------------------------------ whole passes


def _full(lm: Model, queries: Sequence[Query] = ()) -> Tensor:
    batch = lm.tokens.batch(queries or _asked(lm))
    logits: Tensor = lm.forward(batch)
    return logits if lm.row.kind == "classifier" else logits[batch.rows.to(logits.device), batch.cols.to(logits.device)]


def _answers(lm: Model) -> bool:
    """Logits of the answers alone are those of a whole pass: the head was found."""
    return same(lm.answer_logits(lm.tokens.batch(_asked(lm))), _full(lm).float())


def _padding(lm: Model) -> bool:
    """A row of a batch gets what it gets alone."""
    alone = torch.cat([_full(lm, [query]) for query in _asked(lm)])
    return same(_full(lm), alone, _room(lm))


def _causal(lm: Model) -> bool:
    """What a block puts out at a token changes what follows, and nothing before."""
    batch = lm.tokens.batch(_asked(lm)[:1])
    moving = "decoder_input_ids" if lm.row.kind == "encoder-decoder" else "input_ids"
    plain, length = lm.forward(batch), batch.inputs[moving].shape[1]
    place = max(1, length // 2)
    block = Site(lm.depth - lm.depth // 2 - 1 if moving == "input_ids" else lm.depth - 1, "block")

    def turned(hidden: Tensor) -> Tensor:
        changed = hidden.clone()
        changed[:, place] = -1.5 * hidden[:, place].roll(1, -1)
        return changed

    with Trace(lm, replace={block: turned}):
        after = lm.forward(batch)
    return same(after[:, :place], plain[:, :place], _room(lm)) and not same(
        after[:, place:], plain[:, place:], _room(lm)
    )


def _room(lm: Model) -> float:
    """Return by what share of the largest entry a token's result may change with what else is in the batch.

    LLM.int8() rounds inputs but for columns that are large at any token of the batch, later ones included.
    """
    return max(roundness(module) for module in lm.model.modules())


def _resumes(lm: Model, skips: bool | None = None) -> bool:
    """A pass that begins at a layer ends as the whole one does."""
    before = lm.row
    if skips is not None:
        lm.row = replace(before, skips=skips)
    try:
        with suppress(*_REFUSALS):
            return _resumed(lm)
        return False
    finally:
        lm.row = before


def _resumed(lm: Model) -> bool:
    batch = lm.tokens.batch(_asked(lm))
    # Half way, and late: caches and states handed on between blocks show where layers differ.
    layers = sorted({1, lm.reachable // 2, lm.reachable - 1} & set(range(1, lm.reachable)))
    with Trace(lm, inputs=[Site(layer, "block") for layer in layers]) as trace:
        whole = lm.forward(batch)
    for layer in layers:
        other = trace.inputs[Site(layer, "block")].roll(1, -1)  # another input gives another end
        with resume(lm, layer, trace.inputs[Site(layer, "block")]):
            again = lm.forward(batch)
        with resume(lm, layer, other):
            if not same(again, whole) or same(lm.forward(batch), whole):
                return False
    return True


def _cache(lm: Model) -> Cache:
    """Return what a text can be gone on with."""
    if lm.row.kind not in ("decoder", "encoder-decoder"):
        return "plain"
    for kind in ("plain", "own"):
        with suppress(*_REFUSALS):
            if (kind == "own" or _cached(lm)) and _token_by_token(lm):
                return kind
    return "none"


def _cached(lm: Model) -> bool:
    """A pass with a plain cache gives what one without gives, and fills it with keys and values for every layer."""
    if lm.row.kind != "decoder":
        return True
    batch, cache = lm.tokens.batch(_asked(lm)[:1]), lm.cache()
    logits = lm.forward(batch, cache)
    return same(logits, lm.forward(batch)) and cache.get_seq_length() == logits.shape[1]


def _token_by_token(lm: Model) -> bool:
    """Text is gone on with as passes over the whole of it say."""
    starts = [lm.tokens.opening(query) for query in _QUERIES]
    said = generate_tokens(lm, starts, 3)
    for start, tokens in zip(starts, said, strict=True):
        if lm.row.kind == "encoder-decoder":
            given = {"input_ids": [start], "decoder_input_ids": [[lm.tokens.start, *tokens[:-1]]]}
            first = 0
        else:
            given, first = {"input_ids": [[*start, *tokens[:-1]]]}, len(start) - 1
        logits = _logits(lm, given)
        best = logits[0, first:].max(-1).values
        chosen = logits[0, first:].gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0]
        if not same(chosen, best):  # two tokens may be as likely as each other
            return False
    return True


def _logits(lm: Model, given: dict[str, list[list[int]]]) -> Tensor:
    ids = {name: torch.tensor(rows, device=lm.device) for name, rows in given.items()}
    found: Tensor = lm.model(**ids, attention_mask=torch.ones_like(ids["input_ids"]), use_cache=False).logits
    return found


def _dropped(lm: Model) -> bool:
    """A change of a matrix shows while it stands, and is gone to the bit afterwards."""
    site = next(
        site for role in ("down", "attention") for layer in range(lm.depth) if lm.has(site := Site(layer, role))
    )
    weight = lm.weights[site]
    out, inner = weight.shape
    generator = torch.Generator().manual_seed(0)
    size = float(weight.float().square().mean().sqrt()) * 4
    change = LowRank(torch.randn(out, 1, generator=generator) * size, torch.randn(inner, 1, generator=generator))
    before, kept = _full(lm), weight.clone()
    with lm.weights.trial([{site: change}]):
        during = _full(lm)
    return not same(during, before) and torch.equal(_full(lm), before) and torch.equal(lm.weights[site], kept)


_IDENTITIES: Final[dict[str, Callable[[Model], bool]]] = {
    "answers alone get the logits of a whole pass": _answers,
    "a row of a batch gets what it gets alone": _padding,
    "a block's output changes what follows, and nothing before": _causal,
    "a pass begun at a layer ends as the whole one": _resumes,
    "text is gone on with as whole passes say": _token_by_token,
    "a change stands, and is gone to the bit": _dropped,
}
_GOES_ON: Final = (
    "a block's output changes what follows, and nothing before",
    "text is gone on with as whole passes say",
)
_NOT_FOR: Final = {"encoder": _GOES_ON, "classifier": _GOES_ON}
