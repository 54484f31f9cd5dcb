"""Neutral text and matrices: what no single case shows. One row a text, one row an edited matrix.

before = measure(scorer, texts)                       # the unedited model
rows = text_rows(texts, measure(scorer, texts), before=before, about=about)
rows += site_rows(lm, [Site(5, "down")], texts, about=about)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import Site
from errata.evaluate import metrics
from errata.evaluate.metrics import Score
from errata.evaluate.rows import About, free_row
from errata.evaluate.scorer import LOGITS, Scorer
from errata.model.generation import context
from errata.model.lm import LM
from errata.model.tokens import Batch, Tokens
from errata.model.trace import Trace


@dataclass(frozen=True, eq=False, slots=True)
class Read:
    """A text set as a model reads it.

    Args:
        nll: summed negative log-likelihood of each text, NaN if not finite. tokens: how many it is summed over.
        final: (n, v) log-probabilities of what follows each text, on the CPU.
    """

    nll: tuple[float, ...]
    tokens: tuple[int, ...]
    final: Float[Tensor, "n v"]


@torch.no_grad()
def measure(scorer: Scorer, texts: Sequence[str], *, length: int = 256) -> Read:
    """Return how likely each text's first `length` tokens are to the model as it stands, and what it expects next.

    Only decoders predict the next token; from others everything is NaN. The memory of `final` is n · v numbers.
    """
    lm = scorer.lm
    vocabulary = int(lm.model.config.get_text_config().vocab_size)
    nll, tokens = [float("nan")] * len(texts), [0] * len(texts)
    final = torch.full((len(texts), vocabulary), float("nan"))
    if lm.row.kind != "decoder":
        return Read(tuple(nll), tuple(tokens), final[:, :0])
    ids = [lm.tokens.beginning(text)[: min(length, context(lm))] for text in texts]
    for part in _parts(ids, LOGITS // vocabulary):
        batch = _batch(lm.tokens, [ids[i] for i in part])
        logp = lm.answer_logits(batch).log_softmax(-1)  # (a, v)
        labels = batch.labels.to(logp.device)
        found = logp.gather(1, labels.clamp(min=0)[:, None])[:, 0].masked_fill(labels < 0, 0.0).double()
        sums = torch.zeros(len(part)).to(found).index_add_(0, batch.rows.to(logp.device), found)
        final[part] = logp[labels < 0].float().cpu()[:, :vocabulary]
        for place, total in zip(part, sums.tolist(), strict=True):
            nll[place], tokens[place] = -total, len(ids[place]) - 1
    return Read(tuple(nll), tuple(tokens), final)


def _parts(ids: Sequence[Sequence[int]], places: int) -> Iterator[list[int]]:
    """Yield numbers of texts that run together, shortest first, at most `places` tokens, those too short left out."""
    part: list[int] = []
    for i in sorted((i for i, row in enumerate(ids) if len(row) > 1), key=lambda i: len(ids[i])):
        if part and (len(part) + 1) * len(ids[i]) > places:
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def _batch(tokens: Tokens, ids: Sequence[Sequence[int]]) -> Batch:
    """Return texts as a batch in which every token is a label, and -1 stands for the one after the last.

    To what is routed by its prompt a text is a prompt as a whole, as if it had been given to be gone on with.
    """
    ends = [len(text) - 1 for text in ids]
    return tokens.collate({"input_ids": ids}, [enumerate([*text[1:], -1]) for text in ids], ends, ends)


def text_rows(
    texts: Sequence[str], now: Read, *, before: Read | None = None, about: About | None = None
) -> list[dict[str, Any]]:
    """Return a row for each text with its `nll` and `tokens` (of which `perplexity` is made) and its `drift`.

    Args:
        before: the same texts as the unedited model read them; without them there is no drift.
    """
    rows = []
    for i, text in enumerate(texts):
        known = now.nll[i] == now.nll[i]
        scores: dict[str, Score] = {"nll": now.nll[i] if known else None, "tokens": now.tokens[i] if known else None}
        if before is not None and now.final.shape[1]:
            scores["drift"] = metrics.drift(before.final[i].double().numpy(), now.final[i].double().numpy())
        rows.append(free_row(about or About(), f"text-{i}", "text", scores, text[:80]))
    return rows


def site_rows(
    lm: LM, sites: Sequence[Site], texts: Sequence[str], *, about: About | None = None, length: int = 64
) -> list[dict[str, Any]]:
    """Return a row for each edited matrix: its `norm_ratio`, and its `residual_share` on the texts' first tokens.

    What a matrix writes is taken before any norm that stands behind it (Gemma-2, OLMo-2): there only its change means
    something.
    """
    rows = []
    shares = _shares(lm, sites, [lm.tokens.ids(text)[: min(length, context(lm))] for text in texts])
    for site in sites:
        base = lm.weights.base(site).detach().double().cpu()
        change = lm.weights[site].detach().double().cpu() - base
        scores = {
            "norm_ratio": metrics.norm_ratio(float(change.norm()), float(base.norm())),
            "residual_share": shares[site],
        }
        rows.append(free_row(about or About(), str(site), "site", scores))
    return rows


@torch.no_grad()
def _shares(lm: LM, sites: Sequence[Site], ids: Sequence[Sequence[int]]) -> dict[Site, Score]:
    streams = {site: Site(site.layer, "block") for site in sites}
    found: dict[Site, list[tuple[Tensor, Tensor]]] = {site: [] for site in sites}
    for part in _parts(ids, 4096):
        batch = _batch(lm.tokens, [ids[i] for i in part]).to(lm.device)
        real = batch.inputs["attention_mask"].bool()
        if lm.row.kind == "encoder-decoder":
            batch.inputs["decoder_input_ids"] = torch.full_like(batch.inputs["input_ids"][:, :1], lm.tokens.start)
        with Trace(lm, outputs=[*sites, *streams.values()]) as trace:
            lm.forward(batch)
        for site, stream in streams.items():
            if site in trace.outputs and trace.outputs[site].shape[:2] == real.shape:
                found[site].append((trace.outputs[site][real].cpu(), trace.outputs[stream][real].cpu()))
    return {site: _share(pairs) for site, pairs in found.items()}


def _share(pairs: Sequence[tuple[Tensor, Tensor]]) -> Score:
    if not pairs:
        return None
    written, stream = (torch.cat(side).double().numpy() for side in zip(*pairs, strict=True))
    return metrics.residual_share(written, stream)
