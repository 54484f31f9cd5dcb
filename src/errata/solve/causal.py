"""Causal tracing: which hidden states carry the subject's facts to the answer.

Paper: Meng et al., Locating and Editing Factual Associations in GPT, https://arxiv.org/abs/2202.05262, §2. The model runs
three times: clean; corrupted, with noise on the subject's embeddings; and corrupted with one state put back to its clean value,

    effect(token, layer) = mean over noise samples of P(answer | that state restored) - P(answer | corrupted)

for the block's output (one layer), or what the MLP or the attention puts out (a window of layers around it, since one of them
alone does little).

Differs from the paper: the noise is added to the input of the first block, where some models have added positions already, and
its size is `noise` times the deviation of those very vectors; P is that of the whole answer, not of its first token. Rows that
share a layer run together, from that layer and their token on, as everything below and before is the corrupted run's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.delta import Site
from errata.errors import UnsupportedModel
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.query import Query
from errata.model.suffix import Tail, suffix_of
from errata.model.tokens import Batch
from errata.model.trace import Trace, resume

_State = Literal["block", "mlp", "attention"]
_Hidden = Float[Tensor, "b t d"]
ROLES = {"block": "block", "mlp": "down", "attention": "attention"}
ROWS = 128  # rows of one pass


@dataclass(frozen=True, slots=True)
class Tracing:
    """Settings of the trace.

    Args:
        samples: draws of the noise. noise: its size, in deviations of the subject's embeddings.
        window: layers of "mlp" and "attention" restored together; 0 takes the paper's share of the depth, 10 of 48.
        seed: what the noise is drawn from.
    """

    samples: int = 10
    noise: float = 3.0
    window: int = 0
    seed: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Traced:
    """What restoring each state brought back.

    Args:
        state: which states were restored.
        tokens: the prompt's tokens as text. subject: first and last token of the subject.
        effect: (t, layers). clean, corrupted: probability of the answer in the run without noise, and with it.
    """

    state: _State
    tokens: tuple[str, ...]
    subject: tuple[int, int]
    effect: Float[Tensor, "t layers"]
    clean: float
    corrupted: float

    @property
    def layer(self) -> int:
        """The layer with the largest effect at the subject's last token."""
        return int(self.effect[self.subject[1]].argmax())


def trace(lm: LM, fact: Fact, how: Tracing, states: Sequence[_State] = ("block", "mlp", "attention")) -> list[Traced]:
    """Return the effect of restoring each state at every token of the prompt and every layer, for each kind of state.

    Raises:
        UnsupportedModel: the model is an encoder. BadFact: the tokenizer loses the subject or the target.
    """
    if lm.row.kind in ("encoder", "classifier"):
        raise UnsupportedModel(
            f"{lm.name} is an encoder; causal tracing follows a prompt to the answer it is continued with."
        )
    with torch.no_grad():
        runs = _Runs(lm, fact, how)
        return [runs.traced(state) for state in states]


_PLACES = (
    "before the subject", "first subject token", "middle subject tokens", "last subject token",
    "first token after", "further tokens", "last token",
)  # fmt: skip


def average(traces: Sequence[Traced]) -> Traced:
    """Return the mean of traces of one state over many facts, their tokens grouped by place as in the paper's Fig. 2.

    A fact counts once in every place it has tokens in; places no fact has tokens in are left out.
    """
    rows: dict[str, list[Tensor]] = {place: [] for place in _PLACES}
    for traced in traces:
        mine: dict[str, list[Tensor]] = {}
        for token, effect in enumerate(traced.effect):
            mine.setdefault(_place(token, traced.subject, len(traced.tokens)), []).append(effect)
        for place, effects in mine.items():
            rows[place].append(torch.stack(effects).mean(0))
    found = {place: torch.stack(effects).mean(0) for place, effects in rows.items() if effects}
    tokens = tuple(found)
    subject = [i for i, place in enumerate(tokens) if "subject token" in place]
    clean, corrupted = (
        sum(values) / len(traces) for values in zip(*((t.clean, t.corrupted) for t in traces), strict=True)
    )
    return Traced(
        traces[0].state, tokens, (subject[0], subject[-1]), torch.stack(list(found.values())), clean, corrupted
    )


