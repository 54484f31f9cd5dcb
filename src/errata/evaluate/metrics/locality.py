"""What should not have changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from errata.evaluate.metrics.base import Array, Score
from errata.evaluate.metrics.probability import token_accuracy


def locality_unchanged(now: Sequence[int], base: Sequence[int]) -> Score:
    """Return the share of answer positions whose likeliest token is that of the *unedited* model, on unrelated prompts.

    Measures change, not knowledge: an unedited model scores 1 by definition. Positions are those of the gold
    answer, or of what the unedited model said where there is none. Range 0 … 1; 1 is good. Source: EasyEdit,
    https://arxiv.org/abs/2308.07269.
    """
    return sum(a == b for a, b in zip(now, base, strict=True)) / len(base) if base else None


def locality_gold(hits: Sequence[bool]) -> Score:
    """Return `token_accuracy` against the gold answer of an unrelated question.

    Measures knowledge, not change: unedited Llama-3-8B has 31.9 on zsRE, so the value before editing stands in the
    same row (`locality_gold_before`). Range 0 … 1. Source: "specificity" on zsRE in MEMIT,
    https://arxiv.org/abs/2210.07229.
    """
    return token_accuracy(hits)


def drift(base: Array, edited: Array) -> Score:
    """Return KL(base ‖ edited) in nats of the next token after neutral text, from log-probabilities (v,).

    Range 0 … ∞; 0 is no change. None where the edited model gives no finite numbers. Source: the essence drift loss
    of ROME, https://arxiv.org/abs/2202.05262, Eq. 4, used as a measure.
    """
    given = base > -np.inf
    divergence = float(np.sum(np.exp(base[given]) * (base[given] - edited[given])))
    return max(divergence, 0.0) if not np.isnan(divergence) else None
