"""Whether the new answer is used where it follows from the edit."""

from __future__ import annotations

from collections.abc import Sequence

from errata.evaluate.metrics.base import Score
from errata.evaluate.metrics.probability import token_accuracy
from errata.evaluate.metrics.speech import said_contains


def portability(hits: Sequence[bool]) -> Score:
    """Return `token_accuracy` of the first spelling of the answer that follows from the edit.

    Reported by kind: one_hop, alias, inverse, logical, …. Range 0 … 1; 1 is good. Source: Yao et al.,
    https://arxiv.org/abs/2305.13172, Sec. 5.1, as EasyEdit computes it.
    """
    return token_accuracy(hits)


def portability_said(text: str | None, answers: Sequence[str]) -> Score:
    """Return 1 if what the model says holds any spelling of the answer that follows from the edit, else 0.

    For kind multi_hop, a case counts as right if any of its questions is (MQuAKE asks three ways). Range 0 or 1; 1
    is good. Source: multi-hop accuracy of MQuAKE, https://arxiv.org/abs/2305.14795, Sec. 3.2.
    """
    return said_contains(text, answers)