def _place(token: int, subject: tuple[int, int], length: int) -> str:
    """Return where in its prompt a token is; a subject of one token is a last token."""
    first, last = subject
    if token < first:
        return _PLACES[0]
    if token <= last:
        return _PLACES[3 if token == last else 1 if token == first else 2]
    return _PLACES[6 if token == length - 1 else 4 if token == last + 1 else 5]


@dataclass(frozen=True, eq=False, slots=True)
class _Rows:
    """Rows of one pass, each with the state of one token restored in one draw of the noise.

    Args:
        sample: which draw each row is of. at: row and column of what is restored, as it is run. token: which token that is.
        batch: the rows, whole. tail: from that token on, where a model can be run so.
    """

    sample: Int[Tensor, " b"]
    at: tuple[Int[Tensor, " b"], Int[Tensor, " b"]]
    token: Int[Tensor, " b"]
    batch: Batch
    tail: Tail | None = None


def _rows_of(sample: Int[Tensor, " b"], token: Int[Tensor, " b"], batch: Batch, tail: Tail | None) -> _Rows:
    if tail is None:
        return _Rows(sample, (torch.arange(len(token), device=token.device), token), token, batch)
    row, column = (tail.real & (tail.place == token[tail.row])).nonzero(as_tuple=True)
    return _Rows(sample, (row, column), tail.place[row, column], batch, tail)


