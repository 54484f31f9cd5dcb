"""Freely generated text: does it repeat itself, and does it speak of the new answer?"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from errata.evaluate.metrics.base import Score


def words(text: str) -> list[str]:
    """Return words and punctuation marks, in order."""
    return re.findall(r"\w+|[^\w\s]", text)


def entropy(items: Sequence[str], n: int) -> float:
    """Return the entropy in bits of the distribution of n-grams; 0 where there are none."""
    counts = Counter(zip(*(items[i:] for i in range(n)), strict=False))
    total = sum(counts.values())
    return sum(c / total * math.log2(total / c) for c in counts.values())


def fluency(text: str) -> Score:
    """Return 100 · (2/3 · H₂ + 4/3 · H₃) / 2, H_n the entropy of n-grams of a seeded top-5 generation of 100 tokens.

    Range 0 … about 660 for 100 words; people and healthy models reach about 620, a text below 550 repeats itself.
    Source: generation entropy (GE) of ROME, https://arxiv.org/abs/2202.05262, App. C, whose words come from another
    tokenizer.
    """
    items = words(text)
    return 100 * (2 / 3 * entropy(items, 2) + 4 / 3 * entropy(items, 3)) / 2 if len(items) > 2 else None


class TfIdf:
    """Weights of words by how few of some texts they stand in: idf = ln((1 + n) / (1 + df)) + 1.

    Args:
        texts: what frequencies are counted in. Take all references of a run, so that its checkpoints compare.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        seen, self._texts = Counter[str](), 0
        for text in texts:
            seen.update({w.lower() for w in words(text)})
            self._texts += 1
        self._seen = seen

    def vector(self, text: str) -> dict[str, float]:
        """Return the text's weights by word, of length 1; empty for a text without words."""
        counts = Counter(w.lower() for w in words(text))
        weights = {w: c * (math.log((1 + self._texts) / (1 + self._seen[w])) + 1) for w, c in counts.items()}
        length = math.sqrt(sum(v * v for v in weights.values()))
        return {w: v / length for w, v in weights.items()}


def consistency(texts: Sequence[str], references: Sequence[str], idf: TfIdf) -> Score:
    """Return the cosine between the tf-idf vectors of all generations and of all references of the new answer.

    Range 0 … 1; higher is better, and only comparable within one data set. Source: reference score (RS) of ROME,
    https://arxiv.org/abs/2202.05262, App. C. Differs: references are sentences in which the new answer is true of
    other subjects, not Wikipedia articles, and idf is counted on the references, not on Wikipedia.
    """
    one, other = idf.vector(" ".join(texts)), idf.vector(" ".join(references))
    return sum(weight * other.get(word, 0.0) for word, weight in one.items()) if one and other else None
