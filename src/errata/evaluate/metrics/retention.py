"""Which of many standing facts to ask again."""

from __future__ import annotations

import random
from collections.abc import Sequence


def retention(standing: Sequence[str], size: int = 100, seed: int = 0) -> dict[str, tuple[str, ...]]:
    """Return the oldest, the newest and a random sample of the standing facts, oldest first in each.

    `said` on "oldest" says what survives later edits, which an average over all hides; so on the other two. Fewer than
    `size` facts are all in every group. The sample depends on the facts and the seed only. Range 0 … 1; 1 is good.
    Source: https://arxiv.org/abs/2401.07453.

    Args:
        standing: ids of the facts written so far, oldest first.
        size: facts in a group.
        seed: what the sample is drawn from.
    """
    drawn = random.Random(f"retention:{seed}:{len(standing)}").sample(range(len(standing)), min(size, len(standing)))
    return {
        "oldest": tuple(standing[:size]),
        "newest": tuple(standing[-size:]),
        "random": tuple(standing[i] for i in sorted(drawn)),
    }