class _Runs:
    """The clean run, the corrupted one, and runs that restore."""

    def __init__(self, lm: LM, fact: Fact, how: Tracing) -> None:
        self.lm, self.how = lm, how
        self.query = Query.of(fact)
        batch = lm.tokens.batch([self.query])
        start = fact.span[0] if fact.span else 0
        first = lm.tokens.batch([replace(Query.of(fact), span=(start, start + 1))]).lookup
        self.subject = (int(first), int(batch.lookup))
        encoded = lm.row.kind == "encoder-decoder"
        length = batch.inputs["input_ids"].shape[1] if encoded else int(batch.cols[0]) + 1
        self.tokens = tuple(lm.tokens.word(int(i)) for i in batch.inputs["input_ids"][0, :length])
        self.layers = range(lm.reachable)
        blocks = [Site(layer, "block") for layer in self.layers]
        parts = [Site(layer, role) for layer in self.layers for role in ROLES.values()]
        with Trace(lm, inputs=blocks, outputs=parts) as seen:
            self.clean = self._answers(batch)[0].item()
        self.states = seen.outputs
        noisy = self._corrupted(seen.inputs[blocks[0]])
        rows = self._rows(how.samples)
        cache = lm.cache() if lm.row.kind == "decoder" else None
        with Trace(lm, inputs=blocks) as seen, resume(lm, 0, noisy):
            logits = lm.answer_logits(rows, cache)
        self.corrupted = _probability(rows, logits).mean().item()
        self.inputs = [
            noisy,
            *(seen.inputs[block] for block in blocks[1:]),
        ]  # what a resumed block was given is no input
        # What is read from left to right is the corrupted run's up to the noise: restoring it there restores nothing.
        self.first = self.subject[0] if lm.row.kind == "decoder" else 0
        self.parts = self._parted(rows, (logits, cache))

    def _rows(self, count: int) -> Batch:
        return self.lm.tokens.batch([self.query] * count).to(self.lm.device)

    def _parted(self, rows: Batch, whole: tuple[Float[Tensor, "a v"], Any]) -> list[_Rows]:
        """Return the rows that are run for each layer, some at a time: all tokens from the noise on, all draws."""
        device, samples, length = self.lm.device, self.how.samples, len(self.tokens)
        token = torch.arange(self.first, length, device=device).repeat_interleave(samples)
        sample = torch.arange(samples, device=device).repeat(length - self.first)
        batch, suffix = replace(self._rows(len(token)), lookup=token), None
        if whole[1] is not None:
            last = replace(rows, lookup=torch.full_like(rows.lookup, length - 1))
            suffix = suffix_of(self.lm, last, self.inputs[0], 0, whole)
        if suffix is not None:
            kept = {layer: (keys[sample], values[sample]) for layer, (keys, values) in suffix.kept.items()}
            suffix = replace(suffix, batch=batch, hidden=suffix.hidden[sample], kept=kept)
        every = torch.arange(len(token), device=device).split(ROWS)
        return [_rows_of(sample[i], token[i], batch.take(i), suffix.take(i) if suffix else None) for i in every]

    def _answers(self, batch: Batch) -> Float[Tensor, " b"]:
        """Return the probability of the answer in each row."""
        batch = batch.to(self.lm.device)
        return _probability(batch, self.lm.answer_logits(batch))

    def _corrupted(self, embedded: Float[Tensor, "1 t d"]) -> Float[Tensor, "samples t d"]:
        first, last = self.subject
        at = embedded[:, first : last + 1]
        drawn = torch.randn(self.how.samples, *at.shape[1:], generator=torch.Generator().manual_seed(self.how.seed))
        noisy = embedded.repeat(self.how.samples, 1, 1)
        noisy[:, first : last + 1] += drawn.to(at) * at.float().std().to(at) * self.how.noise
        return noisy

    def traced(self, state: _State) -> Traced:
        """Return the effect matrix of one kind of state."""
        columns = [self._restored(layers, ROLES[state]) for layers in self._windows(state)]
        effect = torch.stack(columns, 1) - self.corrupted
        before = effect.new_zeros(self.first, effect.shape[1])
        return Traced(state, self.tokens, self.subject, torch.cat([before, effect]), self.clean, self.corrupted)

    def _windows(self, state: _State) -> Iterator[range]:
        width = 1 if state == "block" else self.how.window or max(1, round(len(self.layers) * 10 / 48))
        for layer in self.layers:
            first = max(0, layer - width // 2)
            yield range(first, min(len(self.layers), layer - width // 2 + width))

    def _restored(self, layers: range, role: str) -> Float[Tensor, " t"]:
        """Return the mean probability of the answer with the states of `layers` restored, token by token."""
        found = torch.cat([self._run(layers, role, rows) for rows in self.parts])
        return found.reshape(-1, self.how.samples).double().cpu().mean(1)

    def _run(self, layers: range, role: str, rows: _Rows) -> Float[Tensor, " b"]:
        def restore(clean: _Hidden) -> Callable[[_Hidden], _Hidden]:
            def replace(output: _Hidden) -> _Hidden:
                output = output.clone()
                output[rows.at] = clean[0, rows.token]
                return output

            return replace

        back = {Site(layer, role): restore(self.states[Site(layer, role)]) for layer in layers}
        batch, hidden, cache = rows.batch, self.inputs[layers[0]][rows.sample], None
        if rows.tail is not None:
            kept = {layer: of for layer, of in rows.tail.kept.items() if layer >= layers[0]}
            batch, hidden = rows.tail.batch, hidden[rows.tail.row, rows.tail.place]
            cache = replace(rows.tail, kept=kept).cache(self.lm)
        with Trace(self.lm, replace=back), resume(self.lm, layers[0], hidden):
            logits = self.lm.answer_logits(batch, cache)
        return _probability(rows.batch, logits)


def _probability(batch: Batch, logits: Float[Tensor, "a v"]) -> Float[Tensor, " b"]:
    """Return the probability of the answer in each row."""
    logp = logits.log_softmax(-1).gather(1, batch.labels[:, None])[:, 0]
    return torch.zeros(len(batch), dtype=logp.dtype, device=logp.device).index_add(0, batch.rows, logp).exp()
