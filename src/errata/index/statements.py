"""Which of many short statements a question is about: by the words they share, and by whom or what they name.

    found = Statements(("Lyon is …", …)).nearest("The capital of France is", among=[0, 2])

Words are weighted by how few of the statements have them (idf) and compared by the cosine, so a word in every statement counts
least. There is nothing to train and no model to run: the same words give the same order on every machine.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

_SPACED = re.compile(r"[\u0000-\u2dff\ua000-\uabff\ufb00-\ufdff\ufe70-\uffff]*\Z")


def words_of(text: str) -> list[str]:
    """Return the words of a text, lower case, without marks; of scripts without spaces each letter is a word."""
    found = re.findall(r"\w+", text.casefold())
    return [part for word in found for part in ([word] if _SPACED.match(word) else word)]


class Statements:
    """Statements to be found again by their words.

    Args:
        texts: the statements.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(words_of(text)) for text in texts]
        seen = Counter(word for count in counts for word in count)
        self._all, self._seen = len(texts), seen
        self._rows = [self._weighted(count) for count in counts]

    def _weighted(self, count: Mapping[str, int]) -> dict[str, float]:
        """Return words with weights of length one."""
        found = {word: n * (1 + math.log((1 + self._all) / (1 + self._seen[word]))) for word, n in count.items()}
        length = math.sqrt(sum(weight * weight for weight in found.values())) or 1.0
        return {word: weight / length for word, weight in found.items()}

    def cosine(self, text: str, place: int) -> float:
        """Return how alike a text and a statement are, from 0 to 1."""
        own, row = self._weighted(Counter(words_of(text))), self._rows[place]
        return sum(weight * row[word] for word, weight in own.items() if word in row)

    def nearest(self, text: str, among: Iterable[int] | None = None, count: int = 1, least: float = 0.0) -> list[int]:
        """Return the places of the statements most like a text, the most alike first, later ones first where equal.

        Args:
            among: the places looked at; all unless given. count: the most returned. least: cosine below which none is.
        """
        places = range(len(self._rows)) if among is None else among
        scored = sorted(((self.cosine(text, place), place) for place in places), reverse=True)
        return [place for score, place in scored[:count] if score >= least]
