"""The model in memory as lm-evaluation-harness wants to see it. The only file that imports `lm_eval` at its top.

Requests are tokenised as the harness's own Hugging Face model does it (its base class joins and splits contexts and
continuations); they are answered by the `Scorer` that also answers every other probe, in float32, on the weights as they
stand, and neither model nor tokenizer is modified. What is generated is greedy and ends where the task says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from errata.errors import UnsupportedModel
from errata.evaluate.metrics import Score
from errata.evaluate.scorer import Scorer
from errata.model.generation import context, generate_tokens

LONGEST = 2048  # positions of a model that has no limit of its own
NEW_TOKENS = 256  # unless a task says otherwise


class Asked(TemplateLM):
    """A model answering the harness's requests.

    Raises:
        UnsupportedModel: it is an encoder, which neither continues a text nor says how likely one is.
    """

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer, self.lm, self.tokenizer = scorer, scorer.lm, scorer.lm.tokenizer
        if self.lm.row.kind in ("encoder", "classifier"):
            raise UnsupportedModel(f"{self.lm.name} is an encoder; the harness asks models that continue a text.")
        self.backend = "seq2seq" if self.lm.row.kind == "encoder-decoder" else "causal"
        self.max_length = known if (known := context(self.lm)) < 10**9 else LONGEST

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        end = self.tokenizer.eos_token_id
        return int(end) if self.lm.tokens.has(end) else self.lm.tokens.pad

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        start = self.tokenizer.bos_token_id
        return int(start) if self.lm.tokens.has(start) else self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return token ids, with special tokens unless the text brings its own or `add_special_tokens` says no."""
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode([self.prefix_token_id])):
            special = {"add_special_tokens": False}
        return self.lm.tokens.known(list(self.tokenizer(string, verbose=False, **special)["input_ids"]))

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return for each (context, continuation) its log-likelihood and whether it is what the model would say."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        scored = self.scorer.continuations([(before, after) for _, before, after in requests])
        return [(_summed(found.lp, len(found.hits)), bool(found.hits) and all(found.hits)) for found in scored]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        """Return the log-likelihood of each whole text, in windows that do not overlap."""
        windows = [
            (number, make_disjoint_window(window))
            for number, request in enumerate(requests)
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
        ]
        totals = [0.0] * len(requests)
        found = self._loglikelihood_tokens([(None, *window) for _, window in windows])
        for (number, _), (likelihood, _) in zip(windows, found, strict=True):
            totals[number] += likelihood
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Return what the model says after each context, up to where its task ends a text.

        Raises:
            UnsupportedModel: a task wants answers drawn at random.
        """
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            asked = normalize_gen_kwargs(request.args[1], NEW_TOKENS)
            if asked["do_sample"]:
                raise UnsupportedModel(
                    f"the task {request.task_name} draws its answers at random, and errata only asks for the likeliest; "
                    "copy its file, take do_sample and temperature out, and name the copy."
                )
            stops = tuple(stop for stop in asked["until"] if stop)
            groups[asked["max_gen_toks"], stops].append(number)
        said = [""] * len(requests)
        for (length, stops), members in groups.items():
            texts = self._said([requests[number].args[0] for number in members], length, stops)
            said = [dict(zip(members, texts, strict=True)).get(number, text) for number, text in enumerate(said)]
        return said

    def _said(self, contexts: Sequence[str], length: int, stops: Sequence[str]) -> list[str]:
        room = self.max_length - length if self.backend == "causal" else self.max_length
        starts = [self.tok_encode(text)[-max(room, 1) :] for text in contexts]
        said: list[list[int]] = [[] for _ in starts]
        end = max(map(len, stops), default=0) + 2  # tokens that may hold the end of a stop: one a character, and a bit

        def ends(place: int, token: int) -> bool:
            said[place].append(token)
            tail = self.lm.tokens.decode(said[place][-end:])
            return token in self.lm.stops or any(stop in tail for stop in stops)

        found = generate_tokens(self.lm, starts, length, ends=ends)
        return [postprocess_generated_text(self.lm.tokens.decode(ids), list(stops), None) for ids in found]


def _summed(mean: Score, count: int) -> float:
    return float("-inf") if mean is None else mean * count
