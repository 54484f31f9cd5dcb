"""A language model as errata sees it: text in, logits and text out, matrices by site.

Only this file and `model.loading` import transformers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from errata.delta import Site
from errata.errors import UnknownSite, UnsupportedModel, ranges
from errata.model import arch, shape, storage, verify
from errata.model.arch import Stack
from errata.model.checkpoints import check_written, copy_side_files
from errata.model.experts import EXPERT, EXPERTS, Experts
from errata.model.experts import find as find_experts
from errata.model.generation import Ends, generate_tokens, sample_tokens
from errata.model.identify import identify
from errata.model.query import Prompt, Query, as_query
from errata.model.separator import find_separator
from errata.model.tokens import Batch, Room, Tokens
from errata.model.trace import answers_only, tuple_lengths
from errata.model.weights import Weights


class LM:
    """A model, its tokenizer and its row of the table.

    Args:
        model: a transformers model.
        tokenizer: its tokenizer, a fast one; never modified.
        name: what to call it in messages.

    Attributes:
        row: the architecture's row. found_by: whether the table has it, or its shape told it.
        depth: number of layers, all stacks together. width: size of the residual stream.
        inner: size of the feed-forward part. weights: its matrices. memory: what is worth keeping meanwhile.
        packing: what its matrices are packed as, such as "nf4"; "" where they are plain numbers.
        identity, fingerprint: what the base is known by, in parts and as one word.
        notes: what a user should know of how it was loaded.

    Raises:
        UnsupportedModel: no row for its `model_type`, and its matrices cannot be told by their shape, or fail a check.
        BadModel: its tokenizer gives no character offsets.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, model: Any, tokenizer: Any, name: str = "") -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.packing = storage.prepare(model)
        written = arch.row(model.config.model_type, model.config)
        self.row = shape.row_of(model, tokenizer) if written is None else written
        self.found_by: Literal["row", "shape"] = "shape" if written is None else "row"
        if written is not None and type(model).__name__.endswith(shape.CLASSIFIES):
            self.row = replace(self.row, kind="classifier")
        elif self.row.kind == "encoder" and model.config.is_decoder:  # BERT as one that goes on with a text
            self.row = replace(self.row, kind="decoder")
        config = model.config.get_text_config()
        self.name = name or str(getattr(config, "_name_or_path", "")) or config.model_type
        reads = (
            {"classes": config.label2id, "limit": getattr(config, "max_position_embeddings", None)}
            if self.row.kind == "classifier"
            else {}
        )
        self.tokens = Tokens(tokenizer, self.row.kind, shape.start_of(model.config), **reads)
        self.tokens.within(len(self.embedding().weight), self.name)  # type: ignore[arg-type]
        self._blocks = [b for stack in self.row.stacks for b in model.get_submodule(stack.blocks)]
        stacks = [stack for stack in self.row.stacks for _ in model.get_submodule(stack.blocks)]
        self._stacks = [self.row.by_layer.get(layer, stack) for layer, stack in enumerate(stacks)]
        self.depth = len(self._blocks)
        # Not the embedding's width: a few models (OPT-350M) project it to the stream's.
        self.width = self.shape(self._first("attention", "down"))[0]
        self.published = arch.published(config.model_type, self.width, self.depth, config.vocab_size)
        self.weights = Weights(self)
        if self.row.kind == "decoder":
            self.tokens.separator = find_separator(model, tokenizer)
        self.memory: dict[object, Any] = {}
        self._tuples = self._measure_tuples() if self.row.skips else []
        if written is None:
            self.row = verify.settled(self)
        rows = len(self.embedding().weight)  # type: ignore[arg-type]
        self.identity = identify(model, model.config, rows, self.weights, self.packing)
        self.fingerprint = self.identity.fingerprint

    def module(self, site: Site) -> nn.Module:
        """Return a site's module; the role ``block`` is the block itself, ``up`` the last of the up projections.

        Raises:
            UnknownSite: no such layer or role.
        """
        if not 0 <= site.layer < self.depth:
            raise UnknownSite(f"{self.name} has layers 0 to {self.depth - 1}; there is no {site}.")
        block, stack = self._blocks[site.layer], self._stacks[site.layer]
        if site.role.startswith(EXPERT):
            return self._expert(site)[0].module
        up = stack.up[-1] if stack.up else ""
        paths = {"block": "", "up": up, "down": stack.down, "attention": stack.attention}
        if site.role not in paths:
            raise UnknownSite(f"{site.role!r} is not a role; use one of {', '.join(paths)}.")
        if site.role != "block" and not paths[site.role]:
            raise UnsupportedModel(self._lacking(site))
        found: nn.Module = block.get_submodule(paths[site.role])
        return found

    def stack(self, layer: int) -> Stack:
        """Return what a layer's matrices are called."""
        return self._stacks[layer]

    def has(self, site: Site) -> bool:
        """Return whether there is a matrix of this role in this layer: blocks of a hybrid differ."""
        stack = self._stacks[site.layer]
        if site.role == EXPERTS:
            return site.layer in self.experts
        return bool({"up": stack.up, "down": stack.down, "attention": stack.attention}[site.role])

    @property
    def experts(self) -> Mapping[int, Experts]:
        """The experts of each layer that has some whose matrices were found, looked for when first asked."""
        if EXPERTS not in self.memory:
            self.memory[EXPERTS] = find_experts(self)
        found: Mapping[int, Experts] = self.memory[EXPERTS]
        return found

    def _expert(self, site: Site) -> tuple[Experts, int | None]:
        """Return the experts of a layer, and the number of the one that a site names, if it names one."""
        found, number = self.experts.get(site.layer), site.role.removeprefix(EXPERT)
        if found is None:
            raise UnsupportedModel(f"layer {site.layer} of {self.name} has no experts whose matrices can be written.")
        if number == "s":
            return found, None
        if not number.isdecimal() or int(number) >= found.count:
            raise UnknownSite(f"{site} is no expert of {self.name}; there are {EXPERT}0 to {EXPERT}{found.count - 1}.")
        return found, int(number)

    def block(self, layer: int) -> nn.Module:
        """Return a block."""
        found: nn.Module = self._blocks[layer]
        return found

    def two_texts(self) -> Any:
        """Run one pass over two short texts of one length."""
        with torch.no_grad():
            return self.model(**shape.inputs_for(self.model, self.tokenizer, self.row.kind), use_cache=False)

    def _lacking(self, site: Site) -> str:
        layers = [layer for layer in range(self.depth) if self.has(Site(layer, site.role))]
        who, kind = f"{self.name} ({self.model.config.model_type})", type(self._blocks[site.layer]).__name__
        if layers:
            return f"layer {site.layer} of {who}, a {kind}, has no {site.role} projection; layers {ranges(layers)} have one."
        if self.row.experts and site.role in ("up", "down"):
            return (
                f"{who} has experts in place of one dense {site.role} projection; edit its dense relative, or use a method "
                "that works on attention or adapters."
            )
        return f"{who} has no {site.role} projection in any block ({kind}); use a method for another matrix it has."

    def _first(self, *roles: str) -> Site:
        return next(site for role in roles for layer in range(self.depth) if self.has(site := Site(layer, role)))

    def stored(self, site: Site) -> Tensor:
        """Return the live weight of a site as its module stores it, or its numbers where they cannot be written.

        Raises:
            UnknownSite: there is none.
        """
        weight = storage.matrix_of(self.module(site))
        if not isinstance(weight, Tensor):
            raise UnknownSite(f"{site} is no matrix; name one, such as {Site(site.layer, 'down')}.")
        return weight

    def parameter(self, site: Site) -> Float[Tensor, "out in"]:
        """Return the base's weight of a site as (out, in), live where it can be written; of an expert, its part of the tensor
        all of them lie in."""
        if site.role.startswith(EXPERT):
            self.module(site)
            experts, number = self._expert(site)
            if number is None:
                raise UnsupportedModel(f"{site} is all experts of a layer; name one, such as {EXPERT}0.")
            return experts.matrix(number)
        turned = self.row.transposed and not storage.packed(self.module(site))
        return self.stored(site).T if turned else self.stored(site)

    def shape(self, site: Site) -> tuple[int, int]:
        """Return (out, in) of a site's matrix."""
        known = None if site.role.startswith(EXPERT) else storage.shape_of(self.module(site))
        out, width = known or self.parameter(site).shape
        return int(out), int(width)

    def writable(self, site: Site) -> bool:
        """Return whether numbers can be written into a site's matrix; else what is changed stands beside it."""
        return site.role.startswith(EXPERT) or storage.writable(self.module(site))

    def head(self) -> nn.Module:
        """Return the output embedding, or what a classifier has in its place."""
        heads = (
            self.model.get_output_embeddings(),
            *(getattr(self.model, name, None) for name in ("classifier", "score")),
        )
        head: nn.Module = next(found for found in heads if found is not None)
        return head

    def embedding(self) -> nn.Module:
        """Return the input embedding."""
        embedding: nn.Module = self.model.get_input_embeddings()
        return embedding

    def below(self, layer: int) -> list[tuple[nn.Module, int]]:
        """Return the blocks that need not run when the input of `layer` is known, and how long a tuple each returns."""
        return list(zip(self._blocks[:layer], self._tuples if self.row.skips else (), strict=False))

    def _measure_tuples(self) -> list[int]:
        with torch.no_grad():
            return tuple_lengths(self._blocks, lambda: self.forward(self.tokens.batch([Query("a")])))

    @property
    def reachable(self) -> int:
        """Number of layers in which a prompt's tokens can be found: all, or the encoder's."""
        return len(self.model.get_submodule(self.row.stacks[0].blocks))

    @property
    def inner(self) -> int:
        """Size of the feed-forward part (the `in` of ``down``)."""
        return self.shape(self._first("down", "attention"))[1]

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return storage.device_of(self.embedding())

    @cached_property
    def stops(self) -> frozenset[int]:
        """The tokens that end a text."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        stops = configured if isinstance(configured, list) else [configured, self.tokenizer.eos_token_id]
        return frozenset(int(s) for s in stops if self.tokens.has(s))  # another can never be said

    def cache(self) -> Any:
        """Return an empty cache of keys and values, for `forward` to fill; None of a model that keeps other states."""
        return transformers.DynamicCache() if self.row.cache == "plain" else None

    def forward(self, batch: Batch, cache: Any = None) -> Float[Tensor, "b *t v"]:
        """Return logits; gradients flow if the caller wants them. A cache is read and added to.

        A classifier gives one row (v) a text.
        """
        cached = {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
        batch = batch.to(self.device)
        with self.weights.grafts.reading(batch):
            logits = self.model(**batch.inputs, **cached).logits
        assert isinstance(logits, Tensor)
        return logits

    def routed(self, batch: Batch) -> Batch:
        """Return the batch with what its prompts open among the grafts that stand, for passes that begin at a later layer."""
        return self.weights.grafts.routed(batch, self.forward)

    def answer_logits(self, batch: Batch, cache: Any = None) -> Float[Tensor, "a v"]:
        """Return the logits that predict the batch's labels, in float32 or better, computing no others."""
        batch = batch.to(self.device)
        if self.row.kind == "classifier":
            logits = self.forward(batch)[batch.rows]
            return logits.to(torch.promote_types(logits.dtype, torch.float32))
        with answers_only(self, batch.rows, batch.cols):
            logits = (self.forward(batch) if cache is None else self.forward(batch, cache))[0]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @torch.no_grad()
    def logprobs(self, queries: Sequence[Query], rows: int = 64) -> list[Tensor]:
        """Return the log-probability of every answer token of every query, in the order given.

        Rows are sorted by length and run `rows` at a time.
        """
        order = sorted(range(len(queries)), key=lambda i: len(queries[i].prompt) + len(queries[i].answer))
        found: dict[int, Tensor] = {}
        for start in range(0, len(order), rows):
            part = order[start : start + rows]
            batch = self.tokens.batch([queries[i] for i in part])
            logp = self.answer_logits(batch).log_softmax(-1).cpu()
            logp = logp.gather(1, batch.labels.clamp(min=0)[:, None])[:, 0]
            for place, i in enumerate(part):
                found[i] = logp[batch.rows == place]
        return [found[i] for i in range(len(queries))]

    @torch.no_grad()
    def top(self, prompt: Prompt, count: int = 5) -> list[tuple[str, float]]:
        """Return the likeliest next tokens, or classes, and their probabilities."""
        p = self.answer_logits(self.tokens.batch([as_query(prompt)]))[0].softmax(-1)
        values, ids = p.topk(min(count, len(p)))
        return [(self.word(int(i)), float(v)) for i, v in zip(ids, values, strict=True)]

    def generate(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int | Room = 32,
        rows: int = 64,
        enough: Callable[[int, str], bool] | None = None,
    ) -> list[str]:
        """Return what the model says after each prompt, to the character: greedy, up to the end of the text or line.

        Args:
            max_new_tokens: the most, or tokens and lines, as `room` measures them for some answers.
            enough: says of the number of a prompt and the text so far whether more of it is of no use.

        Prompts of one length run together, so there is no padding and a batch says what its rows say alone. A classifier
        says the name of the class it takes each for.
        """
        if self.row.kind == "classifier":
            return [
                self.word(int(c)) for at in range(0, len(prompts), rows) for c in self._classes(prompts[at : at + rows])
            ]
        starts = [self.tokens.opening(prompt) for prompt in prompts]
        most = Room(max_new_tokens) if isinstance(max_new_tokens, int) else max_new_tokens
        found = generate_tokens(self, starts, most.tokens, ends=self.endings(most.lines, enough), rows=rows)
        return [self.tokens.lines(ids, most.lines) for ids in found]

    def room(self, answers: Iterable[str], least: int = 32) -> Room:
        """Return how much lets the model say any of these answers to its end: one cut short would count as wrong."""
        answers = list(answers)
        long = (answer for answer in answers if len(answer.encode()) + 2 > least)  # a token has at least a byte
        lines = (answer.strip().count("\n") + 1 for answer in answers)
        return Room(max([least, *(len(self.tokens.ids(answer)) + 2 for answer in long)]), max(lines, default=1))

    @torch.no_grad()
    def _classes(self, prompts: Sequence[Prompt]) -> Tensor:
        return self.answer_logits(self.tokens.batch([as_query(prompt) for prompt in prompts])).argmax(-1)

    def word(self, token: int) -> str:
        """Return what a number of the model's output stands for: a token as text, or the name of a class."""
        if self.row.kind != "classifier":
            return self.tokens.word(token)
        return next((name for name, number in self.tokens.classes.items() if number == token), str(token))

    def endings(self, lines: int = 1, enough: Callable[[int, str], bool] | None = None) -> Ends:
        """Return what tells whether a text, or so many lines of it, ends with a token; a full stop never ends it."""
        said: dict[int, str] = {}  # by place, from the first character that is seen

        def ends(place: int, token: int) -> bool:
            said[place] = (said.get(place, "") + self.tokens.word(token)).lstrip()
            over = token in self.stops or said[place].count("\n") >= lines
            return over or (enough is not None and enough(place, said[place]))

        return ends

    def sample(self, count: int, length: int, seed: int) -> list[str]:
        """Return `count` texts of about `length` tokens, sampled from nothing; global random state is untouched."""
        if self.row.kind in ("encoder", "classifier"):
            raise UnsupportedModel(f"{self.name} is an encoder and cannot generate text; ask a model that can.")
        begins = (self.tokens.separator, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, 0)
        first = next(token for token in begins if token is not None and self.tokens.has(token))
        rows = sample_tokens(self, torch.full((count, 1), first, device=self.device), length, seed, sorted(self.stops))
        return [" ".join(self.tokens.decode(row).split()) for row in rows]

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write model and tokenizer as transformers does, with what lay beside them, and read the weights back.

        Raises:
            NotWritten: what is in the directory now is not what stands.
            UnsupportedModel: matrices that cannot be written have edits beside them, or lie elsewhere.
        """
        storage.check_savable(self.name, self.model, len(self.weights.additions.sites))
        path = Path(directory)
        with quiet():
            self.model.save_pretrained(path)
            self.tokenizer.save_pretrained(path)
        copy_side_files(str(getattr(self.model.config, "_name_or_path", "")), path)
        # Under the names they have on disk, which a few architectures change on loading.
        state = revert_weight_conversion(self.model, self.model.state_dict())
        check_written(path, state, self.model._keys_to_ignore_on_save or ())


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and reports off the terminal: what matters of them is raised as an error."""
    log = transformers.utils.logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()
