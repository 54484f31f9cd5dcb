"""From text to tensors, once, for everyone: where the subject ends, which tokens are the answer, padding.

Nothing here reads or sets an attribute of the tokenizer: rows are padded on the right by this file, and positions are
found from character offsets, so the result does not depend on how a tokenizer happens to be configured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from errata.errors import BadFact, BadModel, did_you_mean
from errata.fact import occurrences
from errata.model.arch import Kind
from errata.model.query import BARE, RENDERED, Prompt, Query, as_query, joint
from errata.model.template import ChatTemplate

_Coded: TypeAlias = tuple[list[int], list[tuple[int, int]], list[tuple[int, int]]]  # ids, offsets, (column, label)
_NO_TOKEN = "{!r} is no token of its own after {!r}; write the answer with letters or digits."


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Rows ready for the model.

    Args:
        inputs: what the model takes, each (b, t).
        lookup: (b,) position of the subject's last token in the first stack; where no subject is given, of the
            last token before the answer.
        rows, cols: (a,) where answers are predicted: the logits at [rows, cols] predict `labels`.
        labels: (a,) token ids; -1 where a query has no answer.
        ends: (b,) position of the prompt's last token in the first stack: never padding, never part of an answer. Unless
            given, where the first label is predicted (decoders), or the last real token (whose answer stands elsewhere).
        routes: by graft, what each row's prompt was found to open; empty until `LM.routed` has asked.
    """

    inputs: dict[str, Tensor]
    lookup: Int[Tensor, " b"]
    rows: Int[Tensor, " a"]
    cols: Int[Tensor, " a"]
    labels: Int[Tensor, " a"]
    ends: Int[Tensor, " b"] | None = None
    routes: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ends is None:
            object.__setattr__(self, "ends", self._ends())

    def _ends(self) -> Int[Tensor, " b"]:
        mask = self.inputs["attention_mask"]
        last = last_real(mask) if mask.ndim == 2 else self.lookup
        if "decoder_input_ids" in self.inputs:
            return last
        return last.scatter_reduce(0, self.rows, self.cols, "amin", include_self=False)

    @classmethod
    def unlabelled(cls, inputs: dict[str, Tensor]) -> Batch:
        """Return rows that nothing is asked of, only run."""
        none = torch.zeros(len(inputs["input_ids"]), dtype=torch.long)
        return cls(inputs, none, none[:0], none[:0], none[:0])

    def __len__(self) -> int:
        return len(self.lookup)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`."""
        inputs = {k: v.to(device) for k, v in self.inputs.items()}
        moved = {k: getattr(self, k).to(device) for k in ("lookup", "rows", "cols", "labels", "ends")}
        return replace(self, inputs=inputs, routes={k: v.to(device) for k, v in self.routes.items()}, **moved)

    def take(self, index: Int[Tensor, " s"]) -> Batch:
        """Return some rows, renumbered in the order of `index`."""
        place = torch.full((len(self),), -1, dtype=torch.long, device=index.device)
        place[index] = torch.arange(len(index), device=index.device)
        keep = place[self.rows] >= 0
        assert self.ends is not None
        return Batch(
            {k: v[index] for k, v in self.inputs.items()},
            self.lookup[index],
            place[self.rows[keep]],
            self.cols[keep],
            self.labels[keep],
            self.ends[index],
            {k: v[index] for k, v in self.routes.items()},
        )


def last_real(mask: Int[Tensor, "b t"]) -> Int[Tensor, " b"]:
    """Return the position of each row's last token that is no padding, on whichever side that stands."""
    place = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask.to(place.dtype) * place).argmax(1)


class Room(NamedTuple):
    """How much may be said: tokens, and lines that hold anything."""

    tokens: int = 32
    lines: int = 1


class Tokens:
    """Text to token ids and back for one tokenizer and kind of model.

    Args:
        classes: of a classifier: its classes by name. limit: most tokens of a text it reads; what is beyond is left out.

    Raises:
        BadModel: the tokenizer cannot tell which characters a token came from.
    """

    def __init__(
        self,
        tokenizer: Any,
        kind: Kind,
        decoder_start: int = 0,
        classes: Mapping[str, int] | None = None,
        limit: int | None = None,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise BadModel(
                "the tokenizer gives no character offsets; convert it to a fast tokenizer (tokenizer.json) first."
            )
        self.chat = ChatTemplate(tokenizer, kind == "decoder")
        self._tokenizer, self.kind, self.start, self._end = tokenizer, kind, decoder_start, tokenizer.eos_token_id
        special = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        added = (token for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special)
        self._special = tuple(dict.fromkeys([*tokenizer.all_special_tokens, *map(str, added)]))
        self._bos = tokenizer.bos_token_id
        self._closes = list(tokenizer("a", verbose=False)["input_ids"])[-1:] == [self._end]  # every text, by itself
        self._words: dict[int, str] = {}
        self.classes, self._limit = dict(classes or {}), limit
        self.put_before: Callable[[Query], Query] | None = (
            None  # what edits that are text do to a prompt, while some stand
        )
        self.pad = next(token for token in special if token is not None)
        self._opens: list[int] = []
        marks = tokenizer.convert_tokens_to_ids(list(self._special))
        self._marks = frozenset(int(mark) for mark in marks if mark is not None)
        self._size, self._name = 2**63, "the model"  # until `within` says

    @property
    def separator(self) -> int | None:
        """The document separator that texts open with, or None; see `errata.model.separator`."""
        return self._opens[0] if self._opens else None

    @separator.setter
    def separator(self, token: int | None) -> None:
        """Let texts open with a token, or with nothing."""
        self._opens = [] if token is None else [token]

    def within(self, size: int, name: str) -> None:
        """Keep to the ids that a model has an embedding for.

        Args:
            size: rows of the embedding. name: the model's, for messages.

        Raises:
            BadModel: the tokenizer puts a token that has none into every text.
        """
        self._size, self._name = size, name
        if not self.has(self.pad):  # rows are masked where they are padded, so that any token will do
            self.pad = self._end if self.has(self._end) else 0
        try:
            self.ids("a")
        except BadFact as error:
            raise BadModel(f"the tokenizer does not fit: {error}") from error

    def has(self, token: int | None) -> bool:
        """Return whether a token id is one that the model has an embedding for."""
        return token is not None and 0 <= token < self._size

    def known(self, ids: list[int]) -> list[int]:
        """Return token ids that all have an embedding; raises BadFact for a token that has none."""
        if ids and max(ids) >= self._size:
            token = next(token for token in ids if token >= self._size)
            word = self._tokenizer.convert_ids_to_tokens(token)
            raise BadFact(
                f"the token {word!r} has the number {token}, and the embedding of {self._name} ends at {self._size - 1}; "
                "use the tokenizer that belongs to the model, or resize the embedding (resize_token_embeddings) and train it."
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def join(self, query: Query) -> str:
        """Return prompt and answer as one text, with between them what the query says, or what `joint` finds."""
        query = self.chat.rendered(query)
        between = joint(query.prompt, query.answer, self._special) if query.joint is None else query.joint
        return f"{query.prompt}{between}{query.answer}"

    def told(self, query: Query) -> Query:
        """Return what is asked once a query is answered: what goes on from its answer."""
        begun = self.join(query)[len(self.chat.rendered(query).prompt) :]
        return replace(query, answer="", joint="", begun=query.begun + begun)

    @property
    def end(self) -> str:
        """The text of the token that ends a text; "" where there is none."""
        return str(self._tokenizer.eos_token or "")

    def lines(self, ids: Sequence[int], count: int = 1) -> str:
        """Return the text of `ids` up to the end of so many lines; empty ones before the first do not count."""
        text = self.decode(ids)
        begins = len(text) - len(text.lstrip())
        return text[:begins] + "\n".join(text[begins:].split("\n")[:count])

    def ids(self, text: str) -> list[int]:
        """Return token ids of `text` with the special tokens the model expects around a text, none of them twice."""
        ids = self.known(list(self._tokenizer(text, verbose=False)["input_ids"]))
        ids = ids if self._opened(ids) else [*self._opens, *ids]
        return ids[self._doubled(ids) :]

    def _opened(self, ids: Sequence[int]) -> bool:
        """Return whether a text begins with a special token of its own, as one does that a chat template has made."""
        return bool(ids) and ids[0] in self._marks

    def _doubled(self, ids: Sequence[int]) -> int:
        """Return 1 where a text has brought the token that begins texts, and the tokenizer has put another before it."""
        return int(self._bos is not None and list(ids[:2]) == [self._bos, self._bos])

    def opening(self, prompt: Prompt) -> list[int]:
        """Return token ids of a prompt as something to be gone on with.

        A tokenizer may close every text, and what comes after that is a new text, not an answer; only an encoder reads
        the end with the rest.
        """
        return self.beginning(self._read(as_query(prompt)))

    def beginning(self, prompt: Prompt) -> list[int]:
        """Return what `opening` does of a text that is not asked: no edit puts anything before it."""
        query = self.chat.rendered(as_query(prompt))
        ids = self._offsets(query.prompt, query.role)[0]
        return self._open(ids) if self.kind == "decoder" else ids

    def _read(self, query: Query) -> Query:
        """Return a query with what the edits that stand put before its prompt."""
        return query if self.put_before is None else self.put_before(query)

    def _open(self, ids: list[int]) -> list[int]:
        return ids[:-1] if self._closes and len(ids) > 1 and ids[-1] == self._end else ids

    def word(self, token: int) -> str:
        """Return one token as text, for display."""
        if token not in self._words:
            self._words[token] = str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))
        return self._words[token]

    def _offsets(self, text: str, role: str = "") -> tuple[list[int], list[tuple[int, int]]]:
        """Return a text's tokens and the characters of each; a rendered one has brought its special tokens."""
        special = {"add_special_tokens": False} if role == RENDERED else {}
        opens = [] if role in (RENDERED, BARE) else self._opens
        encoding = self._tokenizer(text, return_offsets_mapping=True, verbose=False, **special)
        ids, offsets = self.known(list(encoding["input_ids"])), list(encoding["offset_mapping"])
        if opens and not self._opened(ids):
            ids, offsets = [*opens, *ids], [(0, 0), *offsets]
        return ids[self._doubled(ids) :], offsets[self._doubled(ids) :]

    def _last_token(self, offsets: Sequence[tuple[int, int]], end: int, text: str) -> int:
        """Return the last token that holds character `end - 1`: one character may take several, an emoji its bytes."""
        holding = [position for position, (first, stop) in enumerate(offsets) if first < end <= stop]
        if holding:
            return holding[-1]
        raise BadFact(f"the tokenizer drops part of {text!r}; the subject's last token cannot be found.")

    def again(self, query: Query) -> list[int]:
        """Return the positions of the subject's last token where a text or its answer names it after the span."""
        query = self.chat.rendered(self._read(query))
        if query.span is None or self.kind != "decoder":
            return []
        text, (start, stop) = self.join(query), query.span
        ids, offsets, _ = self._causal(query)
        ends = (end for begin, end in occurrences(text, text[start:stop]) if begin >= stop)
        places = ([i for i, (first, last) in enumerate(offsets) if first < end <= last] for end in ends)
        return [found[-1] for found in places if found and found[-1] < len(ids)]

    def _row(self, query: Query) -> tuple[list[int], list[int], int, list[tuple[int, int]]]:
        """Return (ids, decoder ids, lookup, [(column, label)])."""
        query = self.chat.rendered(self._read(query))
        if self.kind == "encoder-decoder":
            ids, offsets = self._offsets(query.prompt)
            answer = self._open(self.ids(query.answer)) if query.answer else []  # without </s>
            if query.answer and not self.decode(answer).strip():
                raise BadFact(_NO_TOKEN.format(query.answer, query.prompt))
            decoder = [self.start, *answer[:-1]] if answer else [self.start]
            labels = list(enumerate(answer)) if answer else [(0, -1)]
        elif self.kind == "classifier":
            ids, offsets, labels = self._document(query)
            decoder = []
        else:
            ids, offsets, labels = self._causal(query)
            decoder = []
        last = max(i for i, (first, stop) in enumerate(offsets[: len(ids)]) if stop > first or i == 0)
        if query.span is not None and self.kind != "classifier":
            last = self._last_token(offsets, query.span[1], query.prompt)
        elif self.kind == "decoder":
            last = labels[0][0]
        return ids, decoder, last, labels

    def _document(self, query: Query) -> tuple[list[int], list[tuple[int, int]], list[tuple[int, int]]]:
        """Return a text as far as the model reads, with the special tokens that close it, and its class as the label."""
        ids, offsets = self._offsets(query.prompt)
        if self._limit is not None and len(ids) > self._limit:
            closing = sum(first == stop for first, stop in offsets[-2:])
            keep = self._limit - closing
            ids, offsets = ids[:keep] + ids[len(ids) - closing :], offsets[:keep] + offsets[len(offsets) - closing :]
        if not query.answer:
            return ids, offsets, [(len(ids) - 1, -1)]
        if query.answer not in self.classes:
            known = ", ".join(sorted(self.classes)[:12])
            hint = did_you_mean(query.answer, self.classes)
            raise BadFact(f"{query.answer!r} is no class of this model.{hint} It knows: {known}.")
        return ids, offsets, [(len(ids) - 1, self.classes[query.answer])]

    def _causal(self, query: Query) -> tuple[list[int], list[tuple[int, int]], list[tuple[int, int]]]:
        text = self.join(query) if query.answer else query.prompt
        ids, offsets = self._offsets(text, query.role)
        if not query.answer:
            ids = self._open(ids) if self.kind == "decoder" else ids
            return ids, offsets, [(len(ids) - 1, -1)]
        # A token belongs to the answer when it reaches past the prompt; so does a space that is a token of its own, as
        # before the digits of a year, because the model has to say it.
        edge = len(query.prompt)
        labels = [(i - 1, ids[i]) for i, (_, stop) in enumerate(offsets) if stop > edge]
        if not labels or labels[0][0] < 0 or not query.answer.strip():
            raise BadFact(_NO_TOKEN.format(query.answer, query.prompt))
        if self.kind == "decoder" and (offsets[labels[0][0] + 1][0] < edge or query.prompt[-1:].isspace()):
            ids, offsets, labels = self._apart(query, text[edge:]) or (ids, offsets, labels)
        return ids[: labels[-1][0] + 1], offsets, labels

    def _apart(self, query: Query, answer: str) -> _Coded | None:
        """Return prompt and answer with tokens of their own, where one could hold the end of the one and of the other.

        Who asks gives the model the prompt's own tokens, and the answer follows these. None where the tokenizer cannot
        write the answer alone.
        """
        prompt = query.prompt
        ids, offsets = self._offsets(prompt, query.role)
        ids = self._open(ids)
        for before in ("", "\n"):  # some write a space before every text, but not before what follows a line
            head = list(self._tokenizer(before, add_special_tokens=False)["input_ids"])
            coded = self._tokenizer(before + answer, add_special_tokens=False, return_offsets_mapping=True)
            whole = list(coded["input_ids"])
            own = whole[len(head) :]
            if ids and own and whole[: len(head)] == head and self.decode([*ids, *own]) == self.decode(ids) + answer:
                shift = len(prompt) - len(before)
                told = [(first + shift, last + shift) for first, last in coded["offset_mapping"][len(head) :]]
                spans = [*offsets[: len(ids)], *told]
                return [*ids, *own], spans, [(len(ids) + place - 1, token) for place, token in enumerate(own)]
        return None

    def batch(self, queries: Sequence[Query]) -> Batch:
        """Return `queries` as one right-padded batch.

        Raises:
            BadFact: an answer or a subject is lost by the tokenizer.
        """
        rows = [self._row(query) for query in queries]
        inputs = {"input_ids": [ids for ids, *_ in rows]}
        if self.kind == "encoder-decoder":
            inputs["decoder_input_ids"] = [decoder for _, decoder, *_ in rows]
        return self.collate(inputs, [asked for *_, asked in rows], [lookup for *_, lookup, _ in rows])

    def collate(
        self,
        inputs: Mapping[str, Sequence[Sequence[int]]],
        asked: Sequence[Iterable[tuple[int, int]]],
        lookup: Sequence[int],
        ends: Sequence[int] | None = None,
    ) -> Batch:
        """Return rows of token ids as one right-padded batch.

        Args:
            inputs: what the model takes, the rows of each by name; "input_ids" is always there.
            asked: (column, label) of each row, in the order in which the batch has them. lookup, ends: as `Batch` has them.
        """
        padded = {name: pad_right(rows, self.pad) for name, rows in inputs.items()}
        padded["attention_mask"] = pad_right([[1] * len(row) for row in inputs["input_ids"]], 0)
        places = [(row, col, label) for row, wanted in enumerate(asked) for col, label in wanted]
        rows, cols, labels = (torch.tensor(x, dtype=torch.long) for x in zip(*places, strict=True))
        return Batch(padded, torch.tensor(lookup), rows, cols, labels, None if ends is None else torch.tensor(ends))


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "b t"]:
    """Return rows of numbers as one matrix, filled up on the right with `value`."""
    width = max(len(r) for r in rows)
    return torch.tensor([[*r, *[value] * (width - len(r))] for r in rows], dtype=torch.long)
