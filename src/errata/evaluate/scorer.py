"""The engine: many (prompt, answer) pairs scored and many prompts continued, each once, whatever the batch.

    scorer = Scorer(lm)
    scorer.answers([("The capital of France is", "Lyon"), ("The capital of France is", "Paris")])
    scorer.said(["The capital of France is"])

Everything is tokenised once and kept, so that the next checkpoint pays for the model only. The input of an answer
is its prompt and all of its tokens but the last: where one answer's input is the beginning of another's after the
same prompt (two one-token answers have the same), it is not run again. Rows are sorted by length and padded on the
right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from errata.errors import BadFact
from errata.evaluate.metrics import Score, lp
from errata.model.generation import context, generate_tokens, top_k
from errata.model.lm import LM
from errata.model.tokens import Batch, Query, Room

PromptAnswer = tuple[str, str]  # prompt, answer
TokenIds = Sequence[int]
# What one forward pass may hold: padded tokens, and numbers in the logits (2**27 of them are half a gigabyte).
TOKENS: Final = 2**14
LOGITS: Final = 2**27
KEPT: Final = 200_000  # pairs whose tokens are remembered; about a kilobyte each


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer after a prompt, teacher-forced.

    Args:
        lp: mean log-probability of its tokens; None if it could not be scored (no token of its own, longer than the
            model's context, or no finite numbers), and then nothing else is known either.
        hits: for each token, whether it is the likeliest. top: the likeliest token in each place.
    """

    lp: Score = None
    hits: tuple[bool, ...] = ()
    top: tuple[int, ...] = ()


@dataclass(slots=True)
class _Line:
    """One row of a forward pass: its inputs by name, what is before the answer, and who wants which labels where."""

    inputs: dict[str, list[int]]
    before: Hashable
    wants: list[tuple[Hashable, list[int], list[int]]]  # who, columns, labels

    @property
    def length(self) -> int:
        return max(len(ids) for ids in self.inputs.values())


