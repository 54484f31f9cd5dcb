"""What the model can do that has nothing to do with the edits."""

from __future__ import annotations

import math

from errata.evaluate.metrics.base import Score

HARNESS = "harness."  # and the name of the task: a probe; and then of its metric: a number


def general_ability(value: object) -> Score:
    """Return a document's score as its task of lm-evaluation-harness gives it; None where it is no finite number.

    Named "harness.TASK.METRIC", with the task's filter behind it where it has several. Range and direction are the
    task's: accuracies and exact matches lie in 0 … 1 and 1 is good, perplexities in 1 … ∞ and 1 is good. Where the task
    does not take the mean over documents (a perplexity), its own figure over all of them is the one value. Source:
    https://github.com/EleutherAI/lm-evaluation-harness.
    """
    number = float(value) if isinstance(value, bool | int | float) else math.nan
    return number if math.isfinite(number) else None