class Scorer:
    """A model being asked; remembers how everything it was asked is tokenised.

    Args:
        lm: the model; may be edited between calls.
        rows: most rows of one forward pass.
    """

    def __init__(self, lm: LM, rows: int = 64) -> None:
        self.lm, self._rows = lm, rows
        self._coded: dict[PromptAnswer, _Line | None] = {}
        self._moving = "decoder_input_ids" if lm.row.kind == "encoder-decoder" else "input_ids"

    # ---------------------------------------------------------------- probabilities

    @torch.no_grad()
    def answers(self, pairs: Iterable[PromptAnswer]) -> dict[PromptAnswer, Scored]:
        """Return each pair's score; pairs that are equal are scored once."""
        asked = list(dict.fromkeys(pairs))
        coded = [line for pair in asked if (line := self._code(pair)) is not None]
        return {pair: Scored() for pair in asked} | self._run(coded)

    @torch.no_grad()
    def continuations(self, pairs: Sequence[tuple[TokenIds, TokenIds]]) -> list[Scored]:
        """Return the score of each continuation after its context, both given as token ids, none of them empty.

        What does not fit into the model's context is cut off on the left.
        """
        lines = []
        for number, (before, after) in enumerate(pairs):
            if self.lm.row.kind == "encoder-decoder":
                inputs, first = {"input_ids": [*before], "decoder_input_ids": [self.lm.tokens.start, *after[:-1]]}, 0
            else:
                ids = [*before, *after][-context(self.lm) - 1 : -1]
                inputs, first = {"input_ids": ids}, len(ids) - len(after)
            columns = list(range(first, first + len(after)))
            lines += [_Line(inputs, tuple(before), [(number, columns, list(after))])] if first >= 0 else []
        found = self._run(lines)
        return [found.get(number, Scored()) for number in range(len(pairs))]

    def _run(self, coded: Iterable[_Line]) -> dict[Any, Scored]:
        found: dict[Any, Scored] = {}
        for lines in self._batches(self._shared(coded)):
            wants = [want for line in lines for want in line.wants]
            batch = _batch(self.lm, lines)
            logits = self.lm.answer_logits(batch)  # (a, v)
            labels = batch.labels.to(logits.device)
            logps = (logits.gather(1, labels[:, None])[:, 0] - logits.logsumexp(-1)).tolist()
            top, at = logits.argmax(-1).tolist(), 0
            for who, _, ids in wants:
                part = slice(at, at := at + len(ids))
                found[who] = _scored(logps[part], top[part], ids)
        return found

    def _shared(self, coded: Iterable[_Line]) -> list[_Line]:
        """Return the rows that have to be run: for each prompt, inputs that are no beginning of another input."""
        by_prompt: dict[Hashable, list[_Line]] = defaultdict(list)
        for line in sorted(coded, key=lambda line: -line.length):
            known = by_prompt[line.before]
            home = next((other for other in known if self._begins(line, other)), None)
            if home is None:
                known.append(_Line(line.inputs, line.before, list(line.wants)))
            else:
                home.wants += line.wants
        return [line for lines in by_prompt.values() for line in lines]

    def _begins(self, line: _Line, other: _Line) -> bool:
        ids, longer = line.inputs[self._moving], other.inputs[self._moving]
        if self.lm.row.kind in ("encoder", "classifier"):  # it looks ahead: what stands behind changes what is before
            return ids == longer
        return longer[: len(ids)] == ids

    def _code(self, pair: PromptAnswer) -> _Line | None:
        if pair in self._coded:
            return self._coded[pair]
        line = self._encode(pair) if pair[1] else None
        if len(self._coded) < KEPT:
            self._coded[pair] = line
        return line

    def _encode(self, pair: PromptAnswer) -> _Line | None:
        try:
            batch = self.lm.tokens.batch([Query(*pair)])
        except BadFact:  # the tokenizer makes no token of the answer: not scored, and counted by whoever asked
            return None
        inputs = {name: ids[0].tolist() for name, ids in batch.inputs.items() if name != "attention_mask"}
        line = _Line(inputs, pair[0], [(pair, batch.cols.tolist(), batch.labels.tolist())])
        return line if line.length <= context(self.lm) else None

    def _batches(self, lines: list[_Line]) -> Iterator[list[_Line]]:
        """Yield rows that run together, shortest first, within the budgets of memory."""
        vocabulary = int(self.lm.model.config.get_text_config().vocab_size)
        part: list[_Line] = []
        labels = 0
        for line in sorted(lines, key=lambda line: line.length):
            more = sum(len(ids) for _, _, ids in line.wants)
            full = len(part) == self._rows or (len(part) + 1) * line.length > TOKENS
            if part and (full or (labels + more) * vocabulary > LOGITS):
                yield part
                part, labels = [], 0
            part.append(line)
            labels += more
        if part:
            yield part

    # ---------------------------------------------------------------- speech

    @property
    def chats(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(getattr(self.lm.tokenizer, "chat_template", None))

    def said(self, prompts: Iterable[str], room: int | Room = 32, *, chat: bool = False) -> dict[str, str | None]:
        """Return what the model says after each prompt: greedy, to the end of the text or line, never just a full stop.

        Args:
            room: most tokens, or tokens and lines.
            chat: put the prompt into the tokenizer's chat template, as a user's message.

        Returns:
            text by prompt; None where the model cannot speak, or the prompt fills its context.
        """
        asked = list(dict.fromkeys(prompts))
        if self.lm.row.kind == "classifier":
            return dict(zip(asked, self.lm.generate(asked), strict=True))
        if self.lm.row.kind == "encoder":
            return dict.fromkeys(asked)
        starts = [self._opening(prompt, chat) for prompt in asked]
        most = Room(room) if isinstance(room, int) else room
        found = generate_tokens(self.lm, starts, most.tokens, ends=self.lm.endings(most.lines), rows=self._rows)
        texts = (self.lm.tokens.lines(ids, most.lines) if ids else None for ids in found)
        return dict(zip(asked, texts, strict=True))

    def room(self, answers: Iterable[str], least: int) -> Room:
        """Return how much lets the model say any of these answers: `least` tokens or a multiple of that, and lines."""
        tokens, lines = self.lm.room(answers, least)
        return Room(-(-tokens // least) * least, lines)

    def sampled(self, prompts: Iterable[str], length: int = 100, seed: int = 0) -> dict[str, str | None]:
        """Return each prompt with `length` tokens drawn from the 5 likeliest at each step, going on past ends of texts.

        The same prompt and seed give the same text in any batch.
        """
        asked = list(dict.fromkeys(prompts))
        if self.lm.row.kind in ("encoder", "classifier"):
            return dict.fromkeys(asked)
        starts = [self._opening(prompt, False) for prompt in asked]
        found = generate_tokens(self.lm, starts, length, pick=top_k(asked, length, seed), rows=self._rows)
        texts = (self.lm.tokens.decode(ids) if ids else None for ids in found)
        return {prompt: None if text is None else prompt + text for prompt, text in zip(asked, texts, strict=True)}

    def _opening(self, prompt: str, chat: bool) -> list[int]:
        if chat:
            message = [{"role": "user", "content": prompt}]
            text = self.lm.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            return self.lm.tokens.known(
                list(self.lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
            )
        return self.lm.tokens.opening(prompt)


def _scored(logps: list[float], top: list[int], labels: list[int]) -> Scored:
    mean = lp(logps)
    if mean is None:
        return Scored()
    return Scored(mean, tuple(a == b for a, b in zip(top, labels, strict=True)), tuple(top))


def _batch(lm: LM, lines: Sequence[_Line]) -> Batch:
    """Return rows as one right-padded batch, labels in the order in which the rows want them."""
    inputs = {name: [line.inputs[name] for line in lines] for name in lines[0].inputs}
    asked = [[place for _, cols, labels in line.wants for place in zip(cols, labels, strict=True)] for line in lines]
    return lm.tokens.collate(inputs, asked, [line.wants[0][1][0] for line in lines])
